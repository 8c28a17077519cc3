"""python -m pytest tests/test_check.py -p no:nbval -o addopts="" """

import math

import numpy as np
import pytest
import torch

from helpers import data, tokenizer
from helpers.cases import Case, Cases, Labels, Value, same, shown, told
from helpers.check import EXERCISES, check

DOUBLE = Cases(
    Case(([1, 2],), [2, 4], [([1, 2], "nothing is doubled"), (KeyError, "a list has no keys")]),
    Case(([],), []),
)


@pytest.fixture
def line(monkeypatch, capsys):
    """What check prints about an answer to the exercise "double", or to any other."""
    monkeypatch.setitem(EXERCISES, "double", DOUBLE)

    def line_of(answer, key="double"):
        assert check(key, answer) is None
        printed, errors = capsys.readouterr()
        assert printed.count("\n") == 1 and printed.endswith("\n") and errors == ""
        assert printed.startswith(("not yet: ", "yes: ", "no: "))
        return printed.strip()

    return line_of


def raising(problem):
    def function(*inputs):
        raise problem

    return function


# ---------------------------------------------------------------- not yet, yes, no


@pytest.mark.parametrize("stub", [None, ..., lambda ids: None, lambda ids: ...])
def test_a_stub_is_not_yet_an_answer(line, stub):
    assert line(stub).startswith("not yet: ")


def test_a_stub_that_is_not_implemented_is_not_yet_an_answer(line):
    assert line(raising(NotImplementedError())) == "not yet: write the function's body"


def test_a_right_answer_is_right(line):
    assert line(lambda ids: [2 * i for i in ids]) == "yes: right"


def test_a_wrong_answer_is_told_with_the_case_that_differs(line):
    def double(ids):
        return [2 * i + 1 for i in ids]

    assert line(double) == "no: double([1, 2]) gives [3, 5], expected [2, 4]"


def test_a_typical_mistake_gets_its_hint(line):
    assert line(lambda ids: ids[:]).endswith("expected [2, 4]. Hint: nothing is doubled")


def test_a_later_case_can_fail_too(line):
    told = line(lambda ids: [2 * i for i in ids] or [0])
    assert told == "no: your function([]) gives [0], expected []"


def test_an_exception_is_told_in_one_line_with_the_input(line):
    told = line(raising(ValueError("first line\nsecond line")))
    assert told == "no: function([1, 2]) raises ValueError: first line second line"


def test_a_typical_exception_gets_its_hint(line):
    assert line(raising(KeyError(3))).endswith("raises KeyError: 3. Hint: a list has no keys")


@pytest.mark.parametrize("problem", [SystemExit(), RecursionError(), MemoryError()])
def test_nothing_that_a_function_raises_gets_out(line, problem):
    assert line(raising(problem)).startswith("no: ")


def test_a_loop_that_was_stopped_is_asked_whether_it_ends(line):
    assert line(raising(KeyboardInterrupt())).endswith("is there a loop that never ends?")


def test_changing_the_input_is_told_though_the_result_is_right(line):
    def double(ids):
        ids[:] = [2 * i for i in ids]
        return ids

    assert line(double).startswith("no: double([1, 2]) changes its inputs")
    assert line(double) == line(double)  # the case itself was not changed


def test_a_result_instead_of_the_function_is_told(line):
    assert line([2, 4]) == "no: give the function itself, by its name alone: this is [2, 4]"


def test_too_few_parameters_are_told(line):
    assert "takes 0 positional arguments but 1 was given" in line(lambda: [2, 4])


def test_an_unknown_exercise_names_those_that_exist(line):
    assert line(1, key="99.9").startswith("no: there is no exercise '99.9'; there are 01.1, 01.2")


def test_an_answer_that_cannot_be_compared_is_a_no(line):
    class Strange(list):
        __len__ = None

    assert line(lambda ids: Strange()).startswith("no: the check could not read this answer")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (17.4, "yes: right"),
        (np.float64(17.5), "yes: right"),
        (torch.tensor(17.0), "yes: right"),
        (17.6, "no: 17.6 is too high"),
        (3, "no: 3 is too low"),
        (34, "no: 34 is too high. Hint: twice too many"),
        ("17", "no: give a number: this is a text"),
        (math.nan, "no: nan is not it"),
        (None, "not yet: put your answer in place of the dots"),
        (..., "not yet: put your answer in place of the dots"),
    ],
)
def test_a_prediction_is_right_within_its_tolerance(line, monkeypatch, answer, expected):
    seventeen = Value(17.0, tolerance=0.5, mistakes=[(34, "twice too many")])
    monkeypatch.setitem(EXERCISES, "guess", seventeen)
    assert line(answer, "guess") == expected


def test_a_choice_among_words(line, monkeypatch):
    monkeypatch.setitem(EXERCISES, "word", Value("val", mistakes=[("train", "that one falls")]))
    assert line("val", "word") == "yes: right"
    assert line("train", "word") == "no: 'train' is not it. Hint: that one falls"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"A": "up", "B": "down"}, "yes: right"),
        ({"B": "down", "A": "up"}, "yes: right"),
        ({"A": "up", "B": "up"}, "no: B is not 'up'. Hint: it falls"),
        ({"A": "flat", "B": "up"}, "no: A is not 'flat'. Hint: it rises"),
        ({"A": "upp", "B": "down"}, "no: A: 'upp' is none of up, down, flat"),
        ({"A": "up", "B": ...}, "not yet: say what happened in B, and in every other one"),
        ({"A": "up"}, "no: give one choice for each of A, B: {'A': 'up'}"),
        ("up", "no: give one choice for each of A, B: 'up'"),
    ],
)
def test_naming_several_things(line, monkeypatch, answer, expected):
    hints = {"up": "it rises", "down": "it falls"}
    labels = Labels({"A": "up", "B": "down"}, choices=("up", "down", "flat"), hints=hints)
    monkeypatch.setitem(EXERCISES, "label", labels)
    assert line(answer, "label") == expected


# ---------------------------------------------------------------- comparing


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (3, 3.0),
        (0.1 + 0.2, 0.3),
        (torch.tensor(2.5), 2.5),
        (np.int64(4), 4),
        ([1, [2.0]], (1, (2,))),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 1e-6])),
        (torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1, 2])),
        (torch.tensor([100.001]), torch.tensor([100.0])),
        ("text", "text"),
    ],
)
def test_equal_up_to_rounding(got, expected):
    assert same(got, expected)


@pytest.mark.parametrize(
    ("got", "expected", "sentence"),
    [
        (2.51, 2.5, "gives 2.51, expected 2.5"),
        ([1], torch.tensor([1]), "gives a list, expected a tensor of ints"),
        (torch.tensor([1]), [1], "gives a tensor of ints, expected a list"),
        (torch.ones(2), torch.ones(2).bool(), "gives a tensor of floats, expected a tensor of b"),
        (torch.ones(0, 3), torch.ones(0, 2), "gives shape (0, 3), expected (0, 2)"),
        (torch.ones(2, 3), torch.ones(3, 2), "gives shape (2, 3), expected (3, 2)"),
        (torch.tensor([[True, False]]), torch.tensor([[True, True]]), "gives tensor([[1, 0]]), ex"),
        ("3", 3, "gives a text, expected a number"),
        (True, 1, "gives True or False, expected a number"),
        (None, 1, "gives nothing, expected a number"),
        ([torch.tensor([1])], [[1]], "gives [tensor([1])], expected [[1]]"),
        ([0] * 99, [0] * 98, "gives 99 items, expected 98"),
        ([[0] * 99], [[0] * 98], "gives 99 items at [0], expected 98"),
        ([0] * 98 + [7], [0] * 99, "gives 7 at [98], expected 0"),
        (torch.eye(20), torch.zeros(20, 20), "gives 1 at [0][0], expected 0"),
    ],
)
def test_what_differs_is_told(got, expected, sentence):
    assert not same(got, expected)
    assert told(got, expected).startswith(sentence)


def test_long_values_are_cut():
    assert len(shown([1] * 1000)) == 80 and shown([1] * 1000).endswith("…")


# ---------------------------------------------------------------- the exercises of the lessons


def merge_pair(ids, pair, new_id):
    merged, at = [], 0
    while at < len(ids):
        found = tuple(ids[at : at + 2]) == pair
        merged.append(new_id if found else ids[at])
        at += 2 if found else 1
    return merged


def next_tokens(tokens):
    return torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), -100)], dim=1)


SOLUTIONS = {
    "01.1": merge_pair,
    "01.2": lambda text, encode: len(encode(text)) / len(text.split()),
    "01.3": lambda loss, n_tokens, n_bytes: loss / math.log(2) * n_tokens / n_bytes,
    "02.1": next_tokens,
    "02.2": lambda n, T, stride: len(range(0, n - T, stride)) * T / n,
    "02.3": lambda ids: (ids[:, :, None] == ids[:, None, :]).tril(),
}


@pytest.mark.parametrize("key", SOLUTIONS)
def test_a_solution_is_right(line, key):
    assert line(SOLUTIONS[key], key) == "yes: right"


@pytest.mark.parametrize(
    ("key", "helper"),
    [
        ("01.1", tokenizer.merge_pair),
        ("02.3", data.document_mask),
    ],
)
def test_the_helpers_solve_the_exercises_that_ask_for_them(line, key, helper):
    assert line(helper, key) == "yes: right"


def answers_like(case, wrong):
    """A function that is right but for this case, where it makes this mistake."""

    def answer(*inputs):
        if not same(inputs, case.inputs):
            return next(c.expected for c in CASES if same(inputs, c.inputs))
        if isinstance(wrong, type):
            raise wrong("this is not implemented for such inputs")
        return wrong

    return answer


FUNCTIONS = {key: ex for key, ex in EXERCISES.items() if isinstance(ex, Cases)}
CASES = [case for exercise in FUNCTIONS.values() for case in exercise.cases]
MISTAKES = [
    (key, case, wrong, hint)
    for key, exercise in FUNCTIONS.items()
    for case in exercise.cases
    for wrong, hint in case.mistakes
]


@pytest.mark.parametrize(("key", "case", "wrong", "hint"), MISTAKES)
def test_every_mistake_gets_its_own_hint(line, key, case, wrong, hint):
    assert line(answers_like(case, wrong), key).endswith(f". Hint: {hint}")


def first_only(ids, pair, new_id):
    at = next((i for i in range(len(ids)) if tuple(ids[i : i + 2]) == pair), None)
    return ids if at is None else [*ids[:at], new_id, *ids[at + 2 :]]


def looks_beyond(ids, pair, new_id):
    merged, at = [], 0
    while at < len(ids):
        found = (ids[at], ids[at + 1]) == pair
        merged.append(new_id if found else ids[at])
        at += 2 if found else 1
    return merged


@pytest.mark.parametrize(
    ("key", "wrong", "hint"),
    [
        ("01.1", first_only, "only the first occurrence"),
        ("01.1", looks_beyond, "the last token has no right neighbour"),
        ("01.2", lambda text, encode: len(text) / len(text.split()), "not characters"),
        ("01.2", lambda text, encode: len(encode(text)) / len(text.split(" ")), "use split()"),
        ("01.3", lambda loss, n_tokens, n_bytes: loss * n_tokens / n_bytes, "nats per byte"),
        ("01.3", lambda loss, n_tokens, n_bytes: loss / math.log(2), "bits per token"),
        ("02.1", lambda tokens: tokens.roll(-1, dims=1), "comes back"),
        ("02.1", lambda tokens: tokens.roll(-1), "an end of its own"),
        ("02.1", lambda tokens: tokens[:, 1:], "keep the shape"),
        ("02.2", lambda n, T, stride: ((n - T) // stride + 1) * T / n, "T + 1 tokens"),
        ("02.2", lambda n, T, stride: T / stride, "endless text"),
        ("02.2", lambda n, T, stride: n // stride * T / n, "beyond the text"),
        ("02.3", lambda ids: ids[:, :, None] == ids[:, None, :], "look ahead"),
        ("02.3", lambda ids: (ids[..., None] == ids[:, None]) & torch.ones(3, 3), ".bool() first"),
        ("02.3", lambda ids: (ids[:, :, None] != ids[:, None, :]).triu(), ""),
    ],
)
def test_real_wrong_answers_get_the_hint_for_them(line, key, wrong, hint):
    told = line(wrong, key)
    assert told.startswith("no: ") and hint in told


def test_a_nan_where_the_mistake_is_a_nan_gives_its_hint():
    rows = torch.tensor([[math.nan, 1.0]])
    assert same(rows, rows.clone())
    assert not same(rows, torch.tensor([[0.0, 1.0]]))
