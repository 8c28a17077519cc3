"""Sums are held out cleanly, their rule is strict, and the model that adds is as its card says.

python -m pytest tests/test_sums.py -p no:nbval -o addopts=""
"""

import json

import arithmetic
import pytest
import torch

from helpers.rlhf import roll_out
from helpers.sources import recorded
from helpers.tasks import is_right_sum, sums
from helpers.weights import sums_model
from tests.test_recording import holds_each_run_once

FACTS = json.loads(arithmetic.FACTS.read_text())


def numbers(questions):
    """The two numbers of each sum, the smaller first."""
    return [tuple(sorted(map(int, question.split("+")))) for question in questions]


# ---------------------------------------------------------------- sums and their rule


def test_a_held_out_sum_never_comes_among_the_others_nor_turned_round():
    kept, learnt = numbers(sums(20_000, 1, held_out=True)), numbers(sums(20_000, 2))
    assert not {*kept} & {*learnt}
    assert all(100 <= a <= b <= 999 for a, b in kept + learnt)


def test_any_last_digits_are_asked_in_training_and_held_out():
    for held_out in (False, True):
        ends = {(a % 10, b % 10) for a, b in numbers(sums(4_000, 0, held_out))}
        assert len(ends) == 100


def test_the_same_seed_asks_the_same_sums_and_another_does_not():
    assert sums(50, 3) == sums(50, 3) != sums(50, 4)
    assert sums(50, 3)[:20] == sums(20, 3)


@pytest.mark.parametrize("answer", ["632", "12 13 6 632", " 632\n", "nonsense 632"])
def test_an_answer_that_ends_in_the_sum_is_right(answer):
    assert is_right_sum("347+285", answer)


@pytest.mark.parametrize("answer", ["", "631", "0632", "632 6", "12 13 6632", "632.", "-632"])
def test_a_near_miss_is_wrong(answer):
    assert not is_right_sum("347+285", answer)


@pytest.mark.parametrize("question", ["", "347", "347 plus 285", "347-285", "347+285="])
def test_what_is_no_sum_is_refused(question):
    with pytest.raises(ValueError, match="is no sum: ask like '347\\+285'"):
        is_right_sum(question, "632")


# ---------------------------------------------------------------- how they are shown


def test_columns_are_worked_from_the_right_and_carry():
    assert arithmetic.in_columns("347+285") == "12 13 6 632"
    assert arithmetic.in_columns("999+999") == "18 19 19 1998"
    assert arithmetic.in_columns("100+200") == "0 0 3 300"


def test_both_ways_of_showing_are_right_and_fit_into_a_row():
    asked, (_, tokenizer) = sums(500, 5), sums_model()
    for way in (arithmetic.in_columns, arithmetic.at_once):
        assert all(is_right_sum(question, way(question)) for question in asked)
        for chat in arithmetic.shown(asked, [way], seed=0):
            assert len(tokenizer.render_chat(chat)[0]) - 1 <= arithmetic.T


def test_half_of_what_is_shown_is_worked_out():
    chats = arithmetic.shown(sums(2_000), [arithmetic.in_columns, arithmetic.at_once], seed=0)
    worked = [" " in chat[1]["content"] for chat in chats]
    assert sum(worked) == pytest.approx(1_000, abs=70)


# ---------------------------------------------------------------- the model


def test_the_model_is_as_good_as_its_card_says_and_no_better(one_thread):
    found = arithmetic.scores(*sums_model(), n=400)
    for name in ("greedy", "sampled", "worked", "right_if_worked"):
        assert found[name] == pytest.approx(FACTS[name], abs=0.07)


def test_the_card_says_what_was_measured():
    card = (arithmetic.ASSETS / "sums.md").read_text(encoding="utf-8")
    assert f"{FACTS['parameters']:,} parameters" in card
    assert f"{FACTS['greedy']:.1%} right when greedy, {FACTS['sampled']:.1%} at temp" in card


def test_the_model_has_as_many_parameters_as_its_card_says():
    assert sum(p.numel() for p in sums_model()[0].parameters()) == FACTS["parameters"]


# ---------------------------------------------------------------- tuning it


def test_one_of_two_answers_out_of_four_with_one_right():
    assert arithmetic.pass_at(2, [1], n=4) == pytest.approx(1 / 2)
    assert arithmetic.pass_at(1, [3, 0], n=4) == pytest.approx(3 / 8)
    assert arithmetic.pass_at(4, [1, 0], n=4) == pytest.approx(1 / 2)


def test_groups_that_are_all_right_or_all_wrong_are_dropped(one_thread):
    model, tokenizer = sums_model()
    answered = roll_out(model, tokenizer, sums(3) * 2, arithmetic.MAX_NEW, range(6))
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    (targets, inputs, old_logps, advantages), *others = arithmetic.mixed_groups(answered, rewards)
    T = answered.targets.shape[1]
    assert not others
    assert torch.equal(targets[:, :T], answered.targets[2:4])
    assert torch.equal(inputs[:, :T], answered.inputs[2:4])
    assert torch.equal(old_logps[:, :T], answered.old_logps[2:4])
    assert advantages[0] < 0 < advantages[1]


def test_the_table_holds_each_run_once():
    holds_each_run_once("sums", arithmetic.runs())


def test_grpo_gains_30_points_with_every_seed_and_more_of_the_same_does_not():
    right = {run["arm"]: [] for run in recorded("sums")}
    for run in recorded("sums"):
        right[run["arm"]].append(run["sampled"])
    (start,) = right["start"]
    assert min(right["GRPO"]) > start + 0.3 > max(right["shown more"]) + 0.15
