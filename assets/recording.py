"""Keeping the runs of a sweep: a table in sweeps/ with a row per run, which grows as runs end.

A run is a frozen dataclass of plain values: all that decides it. Interrupt a sweep as you like, and
start it again: what its table has is not run again. The lessons read the tables with
`helpers.sources.recorded`.
"""

import csv
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name("sweeps")


def record(name: str, runs: Iterable, measured: Callable[..., dict], folder: Path = FOLDER) -> None:
    """Appends the row `measured(run)` to the table so named for each run that it lacks."""
    file = folder / f"{name}.csv"
    for run in runs:
        if as_written(run) not in recorded(file, run):
            append(file, asdict(run) | measured(run))


def command_line(sweeps: dict[str, tuple], names: list[str]) -> None:
    """Makes what is missing of the named sweeps: the first seed of all, then the next.

    `sweeps` has for each name the function that lists its runs, and the one that measures a run.
    """
    if not names or set(names) - set(sweeps):
        sys.exit(f"say which sweeps: {' '.join(sweeps)}")
    torch.set_num_threads(1)
    runs = [(run.seed, name, run) for name in names for run in sweeps[name][0]()]
    for _, name, run in sorted(runs, key=lambda entry: entry[0]):
        record(name, [run], sweeps[name][1])


def as_written(run) -> tuple[str, ...]:
    """The run's settings as a CSV file has them."""
    return tuple("" if value is None else str(value) for value in asdict(run).values())


def recorded(file: Path, like) -> set[tuple[str, ...]]:
    """The settings of the rows that the file has, of runs of the same kind as `like`."""
    if not file.exists():
        return set()
    with open(file, newline="", encoding="utf-8") as rows:
        return {tuple(row[one.name] for one in fields(like)) for row in csv.DictReader(rows)}


def append(file: Path, row: dict) -> None:
    """Writes one row, and the head above the first."""
    file.parent.mkdir(exist_ok=True)
    is_new = not file.exists()
    with open(file, "a", newline="", encoding="utf-8") as rows:
        writer = csv.DictWriter(rows, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
