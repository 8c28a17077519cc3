"""The recorded runs of lesson 06 are those of assets/tuning.py: settings, numbers, nothing missing.

python -m pytest tests/test_tuning.py -p no:nbval -o addopts=""
"""

import pytest
import torch
import tuning

from helpers import weights
from helpers.data import IGNORED
from helpers.sources import recorded
from tests.test_recording import holds_each_run_once

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", tuning.SWEEPS)
def test_a_table_holds_each_run_of_its_sweep_once(name):
    holds_each_run_once(name, tuning.SWEEPS[name][0]())


def test_puzzles_worked_by_hand():
    asked = tuning.puzzles(200, seed=3, tasks=("reverse", "down"))
    assert {puzzle["task"] for puzzle in asked} == {"r", "d"}
    for puzzle in asked:
        letters = puzzle["letters"]
        right = letters[::-1] if puzzle["task"] == "r" else "".join(sorted(letters))[::-1]
        assert puzzle["answer"] == right and 2 <= len(letters) <= 6


@pytest.mark.parametrize("name", tuning.FORMATS)
def test_of_a_puzzle_in_any_format_the_answer_alone_is_learnt(name):
    some = tuning.puzzles(20, seed=0)
    inputs, targets = tuning.puzzle_rows(some, name)
    for puzzle, row, learnt in zip(some, inputs, targets):
        request, answer = tuning.written(puzzle, name)
        assert learnt[learnt != IGNORED].tolist() == answer
        assert row[: len(request)].tolist() == request
        assert (learnt[: len(request) - 1] == IGNORED).all()


def test_learning_everything_learns_every_id_but_the_first():
    some = tuning.puzzles(5, seed=0)
    _, targets = tuning.puzzle_rows(some, "a sign", learn="everything")
    for puzzle, learnt in zip(some, targets):
        request, answer = tuning.written(puzzle, "a sign")
        assert learnt[learnt != IGNORED].tolist() == (request + answer)[1:]


def test_only_formats_with_a_stop_end_their_answers():
    puzzle, stop = tuning.puzzles(1, seed=0)[0], tuning.bytes_only().special_ids["<|end|>"]
    ends = {name: tuning.written(puzzle, name)[1][-1] == stop for name in tuning.FORMATS}
    assert [name for name, ended in ends.items() if not ended] == ["nothing", "a sign, no stop"]


def test_an_adapted_run_again_gives_the_row_that_is_recorded():
    run = next(run for run in tuning.adapters() if run.arm == "rank 16")
    again = tuning.adapt(run)
    row = next(row for row in recorded("adapters") if (row["arm"], row["seed"]) == ("rank 16", 0))
    assert again["learning"] == row["learning"]
    assert again["right_new"] == pytest.approx(row["right_new"], abs=0.1)


def test_words_that_english_never_showed_begin_anew_and_the_others_stay():
    model, tok = weights.story_model("en")
    before = model.lm_head.weight.clone()
    after = tuning.renewed(model, tok).lm_head.weight
    changed = (before != after).any(dim=1)
    portuguese, english = tok.encode(" menina")[0], tok.encode(" girl")[0]
    assert changed[portuguese] and not changed[english] and not changed[tok.eot]
    assert torch.isfinite(after).all()


def test_a_quarter_stories_are_a_quarter_of_the_rows():
    run = tuning.Tuned(arm="some", records=30, stories=0.25)
    tok = weights.story_model("en")[1]
    inputs, _ = tuning.lesson_rows(run, tok)
    assert len(inputs) == 40 and (inputs[30:, 0] == tok.eot).all()
