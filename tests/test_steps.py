"""python -m pytest tests/test_steps.py -p no:nbval -o addopts="" """

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace
from tokenizers import models

from helpers.steps import (
    BYTE_OF,
    Finder,
    NotKnown,
    changes,
    cuts,
    id_reader,
    in_letters,
    joined,
    known_token,
    spelt,
    start_ids,
    vocab_and_joins,
)
from tests.tokenizer_files import (
    AFTER_SPACES,
    BACK,
    CUTS,
    GPT2_STEP,
    METASPACE,
    PREPEND,
    REPLACE,
    STRIP,
    before,
    isolated,
    steps,
)

steady = settings(deadline=None, derandomize=True, database=None)


def pieces(said, text, first=True):
    """The text after all the steps."""
    found = [text]
    for cut in cuts(said):
        found = [part for piece in found for part in cut(piece, first)]
    return found


# ---------------------------------------------------------------- letters


def test_tokens_in_letters_are_bytes():
    assert spelt("Ġa") == b" a" and spelt("Ċ") == b"\n" and spelt("Ã§") == "ç".encode()
    assert sorted(BYTE_OF.values()) == list(range(256)) and len(BYTE_OF) == 256


@given(st.binary())
@steady
def test_bytes_come_back_from_letters(content):
    assert spelt(in_letters(content)) == content


def test_a_letter_that_is_no_byte_is_refused():
    with pytest.raises(ValueError, match="the token 'a b' has ' ', which is no byte"):
        spelt("a b")


# ---------------------------------------------------------------- changes and cuts


def test_a_text_is_changed_step_by_step():
    first, second = changes({"type": "Sequence", "normalizers": [PREPEND, REPLACE]})
    assert second(first("a b")) == "▁a▁b" and first("") == ""
    (nfc,) = changes({"type": "NFC"})
    assert nfc("e\u0301") == unicodedata.normalize("NFC", "e\u0301") == "é"
    assert changes(None) == changes({"type": "Sequence", "normalizers": []}) == []


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gpt2", ["In", "Ġ1999", ",", "Ġ", "Ġ4", "+", "x", "1", "Ġis", "'t"]),
        ("smollm", ["In", "Ġ", "1", "9", "9", "9", ",", "ĠĠ", "4", "+", "x", "1", "Ġis", "'t"]),
        ("llama3", ["In", "Ġ", "199", "9", ",", "Ġ", "Ġ", "4", "+x", "1", "Ġis", "'t"]),
        ("qwen3", ["In", "Ġ", "1", "9", "9", "9", ",", "Ġ", "Ġ", "4", "+x", "1", "Ġis", "'t"]),
        ("gpt_oss", ["In", "Ġ", "199", "9", ",", "Ġ", "Ġ", "4", "+x", "1", "Ġis't"]),
        ("deepseek", ["In", "Ġ", "199", "9", ",", "ĠĠ", "4", "+x", "1", "Ġis", "'t"]),
    ],
)
def test_a_text_is_cut_as_the_family_does(family, expected):
    assert pieces(CUTS[family], "In 1999,  4+x1 is't") == expected


def test_bytes_are_cut_as_gpt2_does_unless_the_file_says_otherwise():
    old = {name: said for name, said in GPT2_STEP.items() if name != "use_regex"}
    assert pieces(old, "a b") == ["a", "Ġb"]
    assert pieces(GPT2_STEP | {"use_regex": False}, "a b") == ["aĠb"]


def test_spaces_are_cut_as_the_step_says():
    assert pieces(AFTER_SPACES, " a  b") == [" ", "a ", " ", "b"]
    assert pieces(METASPACE, "a b") == ["▁a▁b"] != pieces(METASPACE, "a b", first=False)
    assert pieces(METASPACE, " a") == ["▁a"]
    assert pieces(METASPACE | {"split": True}, "a  b▁c") == ["▁a", "▁", "▁b", "▁c"]


def test_what_is_removed_but_what_matches_is_what_matches():
    """As some files say the same: no pattern leaves anything between two matches."""
    said = isolated(CUTS["llama3"]["pretokenizers"][0]["pattern"]["Regex"])
    assert pieces(said | {"behavior": "Removed", "invert": True}, "I'm 12345") == pieces(
        said, "I'm 12345"
    )


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (GPT2_STEP | {"add_prefix_space": True}, 'cuts the text by {"type": "ByteLevel", "add_'),
        ({"type": "BertPreTokenizer"}, 'cuts the text by {"type": "BertPreTokenizer"}, which is'),
        (steps({"type": "Whitespace"}), 'cuts the text by {"type": "Whitespace"}'),
        (isolated(r"\w+"), r'"pattern": {"Regex": "\\w+"}'),
        (isolated(r"\p{N}{1,3}") | {"behavior": "Removed"}, '"behavior": "Removed"'),
        (AFTER_SPACES | {"pattern": {"String": "a"}}, '"String": "a"'),
        (METASPACE | {"prepend_scheme": "last"}, "prepend_scheme = 'last', and known here is"),
        (METASPACE | {"replacement": "_"}, "replacement = '_'"),
    ],
)
def test_a_cut_not_known_here_is_refused(said, sentence):
    with pytest.raises(NotKnown) as caught:
        cuts(said)
    assert sentence in str(caught.value) and str(caught.value).startswith("its tokenizer ")


def test_a_change_not_known_here_is_refused():
    with pytest.raises(NotKnown, match=r'changes the text by \{"type": "Lowercase"\}, which'):
        changes({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})
    for said in (PREPEND | {"prepend": 3}, REPLACE | {"content": None}, {"type": "Sequence"}):
        with pytest.raises(NotKnown, match="changes the text by "):
            changes(said)
    with pytest.raises(NotKnown, match=r"changes the text by .{200}\.\.\., which"):
        changes({"type": "Precompiled", "precompiled_charsmap": "A" * 10_000})


# ---------------------------------------------------------------- joins

merges = st.lists(st.tuples(*[st.text("ab", min_size=1, max_size=3)] * 2), max_size=12)


@given(merges, st.text("ab", max_size=30))
@settings(steady, max_examples=500)
def test_letters_are_joined_as_by_hugging_face(pairs, text):
    """In any order of merges, and with many ways to the same token."""
    tokens = {"a", "b", *(part for pair in pairs for part in (*pair, "".join(pair)))}
    vocab = {token: n for n, token in enumerate(sorted(tokens))}
    joins = {(vocab[a], vocab[b]): (n, vocab[a + b]) for n, (a, b) in enumerate(pairs)}
    theirs = HuggingFace(models.BPE(vocab, pairs)).encode(text).ids
    assert joined([vocab[letter] for letter in text], joins) == theirs


def test_a_long_piece_is_joined_in_no_time():
    """131,072 letters, of which each two are joined, and again each two."""
    joins = {(n, n): (n, n + 1) for n in range(17)}
    assert joined([0] * 2**17, joins) == [17]


# ---------------------------------------------------------------- the other parts

MODEL = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, " ": 3, "a ": 4}, "merges": [["a", "b"]]}


def test_merges_are_read_in_both_ways_of_writing():
    assert vocab_and_joins(MODEL)[1] == {(0, 1): (0, 2)}
    assert vocab_and_joins(MODEL | {"merges": ["a b"]})[1] == {(0, 1): (0, 2)}
    assert vocab_and_joins(MODEL | {"merges": [["a", " "]]})[1] == {(0, 3): (0, 4)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"type": "Unigram"}, "model type = 'Unigram', and known here is 'BPE'"),
        ({"type": "WordPiece"}, "model type = 'WordPiece'"),
        ({"dropout": 0.1}, "dropout = 0.1, and known here is None"),
        ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix = '##', and known here"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix = '</w>'"),
        ({"byte_fallback": True}, "no token for every byte, which is not known here"),
        ({"unk_token": "a"}, "no token for every byte, and so uses unk_token"),
    ],
)
def test_a_model_not_known_here_is_refused(change, sentence):
    with pytest.raises(NotKnown) as caught:
        vocab_and_joins(MODEL | change)
    assert sentence in str(caught.value)


def test_tokens_are_read_by_letters_or_by_spaces():
    assert id_reader({"type": "ByteLevel"})("Ġa") == b" a"
    assert id_reader({"type": "ByteLevel"})("<｜a｜>") == "<｜a｜>".encode()
    by_spaces = id_reader({"type": "Sequence", "decoders": [*BACK, STRIP]})
    assert [by_spaces(token) for token in ("▁a", "<0x0A>", "<0xZZ>")] == [b" a", b"\n", b"<0xZZ>"]
    with pytest.raises(NotKnown, match=r'decodes by \{"type": "WordPiece"\}'):
        id_reader({"type": "WordPiece"})
    with pytest.raises(NotKnown, match="decodes by null"):
        id_reader(None)


def test_what_stands_before_a_text_is_read():
    after_bytes = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, before(7, "<s>")]}
    assert start_ids(after_bytes, 1, {}) == start_ids(before(7, "<s>"), 1, {}) == [7]
    assert start_ids({"type": "ByteLevel"}, 1, {"add_bos_token": True}) == [1]
    assert start_ids(None, None, {"add_bos_token": True}) == start_ids(None, 1, {}) == []
    with pytest.raises(NotKnown, match=r'ends with \{"type": "RobertaProcessing"\}'):
        start_ids({"type": "RobertaProcessing"}, 1, {})


# ---------------------------------------------------------------- added tokens


def parts(finder, text, but_not=()):
    """What the finder finds, without the places."""
    return [(part, token_id) for _, part, token_id in finder.parts(text, but_not)]


def test_the_longest_of_the_first_added_tokens_is_found():
    finder = Finder({"\n": 1, "\n\n": 2, "<a>": 3})
    assert parts(finder, "x\n\n\n<a>") == [("x", None), ("\n\n", 2), ("\n", 1), ("<a>", 3)]
    assert parts(finder, "x\n<a>y", but_not={3}) == [("x", None), ("\n", 1), ("<a>y", None)]
    assert [place for place, _, _ in finder.parts("x\n<a>", ())] == [0, 1, 2]
    assert parts(finder, "") == parts(Finder({}), "") == []
    assert parts(Finder({}), "x") == [("x", None)]


def test_a_token_that_reaches_takes_the_white_space_after_it():
    finder = Finder({"<a>": 3, "<b>": 4}, reaching={"<a>"})
    assert parts(finder, "<a> \n\x1fx<b> ")[:2] == [("<a> \n", 3), ("\x1fx", None)]
    assert parts(finder, "<b> x") == [("<b>", 4), (" x", None)]


@pytest.mark.parametrize("name", ["lstrip", "single_word"])
def test_an_added_token_not_known_here_is_refused(name):
    said = {"content": "<a>", "lstrip": False, "single_word": False}
    assert known_token(said) is said
    with pytest.raises(ValueError, match="an added token is ''"):
        known_token(said | {"content": ""})
    with pytest.raises(NotKnown, match=f"{name} of the token '<a>' = True, and known here is Fal"):
        known_token(said | {name: True})
