"""The small world: exact where it can be written out, unambiguous everywhere.

python -m pytest tests/test_world.py
"""

import itertools
import math
import random
import re
import statistics

import pytest

from helpers.world import (
    Event,
    Grammar,
    LeavesTheWorld,
    Rates,
    Story,
    World,
    rates,
    the_grammar,
)

BOTH = pytest.mark.parametrize("language", ["en", "pt"])
MEMORY = pytest.mark.parametrize("remembers", [True, False])

# Small enough to be written out whole, with one of each: a pool, agreement, a pronoun that comes
# before the name, an optional sentence, a first mention that depends on the path, two ways.
SMALL = Grammar.read(
    """
= people: hero friend
Ana/Ana/f, Bia/Bia/f, Tom/Tom/m
= thing
ball/bola/f, hat/chapéu/m
= colour
red/vermelho/vermelha, green/verde
= place
park/parque/m/in, lake/lago/m/by

- opening
A {hero.girl} named {hero} had a {colour} {thing}.
{hero.uma} {hero.menina} de nome {hero} tinha {thing.uma} {thing} {colour:thing}.
{hero} was a {hero.girl} with a {colour} {thing}.
{hero} era {hero.uma} {hero.menina} com {thing.uma} {thing} {colour:thing}.
- friend
{hero.hers} friend was {friend}.
{friend.a} amig{friend.a} {hero.dela} era {friend}.
- lost
{hero.she} lost the {colour} {thing} {place.at} the {place}.
{hero.ela} perdeu {thing.a} {thing} {colour:thing} {place.na} {place}.
- glad
{friend} found the {thing}.
{friend} achou {thing.a} {thing}.
- sad
Poor {hero}!
Coitad{hero.a} de {hero}!

> story
1 opening friend? lost end
> end
0.3 glad
0.7 sad
"""
)


def plots(grammar: Grammar, symbols=("story",)):
    """(probability, names of sentences) of every plot: an enumeration that shares no code with
    the world's own."""
    if not symbols:
        yield 1.0, ()
    elif symbols[0] in grammar.sentences:
        for p, rest in plots(grammar, symbols[1:]):
            yield p, (symbols[0], *rest)
    elif symbols[0].endswith("?"):
        for expansion in [(symbols[0][:-1],), ()]:
            for p, names in plots(grammar, expansion + symbols[1:]):
                yield p / 2, names
    else:
        for weight, expansion in grammar.plot[symbols[0]]:
            for p, names in plots(grammar, expansion + symbols[1:]):
                yield weight * p, names


def draws(grammar: Grammar, slots, cast):
    """(probability, cast) for every way to draw the slots that are not cast yet, in order."""
    missing = [slot for slot in slots if slot not in cast]
    if not missing:
        yield 1.0, cast
        return
    kind = grammar.slots[missing[0]]
    taken = [o for s, o in cast.items() if kind.pool and grammar.slots[s].pool == kind.pool]
    free = {o: w for o, w in zip(kind.options, kind.weights) if o not in taken}
    for option, weight in free.items():
        for p, full in draws(grammar, slots, {**cast, missing[0]: option}):
            yield p * weight / sum(free.values()), full


def everything(world: World) -> dict[str, float]:
    """Every text of a small world with its probability, summed over its derivations."""
    texts: dict[str, float] = {}

    def tell(names, cast, events, p):
        if not names:
            text = world.tell(Story(tuple(events)))
            texts[text] = texts.get(text, 0.0) + p
            return
        ways = world.grammar.sentences[names[0]]
        for way in range(len(ways)):
            known = cast if world.remembers else {}
            for q, full in draws(world.grammar, world._mentioned[names[0]][way], known):
                new = tuple((s, full[s]) for s in sorted(full) if s not in known)
                event = Event(names[0], way, new)
                tell(names[1:], full, [*events, event], p * q / len(ways))

    for p, names in plots(world.grammar):
        tell(names, {}, [], p)
    return texts


@BOTH
@MEMORY
def test_a_small_world_written_out_whole_is_a_distribution(language, remembers):
    world = World(language, remembers, SMALL)
    texts = everything(world)
    assert len(texts) == world.size() > 100
    assert math.isclose(sum(texts.values()), 1, rel_tol=1e-12)
    for text, p in texts.items():
        assert math.isclose(world.log_prob(text), math.log(p), abs_tol=1e-9)


@BOTH
@MEMORY
def test_entropy_and_length_equal_the_sums_written_out(language, remembers):
    world = World(language, remembers, SMALL)
    texts = everything(world)
    nats = -sum(p * math.log(p) for p in texts.values())
    characters = sum(p * len(text) for text, p in texts.items())
    assert math.isclose(world.entropy(), nats, rel_tol=1e-12)
    assert math.isclose(world.entropy("character"), nats / characters, rel_tol=1e-12)


@BOTH
@MEMORY
def test_a_corrupted_text_leaves_a_small_world_exactly_where_no_story_goes_on(language, remembers):
    world = World(language, remembers, SMALL)
    texts = sorted(everything(world))
    words = sorted({word for text in texts for word in text.split()})
    rng = random.Random(0)
    for text in rng.sample(texts, 40):
        spoilt = text.split()
        spoilt[rng.randrange(len(spoilt))] = rng.choice(words)
        spoilt = " ".join(spoilt)
        if spoilt in texts:
            continue
        shared = max(len(common_prefix(spoilt, other)) for other in texts)
        with pytest.raises(LeavesTheWorld) as left:
            world.parse(spoilt)
        assert left.value.at == shared


def common_prefix(a: str, b: str) -> str:
    return "".join(x for x, _ in itertools.takewhile(lambda xy: xy[0] == xy[1], zip(a, b)))


@BOTH
def test_what_is_told_is_read_back_as_the_same_derivation(language):
    world, rng = World(language), random.Random(1)
    for _ in range(1500):  # reading it asserts that there is no second derivation
        story = world.sample(rng)
        assert world.parse(world.tell(story)) == story


def test_the_text_s_probability_is_the_derivation_s():
    """p(plot) x 1/(ways) x p(each draw), multiplied out by hand for sampled stories."""
    world, rng = World(), random.Random(2)
    chances: dict[tuple[str, ...], float] = {}
    for p, names in plots(world.grammar):
        chances[names] = chances.get(names, 0.0) + p
    for _ in range(300):
        story = world.sample(rng)
        p, cast = chances[story.plot], {}
        for event in story.events:
            p /= len(world.grammar.sentences[event.sentence])
            drawn = dict(event.drawn)
            slots = [s for s in world._mentioned[event.sentence][event.way] if s in drawn]
            for slot in slots:
                [q] = [
                    q for q, full in draws(world.grammar, [slot], cast) if full[slot] == drawn[slot]
                ]
                p, cast = p * q, {**cast, slot: drawn[slot]}
        assert math.isclose(world.log_prob(story), math.log(p), rel_tol=1e-9)


@BOTH
@MEMORY
def test_a_million_characters_agree_with_the_entropy(language, remembers):
    world = World(language, remembers)
    texts = world.stories(3600 if remembers else 400, seed=11)
    nats = [-world.log_prob(text) for text in texts]
    error = statistics.stdev(nats) / math.sqrt(len(nats))
    assert sum(map(len, texts)) > (1_000_000 if remembers else 100_000)
    assert abs(statistics.mean(nats) - world.entropy()) < 2 * error
    lengths = [len(text) for text in texts]
    expected = world.entropy() / world.entropy("character")
    spread = statistics.stdev(lengths) / math.sqrt(len(lengths))
    assert abs(statistics.mean(lengths) - expected) < 3 * spread


@BOTH
def test_every_corrupted_word_is_accepted_as_another_story_or_rejected_in_place(language):
    """Where it is rejected, all before the place can be gone on with, and the world says how."""
    world, rng = World(language), random.Random(3)
    texts = world.stories(40, seed=3)
    words = sorted({word for text in texts for word in re.findall(r"\w+", text)})
    rejected = 0
    for text in texts:
        for match in re.finditer(r"\w+", text):
            spoilt = text[: match.start()] + rng.choice(words) + text[match.end() :]
            try:
                assert world.tell(world.parse(spoilt)) == spoilt
            except LeavesTheWorld as left:
                rejected += 1
                assert match.start() <= left.at < len(spoilt)
                assert all(not spoilt.startswith(w, left.at) for w in left.expected)
                for word in sorted(left.expected)[:2]:
                    assert reach(world, spoilt[: left.at] + word) == left.at + len(word)
    assert rejected > 500


def reach(world: World, text: str) -> int:
    """How many characters of a text some story starts with."""
    try:
        world.parse(text)
    except LeavesTheWorld as left:
        return left.at
    return len(text)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("He lost", "She lost"), "She"),
        (("red ball in", "blue ball in"), "blue"),
        (("Tom was worried", "Ana was worried"), "Ana"),
        (("Maya came", "Tom came"), "Tom"),
        (("friend was Maya", "friend was Tom"), "Tom"),
        (("to the castle. He", "to the park. He"), "castle"),
    ],
)
def test_a_story_that_forgets_is_grammatical_and_not_consistent(change, place):
    text = (
        "Once upon a time there was a brave boy named Tom. Tom had a red ball. His best friend was "
        "Maya. One rainy morning, Tom went to the castle. He lost the red ball in the castle. "
        "Maya came to help him. Tom never saw the red ball again. That night Tom was worried and "
        "could not sleep."
    )
    assert rates([text]) == Rates(grammatical=1.0, consistent=1.0)
    spoilt = text.replace(*change)
    assert rates([text, spoilt]) == Rates(grammatical=1.0, consistent=0.5)
    with pytest.raises(LeavesTheWorld) as left:
        World().parse(spoilt)
    begins = spoilt.index(change[1]) if place in change[1] else spoilt.rindex(place)
    assert left.value.at >= begins


def test_both_languages_tell_the_same_derivation():
    english, portuguese = World("en"), World("pt")
    for text in english.stories(200, seed=4):
        story = english.parse(text)
        translated = portuguese.tell(story)
        assert portuguese.parse(translated) == story
        assert math.isclose(portuguese.log_prob(translated), english.log_prob(text), rel_tol=1e-12)
    assert english.entropy() == portuguese.entropy()


def test_a_story_names_who_what_where_and_how_it_ends():
    story = World().parse(
        "A shy girl named Eva had a blue kite. On the bridge, Eva put down the blue kite and "
        "forgot where. At last she found the blue kite under a bench. She held the blue kite and "
        "felt glad."
    )
    assert story.plot == ("opening_owns", "lost", "found", "glad_thing")
    who = {slot: option.en for slot, option in story.cast.items()}
    assert who["hero"] == "Eva" and who["thing"] == "kite" and who["colour"] == "blue"
    assert who["place"] == "bridge" and who["spot"] == "under a bench" and story.happy


def test_portuguese_agrees_in_gender_and_contracts():
    told = World("pt").tell(
        World("en").parse(
            "A shy girl named Eva had a red drum. On the bridge, Eva put down the red drum and "
            "forgot where. She found the red drum near a fountain, but it was broken. "
            "She cried for the red drum."
        )
    )
    assert told == (
        "Uma menina tímida chamada Eva tinha um tambor vermelho. Na ponte, Eva largou o tambor "
        "vermelho e esqueceu onde. Ela achou o tambor vermelho perto de uma fonte, mas ele estava "
        "quebrado. Ela chorou por causa do tambor vermelho."
    )


def test_the_world_is_large_and_its_stories_are_short():
    world = World()
    assert world.size() > 10**12
    lengths = [len(world.sample(random.Random(seed)).events) for seed in range(500)]
    assert min(lengths) == 4 and max(lengths) == 10
    happy = statistics.mean(world.sample(random.Random(seed)).happy for seed in range(2000))
    assert 0.45 < happy < 0.6


def test_entropy_per_token_and_the_floor_of_given_stories():
    world = World()
    texts = world.stories(2000, seed=1)
    expected = world.entropy() / statistics.mean(map(len, texts))
    assert math.isclose(world.entropy(per=list), expected, rel_tol=1e-12)  # a token a character
    floor = -sum(world.log_prob(text) for text in texts[:50]) / sum(map(len, texts[:50]))
    assert math.isclose(world.floor(texts[:50], list), floor, rel_tol=1e-12)


def test_the_world_has_not_changed_under_the_checkpoints_that_were_trained_on_it():
    """Another word, weight or plot is another world, and its models must be trained anew."""
    assert math.isclose(World().entropy(), 35.2948901765, rel_tol=1e-9)
    assert math.isclose(World(remembers=False).entropy(), 60.1484494472, rel_tol=1e-9)


def test_where_a_text_leaves_the_world_all_that_could_have_come_is_named():
    with pytest.raises(
        LeavesTheWorld, match="expected 'Ana', 'Bia', 'Clara', 'Eva' or 8 more"
    ) as left:
        World().parse("Once upon a time there was a brave girl named Tom.")
    girls = {o.en for o in the_grammar().slots["hero"].options if o.gender == "f"}
    assert left.value.expected == girls


def test_an_unfinished_story_is_said_to_stop_and_a_longer_one_to_go_on():
    world = World()
    text = world.stories(1)[0]
    with pytest.raises(LeavesTheWorld, match="stops before the story ends at character 0"):
        world.parse("")
    with pytest.raises(LeavesTheWorld, match=rf"stops before the story ends at character {40}"):
        world.parse(text[:40])
    with pytest.raises(LeavesTheWorld, match="expected the end of the story") as left:
        world.parse(text + " The end.")
    assert left.value.at == len(text)


def test_the_same_seed_gives_the_same_stories():
    assert World().stories(5, seed=9) == World().stories(5, seed=9) != World().stories(5, seed=8)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (("0.7 sad", "0.6 sad"), "do not add up to 1"),
        (("0.7 sad", "0.7 tragic"), "leads to 'tragic', which is nowhere"),
        (("0.3 glad\n0.7", "0 glad\n1"), "all above 0"),
        (("> story", "> tale"), "no line for 'story'"),
        (("Poor {hero}", "Poor {heroine}"), "mentions an unknown slot"),
        (("Poor {hero}", "Poor {hero.him}"), "asks for an unknown form"),
        (("Poor {hero}", "Poor one"), "the languages mention different slots in 'sad'"),
        (("Poor {hero}!\n", ""), "the sentence 'sad' lacks a line"),
    ],
)
def test_a_grammar_that_contradicts_itself_says_where(spoil, says):
    source = """
= people: hero
Ana/Ana/f
- sad
Poor {hero}!
Coitad{hero.a} de {hero}!
- glad
Lucky {hero}!
Sorte de {hero}!
> story
0.3 glad
0.7 sad
"""
    assert World(grammar=Grammar.read(source)).size() == 2
    with pytest.raises(ValueError, match=says):
        Grammar.read(source.replace(*spoil))


def test_bad_questions_get_one_clear_sentence():
    with pytest.raises(ValueError, match="speaks 'en' and 'pt', not 'fr'"):
        World("fr")
    with pytest.raises(ValueError, match="'story', 'character' or a tokenizer's encode"):
        World().entropy("word")
    for texts in ([], "one story"):
        with pytest.raises(ValueError, match="a list of at least one text"):
            rates(texts)
    with pytest.raises(ValueError, match="at least one story"):
        World().floor([], list)
    with pytest.raises(TypeError, match="a story to read is a str, not NoneType"):
        World().parse(None)


def test_every_sentence_of_the_world_is_reached_by_its_plot():
    reached = {name for _, names in plots(the_grammar()) for name in names}
    assert reached == set(the_grammar().sentences)
