"""The recorded runs of lesson 07 are those of assets/alignment.py, and show what the lesson says.

python -m pytest tests/test_alignment.py -p no:nbval -o addopts=""
"""

import alignment
import pytest

from helpers.preferences import Crowd, Pair
from helpers.sources import recorded
from tests.test_recording import holds_each_run_once


@pytest.mark.parametrize("name", alignment.SWEEPS)
def test_a_table_holds_each_run_of_its_sweep_once(name):
    holds_each_run_once(name, alignment.SWEEPS[name][0]())


@pytest.mark.parametrize("method", ["DPO", "GRPO", "PPO"])
def test_every_method_reaches_the_taste_that_it_never_saw_and_stays_fluent(method):
    """Half of the answers are liked at first, then 85 in 100 (mean of seeds); 85 are stories."""
    runs = {
        arm: [run for run in recorded("alignment") if run["arm"] == arm]
        for arm in ("start", method)
    }
    before, after = ([run["likes"] for run in some] for some in runs.values())
    assert 0.45 < sum(before) / 3 < 0.55
    assert sum(after) / 3 >= 0.85 and min(after) > 0.8
    assert all(run["parses"] >= 0.85 for run in runs[method])


def test_a_reward_model_foresees_nearly_all_that_can_be_foreseen():
    runs = [run for run in recorded("judges") if run["n_ranked"] == alignment.N_RANKED]
    missed = [run["ceiling"] - run["foreseen"] for run in runs]
    assert min(missed) > 0 and sum(missed) / len(missed) < 0.03


def test_pairs_that_are_read_too_often_make_a_lead_that_nobody_likes_unless_it_is_dear():
    lead, liked = {}, {}
    for run in recorded("overdone"):
        key = run["beta"], run["epochs"]
        ahead = run["chosen_curve"][-1] - run["rejected_curve"][-1]
        lead[key] = lead.get(key, 0) + ahead / len(alignment.SEEDS)
        liked[key] = liked.get(key, 0) + run["likes"] / len(alignment.SEEDS)
    for beta in (0.1, 1.0):
        growing = [lead[key] for key in sorted(lead) if key[0] == beta]
        assert len(growing) == 5 and growing == sorted(growing)
    assert liked[0.1, 8] > liked[0.1, 2] + 0.1 and liked[0.1, 8] > liked[0.1, 32] + 0.2
    assert liked[1.0, 32] == max(share for (beta, _), share in liked.items() if beta == 1)


def test_the_dearer_the_kl_the_less_of_it():
    distances = [run["kl"] for run in sorted(recorded("kl_prices"), key=lambda run: run["beta"])]
    assert distances == sorted(distances, reverse=True)


def test_prompts_kept_for_measuring_are_never_learnt_from():
    learnt, kept = alignment.prompts(held_out=False), alignment.prompts(held_out=True)
    assert not set(learnt) & set(kept)
    assert len(learnt) > 5 * len(kept) > 50


def test_separate_pairs_show_each_answer_once():
    pairs = Crowd(noise=0).rank("?", ["one", "two", "three", "four"])
    left_out = [Pair("?", "one", "two")]  # a ranking of two is too short for it
    separate = alignment.separate_pairs([pairs, left_out])
    assert len({text for pair in separate for text in (pair.chosen, pair.rejected)}) == 4
    assert all(pair in pairs for pair in separate) and len(separate) == 2
    assert alignment.all_pairs([pairs, left_out]) == pairs + left_out


def test_a_curve_is_cut_into_equal_pieces():
    assert alignment.pieces([1.0, 3.0] * 30) == [2.0] * 30
    assert alignment.pieces([1.0, 2.0]) == [1.0, 2.0] and alignment.pieces([]) == []


def test_the_model_that_all_start_from_is_measured_alike_again(one_thread):
    again = alignment.measured(alignment.Run(arm="start"))
    row = next(run for run in recorded("alignment") if run["arm"] == "start")
    for name in ("likes", "parses", "consistent"):
        assert again[name] == pytest.approx(row[name], abs=0.05)
    assert again["kl"] == pytest.approx(0, abs=1e-3)
