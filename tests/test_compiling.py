"""The recorded gains of compiling, of lesson 09, are those that assets/compiling.py measures.

python -m pytest tests/test_compiling.py -p no:nbval -o addopts=""
"""

import compiling
import pytest

from helpers.families import parameters
from helpers.sources import recorded
from tests.test_recording import holds_each_run_once


def test_the_table_holds_each_run_once():
    holds_each_run_once("compiling", compiling.RUNS)


def test_the_smaller_model_has_the_story_model_s_shape():
    assert compiling.config(compiling.RUNS[0]) == compiling.weights.story_model()[0].cfg


@pytest.mark.parametrize("run, row", zip(compiling.RUNS, recorded("compiling")))
def test_a_row_counts_its_model_s_parameters_and_names_its_machine(run, row):
    assert row["parameters"] == parameters(compiling.config(run))
    assert row["machine"].endswith("1 core") and row["first_seconds"] > 0


def test_a_step_trains_the_model_on_the_same_tokens(monkeypatch):
    losses, loss_of = [], compiling.loss_of

    def noted(*arguments):
        losses.append(loss_of(*arguments))
        return losses[-1]

    monkeypatch.setattr(compiling, "loss_of", noted)
    step = compiling.training_step(compiling.Run(arm="", n_layers=1, d_model=32, B=1), False)
    for _ in range(3):
        step()
    assert losses[0] > losses[1] > losses[2]


def test_the_processor_has_a_name():
    assert len(compiling.processor()) > len(", 1 core")
