"""Checks for the exercises: `check("01.1", answer)` prints one line, and never a traceback.

The line says `not yet` while nothing is written, then `yes`, or `no` with the first case that
differs and a hint at the likely mistake. Here are the cases; the solutions stand in the lessons.
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


def check(key: str, answer) -> None:
    """Prints whether `answer`, a function or a value, solves the exercise: one line."""
    try:
        line = _verdict(key, answer)
    except NotYet as gap:
        line = f"not yet: {gap}"
    except Exception as problem:
        line = f"no: the check could not read this answer ({_raised(problem)})"
    print(" ".join(line.splitlines()))


def _verdict(key: str, answer) -> str:
    if key not in EXERCISES:
        return f"no: there is no exercise {key!r}; there are {', '.join(EXERCISES)}"
    if answer is None or answer is ...:
        raise NotYet("put your answer in place of the dots")
    problem = EXERCISES[key](answer)
    return "yes: right" if problem is None else f"no: {problem}"


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
        return math.isclose(got, expected, rel_tol=1e-4, abs_tol=1e-6)
    return got == expected


def told(got, expected) -> str:
    """How `got` differs from `expected`: by exception, sort, shape, whole, or the first place."""
    if isinstance(got, KeyboardInterrupt):
        return "was stopped: is there a loop that never ends?"
    if isinstance(got, BaseException):
        return f"raises {_raised(got)}"
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


def _raised(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {str(problem)[:120]}"


# ---------------------------------------------------------------- the exercises


def utf8(text: str) -> list[int]:
    """The simplest encoding: one token per byte."""
    return list(text.encode())


def threes(text: str) -> list[int]:
    """An encoding with one token for every three characters."""
    return list(range(0, len(text), 3))


DOC_IDS = torch.tensor([[0, 0, 1], [2, 2, 2]])
SAME_DOCUMENT = DOC_IDS[:, :, None] == DOC_IDS[:, None, :]  # (2, 3, 3)
CAUSAL = torch.ones(2, 3, 3, dtype=torch.bool).tril()
FIRST_COMES_BACK = "the first token comes back at the end: the last target is unknown, -100"
WRONG_SIDE = "that is the left neighbour: the target of a token comes after it"
LAST = "the last token has no right neighbour, but it stays"

EXERCISES = {
    # merge_pair(ids, pair, new_id): the ids, every occurrence of the pair replaced by new_id
    "01.1": Cases(
        Case(
            ([1, 2, 3, 1, 2], (1, 2), 9),
            [9, 3, 9],
            [
                ([9, 3, 1, 2], "only the first occurrence is merged: go on to the end"),
                ([9, 2, 3, 9, 2], "after a merge, step over both of its tokens"),
                ([1, 2, 3, 1, 2], "nothing is merged: a slice of a list is never equal to a tuple"),
                (IndexError, LAST),
            ],
        ),
        Case(
            ([1, 1, 1], (1, 1), 9),
            [9, 1],
            [
                ([1, 9], "where occurrences overlap, the left one counts"),
                ([9, 9], "a token can be in one merge only: step over both of its tokens"),
                ([9], LAST),
                (IndexError, LAST),
            ],
        ),
        Case(([1, 2, 1], (1, 2), 9), [9, 1], [([9], LAST), (IndexError, LAST)]),
        Case(([2, 1, 3], (1, 2), 9), [2, 1, 3], [([9, 3], "a pair has an order: 2 1 is not 1 2")]),
        Case(([1, 1, 2], (1, 2), 9), [1, 9]),
        Case(([11, 2, 1, 2], (1, 2), 9), [11, 2, 9]),
        Case(([], (1, 2), 9), []),
    ),
    # fertility(text, encode): tokens per word; words are what white space parts
    "01.2": Cases(
        Case(
            ("one two three", utf8),
            13 / 3,
            [
                (3 / 13, "tokens per word, not words per token"),
                (13 // 3, "divide with /, not with //"),
                (11 / 3, "encode the whole text: the spaces cost tokens too"),
                (13, "that is the number of tokens: divide by the number of words"),
            ],
        ),
        Case(("não é", utf8), 7 / 2, [(5 / 2, "count tokens, not characters")]),
        Case(("don't go", utf8), 8 / 2, [(8 / 3, "a word is what white space parts: use split()")]),
        Case(("um  dois", utf8), 8 / 2, [(8 / 3, "two spaces part two words: use split()")]),
        Case(("um dois", threes), 3 / 2, [(7 / 2, "use the `encode` that is given, not bytes")]),
        Case(("um\ndois", utf8), 7 / 2, [(7, "a line's end parts words too: use split()")]),
    ),
    # bits_per_byte(loss, n_tokens, n_bytes): loss in nats per token
    "01.3": Cases(
        Case(
            (2.0, 300, 1200),
            2.0 * 300 / 1200 / math.log(2),
            [
                (2.0 * 300 / 1200, "that is nats per byte: a bit is log(2) = 0.693 nats"),
                (2.0 * 300 / 1200 * math.log(2), "a nat is more than one bit: divide by log(2)"),
                (2.0 / math.log(2), "that is bits per token: how many tokens are there per byte?"),
                (2.0 * 1200 / 300 / math.log(2), "times tokens per byte, not bytes per token"),
                (2.0 * 300 / math.log(2), "those are the bits of the whole text: divide by bytes"),
            ],
        ),
        Case((math.log(256), 50, 50), 8.0),
    ),
    # shift(tokens): targets (B, T) of tokens (B, T), -100 where there is no next token
    "02.1": Cases(
        Case(
            (torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]]),),
            torch.tensor([[6, 7, 8, -100], [2, 3, 4, -100]]),
            [
                (torch.tensor([[6, 7, 8, 5], [2, 3, 4, 1]]), FIRST_COMES_BACK),
                (torch.tensor([[6, 7, 8, 1], [2, 3, 4, 5]]), "each row has an end of its own"),
                (torch.tensor([[8, 5, 6, 7], [4, 1, 2, 3]]), WRONG_SIDE),
                (torch.tensor([[-100, 5, 6, 7], [-100, 1, 2, 3]]), WRONG_SIDE),
                (torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]]), "it would learn to copy"),
                (torch.tensor([[5, 6, 7, -100], [1, 2, 3, -100]]), "it would learn to copy"),
                (torch.tensor([[6, 7, 8, 0], [2, 3, 4, 0]]), "0 is a token too: use -100"),
                (torch.tensor([[6, 7, 8, 8], [2, 3, 4, 4]]), "no token follows the last one: -100"),
                (torch.tensor([[6, 7, 8], [2, 3, 4]]), "keep the shape: the last target is -100"),
                (torch.tensor([[7, 8, -100, -100], [3, 4, -100, -100]]), "shifted twice"),
            ],
        ),
        Case((torch.tensor([[9]]),), torch.tensor([[-100]])),
    ),
    # passes_per_epoch(n_tokens, T, stride): inputs of all windows, over the tokens of the text
    "02.2": Cases(
        Case(
            (21, 5, 2),
            8 * 5 / 21,
            [
                (9 * 5 / 21, "a window needs T + 1 tokens: the last target too"),
                (7 * 5 / 21, "the window that starts at 0 counts too: + 1"),
                (8.5 * 5 / 21, "half a window is none: count windows with //"),
                (10 * 5 / 21, "the last of these windows would reach beyond the text"),
                (8 * 6 / 21, "a window has T inputs: its last token is only a target"),
                (5 / 2, "true of an endless text; count the windows of this one"),
                (8, "that is the number of windows: each has T inputs"),
                (8 / 21, "each window has T inputs"),
                (21 / (8 * 5), "tokens read over tokens of the text, not the other way round"),
                (1, "divide with /: half a pass counts"),
            ],
        ),
        Case((9, 4, 4), 8 / 9, [(4 / 9, "the window that ends with the text's last token fits")]),
        Case((2001, 32, 1), 1969 * 32 / 2001, [(32, "nearly: near both ends there are fewer")]),
    ),
    # document_mask(doc_ids): (B, T) to (B, T, T) bool, True where the query may look at the key
    "02.3": Cases(
        Case(
            (DOC_IDS,),
            SAME_DOCUMENT & CAUSAL,
            [
                (SAME_DOCUMENT, "a token may not look ahead: use tril()"),
                (SAME_DOCUMENT.triu(), "that looks ahead: tril(), not triu()"),
                (CAUSAL, "causal, but a document sees the one before it"),
                (SAME_DOCUMENT.tril(-1), "a token may look at itself: the diagonal is True"),
                (~(SAME_DOCUMENT & CAUSAL), "True means that it *may* look"),
                (NotImplementedError, "bools and floats do not combine with &: .bool() first"),
                ((SAME_DOCUMENT & CAUSAL).float(), "leave the comparison's bools as they are"),
                ((SAME_DOCUMENT & CAUSAL).int(), "leave the comparison's bools as they are"),
                ((SAME_DOCUMENT & CAUSAL)[0], "one mask for each row of the batch"),
            ],
        ),
        Case((torch.tensor([[7, 7, 3, 3]]),), torch.block_diag(*2 * [CAUSAL[0, :2, :2]])[None]),
    ),
}
