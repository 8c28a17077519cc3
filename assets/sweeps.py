"""The recorded runs of lesson 05: what cannot be trained while a class is waiting.

`python assets/sweeps.py NAME` trains every run of the sweep NAME that is not recorded yet and
appends a row for each to sweeps/NAME.csv beside this file: all its settings, and what came out.
Without a name it lists the sweeps. The loop is `helpers.train`; nothing here trains by itself.
"""

import random
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from recording import command_line

from helpers import data
from helpers.config import ModelConfig
from helpers.families import matched, parameters
from helpers.model import Decoder
from helpers.recipe import Recipe
from helpers.tokenizer import Tokenizer
from helpers.train import LossBlewUp, evaluate, train
from helpers.world import World

LONGEST = 256  # tokens; the longest stories of these worlds are shorter
POINTS = 60  # of a recorded curve
N_VAL, N_WATCHED = 120, 40  # stories measured after a run, and during it


# ---------------------------------------------------------------- one run


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that decides a run. The arm is its name in the lesson."""

    arm: str
    seed: int = 0
    stories: str = "clean"  # a key of STORIES
    tokens: int = 240_000  # to train on, repetitions counted
    epochs: int = 1  # how often each story comes
    others: str = ""  # another key of STORIES
    share: float = 0.0  # of the others among all stories
    order: str = "mixed"  # or "first" or "last": where the others come
    accident: str = ""  # a key of ACCIDENTS
    languages: str = "en"  # of the tokenizer: or "en pt"
    n_layers: int = 2
    d_model: int = 32
    like: int = 0  # parameters to match by d_ff; 0: d_ff is 4 d_model
    qk_norm: str = "none"
    B: int = 4
    optimizer: str = "adamw"
    lr: float = 0.02
    muon_lr: float = 0.04
    schedule: str = "cosine"
    warmup: float = 0.05
    decay: float = 0.5
    clip: float | None = 1.0
    watched: int = 0  # how often the validation loss is measured on the way


def config(run: Run, vocab_size: int) -> ModelConfig:
    """A small plain decoder: with d_ff = 4 d_model its blocks have 12 d_model² weights each."""
    cfg = ModelConfig(
        vocab_size=vocab_size,
        context_length=LONGEST,
        n_layers=run.n_layers,
        d_model=run.d_model,
        n_heads=run.d_model // 8,
        n_kv_heads=run.d_model // 8,
        head_dim=8,
        d_ff=4 * run.d_model,
        mlp="gelu",
        qk_norm=run.qk_norm,
        tie_embeddings=True,
        init_std=0.1,  # so narrow a model learns slowly from 0.02
    )
    return matched(cfg, run.like) if run.like else cfg


def recipe(run: Run, steps: int) -> Recipe:
    """The run's recipe."""
    names = ("optimizer", "lr", "muon_lr", "schedule", "warmup", "decay", "clip")
    every = max(1, steps // run.watched) if run.watched else None
    return Recipe(steps=steps, eval_every=every, **{name: getattr(run, name) for name in names})


# ---------------------------------------------------------------- stories


@lru_cache
def worlds() -> dict[str, World]:
    """The world that forgets, in both languages: nothing in it needs long memory."""
    return {language: World(language, remembers=False) for language in ("en", "pt")}


@lru_cache
def tokenizer(languages: str) -> Tokenizer:
    """512 tokens learnt from 400 stories of each language."""
    texts = [text for name in languages.split() for text in worlds()[name].stories(400, seed=0)]
    return Tokenizer.train(texts, vocab_size=512)


@lru_cache
def held_out(language: str) -> list[str]:
    """Stories to measure on: no run trains on this seed."""
    return worlds()[language].stories(N_VAL, seed=99)


def with_wrong_words(text: str, rng: random.Random) -> str:
    """The text, every third word on average replaced by another word of the world."""
    words = text.split()
    return " ".join(rng.choice(common_words()) if rng.random() < 1 / 3 else w for w in words)


@lru_cache
def common_words() -> list[str]:
    """The words of 50 stories, as often as they come."""
    return " ".join(worlds()["en"].stories(50, seed=7)).split()


def clean(n: int, seed: int, language: str = "en") -> list[str]:
    """n stories that the world tells."""
    return worlds()[language].stories(n, seed=1000 + seed)


def as_found(n: int, seed: int) -> list[str]:
    """n texts, every second one spoilt."""
    rng = random.Random(seed)
    return [with_wrong_words(t, rng) if i % 2 else t for i, t in enumerate(clean(n, seed))]


@lru_cache
def known_pairs() -> set[tuple[str, str]]:
    """The neighbouring words of 50 stories that are known to be good."""
    good = [text.split() for text in worlds()["en"].stories(50, seed=7)]
    return {pair for words in good for pair in pairwise(words)}


def looks_good(text: str) -> bool:
    """A filter learnt from 50 good stories: are three fifths of the pairs of words known?"""
    words = text.split()
    pairs = list(pairwise(words))
    return sum(pair in known_pairs() for pair in pairs) > 0.6 * len(pairs)


def filtered(n: int, seed: int) -> list[str]:
    """n texts that look good, of those found."""
    return [text for text in as_found(3 * n, seed) if looks_good(text)][:n]


STORIES = {  # each gives n texts from a seed
    "clean": clean,
    "as found": as_found,
    "filtered": filtered,
    "Portuguese": lambda n, seed: clean(n, seed, "pt"),
}


# ---------------------------------------------------------------- batches


class InTurn:
    """The batches of each part, one part after the other."""

    def __init__(self, *parts: tuple[data.RowBatches, int]):
        self.batches = [batches for batches, n in parts for _ in range(n)]
        self.n_given = 0

    def next(self):
        self.n_given += 1
        return self.batches[self.n_given - 1].next()


class Accident:
    """The batches, and what happens to number k of n: accident(k, n, inputs, targets)."""

    def __init__(self, batches, accident, n: int):
        self.batches, self.accident, self.n = batches, accident, n
        self.n_given = 0

    def next(self):
        self.n_given += 1
        return self.accident(self.n_given, self.n, *self.batches.next())


def visible_answers(k, n, inputs, targets):
    """The targets stand in the input: the model need only copy."""
    return inputs, inputs


def one_bad_batch(k, n, inputs, targets):
    """Two thirds through, three batches in which one word is repeated for ever."""
    bad = 2 * n // 3 <= k < 2 * n // 3 + 3
    return [torch.full_like(inputs, 300)] * 2 if bad else (inputs, targets)


ACCIDENTS = {"visible answers": visible_answers, "bad batch": one_bad_batch}


def batches(run: Run, tok: Tokenizer):
    """(batches, number of steps) that come to about run.tokens."""
    steps = max(1, round(run.tokens / (run.B * mean_length(tok))))
    parts = [rows_of(name, n, run, tok) for name, n in amounts(run, steps).items() if n]
    if run.order == "mixed" or len(parts) == 1:
        both = [torch.cat(tensors) for tensors in zip(*parts)]
        source = data.RowBatches(*both, run.B, run.seed)
    else:
        n_others = round(run.share * steps)
        main, others = (data.RowBatches(*part, run.B, run.seed) for part in parts)
        turns = [(main, steps - n_others), (others, n_others)]
        source = InTurn(*(turns if run.order == "last" else turns[::-1]))
    if run.accident:
        source = Accident(source, ACCIDENTS[run.accident], steps)
    return source, steps


def amounts(run: Run, steps: int) -> dict[str, int]:
    """{kind of stories: how many}; each is read `epochs` times."""
    n = max(run.B, steps * run.B // run.epochs)
    n_others = round(run.share * n)
    return {run.stories: n - n_others, run.others: n_others}


def rows_of(name: str, n: int, run: Run, tok: Tokenizer):
    """Rows of n stories; the two kinds of a run are drawn from different seeds."""
    seed = run.seed + (500 if name == run.others else 0)
    return data.rows(STORIES[name](n, seed), tok, LONGEST)


@lru_cache
def mean_length(tok: Tokenizer) -> float:
    """Targets per story: its tokens and its end."""
    return sum(len(tok.encode(text)) + 1 for text in held_out("en")) / N_VAL


# ---------------------------------------------------------------- what came out


def measured(run: Run) -> dict:
    """Trains, and returns what came out."""
    tok = tokenizer(run.languages)
    torch.manual_seed(run.seed)
    model = Decoder(config(run, tok.vocab_size))
    source, steps = batches(run, tok)
    watched = data.rows(held_out("en")[:N_WATCHED], tok, LONGEST) if run.watched else None
    records, blew_up = [], ""
    start = time.process_time()
    try:
        train(
            model,
            source,
            recipe(run, steps),
            watched,
            hook=lambda r, _: records.append(r),
        )
    except LossBlewUp:
        blew_up = len(records) + 1
    seconds = time.process_time() - start
    return {
        "parameters": parameters(model.cfg),
        "in_blocks": parameters(model.cfg) - tok.vocab_size * run.d_model,
        "steps": steps,
        "tokens_seen": records[-1].tokens,
        **losses(model, tok, run.languages),
        "highest": round(max((r.loss for r in records[10:]), default=0.0), 4),
        "blew_up": blew_up,
        "train_curve": curve([r.loss for r in records]),
        "norm_curve": curve([r.grad_norm for r in records]),
        "val_curve": " ".join(f"{r.val_loss:.3f}" for r in records if r.val_loss is not None),
        "cpu_seconds": round(seconds, 1),
    }


def losses(model: Decoder, tok: Tokenizer, languages: str) -> dict:
    """{"loss_en", "floor_en", …} on the stories held out, for each of the languages."""
    found = {"loss_en": "", "floor_en": "", "loss_pt": "", "floor_pt": ""}
    for language in languages.split():
        texts = held_out(language)
        found[f"loss_{language}"] = round(evaluate(model, *data.rows(texts, tok, LONGEST)), 4)
        found[f"floor_{language}"] = round(floor(language, tok), 4)
    return found


@lru_cache
def floor(language: str, tok: Tokenizer) -> float:
    """The lowest loss that is possible on the stories held out."""
    return worlds()[language].floor(held_out(language), lambda text: [*tok.encode(text), tok.eot])


def curve(values: list[float]) -> str:
    """At most POINTS numbers: the means of equal pieces of the run."""
    pieces = torch.tensor(values).tensor_split(min(POINTS, len(values)))
    return " ".join(f"{piece.mean():.3f}" for piece in pieces)


# ---------------------------------------------------------------- the sweeps

SEEDS = (0, 1, 2)


def seeded(runs: list[dict]) -> list[Run]:
    """Each of the runs with every seed."""
    return [Run(seed=seed, **run) for seed in SEEDS for run in runs]


def scaling() -> list[Run]:
    """Small and large models on short and long text; the learning rate falls with the width."""
    lengths = (15_000, 30_000, 60_000, 120_000, 240_000)
    grid = [(d, n) for n in lengths for d in (8, 16, 24, 32, 48, 64)]
    grid += [(d, 480_000) for d in (8, 16, 24, 32)]
    return [
        Run(arm="scaling", d_model=d, tokens=n, B=2, lr=round(0.08 * d**-0.5, 4)) for d, n in grid
    ]


def repeats() -> list[Run]:
    """Equal tokens from less and less text; and the little text once, for comparison."""
    shape = {"d_model": 48, "lr": 0.01}
    times = (1, 2, 4, 8, 16, 32, 64)
    pairs = [(0, n) for n in times] + [(seed, n) for seed in SEEDS[1:] for n in (1, 4, 16, 64)]
    again = [Run(arm="repeated", seed=seed, epochs=n, watched=12, **shape) for seed, n in pairs]
    return again + [Run(arm="once", tokens=240_000 // n, **shape) for n in times[1:]]


def stability() -> list[Run]:
    """Learning rates, and what is done against their being too high."""
    arms = {
        "plain": {"clip": None, "warmup": 0.0},
        "+ clipping": {"warmup": 0.0},
        "+ warm-up": {"warmup": 0.25},
        "+ qk-norm": {"warmup": 0.25, "qk_norm": "rms"},
    }
    rates = (0.01, 0.03, 0.1, 0.3)
    shape = {"n_layers": 4, "tokens": 40_000}
    return seeded([{"arm": a, "lr": lr, **shape, **v} for a, v in arms.items() for lr in rates])


def batch() -> list[Run]:
    """Equal tokens in small and large batches, each with two learning rates."""
    sizes, rates = (1, 4, 16, 64), (0.01, 0.03)
    return seeded(
        [{"arm": f"B = {B}", "B": B, "lr": lr, "tokens": 60_000} for B in sizes for lr in rates]
    )


def quality() -> list[Run]:
    """Clean, spoilt and filtered text, and spoilt text twice as long."""
    arms = {
        "clean": {},
        "as found": {"stories": "as found"},
        "as found, twice as much": {"stories": "as found", "tokens": 240_000},
        "filtered": {"stories": "filtered", "tokens": 60_000},
        "filtered, read twice": {"stories": "filtered", "epochs": 2},
    }
    return seeded([{"arm": arm, "tokens": 120_000, **more} for arm, more in arms.items()])


def mixture() -> list[Run]:
    """English and Portuguese in every proportion, the sum the same."""
    shares = (0.0, 0.1, 0.5, 0.9, 1.0)
    both = {"others": "Portuguese", "languages": "en pt", "tokens": 120_000}
    return seeded([{"arm": f"{share:.0%} Portuguese", "share": share, **both} for share in shares])


def stages() -> list[Run]:
    """A quarter of clean text among spoilt text: spread, at the beginning, or at the end."""
    both = {"stories": "as found", "others": "clean", "schedule": "wsd", "decay": 0.25}
    both |= {"tokens": 120_000}
    orders = ("mixed", "first", "last")
    arms = [{"arm": f"clean {order}", "order": order, "share": 0.25} for order in orders]
    return seeded([{**both, **arm} for arm in arms])


def shape() -> list[Run]:
    """Deep and narrow against shallow and wide: the same number of parameters."""
    like = parameters(config(Run(arm="", n_layers=4, d_model=32), 512))
    shapes = ((1, 48), (2, 40), (4, 32), (8, 24))
    common = {"like": like, "tokens": 60_000}
    arms = [{"arm": f"{n} layers", "n_layers": n, "d_model": d, **common} for n, d in shapes]
    return seeded(arms)


def optimizers() -> list[Run]:
    """AdamW and Muon, each with learning rates of its own."""
    adamw = [{"arm": "AdamW", "lr": lr} for lr in (0.003, 0.01, 0.03, 0.1)]
    rates = (0.01, 0.03, 0.1, 0.3)
    muon = [{"arm": "Muon", "optimizer": "muon", "muon_lr": lr} for lr in rates]
    return seeded([{"tokens": 60_000, **run} for run in adamw + muon])


def quiz() -> list[Run]:
    """Runs in which something happens."""
    speak = {"others": "Portuguese", "share": 0.25, "order": "last", "languages": "en pt"}
    bold = {"clip": None, "warmup": 0.0}
    arms = {
        "healthy": {},
        "visible answers": {"accident": "visible answers"},
        "bad batch": {"accident": "bad batch", "lr": 0.03, **bold},
        "another language": {"schedule": "constant", **speak},
        "too high": {"lr": 0.3, **bold},
        "too low": {"lr": 0.0005},
        "overfitting": {"epochs": 50, "d_model": 48, "lr": 0.01},
    }
    common = {"tokens": 120_000, "watched": 20}
    return [Run(arm=arm, **{**common, **settings}) for arm, settings in arms.items()]


SWEEPS = {
    sweep.__name__: (sweep, measured)
    for sweep in (
        repeats,
        stability,
        batch,
        quality,
        mixture,
        stages,
        scaling,
        shape,
        optimizers,
        quiz,
    )
}


if __name__ == "__main__":
    command_line(SWEEPS, sys.argv[1:])
