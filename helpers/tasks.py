"""Requests about the small world, with answers that a rule can check: what an assistant learns.

The wording is in `assets/requests.txt`; what is told comes from `helpers.world`. A request is an
Alpaca record (instruction, input, output) that also knows which answers are right. Some
combinations (a brave Ana, a red ball) are held out: the other requests never speak of them.
Lesson 06 teaches a model to answer; lesson 07 starts from the stories that it then tells.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import cycle, islice, product
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from helpers.world import (
    Cast,
    Event,
    LeavesTheWorld,
    Option,
    Piece,
    Story,
    World,
    capital,
    compile_sentence,
    mentions_of,
    read_option,
    slots_of,
    the_grammar,
)

LANGUAGES = ("en", "pt")
TROUBLES = ("lost", "taken", "stuck")  # what goes wrong in a story
Sentence = tuple[Piece, ...]

# ---------------------------------------------------------------- how it is worded


@dataclass(frozen=True)
class Form:
    """One thing that can be asked: what it is about, how it is worded, how it is answered."""

    kind: str
    needs: tuple[str, ...]  # the slots that a story must cast to serve for it
    lacks: tuple[str, ...]  # and those that it must not
    ways: dict[str, list[Sentence]]  # to ask, by language; the last is kept for tests
    answers: dict[str, list[Sentence]]  # all that are right; the first is taught

    def fits(self, cast: Cast) -> bool:
        """Whether this can be asked about a story with this cast."""
        return cast.keys() >= {*self.needs} and not cast.keys() & {*self.lacks}


def read_forms(text: str) -> tuple[list[Form], dict[str, list[Option]]]:
    """(forms, words of their own) of a text in the format of assets/requests.txt."""
    forms, words = [], {}
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for block in re.split(r"^(?=[=-] )", "\n".join(lines), flags=re.M):
        header, *body = [line.strip() for line in block.splitlines() if line.strip()] or [""]
        if header.startswith("="):
            words[header[2:]] = [read_option(entry) for entry in " ".join(body).split(",")]
        elif header:
            forms.append(_form(header[2:].split(), body))
    return forms, words


def _form(header: list[str], body: list[str]) -> Form:
    kind, *slots = header
    needs = tuple(slot for slot in slots if not slot.startswith("-"))
    lacks = tuple(slot[1:] for slot in slots if slot.startswith("-"))
    return Form(kind, needs, lacks, _by_language("?", body), _by_language("!", body))


def _by_language(sign: str, body: list[str]) -> dict[str, list[Sentence]]:
    """The lines with this sign, which take turns: English, then Portuguese."""
    said = [compile_sentence(line[2:]) for line in body if line.startswith(sign)]
    if len(said) % 2:
        raise ValueError(f"{body[0]!r} and what follows lack a line: English, then Portuguese")
    return {language: said[i::2] for i, language in enumerate(LANGUAGES)}


@cache
def the_forms() -> tuple[list[Form], dict[str, list[Option]]]:
    """The course's own forms, and the words that only they use: assets/requests.txt."""
    path = Path(__file__).parents[1] / "assets" / "requests.txt"
    return read_forms(path.read_text(encoding="utf-8"))


@cache
def world(language: str) -> World:
    """The world in this language, always the same one."""
    return World(language)


def told(sentences: Sequence[Sentence], cast: Cast, language: str) -> list[str]:
    """Each sentence as it reads with this cast."""
    return [capital(world(language).say(sentence, cast)) for sentence in sentences]


# ---------------------------------------------------------------- requests and their rule


@dataclass(frozen=True)
class Request:
    """What somebody asks, a right answer, and what the rule needs to judge another."""

    kind: str
    language: str
    instruction: str
    input: str = ""
    output: str = ""
    cast: Cast = field(default_factory=dict)  # who and what it speaks of
    accepted: frozenset[str] = frozenset()  # all right answers; empty where they are stories

    @property
    def record(self) -> dict[str, str]:
        """The request as an Alpaca record, its right answer included."""
        return {"instruction": self.instruction, "input": self.input, "output": self.output}

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The user's turn alone, as a chat that waits for its answer."""
        return [user_turn(self.record)]


def is_right(request: Request, answer: str) -> bool:
    """Whether the answer is right, by rule. White space at its ends is forgiven, no more.

    Where a story is asked for, input and answer together must be a whole and consistent story with
    the request's cast. Any other answer must be one that is accepted; its full stop may be missing.
    """
    answer = answer.strip()
    if request.accepted:
        return answer.removesuffix(".") in {right.removesuffix(".") for right in request.accepted}
    try:
        story = world(request.language).parse(f"{request.input} {answer}".strip())
    except LeavesTheWorld:
        return False
    return all(story.cast.get(slot) == one for slot, one in request.cast.items())


def messages(record: Mapping[str, str]) -> list[dict[str, str]]:
    """An Alpaca record as a chat of two turns. ValueError if it lacks a key or has no answer."""
    user = user_turn(record)
    if not _text(record, "output").strip():
        raise ValueError(f"the record {record['instruction']!r} has an empty output: leave it out")
    return [user, {"role": "assistant", "content": record["output"]}]


def user_turn(record: Mapping[str, str]) -> dict[str, str]:
    """What the user says: the instruction and, on a new line, the input if there is one."""
    instruction, given = _text(record, "instruction"), _text(record, "input")
    return {"role": "user", "content": f"{instruction}\n{given}" if given else instruction}


def _text(record: Mapping[str, str], key: str) -> str:
    if not isinstance(record.get(key), str):
        keys = ", ".join(map(repr, record))
        raise ValueError(f"the record has no text under {key!r}: it has {keys or 'nothing'}")
    return record[key]


# ---------------------------------------------------------------- each kind


class Scene(NamedTuple):
    """What a request is made of."""

    form: Form
    story: Story
    cast: Cast  # the story's, and words that only the form needs
    language: str
    rng: random.Random

    def tell(self, story: Story) -> str:
        """The story in the request's language."""
        return world(self.language).tell(story)

    def answers(self) -> list[str]:
        """What the form answers."""
        return told(self.form.answers[self.language], self.cast, self.language)


class Draft(NamedTuple):
    """A request that is not worded yet."""

    input: str
    output: str
    cast: Cast
    accepted: Iterable[str] = ()


def a_story(scene: Scene) -> Draft:
    """Asks for a story about what the instruction names."""
    return Draft("", scene.tell(scene.story), only(scene.form.needs, scene.cast))


def the_rest(scene: Scene) -> Draft:
    """Asks for the end of a story: the last sentence or two."""
    begun = Story(scene.story.events[: scene.rng.choice([-1, -2])])
    beginning, whole = scene.tell(begun), scene.tell(scene.story)
    return Draft(beginning, whole.removeprefix(beginning).strip(), begun.cast)


def a_short_version(scene: Scene) -> Draft:
    """Asks for two sentences: the first, and what went wrong; in any words for these."""
    first, *others = scene.story.events
    kept = [first, *(event for event in others if event.sentence in TROUBLES)]
    short, right = (tell(kept, scene.cast, scene.language) for tell in (telling, tellings))
    return Draft(scene.tell(scene.story), short, scene.cast, right)


def a_fact(scene: Scene) -> Draft:
    """Asks something about a story."""
    right = scene.answers()
    return Draft(scene.tell(scene.story), right[0], scene.cast, right)


def a_translation(scene: Scene) -> Draft:
    """Asks to say one sentence in the other language."""
    event = scene.rng.choice([event for event in scene.story.events if says_the_same(event)])
    languages = scene.language, other(scene.language)
    here, there = (telling([event], scene.cast, language) for language in languages)
    return Draft(here, there, only(slots_of(ways_of(event)["en"]), scene.cast), [there])


def a_reply(scene: Scene) -> Draft:
    """Says something that needs no story."""
    right = scene.answers()
    return Draft("", right[0], only(scene.form.needs, scene.cast), right)


DRAFTED_BY = {
    "write": a_story,
    "continue": the_rest,
    "shorten": a_short_version,
    "who": a_fact,
    "where": a_fact,
    "colour": a_fact,
    "translate": a_translation,
    "greet": a_reply,
    "refuse": a_reply,
}
KINDS = tuple(DRAFTED_BY)


def only(slots: Iterable[str], cast: Cast) -> Cast:
    """The part of the cast that these slots are."""
    return {slot: cast[slot] for slot in slots}


def other(language: str) -> str:
    """The other of the two languages."""
    return LANGUAGES[LANGUAGES.index(language) - 1]


def ways_of(event: Event) -> dict[str, Sentence]:
    """How this event is told, by language."""
    return the_grammar().sentences[event.sentence][event.way]


def says_the_same(event: Event) -> bool:
    """Whether both languages name the same: who is "her" in one may be "Ana" in the other."""
    en, pt = ({m.slot for m in mentions_of(way) if not m.form} for way in ways_of(event).values())
    return en == pt


def telling(events: Sequence[Event], cast: Cast, language: str) -> str:
    """Some events of a story, told with the whole story's cast."""
    known = tuple(cast.items())
    return world(language).tell(Story(tuple(replace(event, drawn=known) for event in events)))


def tellings(events: Sequence[Event], cast: Cast, language: str) -> list[str]:
    """The same events told in all of their ways."""
    ways = [range(len(the_grammar().sentences[event.sentence])) for event in events]
    return [
        telling([replace(event, way=way) for event, way in zip(events, chosen)], cast, language)
        for chosen in product(*ways)
    ]


# ---------------------------------------------------------------- held out

COMBINATIONS = (("hero", "trait"), ("thing", "colour"), ("hero", "like"), ("topic",))


def is_held_out(cast: Cast) -> bool:
    """Whether the cast has a combination that is kept for tests; one in eight is."""
    found = [only(slots, cast).values() for slots in COMBINATIONS if cast.keys() >= {*slots}]
    return any(crc32(" ".join(one.en for one in each).encode()) % 8 == 0 for each in found)


# ---------------------------------------------------------------- many requests


def requests(
    n: int,
    language: str = "en",
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    held_out: bool = False,
    new_words: bool = False,
) -> list[Request]:
    """n requests, the kinds in turns; the same seed asks the same in either language.

    Each held-out request speaks of a hero and trait, a hero and liking, a thing and colour, or a
    topic that no request of the others speaks of. `new_words` asks in a way that the others never
    do. ValueError for a kind or language that there is not.
    """
    _require_known(language, kinds)
    rng = random.Random(seed)
    made = (_request(kind, language, rng, held_out, new_words) for kind in cycle(kinds))
    return list(islice(made, n))


def write_request(trait: str, hero: str, language: str = "en") -> Request:
    """Asks for a story about this hero, "brave", "Ana": in English words for either language."""
    _require_known(language, ["write"])
    cast = {"hero": _option("hero", hero), "trait": _option("trait", trait)}
    form = next(form for form in the_forms()[0] if form.needs == ("hero", "trait"))
    instruction = told(form.ways[language][:1], cast, language)[0]
    return Request("write", language, instruction, cast=cast)


def _option(slot: str, word: str) -> Option:
    """The word as an option of the slot."""
    options = {option.en: option for option in the_grammar().slots[slot].options}
    if word not in options:
        raise ValueError(f"the world has no {slot} {word!r}: choose from {', '.join(options)}")
    return options[word]


def _request(kind: str, language: str, rng: random.Random, held_out: bool, new: bool) -> Request:
    form = rng.choice([form for form in the_forms()[0] if form.kind == kind])
    ways = form.ways[language]
    way = ways[-1] if new else rng.choice(ways[:-1])
    while True:
        scene = _scene(form, language, rng)
        draft = DRAFTED_BY[kind](scene)
        if is_held_out(draft.cast) if held_out else not is_held_out(scene.cast):
            break
    return Request(
        kind,
        language,
        *told([way], scene.cast, language),
        draft.input,
        draft.output,
        draft.cast,
        frozenset(draft.accepted),
    )


def _scene(form: Form, language: str, rng: random.Random) -> Scene:
    """A story that the form fits, and the words that only the form needs."""
    words = the_forms()[1]
    own = {slot: rng.choice(words[slot]) for slot in form.needs if slot in words}
    while True:
        story = world(language).sample(rng)
        if form.fits(story.cast | own):
            return Scene(form, story, story.cast | own, language, rng)


def _require_known(language: str, kinds: Sequence[str]) -> None:
    if language not in LANGUAGES:
        raise ValueError(f"requests are made in 'en' and 'pt', not {language!r}")
    if isinstance(kinds, str) or not kinds:
        raise ValueError(f"kinds is {kinds!r}: give a list with at least one of {', '.join(KINDS)}")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"there is no kind {unknown[0]!r}: choose from {', '.join(KINDS)}")


# ---------------------------------------------------------------- sums


def sums(n: int, seed: int = 0, held_out: bool = False) -> list[str]:
    """n sums of two numbers of three digits, like "347+285"; one in eight is held out.

    A held-out sum never comes among the others, nor does the same with its numbers swapped.
    """
    rng, found = random.Random(seed), []
    while len(found) < n:
        a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
        if (a * b % 7 == 3) == held_out:
            found.append(f"{a}+{b}")
    return found


def is_right_sum(question: str, answer: str) -> bool:
    """Whether the answer ends in the sum asked for. How it got there is not judged."""
    a, _, b = question.partition("+")
    if not (a.isdecimal() and b.isdecimal()):
        raise ValueError(f"{question!r} is no sum: ask like '347+285'")
    return answer.split()[-1:] == [str(int(a) + int(b))]
