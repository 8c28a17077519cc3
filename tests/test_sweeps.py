"""The recorded runs of lesson 05 are those of assets/sweeps.py: settings, numbers, nothing missing.

python -m pytest tests/test_sweeps.py -p no:nbval -o addopts=""
"""

import pytest
import sweeps
import torch

from helpers.sources import recorded
from tests.test_recording import holds_each_run_once


@pytest.mark.parametrize("name", sweeps.SWEEPS)
def test_a_table_holds_each_run_of_its_sweep_once(name):
    holds_each_run_once(name, sweeps.SWEEPS[name][0]())


@pytest.mark.parametrize("name", sweeps.SWEEPS)
def test_no_recorded_validation_loss_is_below_the_floor(name):
    for run in recorded(name):
        assert run["loss_en"] > run["floor_en"]
        assert run["loss_pt"] is None or run["loss_pt"] > run["floor_pt"]


def test_the_smallest_run_trained_again_gives_the_row_that_is_recorded():
    threads, run = torch.get_num_threads(), sweeps.scaling()[0]
    torch.set_num_threads(1)
    again = sweeps.measured(run)
    torch.set_num_threads(threads)
    row = next(row for row in recorded("scaling") if (row["d_model"], row["tokens"]) == (8, 15_000))
    assert again["loss_en"] == pytest.approx(row["loss_en"], abs=0.02)
    assert again["tokens_seen"] == row["tokens_seen"]
    assert again["parameters"] == row["parameters"]


def test_a_filter_that_knows_50_good_stories_tells_good_from_spoilt():
    found = sweeps.as_found(100, seed=0)
    assert sum(map(sweeps.looks_good, found[::2])) > 40
    assert sum(map(sweeps.looks_good, found[1::2])) < 5


def test_stories_kept_for_measuring_are_in_no_training_set():
    texts = {text for kind in sweeps.STORIES.values() for text in kind(300, 0)}
    assert not texts & {*sweeps.held_out("en"), *sweeps.held_out("pt")}


def test_an_accident_changes_the_batches_that_it_says():
    tokens = torch.arange(8).view(2, 4)
    bad = [k for k in range(1, 31) if sweeps.one_bad_batch(k, 30, tokens, tokens)[0] is not tokens]
    assert bad == [20, 21, 22]
    inputs, targets = sweeps.visible_answers(1, 30, tokens, tokens + 1)
    assert torch.equal(inputs, targets)


def test_shapes_that_are_compared_have_equally_many_parameters():
    sizes = {sweeps.parameters(sweeps.config(run, 512)) for run in sweeps.shape()}
    assert max(sizes) - min(sizes) < 0.01 * min(sizes)
