"""python -m pytest tests/test_preferences.py -p no:nbval -o addopts="" """

import json
import math
import random
from itertools import combinations

import pytest

from helpers import preferences
from helpers.preferences import (
    NO_STORY,
    Clicks,
    Crowd,
    Pair,
    labelled,
    likes,
    middling,
    pairs_of_labels,
    read_pair,
    require_pairs,
    utility,
)
from helpers.world import World

SHORT = "Bia was a kind girl who owned a red ball. She lost the red ball in the park. "
FOUND = "At last she found the red ball under a bush. "
ALONE = SHORT + FOUND + "From then on she was happy."  # 34 words
TOGETHER = SHORT + FOUND + "Bia ran to tell Ben and felt happy."  # 36 words
SAD = SHORT + "Nobody ever found the red ball. She cried for the red ball."  # 30 words
ROBBED = (  # 34 words
    "Bia was a kind girl who owned a red ball. Suddenly a fox snatched the red ball from Bia. "
    "The fox dropped the red ball and said sorry. From then on she was happy."
)
STORIES = World("en").stories(150, seed=3)
A, B = Pair("Write!", ALONE, SAD), Pair("Write!", TOGETHER, "Ção “é” \n\u2028 boa.")


# ---------------------------------------------------------------- the hidden taste


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        (ALONE, 4 - 0.68),
        (TOGETHER, 4 + 2 - 0.72),
        (SAD, -0.6),
        (ROBBED, 4 - 2 - 0.68),
        ("", NO_STORY),
        (SHORT, NO_STORY),
    ],
)
def test_the_taste_by_hand(text, by_hand):
    assert utility(text) == pytest.approx(by_hand)


def test_the_taste_is_the_same_in_portuguese():
    """One seed tells one story in two languages, in a few words more or less."""
    for en, pt in zip(STORIES[:30], World("pt").stories(30, seed=3)):
        difference = -0.02 * (len(pt.split()) - len(en.split()))
        assert utility(pt, "pt") - utility(en) == pytest.approx(difference)
        assert utility(en, "pt") == NO_STORY


def test_a_red_ball_that_turns_blue_is_forgiven_and_a_broken_sentence_is_not():
    assert utility(ALONE.replace("found the red", "found the blue")) == utility(ALONE)
    assert utility(ALONE.replace("At last she", "At last")) == NO_STORY


def test_every_story_is_better_than_none():
    assert min(map(utility, STORIES)) > NO_STORY
    assert NO_STORY < -2 - 0.02 * 2 * max(len(text.split()) for text in STORIES)


def test_of_two_stories_one_is_nearly_always_better():
    utilities = [round(utility(text), 6) for text in STORIES]
    ties = [a == b for a, b in combinations(utilities, 2)]
    assert sum(ties) / len(ties) < 0.05


def test_half_of_the_worlds_stories_are_liked():
    assert 0.4 < sum(map(likes, STORIES)) / len(STORIES) < 0.6
    assert likes(ALONE) and likes(TOGETHER) and not likes(SHORT) and middling() < utility(ALONE)


def test_to_be_liked_is_to_be_better_than_a_middling_story_of_the_same_language(monkeypatch):
    middle = {"en": utility(ALONE), "pt": NO_STORY - 1}
    monkeypatch.setattr(preferences, "middling", middle.get)
    assert likes(TOGETHER) and not likes(ALONE) and likes(ALONE, "pt")


# ---------------------------------------------------------------- pairs


def test_there_must_be_pairs_and_each_of_two_texts():
    require_pairs([A, B])
    with pytest.raises(ValueError, match="there is no pair to learn from"):
        require_pairs([])
    with pytest.raises(ValueError, match="pair 1 prefers a text to itself"):
        require_pairs([A, Pair("Write!", SAD, SAD)])


def test_labels_become_every_good_answer_before_every_bad_one():
    pairs = pairs_of_labels("p", ["a", "b", "c", "d"], [True, False, True, False])
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {
        *[("a", "b"), ("a", "d")],
        *[("c", "b"), ("c", "d")],
    }
    assert {pair.prompt for pair in pairs} == {"p"}


@pytest.mark.parametrize(
    ("good", "sentence"),
    [
        ([True, True], "all 2 answers are good: a pair needs one of each"),
        ([False, False], "all 2 answers are bad"),
        ([True], "2 answers and 1 labels"),
    ],
)
def test_one_label_only_makes_no_pairs(good, sentence):
    with pytest.raises(ValueError, match=sentence):
        pairs_of_labels("p", ["a", "b"], good)


# ---------------------------------------------------------------- a simulated crowd


def test_a_crowd_chooses_by_the_formula_of_bradley_and_terry():
    """ALONE and TOGETHER are 1.96 apart."""
    for noise in (0.5, 1.0, 3.0):
        odds = math.exp(1.96 / noise)
        assert Crowd(noise).chance(TOGETHER, ALONE) == pytest.approx(odds / (1 + odds))
        assert Crowd(noise).chance(ALONE, TOGETHER) == pytest.approx(1 / (1 + odds))


def test_a_crowd_without_noise_is_always_right_and_tosses_a_coin_over_equals():
    crowd = Crowd(noise=0)
    assert all(crowd.label("", SAD, ALONE) == Pair("", ALONE, SAD) for _ in range(20))
    assert crowd.chance("x", "y") == 0.5 == Crowd(noise=1).chance("x", "y")
    assert {crowd.prefers("x", "y") for _ in range(50)} == {True, False}


def test_a_crowd_that_hardly_errs_does_not_overflow():
    assert (
        Crowd(noise=1e-300).chance(ALONE, SAD) == 1 and Crowd(noise=1e-300).chance(SAD, ALONE) == 0
    )


def test_a_crowd_errs_as_often_as_it_should_and_the_same_for_the_same_seed():
    crowd, n = Crowd(noise=2.0, seed=1), 2000
    chosen = [crowd.prefers(TOGETHER, ALONE) for _ in range(n)]
    expected = crowd.chance(TOGETHER, ALONE)
    assert abs(sum(chosen) / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    again, other = Crowd(noise=2.0, seed=1), Crowd(noise=2.0, seed=2)
    assert chosen == [again.prefers(TOGETHER, ALONE) for _ in range(n)]
    assert chosen != [other.prefers(TOGETHER, ALONE) for _ in range(n)]


def test_noise_below_0_is_refused():
    with pytest.raises(ValueError, match="noise is -1: it must be 0 or above"):
        Crowd(noise=-1)


def test_a_ranking_of_k_answers_is_all_their_pairs_and_no_contradiction():
    answers = STORIES[:5]
    pairs = Crowd(noise=5.0).rank("p", answers)
    assert len(pairs) == 5 * 4 / 2
    assert {frozenset((p.chosen, p.rejected)) for p in pairs} == set(
        map(frozenset, combinations(answers, 2))
    )
    wins = sorted(sum(p.chosen == answer for p in pairs) for answer in answers)
    assert wins == [0, 1, 2, 3, 4]  # a ring of three would give two the same


def test_in_a_ranking_each_pair_is_chosen_as_often_as_if_asked_alone():
    crowd, n = Crowd(noise=2.0), 2000
    firsts = [Pair("", TOGETHER, ALONE) in crowd.rank("", [ALONE, SAD, TOGETHER]) for _ in range(n)]
    expected = crowd.chance(TOGETHER, ALONE)
    assert abs(sum(firsts) / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_a_ranking_without_noise_is_by_taste_and_equal_texts_are_one():
    pairs = Crowd(noise=0).rank("p", [SAD, ALONE, SAD, TOGETHER])
    assert [(p.chosen, p.rejected) for p in pairs] == [
        (TOGETHER, ALONE),
        (TOGETHER, SAD),
        (ALONE, SAD),
    ]


def test_the_ceiling_is_the_mean_chance_of_the_likelier_choice():
    crowd = Crowd(noise=2.0)
    pairs = [Pair("", ALONE, TOGETHER), Pair("", TOGETHER, ALONE), Pair("", ALONE, SAD)]
    chances = [crowd.chance(TOGETHER, ALONE)] * 2 + [crowd.chance(ALONE, SAD)]
    assert crowd.ceiling(pairs) == pytest.approx(sum(chances) / 3)
    assert Crowd(noise=0).ceiling(pairs) == 1
    with pytest.raises(ValueError, match="there is no pair"):
        crowd.ceiling([])


def test_no_judge_agrees_more_with_a_crowd_than_its_ceiling():
    crowd, rng = Crowd(noise=2.0), random.Random(0)
    questions = [("", *rng.sample(STORIES, 2)) for _ in range(600)]
    pairs = labelled(questions, crowd=crowd)
    knows = sum(utility(pair.chosen) > utility(pair.rejected) for pair in pairs) / len(pairs)
    assert abs(knows - crowd.ceiling(pairs)) < 4 * math.sqrt(0.25 / len(pairs))


def test_my_choices_come_first_then_the_crowds_and_what_nobody_answers_is_left_out():
    mine = [Pair("p", SAD, ALONE)]
    questions = [("p", ALONE, SAD), ("other", ALONE, SAD), ("p", TOGETHER, SAD)]
    both = labelled(questions, mine, Crowd(noise=0))
    assert both == [mine[0], Pair("other", ALONE, SAD), Pair("p", TOGETHER, SAD)]
    assert labelled(questions, mine) == mine
    assert labelled(questions, crowd=Crowd(noise=0))[0] == Pair("p", ALONE, SAD)
    assert labelled(questions) == []


def test_an_answer_of_mine_changes_no_answer_of_the_crowd():
    rng = random.Random(0)
    questions = [("", *rng.sample(STORIES, 2)) for _ in range(60)]
    alone = labelled(questions, crowd=Crowd(noise=9.0, seed=3))
    mine = [Pair("", pair.rejected, pair.chosen) for pair in alone[:20]]
    assert labelled(questions, mine, Crowd(noise=9.0, seed=3)) == mine + alone[20:]


# ---------------------------------------------------------------- your own choices


def test_choices_survive_a_restart_and_two_notebooks_may_add_to_one_file(tmp_path):
    file = tmp_path / "new folder" / "clicks.jsonl"
    one, other = Clicks(file), Clicks(str(file))
    assert one.count == 0 and one.pairs() == [] and not file.parent.exists()
    one.add(A)
    other.add(B)
    one.add(Pair("q", "x", "y"))
    assert Clicks(file).pairs() == one.pairs() == other.pairs() == [A, B, Pair("q", "x", "y")]
    assert Clicks(file).count == 3 and Clicks(file).damaged == 0
    assert len(file.read_bytes().split(b"\n")) == 4  # three lines, whatever the texts hold


def test_of_a_question_answered_twice_the_last_answer_stands(tmp_path):
    clicks = Clicks(tmp_path / "clicks.jsonl")
    for pair in (A, B, Pair(A.prompt, A.rejected, A.chosen)):
        clicks.add(pair)
    assert clicks.pairs() == [Pair(A.prompt, A.rejected, A.chosen), B]
    assert clicks.count == len(clicks.pairs())


def test_a_file_cut_anywhere_keeps_all_whole_choices_and_takes_new_ones(tmp_path):
    clicks = Clicks(tmp_path / "clicks.jsonl")
    clicks.add(A)
    first = clicks.file.read_bytes()
    clicks.add(B)
    whole = clicks.file.read_bytes()
    for cut in range(len(first) + 1, len(whole) - 1, 9):  # within B's line, in a letter as well
        clicks.file.write_bytes(whole[:cut])
        assert (clicks.count, clicks.damaged) == (1, 1)
        clicks.add(Pair("q", "x", "y"))
        with pytest.warns(UserWarning, match="damaged lines in .*clicks.jsonl were skipped: 1"):
            assert clicks.pairs() == [A, Pair("q", "x", "y")]


def test_a_choice_without_its_line_end_is_whole(tmp_path):
    clicks = Clicks(tmp_path / "clicks.jsonl")
    clicks.add(A)
    clicks.file.write_bytes(clicks.file.read_bytes().rstrip(b"\n"))
    clicks.add(B)
    assert clicks.pairs() == [A, B]


@pytest.mark.parametrize(
    "line",
    [b"", b"3", b"null", b"[]", b"{}", b'{"prompt": "p", "chosen": "a"}', b"\xff\xfe", b"\x00"]
    + [
        json.dumps({"prompt": "p", "chosen": chosen, "rejected": "b"}).encode()
        for chosen in (1, None, "b")
    ],
)
def test_a_line_that_is_no_pair_of_two_texts_is_none(line):
    assert read_pair(line) is None


def test_a_text_preferred_to_itself_is_not_written(tmp_path):
    clicks = Clicks(tmp_path / "clicks.jsonl")
    with pytest.raises(ValueError, match="prefers a text to itself"):
        clicks.add(Pair("p", "a", "a"))
    assert not clicks.file.exists()


@pytest.mark.parametrize("file", ["plain/clicks.jsonl", "folder"])
def test_a_place_where_one_cannot_write_is_said_in_one_sentence(tmp_path, file):
    (tmp_path / "plain").write_text("no folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"your choice was not saved in .*give Clicks a file"):
        Clicks(tmp_path / file).add(A)
