"""The small world: children's stories from a grammar whose every probability is known.

The grammar is `assets/world.txt`. A story is a walk through its plot; each step is a sentence, told
in one of two or three ways; what a sentence speaks of (a hero, a colour) is drawn when the story
first mentions it, and remembered from then on. So a text has one derivation, told in English or in
Portuguese, and `log_prob(text)` and `entropy()` are exact. Lesson 01 meets the world; from lesson
04 on its entropy is the floor that no model's loss can pass.
"""

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path

# ---------------------------------------------------------------- the grammar


@dataclass(frozen=True)
class Option:
    """One thing that a slot can be: its English word, its Portuguese word and that word's gender.

    An adjective has two Portuguese words, masculine and feminine, and no gender of its own.
    """

    en: str
    pt: tuple[str, str]
    gender: str = ""
    at: str = ""  # the English preposition of a place: in the park, on the bridge


@dataclass(frozen=True)
class Slot:
    """What can be drawn, how often, and from which pool.

    Slots that share a pool never take the same option: a hero is not her own friend.
    """

    options: tuple[Option, ...]
    pool: str = ""

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """A pool's options are equally likely; other words fall off with their rank."""
        raw = [1.0 if self.pool else 1 / (rank + 3) for rank in range(len(self.options))]
        return tuple(w / sum(raw) for w in raw)


# What a mention can say besides the word itself, by the gender of what is meant (m, f).
FORMS = {
    "en": {
        "girl": ("boy", "girl"),
        "she": ("he", "she"),
        "her": ("him", "her"),
        "hers": ("his", "her"),
    },
    "pt": {
        "menina": ("menino", "menina"),
        "ela": ("ele", "ela"),
        "dela": ("dele", "dela"),
        "uma": ("um", "uma"),
        "a": ("o", "a"),
        "na": ("no", "na"),
        "à": ("ao", "à"),
        "da": ("do", "da"),
    },
}


@dataclass(frozen=True)
class Mention:
    """A place in a sentence where a slot is spoken of: the word, a form of it, or in agreement."""

    slot: str
    form: str = ""
    agrees_with: str = ""

    @property
    def slots(self) -> tuple[str, ...]:
        return (self.slot, self.agrees_with) if self.agrees_with else (self.slot,)


Piece = str | Mention
Cast = dict[str, Option]


def compile_sentence(template: str) -> tuple[Piece, ...]:
    """`"{hero} had a {colour} {thing}."` as literal strings and mentions, in order."""
    literal, *rest = re.split(r"\{(\w+)(?:\.(\w+))?(?::(\w+))?\}", template)
    pieces: list[Piece] = [literal]
    for slot, form, other, literal in zip(*[iter(rest)] * 4):
        pieces += [Mention(slot, form or "", other or ""), literal]
    return tuple(piece for piece in pieces if piece)


@dataclass(frozen=True)
class Grammar:
    """All that is told and how likely it is."""

    slots: dict[str, Slot] = field(default_factory=dict)
    sentences: dict[str, list[dict[str, tuple[Piece, ...]]]] = field(default_factory=dict)
    plot: dict[str, list[tuple[float, tuple[str, ...]]]] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> "Grammar":
        """The grammar that a text in the format of assets/world.txt describes.

        Raises ValueError, naming the entry, where the text contradicts itself.
        """
        grammar = cls()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        for block in re.split(r"^(?=[=>-] )", "\n".join(lines), flags=re.M):
            header, *body = [line.strip() for line in block.splitlines() if line.strip()] or [""]
            if header:
                grammar._add(header[0], header[2:], body)
        grammar._check()
        return grammar

    def _add(self, kind: str, name: str, body: list[str]) -> None:
        if kind == "=":
            pool, _, slots = name.partition(":")
            options = tuple(map(read_option, " ".join(body).split(",")))
            for slot in slots.split() or [pool]:
                self.slots[slot] = Slot(options, pool if slots else "")
        elif kind == "-":
            if len(body) % 2:
                raise ValueError(f"the sentence {name!r} lacks a line: English, then Portuguese")
            ways = zip(map(compile_sentence, body[::2]), map(compile_sentence, body[1::2]))
            self.sentences[name] = [dict(zip(FORMS, way)) for way in ways]
        else:
            lines = [line.split() for line in body]
            self.plot[name] = [(float(p), tuple(symbols)) for p, *symbols in lines]

    def _check(self) -> None:
        if "story" not in self.plot:
            raise ValueError("the plot has no line for 'story', where every story begins")
        for name, lines in self.plot.items():
            self._check_plot(name, lines)
        for name, ways in self.sentences.items():
            for way in ways:
                self._check_way(name, way)

    def _check_plot(self, name: str, lines: list[tuple[float, tuple[str, ...]]]) -> None:
        if min(p for p, _ in lines) <= 0 or not math.isclose(sum(p for p, _ in lines), 1):
            raise ValueError(f"the lines of {name!r} in the plot do not add up to 1, all above 0")
        for symbol in {s.rstrip("?") for _, symbols in lines for s in symbols}:
            if symbol not in self.plot and symbol not in self.sentences:
                raise ValueError(f"{name!r} in the plot leads to {symbol!r}, which is nowhere")

    def _check_way(self, name: str, way: dict[str, tuple[Piece, ...]]) -> None:
        """Both languages must mention the same slots, or one derivation could not serve the two."""
        slots = {language: slots_of(pieces) for language, pieces in way.items()}
        for language, pieces in way.items():
            for mention in mentions_of(pieces):
                if not self.slots.keys() >= set(mention.slots):
                    raise ValueError(f"the sentence {name!r} mentions an unknown slot: {mention}")
                if mention.form not in ("", "at", *FORMS[language]):
                    raise ValueError(f"the sentence {name!r} asks for an unknown form: {mention}")
        if len({frozenset(mentioned) for mentioned in slots.values()}) > 1:
            raise ValueError(f"the languages mention different slots in {name!r}: {slots}")


def read_option(entry: str) -> Option:
    """The option of `english/portuguese/gender[/preposition]` or `english/masculine[/feminine]`."""
    en, *pt = entry.strip().split("/")
    if pt[1:2] in (["m"], ["f"]):
        return Option(en, (pt[0], pt[0]), *pt[1:])
    return Option(en, (pt[0], pt[-1]))


def mentions_of(pieces: tuple[Piece, ...]) -> list[Mention]:
    """The mentions of a sentence, in order."""
    return [piece for piece in pieces if isinstance(piece, Mention)]


def slots_of(pieces: tuple[Piece, ...]) -> tuple[str, ...]:
    """The slots that a sentence mentions, each once, in order."""
    return tuple(dict.fromkeys(slot for mention in mentions_of(pieces) for slot in mention.slots))


@lru_cache(maxsize=1)
def the_grammar() -> Grammar:
    """The course's own grammar, assets/world.txt."""
    path = Path(__file__).parents[1] / "assets" / "world.txt"
    return Grammar.read(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- stories


@dataclass(frozen=True)
class Event:
    """One sentence of a story: which, told in which way, and what it was the first to mention."""

    sentence: str
    way: int
    drawn: tuple[tuple[str, Option], ...]


@dataclass(frozen=True)
class Story:
    """A derivation: who, what, where and how it ends, in no language until `World.tell`."""

    events: tuple[Event, ...]

    @cached_property
    def cast(self) -> dict[str, Option]:
        """What each slot turned out to be, e.g. `cast["hero"].en == "Ana"`."""
        return {slot: option for event in self.events for slot, option in event.drawn}

    @property
    def happy(self) -> bool:
        """Whether the last sentence is a happy ending."""
        return self.events[-1].sentence.startswith("glad")

    @property
    def plot(self) -> tuple[str, ...]:
        """The names of its sentences, in order."""
        return tuple(event.sentence for event in self.events)


class LeavesTheWorld(ValueError):
    """A text that no story of the world starts with, or one that stops before its story ends.

    `at` is the number of characters that some story does start with; `expected` is what could have
    come next there (empty where the story was over and the text went on).
    """

    def __init__(self, text: str, at: int, expected: set[str]):
        self.at, self.expected = at, expected
        some = ", ".join(repr(word) for word in sorted(expected)[:4])
        more = f" or {len(expected) - 4} more" if len(expected) > 4 else ""
        wanted = f"expected {some}{more}" if expected else "expected the end of the story"
        where = f"after {text[max(0, at - 30) : at]!r}" if at else "at its start"
        what = "stops before the story ends" if at == len(text) else "leaves the world"
        super().__init__(f"the text {what} at character {at}, {where}: {wanted}")


# ---------------------------------------------------------------- the world


def entropy_of(probs) -> float:
    """The entropy of a distribution, in nats."""
    return -sum(p * math.log(p) for p in probs if p)


def newly(cast: Cast, known: Cast) -> tuple[tuple[str, Option], ...]:
    """What is cast and was not known before, by the slot's name."""
    return tuple((slot, cast[slot]) for slot in sorted(cast) if slot not in known)


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]


class World:
    """The world told in one language.

    With `remembers=False` it forgets after each sentence: every sentence is well formed, but who is
    spoken of is drawn anew. That variant has no long-range references to learn, so a text that is a
    story of it and not of the world proper is grammatical without being consistent.
    """

    def __init__(
        self, language: str = "en", remembers: bool = True, grammar: Grammar | None = None
    ):
        if language not in FORMS:
            raise ValueError(f"the world speaks 'en' and 'pt', not {language!r}")
        self.language, self.remembers = language, remembers
        self.grammar = grammar or the_grammar()
        self._ways: dict[str, list[tuple[Piece, ...]]] = {}
        self._mentioned: dict[str, list[tuple[str, ...]]] = {}
        for name, ways in self.grammar.sentences.items():
            self._ways[name] = [way[language] for way in ways]
            # In the order of English in either world: one seed, one story, two languages.
            self._mentioned[name] = [slots_of(way["en"]) for way in ways]
        self._tally = lru_cache(maxsize=None)(self._count_up)
        self._expected_length = lru_cache(maxsize=None)(self._mean_length)

    def __repr__(self) -> str:
        return f"World({self.language!r}, remembers={self.remembers})"

    # -- choices: what can come next, and how likely it is

    def _expansions(self, symbol: str) -> list[tuple[float, tuple[str, ...]]]:
        """(probability, symbols) for each thing that a symbol of the plot can become."""
        if symbol.endswith("?"):
            return [(0.5, (symbol[:-1],)), (0.5, ())]
        return self.grammar.plot[symbol]

    def _is_sentence(self, symbol: str) -> bool:
        return symbol in self.grammar.sentences

    def _pool_mates(self, slot: str, cast: Iterable[str]) -> list[str]:
        """The slots of the cast that draw from the same pool as `slot`."""
        pool = self.grammar.slots[slot].pool
        return [other for other in cast if pool and self.grammar.slots[other].pool == pool]

    def _options(self, slot: str, cast: Cast) -> list[tuple[float, Option]]:
        """(probability, option) for a slot not cast yet; what its pool mates took is left out."""
        taken = [cast[other] for other in self._pool_mates(slot, cast)]
        kind = self.grammar.slots[slot]
        free = [(w, o) for w, o in zip(kind.weights, kind.options) if o not in taken]
        total = sum(w for w, _ in free)
        return [(w / total, o) for w, o in free]

    # -- telling

    def sample(self, rng: random.Random) -> Story:
        """A story drawn by its probability."""
        events, cast, symbols = [], {}, ["story"]
        while symbols:
            symbol = symbols.pop(0)
            if self._is_sentence(symbol):
                way = rng.randrange(len(self._ways[symbol]))
                event, cast = self._draw(symbol, way, cast, rng)
                events.append(event)
            else:
                weights, expansions = zip(*self._expansions(symbol))
                symbols = [*rng.choices(expansions, weights)[0], *symbols]
        return Story(tuple(events))

    def _draw(self, name: str, way: int, cast: Cast, rng: random.Random) -> tuple[Event, Cast]:
        known = cast if self.remembers else {}
        cast = dict(known)
        for slot in self._mentioned[name][way]:
            if slot not in cast:
                weights, options = zip(*self._options(slot, cast))
                cast[slot] = rng.choices(options, weights)[0]
        return Event(name, way, newly(cast, known)), cast

    def _surface(self, mention: Mention, cast: Cast) -> str:
        """The words of a mention, given who is who."""
        option = cast[mention.slot]
        if mention.form == "at":
            return option.at
        gender = cast[mention.agrees_with or mention.slot].gender
        if mention.form:
            return FORMS[self.language][mention.form][gender == "f"]
        return option.en if self.language == "en" else option.pt[gender == "f"]

    def tell(self, story: Story) -> str:
        """The story in this world's language."""
        sentences, cast = [], {}
        for event in story.events:
            cast = {**(cast if self.remembers else {}), **dict(event.drawn)}
            sentences.append(capital(self.say(self._ways[event.sentence][event.way], cast)))
        return " ".join(sentences)

    def say(self, pieces: tuple[Piece, ...], cast: Cast) -> str:
        """What the pieces of a sentence read, given who is who."""
        return "".join(p if isinstance(p, str) else self._surface(p, cast) for p in pieces)

    def stories(self, n: int, seed: int = 0) -> list[str]:
        """n stories as texts; the same seed gives the same stories in either language."""
        rng = random.Random(seed)
        return [self.tell(self.sample(rng)) for _ in range(n)]

    # -- reading

    def parse(self, text: str) -> Story:
        """The one story that reads so. Raises LeavesTheWorld, which says at which character."""
        return self._read(text)[0]

    def log_prob(self, text: str | Story) -> float:
        """The exact log-probability of a whole story, in nats. Raises LeavesTheWorld."""
        return self._read(text if isinstance(text, str) else self.tell(text))[1]

    def tells(self, text: str) -> bool:
        """Whether the text is a whole story of this world."""
        try:
            self.parse(text)
        except LeavesTheWorld:
            return False
        return True

    def _read(self, text: str) -> tuple[Story, float]:
        reader = Reader(text)
        readings = list(self._readings(reader, ("story",), 0, {}))
        if not readings:
            raise LeavesTheWorld(text, reader.furthest, reader.expected)
        (events, log_prob), *others = readings
        assert not others, f"two derivations for one text: {text!r}"
        return Story(events), log_prob

    def _readings(
        self, reader: "Reader", symbols: tuple[str, ...], at: int, cast: Cast
    ) -> Iterator[tuple[tuple[Event, ...], float]]:
        """(events, log-probability) for each way in which the rest of the text tells `symbols`."""
        if not symbols:
            if reader.ends(at):
                yield (), 0.0
        elif self._is_sentence(symbols[0]):
            for end, event, new_cast, logp in self._sentence_readings(reader, symbols[0], at, cast):
                for events, rest in self._readings(reader, symbols[1:], end, new_cast):
                    yield (event, *events), logp + rest
        else:
            for p, expansion in self._expansions(symbols[0]):
                for events, rest in self._readings(reader, expansion + symbols[1:], at, cast):
                    yield events, math.log(p) + rest

    def _sentence_readings(
        self, reader: "Reader", name: str, at: int, cast: Cast
    ) -> Iterator[tuple[int, Event, Cast, float]]:
        """(end, event, cast, log-probability) for each way to read one sentence at `at`.

        A world that forgets adds up the casts that read alike: "She" may be any girl.
        """
        start = reader.reads(" ", at) if at else 0
        if start is None:
            return
        known = cast if self.remembers else {}
        for way, pieces in enumerate(self._ways[name]):
            found: dict[int, list[tuple[Cast, float]]] = {}
            for end, new_cast, p in self._piece_readings(reader, pieces, start, start, known):
                found.setdefault(end, []).append((new_cast, p))
            for end, casts in found.items():
                merged = casts if self.remembers else [(casts[0][0], sum(p for _, p in casts))]
                for new_cast, p in merged:
                    event = Event(name, way, newly(new_cast, known))
                    yield end, event, new_cast, math.log(p / len(self._ways[name]))

    def _piece_readings(
        self, reader: "Reader", pieces: tuple[Piece, ...], start: int, at: int, cast: Cast
    ) -> Iterator[tuple[int, Cast, float]]:
        """(end, cast, probability) for each way to read the pieces of a sentence at `at`."""
        if not pieces:
            yield at, cast, 1.0
            return
        first, *rest = pieces
        for words, new_cast, p in self._alternatives(first, cast):
            end = reader.reads(capital(words) if at == start else words, at)
            if end is not None:
                for last, final, q in self._piece_readings(reader, rest, start, end, new_cast):
                    yield last, final, p * q

    def _alternatives(self, piece: Piece, cast: Cast) -> Iterator[tuple[str, Cast, float]]:
        """(words, cast, probability) for all that a piece can say."""
        if isinstance(piece, str):
            yield piece, cast, 1.0
            return
        missing = [slot for slot in piece.slots if slot not in cast]
        if not missing:
            yield self._surface(piece, cast), cast, 1.0
        else:
            for p, option in self._options(missing[0], cast):
                for words, full, q in self._alternatives(piece, {**cast, missing[0]: option}):
                    yield words, full, p * q

    # -- measuring

    def entropy(self, per: str | Callable[[str], list] = "story", n: int = 2000) -> float:
        """The world's entropy in nats: the loss of a model that knows it perfectly.

        Per "story" and per "character" it is exact (the latter is nats per story over the expected
        number of characters). Given a tokenizer's `encode`, per token of that tokenizer: exact nats
        over the mean number of tokens in n stories.
        """
        nats, characters, _ = self._tally(("story",), frozenset())
        if per == "story":
            return nats
        if per == "character":
            return nats / characters
        if not callable(per):
            raise ValueError(f"per is 'story', 'character' or a tokenizer's encode, not {per!r}")
        return nats / (sum(len(per(text)) for text in self.stories(n, seed=1)) / n)

    def floor(self, texts: list[str], encode: Callable[[str], list]) -> float:
        """The lowest loss that is possible on exactly these stories, in nats per token."""
        if not texts:
            raise ValueError("floor needs at least one story")
        return -sum(map(self.log_prob, texts)) / sum(len(encode(text)) for text in texts)

    def size(self) -> int:
        """How many different stories the world can tell."""
        return self._tally(("story",), frozenset())[2]

    def _count_up(self, symbols: tuple[str, ...], cast: frozenset) -> tuple[float, float, int]:
        """(expected nats, expected characters, number) of all that `symbols` can still tell.

        Only which slots are cast matters here, not what they are: that keeps the sum small.
        """
        if not symbols:
            return 0.0, -1.0, 1  # one blank fewer than there are sentences
        if self._is_sentence(symbols[0]):
            nats, characters, number, cast = self._sentence_tally(symbols[0], cast)
            more_nats, more_characters, more = self._tally(symbols[1:], cast)
            return nats + more_nats, characters + 1 + more_characters, number * more
        totals = [0.0, 0.0, 0]
        for p, expansion in self._expansions(symbols[0]):
            nats, characters, number = self._tally(expansion + symbols[1:], cast)
            totals[0] += p * (nats - math.log(p))
            totals[1] += p * characters
            totals[2] += number
        return tuple(totals)

    def _sentence_tally(self, name: str, cast: frozenset) -> tuple[float, float, int, frozenset]:
        """(nats, characters, number, cast afterwards) of one sentence, over all of its ways."""
        ways, mentioned = self._ways[name], self._mentioned[name]
        nats, characters, number = math.log(len(ways)), 0.0, 0
        for pieces, slots in zip(ways, mentioned):
            new = self._drawn(slots, cast) if self.remembers else self._read_off(pieces)
            nats += new[0] / len(ways)
            number += new[1]
            characters += sum(map(self._expected_length, pieces)) / len(ways)
        casts = {cast.union(slots) for slots in mentioned} if self.remembers else {cast}
        assert len(casts) == 1, f"the ways of {name!r} do not all mention the same slots"
        return nats, characters, number, casts.pop()

    def _drawn(self, slots: tuple[str, ...], cast: frozenset) -> tuple[float, int]:
        """(nats, number) of what these slots add when those in `cast` are known already."""
        nats, number, known = 0.0, 1, list(cast)
        for slot in slots:
            if slot not in known:
                kind = self.grammar.slots[slot]
                free = len(kind.options) - len(self._pool_mates(slot, known))
                nats += math.log(free) if kind.pool else entropy_of(kind.weights)
                number *= free
                known.append(slot)
        return nats, number

    def _read_off(self, pieces: tuple[Piece, ...]) -> tuple[float, int]:
        """(nats, number) of what can be read off one sentence when nothing is known before it.

        Slots that lean on each other (one pool, or agreement) are written out together.
        """
        mentions = mentions_of(pieces)
        nats, number = 0.0, 1
        for slots in self._groups(mentions):
            readings: dict[tuple[str, ...], float] = {}
            for cast, p in self._casts(slots):
                words = tuple(self._surface(m, cast) for m in mentions if m.slot in slots)
                readings[words] = readings.get(words, 0.0) + p
            nats += entropy_of(readings.values())
            number *= len(readings)
        return nats, number

    def _groups(self, mentions: list[Mention]) -> list[set[str]]:
        """The mentioned slots, those that lean on each other together."""
        slots = {slot for mention in mentions for slot in mention.slots}
        ties = [set(mention.slots) for mention in mentions]
        ties += [{slot, *self._pool_mates(slot, slots)} for slot in slots]
        groups: list[set[str]] = []
        for tie in ties:
            apart = [group for group in groups if not group & tie]
            groups = [*apart, tie.union(*(group for group in groups if group & tie))]
        return groups

    def _casts(self, slots: set[str]) -> Iterator[tuple[Cast, float]]:
        """(cast, probability) for each way to cast these slots."""
        partial: list[tuple[Cast, float]] = [({}, 1.0)]
        for slot in sorted(slots):
            partial = [
                ({**cast, slot: option}, p * q)
                for cast, p in partial
                for q, option in self._options(slot, cast)
            ]
        return iter(partial)

    def _mean_length(self, piece: Piece) -> float:
        """The expected number of characters of a piece.

        A slot's own distribution serves here even inside a pool, because pools are uniform.
        """
        if isinstance(piece, str):
            return len(piece)
        kinds = [self.grammar.slots[slot] for slot in piece.slots]
        total = 0.0
        for choice in product(*(zip(kind.weights, kind.options) for kind in kinds)):
            cast = {slot: option for slot, (_, option) in zip(piece.slots, choice)}
            total += math.prod(w for w, _ in choice) * len(self._surface(piece, cast))
        return total


class Reader:
    """A text being read, and how far any reading of it has come."""

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise TypeError(f"a story to read is a str, not {type(text).__name__}")
        self.text, self.furthest = text, 0
        self.expected: set[str] = set()

    def reads(self, words: str, at: int) -> int | None:
        """Where `words` end if the text has them at `at`, else None."""
        if self.text.startswith(words, at):
            self._reached(at + len(words), "")
            return at + len(words)
        same = next(i for i, c in enumerate(words) if self.text[at + i : at + i + 1] != c)
        self._reached(at + same, words[same:])
        return None

    def ends(self, at: int) -> bool:
        """Whether the text is over at `at`."""
        self._reached(at, "")
        return at == len(self.text)

    def _reached(self, at: int, expected: str) -> None:
        if at > self.furthest:
            self.furthest, self.expected = at, set()
        if at == self.furthest and expected:
            self.expected.add(expected)


@dataclass(frozen=True)
class Rates:
    """Of a set of texts: how many are well told, and how many also keep to one story."""

    grammatical: float
    consistent: float


def rates(texts: list[str], language: str = "en") -> Rates:
    """The share of texts that are grammatical stories, and the share that also are consistent.

    Grammatical: a story of the world that forgets after each sentence. Consistent: one of the world
    proper, where names, pronouns, colours and things stay what they were.
    """
    if isinstance(texts, str) or not texts:
        raise ValueError("rates needs a list of at least one text")

    def share(world: World) -> float:
        return sum(map(world.tells, texts)) / len(texts)

    return Rates(share(World(language, remembers=False)), share(World(language)))
