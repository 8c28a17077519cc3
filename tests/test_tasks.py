"""Requests are what they say, right answers pass their rule, near misses do not.

python -m pytest tests/test_tasks.py
"""

import re

import pytest

from helpers.generate import reply
from helpers.tasks import (
    COMBINATIONS,
    KINDS,
    LANGUAGES,
    TROUBLES,
    is_held_out,
    is_right,
    messages,
    read_forms,
    requests,
    the_forms,
    told,
    write_request,
)
from helpers.weights import chat_model, story_model
from helpers.world import World, mentions_of

N = 40  # requests of a kind


@pytest.fixture(scope="module")
def some():
    """Requests of each kind and language."""
    return {
        (kind, language): requests(N, language, [kind], seed=3)
        for kind in KINDS
        for language in LANGUAGES
    }


@pytest.fixture(scope="module")
def everyone(some):
    """All of them in one list."""
    return [request for several in some.values() for request in several]


EVERY_KIND = [(kind, language) for kind in KINDS for language in LANGUAGES]
SHORT = ("who", "where", "colour", "translate", "greet", "shorten")


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "language"), EVERY_KIND)
def test_a_request_is_of_its_kind_and_language_and_its_output_is_right(some, kind, language):
    for request in some[kind, language]:
        assert (request.kind, request.language) == (kind, language)
        assert is_right(request, request.output)
        assert request.record.keys() == {"instruction", "input", "output"}


def test_the_kinds_come_in_turns():
    assert [request.kind for request in requests(20)] == [*KINDS, *KINDS, *KINDS][:20]
    assert [r.kind for r in requests(3, "pt", ["who", "greet"])] == ["who", "greet", "who"]


def test_a_seed_asks_the_same_again_and_the_same_in_either_language():
    assert requests(30, seed=1) == requests(30, seed=1)
    assert requests(30, seed=1) != requests(30, seed=2)
    english, portuguese = requests(60, "en", seed=1), requests(60, "pt", seed=1)
    assert [r.cast for r in english] == [r.cast for r in portuguese]


def test_requests_differ_and_are_worded_in_several_ways(some):
    for several in some.values():
        assert len({request.instruction for request in several}) >= 3
        assert len({(r.instruction, r.input) for r in several}) > N / 2


def test_texts_are_whole(everyone):
    for request in everyone:
        for text in request.record.values():
            assert not re.search(r"[{}]|\s\s|^\s|\s$|\.\.", text)
            assert not text or text[0].isupper()


def test_questions_are_about_a_whole_story(some):
    for kind in ("who", "where", "colour", "shorten"):
        for language in LANGUAGES:
            assert all(World(language).tells(r.input) for r in some[kind, language])


def test_facts_by_hand():
    story = (
        "This is the story of Ana, a brave girl. She lived in a village by the road. "
        "Ana had a red kite. Her best friend was Tom. One sunny morning, Ana went to the mill. "
        "Then a fox took the red kite and ran away. The fox hid the red kite for ever. "
        "She cried for the red kite."
    )
    cast = World("en").parse(story).cast
    facts = [f for f in the_forms()[0] if f.kind in ("who", "where", "colour") and f.fits(cast)]
    first = {fact.needs: told(fact.answers["en"], cast, "en")[0] for fact in facts}
    assert first["hero",] == "The story is about Ana."
    assert first["hero", "friend"] == "The friend is Tom."
    assert first["hero", "thief", "thing"] == "A fox took the kite."
    assert first["hero", "place"] == "Ana was at the mill."
    assert first["thing", "colour"] == "The kite was red."


def test_a_question_that_a_story_leaves_open_is_not_asked():
    chased = "hero place refuge".split()
    where = next(f for f in the_forms()[0] if f.needs == ("hero", "place"))
    assert where.fits(dict.fromkeys(chased[:2])) and not where.fits(dict.fromkeys(chased))
    assert not where.fits({"hero": None})


def test_the_rest_of_a_story_begins_where_the_input_ends(some):
    for request in some["continue", "en"]:
        assert World("en").tells(f"{request.input} {request.output}")
        assert not World("en").tells(request.input)


def sentences(text):
    """The sentences of a text, in order."""
    return re.findall(r"\S.*?\.(?= |$)", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_short_version_is_the_beginning_and_what_went_wrong(some, language):
    for request in some["shorten", language]:
        told_in_full = dict(
            zip(World(language).parse(request.input).plot, sentences(request.input))
        )
        first, *_ = told_in_full.values()
        (trouble,) = (told_in_full[name] for name in TROUBLES if name in told_in_full)
        assert request.output == f"{first} {trouble}"


def test_a_sentence_that_is_translated_has_one_translation():
    """Else a right answer could be refused: a pronoun here may not be a name there."""
    for language in LANGUAGES:
        translations = {}
        for request in requests(1500, language, ["translate"]):
            translations.setdefault(request.input, set()).add(request.output)
        assert max(map(len, translations.values())) == 1


def test_translating_back_gives_the_sentence_again():
    there = requests(200, "en", ["translate"], seed=4)
    back = requests(200, "pt", ["translate"], seed=4)
    assert [(r.input, r.output) for r in there] == [(r.output, r.input) for r in back]


def test_the_wording_never_leaves_the_gender_open():
    for hero, girl in (("Ana", "girl"), ("Tom", "boy")):
        assert write_request("brave", hero).instruction == (
            f"Write a story about a brave {girl} named {hero}."
        )
    assert write_request("brave", "Ana", "pt").instruction == (
        "Escreva uma história sobre uma menina corajosa chamada Ana."
    )


# --- the rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", SHORT)
def test_the_answer_to_another_request_is_wrong(some, kind, language):
    mine, *others = some[kind, language]
    different = [other for other in others if other.output not in mine.accepted]
    assert len(different) > 10
    assert not any(is_right(mine, other.output) for other in different)


@pytest.mark.parametrize(("kind", "language"), EVERY_KIND)
def test_a_word_too_many_too_few_or_changed_makes_an_answer_wrong(some, kind, language):
    for request in some[kind, language][:10]:
        words = request.output.split()
        for i in range(len(words)):
            assert not is_right(request, " ".join([*words[:i], "zebra", *words[i + 1 :]]))
            assert not is_right(request, " ".join([*words[:i], "zebra", *words[i:]]))
        assert not is_right(request, " ".join(words[:-1]))
        assert not is_right(request, "") and not is_right(request, request.input)


@pytest.mark.parametrize(("kind", "language"), EVERY_KIND)
def test_white_space_around_an_answer_is_forgiven(some, kind, language):
    for request in some[kind, language]:
        assert is_right(request, f" {request.output}\n")


def test_every_way_to_give_a_fact_is_right_and_another_s_fact_is_not():
    request = next(r for r in requests(50, kinds=["colour"]) if r.cast["colour"].en == "red")
    thing = request.cast["thing"].en
    for answer in ("It was red.", "It was red", f"The {thing} is red.", "Red."):
        assert is_right(request, answer)
    for answer in ("It was blue.", "It was not red.", "red and blue", f"The {thing}."):
        assert not is_right(request, answer)


def test_the_two_sentences_may_be_told_in_their_other_ways():
    request = requests(1, kinds=["shorten"], seed=2)[0]
    assert len(request.accepted) >= 4 and all(is_right(request, a) for a in request.accepted)
    first, trouble = sentences(request.output)
    assert not is_right(request, trouble) and not is_right(request, f"{trouble} {first}")
    assert not is_right(request, request.input)


def test_a_story_must_be_about_what_was_asked_for():
    ana = write_request("brave", "Ana")
    story = (
        "This is the story of Ana, a brave girl. Ana had a red kite. "
        "Then a fox took the red kite and ran away. The fox hid the red kite for ever. "
        "She cried for the red kite."
    )
    assert is_right(ana, story)
    assert not is_right(write_request("shy", "Ana"), story)
    assert not is_right(write_request("brave", "Bia"), story)
    assert not is_right(ana, story.replace("hid the red", "hid the blue"))  # not consistent
    assert not is_right(ana, story.removesuffix(" She cried for the red kite."))
    assert not is_right(write_request("brave", "Ana", "pt"), story)


def test_a_story_in_the_other_language_is_wrong(some):
    for english, portuguese in zip(some["write", "en"], some["write", "pt"]):
        assert english.cast == portuguese.cast
        assert not is_right(english, portuguese.output)


# --- held out ------------------------------------------------------------------------------------


def combinations(cast):
    """The combinations in a cast, in English."""
    return {
        (slots, *(cast[slot].en for slot in slots))
        for slots in COMBINATIONS
        if cast.keys() >= {*slots}
    }


def all_that_is_told(request):
    """The cast of a request and of the stories in it."""
    text = f"{request.input} {request.output}".strip()
    for story in (text, request.input):
        if World(request.language).tells(story):
            return request.cast | World(request.language).parse(story).cast
    return request.cast


def test_a_held_out_combination_is_in_no_other_request(everyone):
    learnt = set().union(*(combinations(all_that_is_told(request)) for request in everyone))
    for kind in KINDS:
        for request in requests(20, "en", [kind], seed=9, held_out=True):
            assert is_held_out(request.cast) and not combinations(request.cast) <= learnt
    assert len(learnt) > 200


def test_about_one_combination_in_eight_is_held_out(everyone):
    grammar = World("en").grammar
    pairs = [
        is_held_out({"hero": hero, "trait": trait})
        for hero in grammar.slots["hero"].options
        for trait in grammar.slots["trait"].options
    ]
    assert 0.08 < sum(pairs) / len(pairs) < 0.17
    topics = the_forms()[1]["topic"]
    assert 3 <= sum(is_held_out({"topic": topic}) for topic in topics) <= len(topics) / 4


def test_new_words_are_those_of_no_other_request(everyone):
    usual = {form_of(request) for request in everyone}
    new = {form_of(r) for language in LANGUAGES for r in requests(90, language, new_words=True)}
    assert len(new) == 2 * len(the_forms()[0]) and not new & usual


def form_of(request):
    """How a request is worded: its instruction, what it names left out."""
    for form in the_forms()[0]:
        for way in form.ways[request.language]:
            known = request.cast.keys() >= {slot for m in mentions_of(way) for slot in m.slots}
            if known and told([way], request.cast, request.language) == [request.instruction]:
                return way
    raise AssertionError(f"no form asks {request.instruction!r}")


# --- chats ---------------------------------------------------------------------------------------


def test_a_record_becomes_a_chat_with_the_input_after_the_instruction():
    record = {"instruction": "Translate this.", "input": "Ben had a red ball.", "output": "Sim."}
    assert messages(record) == [
        {"role": "user", "content": "Translate this.\nBen had a red ball."},
        {"role": "assistant", "content": "Sim."},
    ]
    assert messages({**record, "input": ""})[0]["content"] == "Translate this."


def test_the_prompt_is_the_record_s_first_turn(everyone):
    for request in everyone:
        assert request.prompt == messages(request.record)[:1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"output": " "}, "the record 'Hi' has an empty output"),
        ({"output": None}, "no text under 'output'"),
        ({"instruction": 3}, "no text under 'instruction'"),
        ({"input": None}, "no text under 'input'"),
    ],
)
def test_a_record_that_is_not_whole_is_refused(change, sentence):
    record = {"instruction": "Hi", "input": "", "output": "Hello"} | change
    with pytest.raises(ValueError, match=sentence):
        messages({key: value for key, value in record.items() if value is not None})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"language": "fr"}, "'en' and 'pt', not 'fr'"),
        ({"kinds": ["who", "why"]}, "no kind 'why': choose from write, "),
        ({"kinds": "who"}, "kinds is 'who': give a list"),
        ({"kinds": []}, "give a list with at least one"),
    ],
)
def test_what_cannot_be_asked_is_said(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        requests(1, **arguments)


@pytest.mark.parametrize(("trait", "hero"), [("evil", "Ana"), ("brave", "Zoe")])
def test_a_story_about_nobody_of_the_world_is_refused(trait, hero):
    with pytest.raises(ValueError, match=r"no (trait .evil.|hero .Zoe.): choose from"):
        write_request(trait, hero)
    with pytest.raises(ValueError, match="not 'fr'"):
        write_request("brave", "Ana", "fr")


# --- the file of requests ------------------------------------------------------------------------


def test_a_form_is_read_by_hand():
    forms, words = read_forms(
        "# a comment\n= topic\nchess/xadrez/m, music/música/f\n\n"
        "- who hero -friend\n? Who is {hero}?\n? Quem é {hero}?\n! Me.\n! Eu.\n"
    )
    assert [option.en for option in words["topic"]] == ["chess", "music"]
    (form,) = forms
    assert (form.kind, form.needs, form.lacks) == ("who", ("hero",), ("friend",))
    assert form.ways["en"][0][0] == "Who is " and form.answers["pt"] == [("Eu.",)]


def test_a_missing_translation_is_refused():
    with pytest.raises(ValueError, match="lack a line: English, then Portuguese"):
        read_forms("- who hero\n? Who?\n! Me.\n! Eu.\n")


def test_every_kind_has_several_ways_to_ask_in_both_languages():
    forms, _ = the_forms()
    assert {form.kind for form in forms} == {*KINDS}
    for form in forms:
        assert len(form.ways["en"]) == len(form.ways["pt"]) >= 4
        assert len(form.answers["en"]) == len(form.answers["pt"])


# --- the models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_chat_model_answers_what_the_story_model_could_not(language):
    """Nine in ten of all kinds, says its card, of 1,800 requests; here are fewer."""
    asked = requests(90, language, [*KINDS], seed=8, held_out=True)
    assert {request.kind for request in asked} == {*KINDS}
    prompts = [request.prompt for request in asked]
    right = {
        name: sum(map(is_right, asked, reply(*loaded, prompts)))
        for name, loaded in (("base", story_model("both")), ("tuned", chat_model()))
    }
    assert right["base"] == 0 and right["tuned"] >= 0.85 * len(asked)
