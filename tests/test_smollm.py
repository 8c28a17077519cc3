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

from helpers import generate, gguf, lora, sources, weights, world
from helpers.families import CATALOGUE
from helpers.tokenizer import bpe
from tests.gguf_files import back_in_halves, ggufs_name
from tests.test_sources import need
from tests.test_translation import hugging_faces_of
from tests.test_vocabulary import any_text, rendered, undisputed

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(deadline=None, derandomize=True, database=None)

ENGLISH = """The tide was out, and the long beach shone like a plate. Two children walked along it
with a bucket, looking for crabs under the stones. "Leave the small ones," said their grandfather,
"or there will be none in 2031." They had found 17 by noon, and let all of them go again. On the
way home they asked him how a crab knows which way is the sea, and he had to say that nobody had
ever told him, though he had wondered about it for sixty years.

That evening the younger one wrote a letter to the museum. "Dear keepers of the crabs," it began,
"we put one on the dry sand, 40 steps from the water, and turned it round three times. It went
straight back. It cannot have seen anything, because it is only as high as my thumb, and there was
a hill of sand before it. Does it hear the waves? My brother says it feels the slope, but we tried
it on a flat place too. Please answer soon, since school begins on Monday." Two weeks later there
was an answer, with a drawing. Some of them look at the light of the sky, the keeper wrote, and
some carry a little stone inside them that always falls to the same side; about the others we know
no more than you do, and would be glad of your notes. Come and see us when it rains."""
PORTUGUESE = """A maré estava baixa e a praia brilhava como um prato. Duas crianças caminhavam com
um balde, à procura de caranguejos debaixo das pedras. «Deixem os pequenos», disse o avô, «senão não
haverá nenhum.» Até ao meio-dia encontraram 17, e devolveram todos à água. No caminho para casa
perguntaram-lhe como é que um caranguejo sabe para que lado fica o mar, e ele teve de responder que
nunca ninguém lho dissera, embora há sessenta anos pensasse nisso. À noite, a mais nova escreveu uma
carta ao museu, e duas semanas depois chegou a resposta, com um desenho. Alguns olham para a luz do
céu, escrevia o guarda, e outros trazem dentro de si uma pedrinha que cai sempre para o mesmo lado;
dos restantes não sabemos mais do que vocês, e gostaríamos muito de ler as vossas notas."""
CODE = inspect.getsource(weights.write) + inspect.getsource(weights.load)
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
    return hugging_faces_of(said[0])


@pytest.fixture(scope="module")
def fast(said, reference):
    """transformers' tokenizer, which renders the template in the file itself."""
    template = said[0]["tokenizer.chat_template"]
    return tf.PreTrainedTokenizerFast(tokenizer_object=reference, chat_template=template)


# ---------------------------------------------------------------- the model

texts = pytest.mark.parametrize("text", [ENGLISH, PORTUGUESE, CODE], ids=["en", "pt", "code"])


@torch.no_grad()
def require_equal_logits(smollm, theirs, text, within, n=300):
    """Of n tokens at once; and in parts over the cache, the last dozen of them one by one."""
    model, tokenizer = smollm
    tokens = torch.tensor([tokenizer.encode(text)[:n]])
    expected = theirs(input_ids=tokens).logits
    assert tokens.shape[1] == n
    close = partial(torch.testing.assert_close, atol=within, rtol=0)
    close(model(tokens), expected)
    cache = model.new_cache(1, tokens.shape[1])
    steps = [model(part, cache) for part in (tokens[:, :-12], *tokens[:, -12:].split(1, dim=1))]
    close(torch.cat(steps, dim=1), expected)


@texts
def test_its_logits_are_transformers(smollm, theirs, text):
    """Logits reach 41. In 32 bits ours are up to 8e-5 from their own in 64, and theirs 1.1e-4."""
    require_equal_logits(smollm, theirs, text, within=2e-4)


def test_in_64_bits_its_logits_are_transformers_to_less_than_1e_4(smollm, theirs):
    """So the rest is rounding. Both keep the angles of their rotations in 32 bits: 2e-5."""
    model, tokenizer = smollm
    try:
        require_equal_logits((model.double(), tokenizer), theirs.double(), CODE, 5e-5, n=100)
    finally:
        model.float(), theirs.float()


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


# ---------------------------------------------------------------- and out again


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, our model) of SmolLM2 with adapters that are no longer zero, merged."""
    need("smollm2")
    model, tokenizer = weights.smollm_model(torch.bfloat16)
    torch.manual_seed(0)
    for matrix in lora.lora_parameters(lora.add_lora(model, 2, where=["wq", "wv"])).values():
        torch.nn.init.normal_(matrix, std=0.05)
    folder = tmp_path_factory.mktemp("out") / "smollm"
    weights.export(lora.merge(model), tokenizer, folder)
    return folder, model.float()


@torch.no_grad()
def test_transformers_reads_it_with_what_it_has_learnt(smollm, exported):
    folder, model = exported
    theirs = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor([smollm[1].encode(ENGLISH)[:50]])
    found = theirs(input_ids=tokens).logits
    torch.testing.assert_close(found, model(tokens), atol=2e-4, rtol=0)
    assert (found - smollm[0](tokens)).abs().max() > 0.1
    assert theirs.generation_config.eos_token_id == [0, 2]


@pytest.fixture(scope="module")
def handed_on(exported):
    """transformers' tokenizer of that folder."""
    return tf.AutoTokenizer.from_pretrained(exported[0])


@given(any_text.filter(undisputed))
@settings(steady, max_examples=200)
def test_transformers_reads_its_tokenizer_to_equal_ids(smollm, handed_on, text):
    ids = handed_on.encode(text)
    assert ids == smollm[1].encode(text, allow_special=True)
    assert handed_on.decode(ids) == smollm[1].decode(ids)


def test_transformers_renders_its_chats_and_so_do_we_again(smollm, handed_on, exported):
    _, same = weights.local_model(exported[0])
    for messages in (QUESTION, [{"role": "system", "content": "é"}, *QUESTION]):
        prompt = smollm[1].chat_prompt(messages)
        assert same.chat_prompt(messages) == prompt
        assert rendered(handed_on, messages, add_generation_prompt=True) == prompt
