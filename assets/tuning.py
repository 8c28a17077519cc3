"""The recorded runs of lesson 06: what cannot be tuned while a class is waiting.

`python assets/tuning.py NAME` makes every run of the sweep NAME that is not recorded yet and
appends a row for each to sweeps/NAME.csv beside this file: all its settings, and what came out.
Without a name it lists the sweeps. Each run has its seed: of the texts, their order, new weights.
"""

import random
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

import torch
from recording import command_line
from torch import Tensor

from helpers import data, lora, weights
from helpers.config import ModelConfig
from helpers.generate import generate, reply
from helpers.model import Decoder
from helpers.recipe import Recipe, learning
from helpers.tasks import is_right, messages, requests
from helpers.tokenizer import Tokenizer
from helpers.train import evaluate, train
from helpers.world import World

SEEDS = (0, 1, 2)
LONGEST_STORY, LONGEST_CHAT = 120, 160  # tokens
MUON = {"optimizer": "muon", "schedule": "wsd", "weight_decay": 0.0}


# ---------------------------------------------------------------- how a request is written down


@dataclass(frozen=True, kw_only=True)
class Written:
    """A small decoder that learns puzzles from nothing, written in one of FORMATS."""

    arm: str  # a key of FORMATS
    seed: int = 0
    learn: str = "answers"  # or "everything": the request, too
    steps: int = 500
    B: int = 32
    lr: float = 0.01
    muon_lr: float = 0.02


LETTERS = "ABCDEFGH"
TASKS = {
    "copy": "".join,
    "reverse": lambda letters: letters[::-1],
    "sort": sorted,
    "down": lambda letters: sorted(letters, reverse=True),
}
FORMATS = {  # request, answer: they are simply joined
    "nothing": ("{task}{letters}", "{answer}"),
    "a stop": ("{task}{letters}", "{answer}<|end|>"),
    "a sign, no stop": ("{task}{letters}=", "{answer}"),
    "a sign": ("{task}{letters}=", "{answer}<|end|>"),
    "a template": ("#Task: {task}\n#In: {letters}\n#Out: ", "{answer}<|end|>"),
    "special tokens": ("<|user|>{task}{letters}<|end|><|assistant|>", "{answer}<|end|>"),
}


@lru_cache
def bytes_only() -> Tokenizer:
    """A tokenizer without merges: every letter is a token, in every format."""
    return Tokenizer([])


def puzzles(n: int, seed: int, tasks=("copy", "reverse", "sort")) -> list[dict[str, str]]:
    """n puzzles about two to six letters; a task is asked by the first letter of its name."""
    rng, made = random.Random(seed), []
    for _ in range(n):
        task = rng.choice(tasks)
        letters = "".join(rng.choices(LETTERS, k=rng.randint(2, 6)))
        answer = "".join(TASKS[task](letters))
        made.append({"task": task[0], "letters": letters, "answer": answer})
    return made


def written(puzzle: dict, name: str) -> list[list[int]]:
    """[ids of the request, ids of the answer] in this format."""
    tok = bytes_only()
    return [tok.encode(part.format(**puzzle), allow_special=True) for part in FORMATS[name]]


def puzzle_rows(some: list[dict], name: str, learn: str = "answers") -> tuple[Tensor, Tensor]:
    """(inputs, targets) of these puzzles in this format; what is not learnt is -100."""
    inputs = torch.zeros(len(some), 48, dtype=torch.long)
    targets = torch.full((len(some), 48), data.IGNORED)
    for i, puzzle in enumerate(some):
        request, answer = written(puzzle, name)
        ids = torch.tensor(request + answer)
        inputs[i, : len(ids) - 1] = ids[:-1]
        first = len(request) - 1 if learn == "answers" else 0
        targets[i, first : len(ids) - 1] = ids[1 + first :]
    return inputs, targets


def puzzler(tok: Tokenizer) -> Decoder:
    """An untrained decoder for puzzles."""
    heads = {"n_heads": 4, "n_kv_heads": 4, "head_dim": 16}
    shape = {"n_layers": 2, "d_model": 64, "d_ff": 160, "tie_embeddings": True, "init_std": 0.05}
    return Decoder(ModelConfig(vocab_size=tok.vocab_size, context_length=64, **heads, **shape))


def solve(run: Written) -> dict:
    """Learns the puzzles in one format, and is asked in every format."""
    start = time.process_time()
    model, last_loss = taught(run)
    seconds = time.process_time() - start
    found = {f"right, asked with {name}": solved(model, name)[0] for name in FORMATS}
    return {
        "right": found[f"right, asked with {run.arm}"],
        "right_at_first": solved(model, run.arm)[1],
        **found,
        "last_loss": last_loss,
        "cpu_seconds": round(seconds, 1),
    }


def taught(run: Written) -> tuple[Decoder, float]:
    """(a decoder that has learnt the puzzles, its last loss)."""
    torch.manual_seed(run.seed)
    model = puzzler(bytes_only())
    rows = puzzle_rows(puzzles(run.steps * run.B, 1000 + run.seed), run.arm, run.learn)
    recipe = Recipe(steps=run.steps, **MUON | {"lr": run.lr, "muon_lr": run.muon_lr})
    records = train(model, data.RowBatches(*rows, run.B, run.seed), recipe)
    return model, round(records[-1].loss, 4)


def solved(model: Decoder, name: str, n: int = 200, **tasks) -> tuple[float, float]:
    """Shares of n new puzzles whose answer is right, and whose answer begins right."""
    tok, asked = bytes_only(), puzzles(n, 99, **tasks)
    prompts = [written(puzzle, name)[0] for puzzle in asked]
    texts = map(tok.decode, generate(model, prompts, 10, stop=[tok.end]))
    pairs = [(text, puzzle["answer"]) for text, puzzle in zip(texts, asked)]
    begun = sum(text.startswith(answer) for text, answer in pairs)
    return sum(text == answer for text, answer in pairs) / n, begun / n


# ---------------------------------------------------------------- a new task, by adapters


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A decoder that solves the puzzles learns one more, sorting downwards, and nothing else."""

    arm: str
    seed: int = 0
    rank: int = 0  # of the adapters; 0: all weights learn
    steps: int = 150
    B: int = 32
    lr: float = 0.01


def adapt(run: Adapted) -> dict:
    """Teaches the new task, and asks for it and for the old ones."""
    model = deepcopy(puzzle_solver(run.seed))
    torch.manual_seed(run.seed)
    model = lora.add_lora(model, run.rank) if run.rank else model
    numbers = sum(p.numel() for p in learning(model).values())
    rows = puzzle_rows(puzzles(run.steps * run.B, 3000 + run.seed, ["down"]), "a sign")
    recipe = Recipe(steps=run.steps, lr=run.lr, schedule="wsd", weight_decay=0.0)
    start = time.process_time()
    records = train(model, data.RowBatches(*rows, run.B, run.seed), recipe)
    return {
        "learning": numbers,
        "last_loss": round(records[-1].loss, 4),
        "cpu_seconds": round(time.process_time() - start, 1),
        "right_new": solved(model, "a sign", tasks=["down"])[0],
        "right_old": solved(model, "a sign")[0],
    }


@lru_cache
def puzzle_solver(seed: int) -> Decoder:
    """The decoder that the adapters belong to."""
    return taught(Written(arm="a sign", seed=seed))[0]


# ---------------------------------------------------------------- tuning


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The English story model learns to answer; equal steps, so fewer records come more often."""

    arm: str
    seed: int = 0
    start: str = "pretrained"  # or "from scratch"
    kinds: str = "colour refuse"  # of requests
    records: int = 1600  # different ones
    stories: float = 0.0  # the share of plain stories among all rows
    learn: str = "answers"  # or "everything": the prompts, too
    steps: int = 100
    B: int = 16
    lr: float = 0.02


def tune(run: Tuned) -> dict:
    """Tunes a model, and says what it can do, and what it still can."""
    model, tok, found = tuned(run)
    asked = requests(80, "en", run.kinds.split(), seed=77, held_out=True)
    shares = {
        f"right_{kind}": right_share(model, tok, [r for r in asked if r.kind == kind])
        for kind in run.kinds.split()
    }
    stories = round(evaluate(model, *story_rows("en", 100, 999, tok)), 4)
    return {**shares, "loss_stories": stories, **found}


def reach(run: Tuned) -> dict:
    """Tunes a model, and says how low its loss is on the way."""
    return tuned(run)[2]


def tuned(run: Tuned) -> tuple[Decoder, Tokenizer, dict]:
    """(the model, its tokenizer, how the loss on held-out answers fell)."""
    torch.manual_seed(run.seed)
    model, tok = weights.story_model("en")
    model = Decoder(model.cfg) if run.start == "from scratch" else model
    validation = chats(requests(40, "en", run.kinds.split(), seed=77, held_out=True), tok)
    recipe = Recipe(steps=run.steps, lr=run.lr, muon_lr=run.lr, eval_every=20, **MUON)
    batches = data.RowBatches(*lesson_rows(run, tok), run.B, run.seed)
    start = time.process_time()
    records = train(model, batches, recipe, validation)
    seconds = round(time.process_time() - start, 1)
    measured = [record for record in records if record.val_loss is not None]
    return (
        model,
        tok,
        {
            "loss_answers": round(measured[-1].val_loss, 4),
            "chats_curve": " ".join(str(record.step * run.B) for record in measured),
            "val_curve": " ".join(f"{record.val_loss:.3f}" for record in measured),
            "cpu_seconds": seconds,
        },
    )


def lesson_rows(run: Tuned, tok: Tokenizer) -> tuple[Tensor, Tensor]:
    """The records that the run learns from, and among them plain stories."""
    n = round(run.records / (1 - run.stories)) - run.records
    rows = chats(
        requests(run.records, "en", run.kinds.split(), seed=1000 + run.seed), tok, run.learn
    )
    plain = [story_rows("en", n, 2000 + run.seed, tok, LONGEST_CHAT)] if n else []
    return tuple(torch.cat(parts) for parts in zip(rows, *plain))


def chats(asked: list, tok: Tokenizer, learn: str = "answers") -> tuple[Tensor, Tensor]:
    """(inputs, targets) of requests and their answers."""
    conversations = [messages(request.record) for request in asked]
    return data.chat_rows(conversations, tok, LONGEST_CHAT, learn)


def story_rows(language: str, n: int, seed: int, tok: Tokenizer, T: int = LONGEST_STORY):
    """(inputs, targets) of n stories."""
    return data.rows(World(language).stories(n, seed), tok, T)


def right_share(model: Decoder, tok: Tokenizer, asked: list) -> float:
    """The share of requests that the model answers rightly, greedy."""
    answers = reply(model, tok, [request.prompt for request in asked], max_new=40)
    return round(sum(map(is_right, asked, answers)) / len(asked), 3)


# ---------------------------------------------------------------- another language


@dataclass(frozen=True, kw_only=True)
class Continued:
    """A model goes on with Portuguese stories, and with some English ones beside them."""

    arm: str
    seed: int = 0
    start: str = "pretrained"  # the English story model; or "from scratch"
    replay: float = 0.0  # the share of English stories
    steps: int = 60
    B: int = 16
    lr: float = 0.02


def go_on(run: Continued) -> dict:
    """Trains, and measures both languages on the way."""
    torch.manual_seed(run.seed)
    model, tok = weights.story_model("en")
    model = renewed(model, tok) if run.start == "pretrained" else Decoder(model.cfg)
    n_english = round(run.replay * run.steps * run.B)
    parts = [story_rows("pt", run.steps * run.B - n_english, 1000 + run.seed, tok)]
    parts += [story_rows("en", n_english, 2000 + run.seed, tok)] if n_english else []
    rows = [torch.cat(tensors) for tensors in zip(*parts)]
    held_out = {language: story_rows(language, 60, 999, tok) for language in ("en", "pt")}
    curves = {language: [evaluate(model, *some)] for language, some in held_out.items()}

    def look(record, model):
        if record.step % 12 == 0:
            for language, some in held_out.items():
                curves[language].append(evaluate(model, *some))

    recipe = Recipe(steps=run.steps, lr=run.lr, muon_lr=run.lr, **MUON)
    start = time.process_time()
    records = train(model, data.RowBatches(*rows, run.B, run.seed), recipe, hook=look)
    return {
        "tokens": records[-1].tokens,
        **{f"loss_{language}": round(curve[-1], 4) for language, curve in curves.items()},
        **{f"{k}_curve": " ".join(f"{nats:.3f}" for nats in v) for k, v in curves.items()},
        "cpu_seconds": round(time.process_time() - start, 1),
    }


@torch.no_grad()
def renewed(model: Decoder, tok: Tokenizer) -> Decoder:
    """The model, the rows of words that English never showed it as they were before training.

    It has learnt that they never come, and holds them down: 16 nats a token at first.
    """
    known = torch.zeros(tok.vocab_size, dtype=torch.bool)
    for story in World("en").stories(1_000, seed=7):
        known[[*tok.encode(story), tok.eot]] = True
    fresh = Decoder(model.cfg)
    model.tok_emb.weight[~known] = fresh.tok_emb.weight[~known]
    model.lm_head.weight[~known] = fresh.lm_head.weight[~known]
    return model


# ---------------------------------------------------------------- the sweeps


def formats() -> list[Written]:
    """Each format; and the sign once more, with the requests learnt as well."""
    everything = {"arm": "a sign", "learn": "everything"}
    arms = [{"arm": name} for name in FORMATS] + [everything]
    return [Written(seed=seed, **arm) for seed in SEEDS for arm in arms]


def adapters() -> list[Adapted]:
    """All weights, or adapters of several ranks, each with a rate that suits it."""
    arms = {"all weights": {"lr": 0.003}} | {f"rank {r}": {"rank": r} for r in (1, 2, 4, 16)}
    return [Adapted(arm=arm, seed=seed, **more) for seed in SEEDS for arm, more in arms.items()]


def instructions() -> list[Tuned]:
    """Fewer records, read more often; prompts learnt as well; plain stories in between."""
    arms = {
        "everything tuned": {},
        "100 records, 16 times": {"records": 100},
        "25 records, 64 times": {"records": 25},
        "prompts learnt, too": {"learn": "everything"},
        "a quarter stories": {"stories": 0.25},
    }
    return [Tuned(arm=arm, seed=seed, **more) for seed in SEEDS for arm, more in arms.items()]


def starts() -> list[Tuned]:
    """Pretrained or from scratch: short answers, and whole stories."""
    tasks = {"short": {}, "write": {"kinds": "write"}}
    return [
        Tuned(arm=f"{name}, {start}", seed=seed, start=start, **more)
        for seed in SEEDS
        for name, more in tasks.items()
        for start in ("pretrained", "from scratch")
    ]


def portuguese() -> list[Continued]:
    """Replay in three amounts; and the same Portuguese from scratch."""
    arms = {f"{share:.0%} English": {"replay": share} for share in (0.0, 0.05, 0.25)}
    arms["from scratch"] = {"start": "from scratch"}
    return [Continued(arm=arm, seed=seed, **more) for seed in SEEDS for arm, more in arms.items()]


SWEEPS = {  # each: its runs, and how one is made
    "formats": (formats, solve),
    "adapters": (adapters, adapt),
    "instructions": (instructions, tune),
    "starts": (starts, reach),
    "portuguese": (portuguese, go_on),
}


if __name__ == "__main__":
    command_line(SWEEPS, sys.argv[1:])
