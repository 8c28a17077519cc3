"""How an answer to an exercise is compared with the right one, and what is said if they differ.

A checker (`Cases` for a function, `Value`, `Labels`) is called with the answer and gives None if it
is right, else the first difference and a hint. The exercises themselves are in `check`.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from numbers import Number

import torch
from torch import Tensor


class NotYet(Exception):
    """Nothing is written yet: the stub gives None or ..., or raises NotImplementedError."""


# ---------------------------------------------------------------- two kinds of exercise


@dataclass(frozen=True)
class Case:
    """For these inputs a right function gives `expected`.

    `mistakes` are pairs: what a typical mistake gives (or which exception it raises), and its hint.
    """

    inputs: tuple
    expected: object
    mistakes: Sequence[tuple] = ()

    def problem(self, function) -> str | None:
        """What is wrong with the function for these inputs, and a hint; None if it is right."""
        inputs = deepcopy(self.inputs)
        call = f"{_name(function)}({', '.join(map(shown, self.inputs))})"
        got = _outcome(function, inputs)
        if isinstance(got, NotImplementedError) and "not implemented for" not in str(got):
            raise NotYet("write the function's body")  # torch says the other, of wrong dtypes
        if not isinstance(got, BaseException) and not same(inputs, self.inputs):
            return f"{call} changes its inputs: build a new result and leave them as they are"
        if got is None or got is ...:
            raise NotYet(f"{call} gives nothing: write the body, and return its result")
        if same(got, self.expected):
            return None
        return f"{call} {told(got, self.expected)}{_hint(got, self.mistakes)}"


class Cases:
    """An exercise whose answer is a function that must be right in every Case."""

    def __init__(self, *cases: Case):
        self.cases = cases

    def __call__(self, answer) -> str | None:
        if not callable(answer):
            return f"give the function itself, by its name alone: this is {shown(answer)}"
        problems = (case.problem(answer) for case in self.cases)
        return next((problem for problem in problems if problem), None)


@dataclass(frozen=True)
class Value:
    """An exercise whose answer is a number, right within `tolerance`, or a word to choose."""

    expected: object
    tolerance: float = 0.0
    mistakes: Sequence[tuple] = ()  # pairs: a typical wrong value, its hint

    def __call__(self, answer) -> str | None:
        if isinstance(answer, Tensor) and answer.ndim == 0:
            answer = answer.item()
        if kind(answer) != kind(self.expected):
            return f"give {kind(self.expected)}: this is {kind(answer)}"
        if self._equal(answer, self.expected):
            return None
        hints = (f". Hint: {hint}" for wrong, hint in self.mistakes if self._equal(answer, wrong))
        return f"{shown(answer)} is {self._side(answer)}{next(hints, '')}"

    def _equal(self, a, b) -> bool:
        return abs(a - b) <= self.tolerance if isinstance(b, Number) else a == b

    def _side(self, answer) -> str:
        if isinstance(answer, Number) and not math.isnan(answer):
            return "too high" if answer > self.expected else "too low"
        return "not it"


@dataclass(frozen=True)
class Labels:
    """An exercise whose answer names each of several things: {"A": a choice, "B": another, …}.

    `choices` are all the words to choose from; a wrong one gets the hint of the right one.
    """

    expected: dict[str, str]
    choices: Sequence[str]
    hints: dict[str, str]  # by the right choice: what it looks like

    def __call__(self, answer) -> str | None:
        if not isinstance(answer, dict) or answer.keys() != self.expected.keys():
            return f"give one choice for each of {', '.join(self.expected)}: {shown(answer)}"
        for name, given in answer.items():
            if given is None or given is ...:
                raise NotYet(f"say what happened in {name}, and in every other one")
            if given not in self.choices:
                return f"{name}: {shown(given)} is none of {', '.join(self.choices)}"
        return next(filter(None, (self._problem(*pair) for pair in answer.items())), None)

    def _problem(self, name: str, given: str) -> str | None:
        right = self.expected[name]
        return None if given == right else f"{name} is not {given!r}. Hint: {self.hints[right]}"


def _outcome(function, inputs: tuple):
    """What the function returns, or the exception that it raises (the stop button's included)."""
    try:
        return function(*inputs)
    except BaseException as problem:
        return problem


def _hint(got, mistakes: Sequence[tuple]) -> str:
    for wrong, hint in mistakes:
        raises = isinstance(wrong, type) and isinstance(got, wrong)
        if raises or same(got, wrong):
            return f". Hint: {hint}"
    return ""


# ---------------------------------------------------------------- comparing, and saying so


def kind(value) -> str:
    """What sort of thing this is, in words; a list and a tuple are the same sort."""
    if isinstance(value, Tensor):
        floats, bools = value.is_floating_point(), value.dtype == torch.bool
        return f"a tensor of {'floats' if floats else 'bools' if bools else 'ints'}"
    names = {bool: "True or False", Number: "a number", list | tuple: "a list", str: "a text"}
    for sort, name in names.items():
        if isinstance(value, sort):
            return name
    return "nothing" if value is None else f"a {type(value).__name__}"


def same(got, expected) -> bool:
    """Whether both are equal, numbers up to rounding; a 0-d tensor counts as its number."""
    if isinstance(got, Tensor) and got.ndim == 0 and not isinstance(expected, Tensor):
        got = got.item()
    if kind(got) != kind(expected):
        return False
    if isinstance(expected, Tensor):
        return got.shape == expected.shape and same(got.tolist(), expected.tolist())
    if isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, Number):
        both_nan = got != got and expected != expected
        return both_nan or math.isclose(got, expected, rel_tol=1e-4, abs_tol=1e-6)
    return got == expected


def told(got, expected) -> str:
    """How `got` differs from `expected`: by exception, sort, shape, whole, or the first place."""
    if isinstance(got, KeyboardInterrupt):
        return "was stopped: is there a loop that never ends?"
    if isinstance(got, BaseException):
        return f"raises {raised(got)}"
    if isinstance(got, Tensor) and got.ndim == 0 and not isinstance(expected, Tensor):
        got = got.item()
    if kind(got) != kind(expected):
        return f"gives {kind(got)}, expected {kind(expected)}"
    if isinstance(got, Tensor) and got.shape != expected.shape:
        return f"gives shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    if len(shown(got)) < WIDTH and len(shown(expected)) < WIDTH:
        return f"gives {shown(got)}, expected {shown(expected)}"
    return _told_by_place(got, expected)


def _told_by_place(got, expected, place: str = "") -> str:
    if isinstance(got, Tensor):
        got, expected = got.tolist(), expected.tolist()
    if not isinstance(expected, list | tuple):
        return f"gives {shown(got)} at {place}, expected {shown(expected)}"
    if len(got) != len(expected):
        where = f" at {place}" if place else ""
        return f"gives {len(got)} items{where}, expected {len(expected)}"
    i = next(i for i, (a, b) in enumerate(zip(got, expected)) if not same(a, b))
    return _told_by_place(got[i], expected[i], f"{place}[{i}]")


WIDTH = 80


def shown(value) -> str:
    """The value in at most WIDTH letters: a function as its name, a mask as 0 and 1."""
    text = _text(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _text(value) -> str:
    if isinstance(value, Tensor):
        numbers = value.int() if value.dtype == torch.bool else value
        return f"tensor({_text(numbers.tolist())})"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(_text, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if callable(value):
        return _name(value)
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _name(function) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return "your function" if name == "<lambda>" else name


def raised(problem: BaseException) -> str:
    """An exception in a few words."""
    return f"{type(problem).__name__}: {str(problem)[:120]}"
