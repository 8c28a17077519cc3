"""Makes a small model that adds badly, and records what each way of tuning makes of it.

    python assets/arithmetic.py model    # sums.safetensors: about a minute of one core
    python assets/arithmetic.py sweep    # what sweeps/sums.csv lacks: half a minute for each run
    python assets/arithmetic.py card     # sums.md, from what is recorded

Half of the sums that the model was shown are worked out column by column, the other half give the
sum at once. The sums and their rule are in `helpers.tasks`, GRPO's loop in `helpers.rlhf`.
"""

import json
import random
import sys
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from math import comb
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from recording import record

from helpers import weights
from helpers.align import group_advantages, grpo_loss, sft_loss
from helpers.config import ModelConfig
from helpers.data import IGNORED, chat_rows
from helpers.generate import GREEDY, Sampling, reply
from helpers.model import Decoder
from helpers.recipe import Recipe
from helpers.rlhf import (
    Plan,
    Rollout,
    adamw,
    answer_logps,
    batches,
    by_rule,
    drawn,
    frozen,
    kl_from,
    roll_out,
    take_step,
    tune_by_grpo,
)
from helpers.sources import recorded
from helpers.tasks import is_right_sum, sums
from helpers.tokenizer import Tokenizer
from helpers.train import train

ASSETS = Path(__file__).parent
FACTS = ASSETS / "sums.json"
MAX_NEW = 16  # tokens of an answer; the longest right one has 15 with its end
T, CONTEXT = 23, 32  # tokens; no sum with its right answer is longer than T
MODEL_SEED, TEST_SEED = 0, 77
N_SUMS = 20_000  # to learn from
RECIPE = {"optimizer": "muon", "muon_lr": 0.02, "lr": 0.02, "schedule": "wsd", "weight_decay": 0.0}
STEPS, B = 550, 128

# ---------------------------------------------------------------- how a sum is shown


def in_columns(question: str) -> str:
    """The sum of each column from the right, what is carried included, then the whole: 12 13 6 632.

    For 347+285: 7 + 5 = 12, then 4 + 8 + 1 = 13, then 3 + 2 + 1 = 6, and so 632.
    """
    a, b = question.split("+")
    columns, carried = [], 0
    for digits in zip(reversed(a), reversed(b)):
        columns.append(carried + sum(map(int, digits)))
        carried = columns[-1] // 10
    return " ".join(map(str, [*columns, int(a) + int(b)]))


def at_once(question: str) -> str:
    """The sum alone: 632."""
    return str(sum(map(int, question.split("+"))))


def shown(questions: list[str], ways: list, seed: int) -> list[list[dict]]:
    """Each sum as a chat, answered in one of these ways."""
    rng = random.Random(seed)
    return [
        [
            {"role": "user", "content": question},
            {"role": "assistant", "content": ways[int(rng.random() * len(ways))](question)},
        ]
        for question in questions
    ]


# ---------------------------------------------------------------- the model


class AtRandom:
    """Batches of rows drawn at random: `RowBatches` would keep long and short answers apart."""

    def __init__(self, inputs, targets, B: int, seed: int):
        self.inputs, self.targets, self.B = inputs, targets, B
        self.draw = torch.Generator().manual_seed(seed)

    def next(self):
        rows = torch.randint(len(self.inputs), (self.B,), generator=self.draw)
        return self.inputs[rows], self.targets[rows]


def config(tokenizer: Tokenizer) -> ModelConfig:
    """Two narrow blocks: too few to carry through three columns at once."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=CONTEXT,
        n_layers=2,
        d_model=64,
        n_heads=4,
        n_kv_heads=4,
        head_dim=16,
        d_ff=192,
        tie_embeddings=True,
    )


def make_model() -> None:
    """Trains the model from nothing, stops early, and writes its file and its facts."""
    torch.manual_seed(MODEL_SEED)
    tokenizer = Tokenizer([])
    model, start = Decoder(config(tokenizer)), time.process_time()
    rows = chat_rows(shown(sums(N_SUMS), [in_columns, at_once], MODEL_SEED), tokenizer, T)
    train(model, AtRandom(*rows, B, MODEL_SEED), Recipe(steps=STEPS, **RECIPE))
    seconds = round(time.process_time() - start)
    weights.save(model.half(), ASSETS / "sums.safetensors")
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "cpu_seconds": seconds}
    FACTS.write_text(json.dumps(facts | scores(*weights.sums_model()), indent=1) + "\n")


# ---------------------------------------------------------------- how good it is


def answers(model, tokenizer, questions: list[str], sampling=GREEDY, first_seed=0) -> list[str]:
    """What the model answers to each, as text."""
    chats = [[{"role": "user", "content": question}] for question in questions]
    seeds = range(first_seed, first_seed + len(chats))
    return reply(model, tokenizer, chats, MAX_NEW, sampling, seeds)


def share(true) -> float:
    """The share of what is true."""
    return round(mean(map(float, true)), 4) if true else 0.0


def scores(model: Decoder, tokenizer: Tokenizer, n: int = 1_000) -> dict:
    """Shares of right answers to n held-out sums, and how they are answered at temperature 1."""
    asked = sums(n, TEST_SEED, held_out=True)
    greedy = answers(model, tokenizer, asked)
    drawn_ = answers(model, tokenizer, asked, Sampling())
    right = [*map(is_right_sum, asked, drawn_)]
    worked = [" " in answer for answer in drawn_]
    return {
        "greedy": share([*map(is_right_sum, asked, greedy)]),
        "sampled": share(right),
        "worked": share(worked),
        "right_if_worked": share([r for r, w in zip(right, worked) if w]),
        "right_at_once": share([r for r, w in zip(right, worked) if not w]),
        "length": round(mean(map(len, drawn_)), 2),
    }


N_PASS, TRIES, KS = 200, 32, (1, 2, 4, 8, 16)


def counts(model: Decoder, tokenizer: Tokenizer) -> list[int]:
    """How many of TRIES answers at temperature 1 are right, for each of N_PASS held-out sums."""
    asked = [q for q in sums(N_PASS, TEST_SEED, held_out=True) for _ in range(TRIES)]
    found = answers(model, tokenizer, asked, Sampling(), first_seed=1_000_000)
    right = torch.tensor([*map(is_right_sum, asked, found)])
    return right.view(N_PASS, TRIES).sum(dim=1).tolist()


def pass_at(k: int, right: list[int], n: int = TRIES) -> float:
    """How often k answers hold a right one, from c right of n (arXiv:2107.03374, equation 1)."""
    return mean(1 - comb(n - c, k) / comb(n, k) for c in right)


@lru_cache
def from_hard_to_easy() -> list[int]:
    """The N_PASS sums, by how many of the first model's answers are right."""
    right = counts(*weights.sums_model())
    return sorted(range(N_PASS), key=lambda i: right[i])


def by_quarter(right: list[int]) -> list[float]:
    """The share of right answers in each quarter of the sums, the hardest for the start first."""
    ordered = [right[i] / TRIES for i in from_hard_to_easy()]
    return [mean(ordered[i : i + N_PASS // 4]) for i in range(0, N_PASS, N_PASS // 4)]


# ---------------------------------------------------------------- ways of tuning


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that decides a run. The arm is its name in the lesson."""

    arm: str
    seed: int = 0
    iterations: int = 30
    n_prompts: int = 32  # in an iteration
    group: int = 16  # answers to each
    epochs: int = 2
    B: int = 256  # answers in a step
    lr: float = 6e-4  # at first; it falls evenly to nothing
    n_sums: int = 2_000  # from which the prompts are drawn


def plan(run: Run, **more) -> Plan:
    """The run as GRPO's loop has it; no KL is paid for."""
    names = ("iterations", "n_prompts", "group", "epochs", "B", "lr", "seed")
    return Plan(max_new=MAX_NEW, beta=0.0, **{n: getattr(run, n) for n in names}, **more)


def prompts(run: Run) -> list[str]:
    """The sums that a run may ask."""
    return sums(run.n_sums, seed=10_000 + run.seed)


class Watch:
    """What a run looks like on the way; the clock stands still while it looks."""

    def __init__(self, every: int):
        self.every, self.begun, self.looking = every, time.process_time(), 0.0
        self.n_seen = 0
        self.curves = {name: [] for name in ("seconds", "right", "reward", "even", "length")}

    def see(self, model, tokenizer) -> None:
        """Counts one iteration; after every so many, how good is the model on held-out sums?"""
        start = time.process_time()
        if self.n_seen % self.every == 0:
            asked = sums(300, TEST_SEED + 1, held_out=True)
            right = map(is_right_sum, asked, answers(model, tokenizer, asked, Sampling()))
            self.curves["right"].append(share([*right]))
            self.curves["seconds"].append(start - self.begun - self.looking)
        self.n_seen += 1
        self.looking += time.process_time() - start

    def heard(self, rewards, lengths: float) -> None:
        """The rewards (P, G) of one iteration, and the mean length of its answers."""
        self.curves["reward"].append(rewards.mean().item())
        self.curves["even"].append((rewards == rewards[:, :1]).all(dim=1).float().mean().item())
        self.curves["length"].append(lengths)


def by_grpo(model, tokenizer, run: Run, watch: Watch, **how) -> None:
    """GRPO as in `helpers.rlhf`."""
    asked, the_plan = prompts(run), plan(run, **how)

    def hook(iteration, model):
        of, *_ = drawn(asked, the_plan, iteration.iteration - 1)
        rewards = torch.tensor([float(is_right_sum(*both)) for both in zip(of, iteration.texts)])
        watch.heard(rewards.view(-1, run.group), iteration.length)
        watch.see(model, tokenizer)

    tune_by_grpo(model, tokenizer, asked, by_rule(is_right_sum), the_plan, hook)


def by_dapo(model, tokenizer, run: Run, watch: Watch) -> None:
    """DAPO: tokens have equal say, ratios more room above, and only mixed groups are learnt from.

    Groups that one iteration has over serve the next, so that little is sampled in vain.
    """
    asked, optimizer = prompts(run), adamw((model, run.lr))
    groups, n_drawn = [], 0
    for i in range(run.iterations):
        while len(groups) < run.n_prompts:
            answered = roll_out(model, tokenizer, *drawn(asked, plan(run), n_drawn))
            rewards = rewarded(answered, run, watch)
            groups += mixed_groups(answered, rewards)
            n_drawn += 1
        chosen, groups = groups[: run.n_prompts], groups[run.n_prompts :]
        rows = [torch.cat(parts) for parts in zip(*chosen)]
        for some in batches(run.n_prompts * run.group, run.B, run.epochs, run.seed + i):
            targets, inputs, old_logps, advantages = (part[some] for part in rows)
            logps, mask = answer_logps(model, inputs, targets), targets != IGNORED
            how = {"clip": (0.2, 0.28), "per": "token"}
            loss = grpo_loss(logps, old_logps, advantages, mask, **how)
            take_step(optimizer, loss, left=1 - i / run.iterations)
        watch.see(model, tokenizer)


def rewarded(answered: Rollout, run: Run, watch: Watch) -> torch.Tensor:
    """The rewards (P, G) of an iteration's answers, which the watch hears of."""
    rewards = by_rule(is_right_sum)(answered).view(run.n_prompts, run.group)
    watch.heard(rewards, answered.mask.sum(dim=1).double().mean().item())
    return rewards


def mixed_groups(answered: Rollout, rewards: torch.Tensor) -> list[tuple]:
    """(targets, inputs, old log-probabilities, advantages) of each group with right and wrong."""
    parts = [(answered.targets, IGNORED), (answered.inputs, 0), (answered.old_logps, 0.0)]
    room = CONTEXT - answered.inputs.shape[1]
    wide = [F.pad(part, (0, room), value=value) for part, value in parts]
    split = zip(*(part.split(rewards.shape[1]) for part in wide), group_advantages(rewards))
    return [group for group, mixed in zip(split, rewards.std(dim=1) > 0) if mixed]


def by_imitating_itself(model, tokenizer, run: Run, watch: Watch, renewed: bool) -> None:
    """Keeps what is right of its own answers and learns it by heart, as if it had been shown.

    With `renewed` it answers anew in each iteration (expert iteration); without, all answers come
    from the first model (rejection sampling, then finetuning).
    """
    asked, optimizer, first = prompts(run), adamw((model, run.lr)), frozen(model)
    for i in range(run.iterations):
        answering = model if renewed else first
        answered = roll_out(answering, tokenizer, *drawn(asked, plan(run), i))
        right = rewarded(answered, run, watch).flatten() > 0
        inputs, targets = answered.inputs[right], answered.targets[right]
        for some in batches(len(inputs), run.B, run.epochs, run.seed + i):
            loss = sft_loss(model(inputs[some]), targets[some])
            take_step(optimizer, loss, left=1 - i / run.iterations)
        watch.see(model, tokenizer)


def by_being_shown(model, tokenizer, run: Run, watch: Watch, ways: list) -> None:
    """The same sums with their answers, as at the start; more steps, since nothing is sampled."""
    inputs, targets = chat_rows(shown(prompts(run), ways, run.seed), tokenizer, T)
    source, optimizer = AtRandom(inputs, targets, run.B, run.seed), adamw((model, run.lr))
    for i in range(run.iterations):
        for _ in range(STEPS_SHOWN):
            some, wanted = source.next()
            take_step(optimizer, sft_loss(model(some), wanted), left=1 - i / run.iterations)
        watch.see(model, tokenizer)


STEPS_SHOWN = 5  # in the time of an iteration of GRPO
WAYS = {
    "start": lambda *run: None,
    "GRPO": by_grpo,
    "Dr. GRPO": partial(by_grpo, per="constant", scale=False),
    "DAPO": by_dapo,
    "expert iteration": partial(by_imitating_itself, renewed=True),
    "rejection sampling": partial(by_imitating_itself, renewed=False),
    "shown more": partial(by_being_shown, ways=[in_columns, at_once]),
    "shown columns": partial(by_being_shown, ways=[in_columns]),
}


def measured(run: Run) -> dict:
    """Tunes the first model, and returns what came out."""
    model, tokenizer = weights.sums_model()
    first, watch = frozen(model), Watch(every=5)
    watch.see(model, tokenizer)
    WAYS[run.arm](model, tokenizer, run, watch)
    cpu_seconds = time.process_time() - watch.begun - watch.looking
    right = counts(model, tokenizer)
    asked = sums(500, TEST_SEED, held_out=True)
    return {
        **scores(model, tokenizer),
        "kl": round(kl_from(first, roll_out(model, tokenizer, asked, MAX_NEW, range(500))), 3),
        "pass_at": curve([pass_at(k, right) for k in KS]),
        "by_quarter": curve(by_quarter(right)),
        "cpu_seconds": round(cpu_seconds, 1),
        **{f"{name}_curve": curve(values) for name, values in watch.curves.items()},
    }


def curve(values: list[float]) -> str:
    """Numbers as a table has them."""
    return " ".join(f"{value:.3f}" for value in values)


# ---------------------------------------------------------------- all runs, and the card

SEEDS = (0, 1, 2)
RATES = {"shown more": 1e-3, "shown columns": 1e-3}


def runs() -> list[Run]:
    """The start, and each way of tuning with each seed."""
    tuned = [arm for arm in WAYS if arm != "start"]
    more = [{"lr": RATES[arm]} if arm in RATES else {} for arm in tuned]
    every = [Run(arm=arm, seed=seed, **m) for arm, m in zip(tuned, more) for seed in SEEDS]
    return [Run(arm="start"), *every]


CARD = """# The model that adds

A very small decoder that adds two numbers of three digits, and is often wrong. It is there to be
tuned: lesson 07 tells it nothing but which of its answers are right. It and this page were written
by `python assets/arithmetic.py`.

**What it is.** {parameters:,} parameters: 2 blocks, `d_model` 64, 4 heads, SwiGLU, RMSNorm, rotary
positions, tied embeddings; trained in 32 bits, stored in 16. Its tokens are the bytes and the
special tokens, so that every digit is a token.

**How it was trained.** From nothing, on {n_sums:,} sums (`helpers.tasks.sums`, seed 0) as chats of
two turns, {B} drawn at random for each of {steps} steps, {recipe}: {cpu_seconds}
seconds of one core. One half of the sums is answered at once, `347+285` by `632`; the other half
with the sum of each column first, from the right, what is carried included: `12 13 6 632`. Other
seeds give models that are better or worse at one of the two; this one was chosen because it is
much better at the second.

**How good it is.** Right is an answer whose last word is the sum. Of 1,000 held-out sums it has
{greedy:.1%} right when greedy, {sampled:.1%} at temperature 1. There, {worked:.0%} of its answers
are worked out; {right_if_worked:.1%} of these are right, and {right_at_once:.1%} of the others.

**What tuning makes of it.** Means over {n_seeds} seeds (sweeps/sums.csv), at temperature 1 but for
the column greedy; pass@16: at least one of 16 answers is right. The seconds were taken on a busy
machine: compare them roughly.

{table}

**What it is not for.** Numbers of two or four digits, and anything else that is not such a sum.
"""
COLUMNS = ("greedy", "sampled", "worked", "right_if_worked")


def card_row(arm: str) -> str:
    """What became of the model, in a row of the card's table."""
    rows = [row for row in recorded("sums") if row["arm"] == arm]
    shares = [f"{mean(row[name] for row in rows):.1%}" for name in COLUMNS]
    pass_16 = mean(float(row["pass_at"].split()[-1]) for row in rows)
    seconds = mean(row["cpu_seconds"] for row in rows)
    return f"| {' | '.join([arm, *shares, f'{pass_16:.1%}', f'{seconds:.0f}'])} |"


def write_card() -> None:
    """The card, from the facts and the recorded runs."""
    arms = dict.fromkeys(run.arm for run in runs())
    head = "| | greedy | sampled | worked out | right of these | pass@16 | CPU s |"
    table = "\n".join([head, "|---" * 7 + "|", *map(card_row, arms)])
    recipe = ", ".join(f"{key} = {value}" for key, value in RECIPE.items())
    facts = json.loads(FACTS.read_text())
    numbers = {"n_sums": N_SUMS, "B": B, "steps": STEPS, "n_seeds": len(SEEDS)}
    card = CARD.format(table=table, recipe=recipe, **numbers, **facts)
    (ASSETS / "sums.md").write_text(card)


DOES = {"model": make_model, "sweep": lambda: record("sums", runs(), measured), "card": write_card}

if __name__ == "__main__":
    if not sys.argv[1:] or set(sys.argv[1:]) - set(DOES):
        sys.exit(f"say what to do: {', '.join(DOES)}")
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        DOES[name]()
