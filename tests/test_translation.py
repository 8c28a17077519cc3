"""python -m pytest tests/test_translation.py -p no:nbval -o addopts="" """

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HuggingFace
from transformers import PreTrainedTokenizerFast

from helpers.steps import NotKnown
from helpers.tokenizer import GPT2_PATTERN, SPECIALS, Tokenizer
from helpers.translation import files, from_metadata, published
from tests.test_tokenizer import REAL_TEXT
from tests.test_vocabulary import CHATML, TALK, any_text, rendered, undisputed
from tests.tokenizer_files import CL100K, MARKS, UNMET, byte_vocabulary, hugging_faces

steady = settings(deadline=None, derandomize=True, database=None)

# ---------------------------------------------------------------- out of a GGUF file

PRES = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
    "llama-bpe": [
        pre_tokenizers.Split(Regex(CL100K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


def hugging_faces_of(metadata):
    """Hugging Face's tokenizer made of the same tokens and merges, without our tables."""
    said = {name.rpartition(".")[2]: value for name, value in metadata.items()}
    vocab = {token: n for n, token in enumerate(said["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in said["merges"]]
    made = HuggingFace(models.BPE(vocab, merges, ignore_merges=said["pre"] == "llama-bpe"))
    made.pre_tokenizer = pre_tokenizers.Sequence(PRES[said["pre"]])
    made.decoder = decoders.ByteLevel()
    specials = [token for token, kind in zip(said["tokens"], said["token_type"]) if kind == 3]
    made.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return made


def small_metadata(pre="smollm", unmet=UNMET):
    """A vocabulary learnt from Python's manual, as a GGUF file says it."""
    vocab, merges = byte_vocabulary(unmet)
    said = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [*MARKS, *vocab],
        "token_type": [3] * len(MARKS) + [1] * len(vocab),
        "merges": [" ".join(merge) for merge in merges],
        "eos_token_id": 2,
    }
    named = {f"tokenizer.ggml.{name}": value for name, value in said.items()}
    return named | {"tokenizer.chat_template": CHATML}


SMALL = small_metadata()


@cache
def both(pre):
    """(our tokenizer, Hugging Face's, and its own of our tables) of the same metadata."""
    metadata = small_metadata(pre, UNMET if pre == "smollm" else b"")
    ours = from_metadata(metadata)
    return ours, hugging_faces_of(metadata), hugging_faces(ours.said)


@pytest.mark.parametrize("pre", PRES)
@given(text=any_text.filter(undisputed))
@settings(steady, max_examples=200)
def test_a_text_is_encoded_as_by_hugging_face(pre, text):
    ours, theirs, handed_on = both(pre)
    ids = ours.encode(text, allow_special=True)
    assert ids == theirs.encode(text).ids == handed_on.encode(text).ids


def test_llama_3_takes_a_piece_that_is_a_token_whole():
    ours, theirs, _ = both("llama-bpe")
    assert len(ours.encode("a quux")) == len(theirs.encode("a quux").ids) == 2


def test_its_chats_are_those_of_its_template():
    fast = PreTrainedTokenizerFast(tokenizer_object=both("smollm")[1], chat_template=CHATML)
    ours = both("smollm")[0]
    assert ours.chat_prompt(TALK) == rendered(fast, TALK, add_generation_prompt=True)
    assert ours.end == ours.stops[1] == 2 and ours.eot == ours.stops[0] == 0


def test_a_file_may_say_what_stands_before_a_text():
    said = {"tokenizer.ggml.bos_token_id": 1}
    assert from_metadata(SMALL | said).start == []
    assert from_metadata(SMALL | said | {"tokenizer.ggml.add_bos_token": True}).start == [1]


def test_a_token_that_the_user_defined_is_always_one():
    types = [*SMALL["tokenizer.ggml.token_type"]]
    types[-1] = 4
    ours = from_metadata(SMALL | {"tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": []})
    last = SMALL["tokenizer.ggml.tokens"][-1]
    assert ours.encode(f"1{last}1")[1] == len(types) - 1 and last not in ours.special_ids


def without(name, place):
    """One list of the metadata without its value at `place`."""
    values = list(SMALL[f"tokenizer.ggml.{name}"])
    del values[place]
    return {f"tokenizer.ggml.{name}": values}


MERGES = SMALL["tokenizer.ggml.merges"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tokenizer.ggml.model": "llama"}, "its tokenizer is 'llama' with the pre-tokenizer 'smo"),
        ({"tokenizer.ggml.pre": "qwen2"}, "the pre-tokenizer 'qwen2', and known here is 'gpt2'"),
        ({"tokenizer.ggml.pre": None}, "the pre-tokenizer None, and known here is"),
    ],
)
def test_a_kind_not_known_here_is_named(change, sentence):
    with pytest.raises(NotKnown) as caught:
        from_metadata(SMALL | change)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tokenizer.ggml.tokens": None}, "lacks a list of tokens, each of them str"),
        ({"tokenizer.ggml.merges": 3}, "lacks a list of merges, each of them str"),
        (without("token_type", 0), "has not as many tokens as token_type"),
        ({"tokenizer.ggml.merges": [*MERGES, "q q"]}, "its merge 'q q' does not join two tokens"),
        ({"tokenizer.ggml.merges": [MERGES[0].replace(" ", "")]}, "does not join two tokens"),
        ({"tokenizer.ggml.merges": ["q " + MERGES[0]]}, "does not join two tokens into a third"),
        ({"tokenizer.ggml.merges": [1]}, "lacks a list of merges, each of them str"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "bos_token_id = 1000000: that is no token"),
        ({"tokenizer.ggml.eos_token_id": "2"}, "eos_token_id = '2': that is no token"),
        (
            {"tokenizer.ggml.tokens": [*SMALL["tokenizer.ggml.tokens"][:-1], "a b"]},
            "the token 'a b' has ' ', which is no byte",
        ),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(change, sentence):
    with pytest.raises(ValueError) as caught:
        from_metadata(SMALL | change)
    assert sentence in str(caught.value) and not isinstance(caught.value, NotKnown)


# ---------------------------------------------------------------- our own
OURS = {
    "gpt4": lambda: Tokenizer.train(REAL_TEXT, 1500),
    "gpt2": lambda: Tokenizer.train(REAL_TEXT, 1500, GPT2_PATTERN),
    "bytes": lambda: Tokenizer([]),
    "few specials": lambda: Tokenizer.train(REAL_TEXT, 300, specials=["<|endoftext|>"]),
}
by_name = pytest.mark.parametrize("name", OURS)


@cache
def own(name):
    """(our tokenizer, the same as a published one, Hugging Face's)."""
    tokenizer = OURS[name]()
    same = published(tokenizer)
    return tokenizer, same, hugging_faces(same.said)


@by_name
@given(text=any_text.filter(undisputed))
@settings(steady, max_examples=150)
def test_our_tokenizer_is_handed_on_with_all_its_ids(name, text):
    ours, same, theirs = own(name)
    ids = ours.encode(text, allow_special=True)
    assert ids == same.encode(text, allow_special=True) == theirs.encode(text).ids
    assert same.encode(text) == ours.encode(text) and same.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize("name", ["gpt4", "gpt2"])
def test_a_long_text_is_handed_on(name):
    ours, same, theirs = own(name)
    assert ours.encode(REAL_TEXT) == same.encode(REAL_TEXT) == theirs.encode(REAL_TEXT).ids


@given(st.lists(st.text(max_size=20).filter(undisputed), min_size=1, max_size=4))
@settings(steady, max_examples=60)
def test_its_chats_are_handed_on_with_what_is_learnt(contents):
    ours, same, _ = own("gpt4")
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents)]
    assert same.render_chat(messages) == ours.render_chat(messages)
    assert (same.end, same.eot, same.start) == (ours.end, ours.eot, [])


def test_without_its_special_tokens_it_has_no_chats():
    _, same, _ = own("few specials")
    with pytest.raises(ValueError, match="no chat template"):
        same.chat_prompt([{"role": "user", "content": "a"}])
    assert same.stops == [same.eot] == [SPECIALS.index("<|endoftext|>") + 299]


def test_without_any_special_token_nothing_is_said_of_them():
    found = files(Tokenizer.train("a b a b", 258, specials=()), context_length=64)
    assert found["generation_config.json"] == {}
    assert not {"eos_token", "pad_token", "chat_template"} & found["tokenizer_config.json"].keys()


def test_a_published_one_is_handed_on_as_it_is():
    ours = both("smollm")[0]
    assert published(ours) is ours
    found = files(ours, context_length=64)
    assert found["tokenizer.json"] is ours.said
    assert found["generation_config.json"] == {"eos_token_id": [0, 2]}
    assert found["tokenizer_config.json"]["chat_template"] == CHATML
    assert found["tokenizer_config.json"]["model_max_length"] == 64


def test_what_a_file_does_not_say_is_not_written():
    ours = from_metadata(SMALL | {"tokenizer.chat_template": None})
    assert "chat_template" not in files(ours, context_length=64)["tokenizer_config.json"]


def test_a_pattern_of_its_own_is_not_handed_on():
    tokenizer = Tokenizer.train("a b a b", 270, pattern=r"\S+|\s+")
    with pytest.raises(ValueError, match=r"only a tokenizer that cuts by GPT2_PATTERN or GPT4_"):
        published(tokenizer)


def test_what_stands_before_a_text_goes_without_saying_where_llama_cpp_says_so():
    llama = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.pre": "llama-bpe"}
    assert from_metadata(SMALL | llama).start == [1]
    assert from_metadata(SMALL | llama | {"tokenizer.ggml.add_bos_token": False}).start == []


def test_a_type_of_tokens_that_is_not_known_is_not_known():
    types = {"tokenizer.ggml.token_type": [9] * len(SMALL["tokenizer.ggml.tokens"])}
    with pytest.raises(NotKnown, match="it has tokens of the type 9, which is not known here"):
        from_metadata(SMALL | types)
