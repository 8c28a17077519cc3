"""python -m pytest tests/test_recording.py -p no:nbval -o addopts="" """

import csv
from collections import Counter
from dataclasses import dataclass, fields

import recording


def rows(name, folder=recording.FOLDER):
    """The rows of a table as it is written."""
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def holds_each_run_once(name, runs):
    """Asserts that the table in assets/sweeps has these runs and no others."""
    found = [tuple(row[one.name] for one in fields(runs[0])) for row in rows(name)]
    assert Counter(found) == Counter(map(recording.as_written, runs))


@dataclass(frozen=True)
class Run:
    arm: str
    lr: float = 0.1
    clip: float | None = None


RUNS = [Run("a"), Run("b"), Run("a", clip=1.0)]


def test_a_run_that_was_recorded_is_not_run_again(tmp_path):
    done = []
    for _ in range(2):
        recording.record("some", RUNS, lambda run: done.append(run) or {"loss": 2.5}, tmp_path)
    assert done == RUNS
    assert [row["loss"] for row in rows("some", tmp_path)] == ["2.5"] * 3


def test_a_sweep_that_is_stopped_goes_on_with_the_run_it_was_at(tmp_path):
    done = []

    def stopped_at_the_second(run):
        done.append(run)
        if len(done) == 2:
            raise KeyboardInterrupt
        return {"loss": 1.0}

    try:
        recording.record("some", RUNS, stopped_at_the_second, tmp_path)
    except KeyboardInterrupt:
        recording.record("some", RUNS, stopped_at_the_second, tmp_path)
    assert done == [RUNS[0], RUNS[1], RUNS[1], RUNS[2]]
    assert [row["arm"] for row in rows("some", tmp_path)] == ["a", "b", "a"]


def test_settings_are_kept_as_a_table_writes_them(tmp_path):
    recording.record("some", RUNS, lambda run: {"loss": 1.0}, tmp_path)
    assert recording.recorded(tmp_path / "some.csv", RUNS[0]) == {
        ("a", "0.1", ""),
        ("b", "0.1", ""),
        ("a", "0.1", "1.0"),
    }
