"""What torch.compile gains in training and what its first step costs: the table of lesson 09.

`python assets/compiling.py` measures what sweeps/compiling.csv beside it lacks, on one core, in one
or two minutes a row. It needs a C++ compiler. The table is of one machine, which it names.
"""

import platform
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch
from recording import record

from helpers import weights
from helpers.families import parameters
from helpers.model import Decoder
from helpers.train import loss_of

T, ROUNDS = 128, 9


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model in training: the story model's shape, or a wider one."""

    arm: str
    n_layers: int
    d_model: int
    B: int


RUNS = [
    Run(arm="story model", n_layers=2, d_model=128, B=16),
    Run(arm="larger model", n_layers=6, d_model=384, B=4),
]


def config(run: Run):
    """The story model's config in the run's size."""
    shape = {"d_model": run.d_model, "n_heads": run.d_model // 32, "n_layers": run.n_layers}
    width = {"n_kv_heads": run.d_model // 32, "d_ff": run.d_model * 352 // 128}
    return replace(weights.story_model()[0].cfg, **shape, **width)


def training_step(run: Run, compiled: bool):
    """A function that trains a new model by one step on random tokens."""
    torch.manual_seed(0)
    model = Decoder(config(run))
    called = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs, targets = torch.randint(model.cfg.vocab_size, (2, run.B, T))

    def step():
        loss_of(called, inputs, targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(job) -> float:
    """How long the job took."""
    start = perf_counter()
    job()
    return perf_counter() - start


def measured(run: Run) -> dict:
    """Milliseconds of a step, medians in turns; seconds of the first compiled one; the machine."""
    eager, compiled = training_step(run, False), training_step(run, True)
    first = seconds(compiled)
    turns = [(seconds(eager), seconds(compiled)) for _ in range(ROUNDS)]
    plain, fast = (1000 * statistics.median(column) for column in zip(*turns))
    return {
        "parameters": parameters(config(run)),
        "first_seconds": round(first, 1),
        "eager_ms": round(plain, 1),
        "compiled_ms": round(fast, 1),
        "torch": torch.__version__,
        "machine": processor(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor() or platform.machine()])[0]}, 1 core"


if __name__ == "__main__":
    torch.set_num_threads(1)
    record("compiling", RUNS, measured)
