"""A real model, where it has been fetched: python -m helpers.sources fetch smollm2

    python -m pytest tests/test_smollm.py -p no:nbval -o addopts=""

It is the reference's own in everything but the names: weights unpacked from the same file, logits,
ids, and the answer to a question.
"""

import inspect
from functools import partial

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import generate, gguf, sources, weights, world
from helpers.families import CATALOGUE
from helpers.tokenizer import bpe
from tests.gguf_files import back_in_halves, ggufs_name
from tests.test_sources import need
from tests.test_vocabulary import any_text, hugging_faces, rendered, undisputed

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(deadline=None, derandomize=True, database=None)

ENGLISH = """The tide was out, and the long beach shone like a plate. Two children walked along it
with a bucket, looking for crabs under the stones. "Leave the small ones," said their grandfather,
"or there will be none in 2031." They had found 17 by noon, and let all of them go again. On the
way home they asked him how a crab knows which way is the sea, and he had to say that nobody had
ever told him, though he had wondered about it for sixty years."""
PORTUGUESE = """A maré estava baixa e a praia brilhava como um prato. Duas crianças caminhavam com
um balde, à procura de caranguejos debaixo das pedras. «Deixem os pequenos», disse o avô, «senão não
haverá nenhum.» Até ao meio-dia encontraram 17, e devolveram todos à água."""
CODE = inspect.getsource(generate.stream)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def said():
    """(metadata, packed tensors) of the file."""
    need("smollm2")
    return gguf.read(sources.path("smollm2/instruct"))


@pytest.fixture(scope="module")
def smollm():
    """Our model and our tokenizer."""
    need("smollm2")
    return weights.smollm_model()


@pytest.fixture(scope="module")
def theirs(said):
    """transformers' model with the same weights, as its own names and layouts have them."""
    _, tensors = said
    config = tf.LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        names = [name for name, _ in tf.LlamaForCausalLM(config).named_parameters()]
    state = {name: unpacked(tensors[ggufs_name(name)], name) for name in names}
    return tf.LlamaForCausalLM.from_pretrained(None, config=config, state_dict=state).eval()


def unpacked(packed, name):
    """The weights of one tensor in transformers' layout."""
    heads = {"q_proj": 9, "k_proj": 3}.get(name.split(".")[-2])
    numbers = packed.unpack()
    return torch.from_numpy(back_in_halves(numbers, heads).copy() if heads else numbers)


@pytest.fixture(scope="module")
def reference(said):
    """Hugging Face's tokenizer of the same tokens and merges."""
    return hugging_faces(said[0])


@pytest.fixture(scope="module")
def fast(said, reference):
    """transformers' tokenizer, which renders the template in the file itself."""
    template = said[0]["tokenizer.chat_template"]
    return tf.PreTrainedTokenizerFast(tokenizer_object=reference, chat_template=template)


# ---------------------------------------------------------------- the model

# A logit of 38 is rounded by up to 2e-6 in 32 bits, at each step, differently on each processor.
close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("text", [ENGLISH, PORTUGUESE, CODE], ids=["en", "pt", "code"])
def test_its_logits_are_transformers(smollm, theirs, text):
    """Over a hundred tokens at once, and the last dozen of them one by one over the cache."""
    model, tokenizer = smollm
    tokens = torch.tensor([tokenizer.encode(text)[:120]])
    expected = theirs(input_ids=tokens).logits
    assert tokens.shape[1] > 100
    close(model(tokens), expected)
    cache = model.new_cache(1, tokens.shape[1])
    steps = [model(part, cache) for part in (tokens[:, :-12], *tokens[:, -12:].split(1, dim=1))]
    close(torch.cat(steps, dim=1), expected)


def test_it_knows_the_capital_of_france(smollm):
    model, tokenizer = smollm
    answer = generate.reply(model, tokenizer, [QUESTION], max_new=16)
    assert answer == ["The capital of France is Paris."]


def test_where_it_cannot_be_had_a_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.delenv("COURSE_WHEELHOUSE", raising=False)
    monkeypatch.setattr(sources, "_installed", lambda source: {})
    with pytest.raises(sources.NotHad, match=r"smollm2 could not be had .*fetch smollm2$"):
        weights.smollm_model()


def test_its_config_is_the_published_one(smollm):
    model, _ = smollm
    assert model.cfg == CATALOGUE["SmolLM2 135M"]
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert "134,515,008 parameters" in sources.LOCK["smollm2"]["about"]
    assert model.lm_head.weight is model.tok_emb.weight and not model.training


# ---------------------------------------------------------------- the tokenizer


@given(any_text.filter(undisputed))
@settings(steady, max_examples=500)
def test_its_ids_are_hugging_faces(smollm, reference, text):
    assert smollm[1].encode(text, allow_special=True) == reference.encode(text).ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world! 123", [19556, 905, 17, 216, 33, 34, 35]),
        ("The capital of France is", [504, 3575, 282, 4649, 314]),
        ("Café déjà vu.", [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]),
        ("  multiple   spaces", [216, 2701, 256, 5600]),
    ],
)
def test_its_ids_are_those_that_others_have_published(smollm, text, ids):
    assert smollm[1].encode(text) == ids


def test_real_text_is_encoded_as_by_hugging_face_and_back(smollm, reference):
    for text in (ENGLISH, PORTUGUESE, inspect.getsource(world), inspect.getsource(weights)):
        ids = smollm[1].encode(text)
        assert ids == reference.encode(text).ids and smollm[1].decode(ids) == text


def test_its_merges_are_those_that_its_tokens_imply(smollm):
    """So tiktoken, which knows the tokens alone, joins the same. Every 50th of them is tried."""
    _, tokenizer = smollm
    tokens = {token_id: token for token, token_id in tokenizer.ranks.items()}
    for left, right in tokenizer.merges[::50]:
        parts = [tokens[left], tokens[right]]
        whole = b"".join(parts)
        assert bpe(whole, tokenizer.ranks, limit=tokenizer.ranks[whole]) == parts


@given(st.lists(any_text.filter(lambda text: undisputed(text) and "<|" not in text), min_size=1))
@settings(steady, max_examples=50)
def test_its_chats_are_rendered_by_the_template_in_the_file(smollm, fast, contents):
    messages = [{"role": "user", "content": text} for text in contents]
    prompt = smollm[1].chat_prompt(messages)
    assert prompt == rendered(fast, messages, add_generation_prompt=True)


def test_its_default_system_message_stands_first(smollm):
    text = smollm[1].decode(smollm[1].chat_prompt(QUESTION))
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
