"""Records when a model of stories learns to repeat colours, things and names: copying.json.

    python assets/copying.py        # about four minutes of one core

Lesson 04 shows it for the run that it trains; here its own cells run with three other seeds.
"""

import json
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
LESSON, RESULTS = ROOT / "notebooks" / "04_pretraining.ipynb", Path(__file__).with_suffix(".json")
SEEDS = (1, 2, 3)


class NoPicture:
    """Stands where the lesson draws."""

    def __init__(self, *arguments, **settings): ...

    def __call__(self, record, model): ...


def sources() -> dict[str, str]:
    """The code of the lesson's cells, by name."""
    return {cell.id: cell.source for cell in nbformat.read(LESSON, as_version=4).cells}


def watched(seed: int) -> dict[int, dict[str, float]]:
    """{step: {kind: share of the right word}} of the lesson's run with this seed."""
    cell, names = sources(), {}
    for name in ("setup", "landmarks", "watch"):
        exec(cell[name], names)
    names["widgets"].LivePlot = NoPicture
    run = cell["run"].replace("manual_seed(0)", f"manual_seed({seed})")
    exec(run.replace("B=12)", f"B=12, seed={seed})"), names)
    return names["watched"]


def main() -> None:
    """Runs every seed and writes {kind: [its shares, of each seed]}."""
    runs = [watched(seed) for seed in SEEDS]
    kinds = next(iter(runs[0].values()))
    shares = {kind: [[round(s[kind], 3) for s in run.values()] for run in runs] for kind in kinds}
    RESULTS.write_text(json.dumps(shares) + "\n")


if __name__ == "__main__":
    main()
