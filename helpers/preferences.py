"""What people prefer: a hidden taste, a crowd that errs in judging by it, and your own choices.

Methods see pairs of texts and which one was chosen; `utility`, the taste behind a crowd's choices,
serves only to measure how well they met it. Learning from pairs is in `align` and `rlhf`. Lesson 07
collects the pairs.
"""

import json
import math
import os
import random
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from statistics import median

from helpers.world import LeavesTheWorld, Story, World

# ---------------------------------------------------------------- the hidden taste

HAPPY_END, WITH_A_FRIEND, A_THIEF, EACH_WORD = 4.0, 2.0, -2.0, -0.02
NO_STORY = -6.0  # below the worst story of the world


def taste(story: Story, text: str) -> float:
    """It should end happily, best of all with a friend, without a thief, and in not many words."""
    return (
        HAPPY_END * story.happy
        + WITH_A_FRIEND * story.plot[-1].endswith("friend")
        + A_THIEF * ("thief" in story.cast)
        + EACH_WORD * len(text.split())
    )


@lru_cache(maxsize=2)
def world_of(language: str) -> World:
    """The world by which texts are read, made once. It forgives a red ball that turns blue."""
    return World(language, remembers=False)


@lru_cache(maxsize=50_000)
def utility(text: str, language: str = "en") -> float:
    """How much a text is to the taste of the crowd; NO_STORY if not even each sentence is right."""
    try:
        return taste(world_of(language).parse(text), text)
    except LeavesTheWorld:
        return NO_STORY


@lru_cache(maxsize=2)
def middling(language: str = "en", n: int = 2001) -> float:
    """The utility that half of the world's stories pass, found from n of them."""
    world, rng = World(language), random.Random(0)
    stories = [world.sample(rng) for _ in range(n)]
    return median(taste(story, world.tell(story)) for story in stories)


def likes(text: str, language: str = "en") -> bool:
    """Whether the crowd likes a text better than a middling story of the world."""
    return utility(text, language) > middling(language)


# ---------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, and which of them was chosen."""

    prompt: str
    chosen: str
    rejected: str


Question = tuple[str, str, str]  # a prompt and two answers: which is the better?


def require_pairs(pairs: Sequence[Pair]) -> None:
    """ValueError unless there is something to learn from these pairs."""
    if not pairs:
        raise ValueError("there is no pair to learn from: click, or let a Crowd choose")
    for i, pair in enumerate(pairs):
        if pair.chosen == pair.rejected:
            raise ValueError(f"pair {i} prefers a text to itself: give two different texts")


def pairs_of_labels(prompt: str, answers: Sequence[str], good: Sequence[bool]) -> list[Pair]:
    """Every good answer before every bad one. ValueError if all have the same label."""
    if len(answers) != len(good):
        raise ValueError(f"there are {len(answers)} answers and {len(good)} labels: give one each")
    liked = [answer for answer, is_good in zip(answers, good) if is_good]
    others = [answer for answer, is_good in zip(answers, good) if not is_good]
    if not liked or not others:
        which = "good" if liked else "bad"
        raise ValueError(f"all {len(answers)} answers are {which}: a pair needs one of each")
    return [Pair(prompt, a, b) for a in liked for b in others]


# ---------------------------------------------------------------- a simulated crowd


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - sigmoid(-x)


class Crowd:
    """People who share one taste and sometimes err: the more alike two texts, the more often.

    They prefer a to b with probability sigmoid((u(a) - u(b)) / noise): the model of Bradley and
    Terry (1952). Without noise the better text always wins, and equals by the toss of a coin.
    """

    def __init__(self, noise: float = 1.0, seed: int = 0, language: str = "en"):
        if noise < 0:
            raise ValueError(f"noise is {noise}: it must be 0 or above")
        self.noise, self.language, self.rng = noise, language, random.Random(seed)

    def chance(self, a: str, b: str) -> float:
        """The probability that they prefer a to b."""
        more = utility(a, self.language) - utility(b, self.language)
        if self.noise == 0:
            return (1 + (more > 0) - (more < 0)) / 2
        return sigmoid(more / self.noise)

    def prefers(self, a: str, b: str) -> bool:
        """Whether one of them, asked now, prefers a to b."""
        return self.rng.random() < self.chance(a, b)

    def label(self, prompt: str, a: str, b: str) -> Pair:
        """What one of them chooses."""
        return Pair(prompt, a, b) if self.prefers(a, b) else Pair(prompt, b, a)

    def rank(self, prompt: str, answers: Sequence[str]) -> list[Pair]:
        """One of them ranks K answers: K(K - 1)/2 pairs that do not contradict each other.

        Utilities with Gumbel noise are sorted, so that each pair for itself is as in `prefers`.
        """
        felt = {answer: self._felt(answer) for answer in answers}
        best_first = sorted(felt, key=felt.get, reverse=True)
        return [Pair(prompt, a, b) for a, b in combinations(best_first, 2)]

    def _felt(self, text: str) -> float:
        gumbel = -math.log(self.rng.expovariate(1.0))
        return utility(text, self.language) + self.noise * gumbel

    def ceiling(self, pairs: Sequence[Pair]) -> float:
        """The share of such choices that even a judge who knows the taste itself can foresee."""
        require_pairs(pairs)
        chances = [self.chance(pair.chosen, pair.rejected) for pair in pairs]
        return sum(max(p, 1 - p) for p in chances) / len(chances)


def labelled(
    questions: Iterable[Question], mine: Iterable[Pair] = (), crowd: Crowd | None = None
) -> list[Pair]:
    """What was chosen in each question: by me if I was asked it, else by the crowd if there is one.

    Questions that nobody answers are left out.
    """
    answered = {_asked(pair.prompt, pair.chosen, pair.rejected): pair for pair in mine}
    found = []
    for question in questions:
        by_crowd = crowd.label(*question) if crowd else None  # asked even where it has no say, so
        found.append(answered.get(_asked(*question), by_crowd))  # that its others stay the same
    return [pair for pair in found if pair]


def _asked(prompt: str, a: str, b: str) -> tuple[str, frozenset]:
    """The question itself, whichever text stood left."""
    return prompt, frozenset((a, b))


# ---------------------------------------------------------------- your own choices


class Clicks:
    """Your own choices in a file, each written as it is made, so that no restart can lose them.

    A line holds one pair as JSON. What is cut in the middle does not count: `damaged` says how many
    lines, and `pairs` warns of them. Several notebooks may add to one file.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file).expanduser()

    def add(self, pair: Pair) -> None:
        """Writes one pair to the end of the file; OSError, in one sentence, if it cannot."""
        require_pairs([pair])
        line = json.dumps(asdict(pair), ensure_ascii=False).encode() + b"\n"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._append(line)
        except OSError as problem:
            reason = problem.strerror or problem
            raise type(problem)(
                f"your choice was not saved in {self.file} ({reason}): "
                "give Clicks a file in a folder where you may write"
            ) from None

    def _append(self, line: bytes) -> None:
        """In one piece, after what others wrote, and on a line of its own."""
        with open(self.file, "a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = b"\n" + line  # the last one was cut
            if file.write(line) != len(line):
                raise OSError("the disk is full")
            os.fsync(file.fileno())

    def read(self) -> tuple[list[Pair], int]:
        """(the last answer to each question, how many lines hold no whole pair)."""
        content = self.file.read_bytes() if self.file.exists() else b""
        pairs = [read_pair(line) for line in content.split(b"\n") if line.strip()]
        last = {_asked(pair.prompt, pair.chosen, pair.rejected): pair for pair in pairs if pair}
        return list(last.values()), pairs.count(None)

    @property
    def count(self) -> int:
        """How many questions you have answered."""
        return len(self.read()[0])

    @property
    def damaged(self) -> int:
        """How many lines of the file cannot be read."""
        return self.read()[1]

    def pairs(self) -> list[Pair]:
        """Your choices, oldest question first; of one answered twice, the last answer."""
        pairs, damaged = self.read()
        if damaged:
            warnings.warn(f"damaged lines in {self.file} were skipped: {damaged}", stacklevel=2)
        return pairs


def read_pair(line: bytes) -> Pair | None:
    """The pair in a line of JSON; None if it holds none, or not the whole."""
    try:
        record = json.loads(line)
        pair = Pair(record["prompt"], record["chosen"], record["rejected"])
    except (ValueError, KeyError, TypeError):  # a letter cut in two is a ValueError as well
        return None
    whole = all(isinstance(text, str) for text in (pair.prompt, pair.chosen, pair.rejected))
    return pair if whole and pair.chosen != pair.rejected else None
