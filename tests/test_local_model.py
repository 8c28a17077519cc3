"""python -m pytest tests/test_local_model.py -p no:nbval -o addopts=""

What a student downloads comes in by one call, and what a student made goes out by one.
"""

import json
import warnings
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import memory, weights
from helpers.families import CATALOGUE, tiny
from helpers.generate import generate
from helpers.lora import add_lora, merge
from helpers.model import Decoder
from helpers.tokenizer import Tokenizer
from helpers.vocabulary import Published, from_folder
from helpers.weights import export, from_gguf, from_pretrained, local_model
from tests.gguf_files import gguf_bytes, llama_metadata, llama_tensors
from tests.reference import FAMILIES, V
from tests.test_tokenizer import REAL_TEXT
from tests.test_translation import SMALL as VOCABULARY
from tests.test_vocabulary import CHATML, TALK, any_text, rendered, undisputed
from tests.test_weights import (
    assert_same_weights,
    decoder,
    logits,
    opened_by_transformers,
    read_folder,
    reference,
)
from tests.tokenizer_files import bytewise, hugging_faces, spacewise

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(deadline=None, derandomize=True, database=None)


# ---------------------------------------------------------------- what comes in
STYLES = {  # a tokenizer in the family's own style
    "gpt2": lambda: bytewise("gpt2"),
    "llama2": lambda: spacewise("llama2, new"),
    "llama3": lambda: bytewise("llama3"),
    "gemma3": lambda: spacewise("gemma3"),
    "qwen3": lambda: bytewise("qwen3", normalizer={"type": "NFC"}),
    "gpt_oss": lambda: bytewise("gpt_oss"),
    "deepseek_v3": lambda: bytewise("deepseek"),
}


def with_tokenizer(folder, said, **config):
    """The folder, these two files added."""
    (folder / "tokenizer.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_downloaded_folder_is_a_model_and_its_tokenizer(tmp_path, family):
    model, _ = reference(family)
    model.save_pretrained(tmp_path)
    said = STYLES.get(family, STYLES["gpt2"])()
    ours, tokenizer = local_model(with_tokenizer(tmp_path, said, chat_template=CHATML))
    torch.testing.assert_close(logits(ours), logits(model), atol=1e-5, rtol=1e-5)
    assert tokenizer.encode("São 12") == hugging_faces(said).encode("São 12").ids
    assert not ours.training and isinstance(tokenizer, Published)


@pytest.mark.parametrize("family", ["gpt2", "llama3", "gemma3"])
def test_a_single_file_finds_its_config_beside_it(tmp_path, family):
    model, _ = reference(family)
    model.save_pretrained(tmp_path)
    file = (tmp_path / "model.safetensors").rename(tmp_path / "my weights.safetensors")
    ours, tokenizer = local_model(file)
    assert tokenizer is None
    torch.testing.assert_close(logits(ours), logits(model), atol=1e-5, rtol=1e-5)


def test_one_file_of_several_stands_for_all(tmp_path):
    reference("llama3")[0].save_pretrained(tmp_path, max_shard_size="20KB")
    part = sorted(tmp_path.glob("*.safetensors"))[1]
    assert_same_weights(local_model(part)[0], from_pretrained(tmp_path))


def test_a_file_beside_those_of_the_index_stands_for_itself(tmp_path):
    reference("llama3")[0].save_pretrained(tmp_path, max_shard_size="20KB")
    whole = tmp_path / "consolidated.safetensors"
    tensors = {}
    for part in tmp_path.glob("model-*.safetensors"):
        tensors |= weights.read(part)[0]
    weights.write(whole, {name: 2 * tensor for name, tensor in tensors.items()}, {})
    ours, other = local_model(whole)[0], from_pretrained(tmp_path)
    assert torch.equal(ours.norm.weight, 2 * other.norm.weight)


def test_a_downloaded_model_comes_in_the_dtype_asked_for(tmp_path):
    FAMILIES["qwen3"](0.1)[0].bfloat16().save_pretrained(tmp_path)
    assert local_model(tmp_path)[0].tok_emb.weight.dtype == torch.bfloat16
    assert local_model(str(tmp_path), torch.float32)[0].tok_emb.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["32 bits", "16 bits"])
def test_tied_embeddings_come_and_go_as_one(tmp_path, dtype):
    config = deepcopy(reference("llama3")[0].config)
    config.tie_word_embeddings = True
    tf.LlamaForCausalLM(config).to(dtype).save_pretrained(tmp_path / "in")
    ours = local_model(tmp_path / "in")[0]
    assert ours.lm_head.weight is ours.tok_emb.weight and ours.tok_emb.weight.dtype == dtype
    export(ours, Tokenizer([]), tmp_path / "out")
    for folder in ("in", "out"):
        assert "lm_head.weight" not in read_folder(tmp_path / folder)[1]
        theirs = opened_by_transformers(tmp_path / folder).float()
        found = logits(local_model(tmp_path / folder, torch.float32)[0])
        torch.testing.assert_close(found, logits(theirs), atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """A GGUF file with a tokenizer of 952 tokens."""
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    model = FAMILIES["llama3"](0.1)[0]
    model.resize_token_embeddings(len(VOCABULARY["tokenizer.ggml.tokens"]))
    said = llama_metadata(model.config) | VOCABULARY
    file.write_bytes(gguf_bytes(said, llama_tensors(model)))
    return file


def test_a_gguf_file_is_a_model_and_its_tokenizer(gguf_file):
    model, tokenizer = local_model(gguf_file)
    assert_same_weights(model, from_gguf(gguf_file))
    assert not model.training
    assert len(generate(model, [tokenizer.chat_prompt(TALK[:1])], 3)[0]) == 3
    assert tokenizer.decode(tokenizer.encode("the end")) == "the end"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s | {"normalizer": {"type": "Lowercase"}}, 'changes the text by .*"Lowercase"'),
        (
            lambda s: s | {"pre_tokenizer": {"type": "Whitespace"}},
            'cuts the text by .*"Whitespace"',
        ),
        (lambda s: s | {"model": {"type": "Unigram", "vocab": []}}, "model type = 'Unigram'"),
    ],
)
def test_a_tokenizer_not_known_here_is_named_and_left(tmp_path, change, sentence):
    reference("llama3")[0].save_pretrained(tmp_path)
    with_tokenizer(tmp_path, change(bytewise("llama3")))
    with pytest.warns(UserWarning, match=f"^there is no tokenizer: .*{sentence}"):
        model, tokenizer = local_model(tmp_path)
    assert tokenizer is None and isinstance(model, Decoder)


def small_gguf(folder, **said):
    """A GGUF file of a small model, whose metadata say this, too."""
    model = FAMILIES["llama3"](0.1)[0]
    said = llama_metadata(model.config) | {f"tokenizer.ggml.{n}": v for n, v in said.items()}
    (folder / "m.gguf").write_bytes(gguf_bytes(said, llama_tensors(model)))
    return folder / "m.gguf"


def test_the_tokenizer_of_a_gguf_file_may_be_of_another_kind_or_not_there(tmp_path):
    with pytest.warns(UserWarning, match=r"no tokenizer: .*m\.gguf: its tokenizer is 'llama' with"):
        assert local_model(small_gguf(tmp_path, model="llama"))[1] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert local_model(small_gguf(tmp_path))[1] is None


def test_a_gguf_file_whose_tokenizer_contradicts_itself_is_refused(tmp_path):
    file = small_gguf(tmp_path, model="gpt2", pre="smollm", tokens=["a"], token_type=[1, 1])
    with pytest.raises(ValueError, match=r"m\.gguf: it has not as many tokens as token_type"):
        local_model(file)


def test_where_all_is_well_nothing_is_said(tmp_path):
    reference("llama3")[0].save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        local_model(with_tokenizer(tmp_path, bytewise("llama3")))


# ---------------------------------------------------------------- what is refused


def test_a_path_that_leads_nowhere_is_named(tmp_path, gguf_file):
    for name in ("gone", "gone.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"there is no config\.json in "):
            local_model(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.gguf"):
        local_model(tmp_path / "gone.gguf")
    with pytest.raises(
        FileNotFoundError, match=r"no config\.json in .*: give the file m\.gguf its"
    ):
        local_model(gguf_file.parent)


def test_a_config_without_weights_is_refused(tmp_path):
    reference("llama3")[0].save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in .*, and no index of se"):
        local_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no other\.safetensors in "):
        local_model(tmp_path / "other.safetensors")


@pytest.mark.parametrize("said", ['{"weight_map": ["a"]}', "{}", '{"weight_map": {"a": 3}}'])
def test_an_index_of_nothing_is_refused(tmp_path, said):
    reference("llama3")[0].save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(said)
    with pytest.raises(ValueError, match=r"index\.json has no weight_map from tensors to files"):
        local_model(tmp_path)


def test_a_damaged_tokenizer_is_refused_before_the_weights_are_read(tmp_path, monkeypatch):
    reference("llama3")[0].save_pretrained(tmp_path)
    with_tokenizer(tmp_path, bytewise("llama3"))
    file = tmp_path / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    monkeypatch.setattr(weights.Shelf, "read", None)
    with pytest.raises(ValueError, match=r"tokenizer\.json is cut short or no JSON table"):
        local_model(tmp_path)


# ---------------------------------------------------------------- memory


def refusal(monkeypatch, path, free, dtype=None, read=local_model):
    """The sentence with which a model is refused where so much is free, and before it is read."""
    monkeypatch.setattr(memory, "free", lambda: free)
    for shelf in (weights.Shelf, weights.GgufShelf):
        monkeypatch.setattr(shelf, "read", None)
    with pytest.raises(memory.TooLarge) as caught:
        read(path, dtype)
    return str(caught.value)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder with 37,748,736 numbers in bfloat16, of which the embeddings are 33,554,432."""
    folder = tmp_path_factory.mktemp("large") / "m"
    cfg = tiny(CATALOGUE["Llama 3 8B"], 2**15)
    cfg = replace(cfg, d_model=1024, d_ff=64, n_layers=1, head_dim=2, tie_embeddings=True)
    weights.save_pretrained(decoder(cfg).bfloat16(), folder)
    return folder


def test_a_model_too_large_is_refused_before_it_is_read(large, monkeypatch):
    numbers = sum(p.numel() for p in from_pretrained(large).parameters())
    beside = 2 * 2**25  # the embeddings, as they are in the file
    assert refusal(monkeypatch, large, 4 * numbers + beside - 1, torch.float32) == (
        f"{large} needs 202 MB, 202 MB free: load it in bfloat16 (dtype=torch.bfloat16), 135 MB"
    )
    assert refusal(monkeypatch, large, 2 * numbers + beside - 1) == (
        f"{large} needs 135 MB, 135 MB free: close other programs, or take a smaller model"
    )


def test_a_model_that_just_fits_is_read(large, monkeypatch):
    numbers = sum(p.numel() for p in from_pretrained(large).parameters())
    for dtype, size in ((torch.float32, 4), (None, 2)):
        monkeypatch.setattr(memory, "free", lambda size=size: size * numbers + 2 * 2**25)
        assert local_model(large, dtype)[0].tok_emb.weight.itemsize == size


def test_a_gguf_file_is_unpacked_to_32_bits(gguf_file, monkeypatch):
    numbers = sum(p.numel() for p in from_gguf(gguf_file).parameters())
    beside = 4 * from_gguf(gguf_file).tok_emb.weight.numel()
    for read in (local_model, from_gguf):
        with monkeypatch.context() as patch:
            said = refusal(patch, gguf_file, 4 * numbers + beside - 1, read=read)
            assert "load it in bfloat16" in said
    monkeypatch.setattr(memory, "free", lambda: 4 * numbers + beside)
    assert local_model(gguf_file)


def test_packed_experts_count_as_they_are_unpacked(tmp_path, monkeypatch):
    """As many bytes as the same folder not packed needs."""
    cfg = tiny(CATALOGUE["GPT-OSS 20B"], V)
    cfg = replace(cfg, d_ff=64, moe=replace(cfg.moe, d_ff=64))
    weights.save_pretrained(decoder(cfg).bfloat16(), tmp_path / "plain")
    said, tensors = read_folder(tmp_path / "plain")
    for name in [name for name in tensors if name.endswith(("up_proj", "down_proj"))]:
        n_experts, columns, rows = tensors.pop(name).shape
        shape = n_experts, rows, columns // 32
        tensors[f"{name}_blocks"] = torch.zeros(*shape, 16, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.zeros(shape, dtype=torch.uint8)
    (tmp_path / "packed").mkdir()
    weights.write(tmp_path / "packed" / "model.safetensors", tensors, {})
    (tmp_path / "packed" / "config.json").write_text(json.dumps(said))
    needed = []
    monkeypatch.setattr(memory, "require", lambda n_bytes, *_: needed.append(n_bytes))
    for name in ("plain", "packed"):
        from_pretrained(tmp_path / name)
    assert needed[0] == needed[1] > 0


# ---------------------------------------------------------------- what goes out


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(folder, model, tokenizer) of a small model of the course, exported."""
    tokenizer = Tokenizer.train(REAL_TEXT, 600)
    cfg = replace(tiny(CATALOGUE["Llama 3 8B"], 600), context_length=128)
    model, folder = decoder(cfg), tmp_path_factory.mktemp("own") / "m"
    export(model, tokenizer, folder)
    return folder, model, tokenizer


@pytest.fixture(scope="module")
def theirs(own):
    """transformers' tokenizer of that folder."""
    return tf.AutoTokenizer.from_pretrained(own[0])


def test_transformers_reads_our_own_model_to_equal_logits(own):
    folder, model, _ = own
    found = logits(opened_by_transformers(folder))
    torch.testing.assert_close(found, logits(model), atol=1e-6, rtol=1e-5)


@given(text=any_text.filter(undisputed))
@settings(steady, max_examples=150)
def test_transformers_reads_our_own_tokenizer_to_equal_ids(own, theirs, text):
    ids = own[2].encode(text, allow_special=True)
    assert theirs.encode(text) == theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.decode(ids) == own[2].decode(ids)


@given(st.lists(any_text.filter(lambda t: undisputed(t) and "<|" not in t), min_size=1, max_size=3))
@settings(steady, max_examples=60)
def test_transformers_renders_our_own_chats(own, theirs, contents):
    roles = ["user", "assistant", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents)]
    assert rendered(theirs, messages) == own[2].render_chat(messages)[0]
    if len(messages) % 2:
        prompt = rendered(theirs, messages, add_generation_prompt=True)
        assert prompt == own[2].chat_prompt(messages)


def test_what_transformers_makes_of_our_tokenizer_comes_in_again(own, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    same = from_folder(tmp_path)
    assert same.encode(REAL_TEXT[-5000:]) == own[2].encode(REAL_TEXT[-5000:])
    assert same.render_chat(TALK) == own[2].render_chat(TALK)


@torch.no_grad()
def test_transformers_stops_where_a_turn_ends(own, tmp_path):
    _, model, tokenizer = own
    model = weights.fill(weights.empty_decoder(model.cfg), deepcopy(model.state_dict()))
    model.lm_head.weight[tokenizer.end] = 3 * model.lm_head.weight[7]  # what it often says
    prompt = tokenizer.chat_prompt(TALK[:1])
    ours = generate(model, [prompt], 40, stop=[tokenizer.end])[0]
    export(model, tokenizer, tmp_path / "m")
    theirs = opened_by_transformers(tmp_path / "m").generate(
        torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=0
    )
    assert theirs[0].tolist() == [*prompt, *ours, tokenizer.end]


def test_what_went_out_comes_in_again(own):
    folder, model, tokenizer = own
    again, same = local_model(folder)
    assert_same_weights(again, model)
    assert same.render_chat(TALK) == tokenizer.render_chat(TALK)


def test_a_downloaded_tokenizer_goes_out_as_it_came(tmp_path):
    (tmp_path / "in").mkdir()
    reference("gemma3")[0].save_pretrained(tmp_path / "in")
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "GemmaTokenizer"}
    said = spacewise("gemma3")
    model, tokenizer = local_model(with_tokenizer(tmp_path / "in", said, **config))
    export(model, tokenizer, tmp_path / "out")
    files = {file.name: json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")}
    assert files["tokenizer.json"] == said
    assert files["tokenizer_config.json"].items() >= config.items()
    assert files["generation_config.json"] == {"eos_token_id": [2]}
    assert_same_weights(local_model(tmp_path / "out")[0], model)


def test_adapters_go_out_merged_or_not_at_all(tmp_path):
    model = add_lora(decoder(), rank=2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".B"):
                p.normal_()
    with pytest.raises(
        ValueError, match=r"the model has blocks\.0\.attn\.wk\.A, .* merge it first"
    ):
        export(model, Tokenizer([]), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    expected = logits(model)
    export(merge(model), Tokenizer([]), tmp_path / "m")
    found = logits(opened_by_transformers(tmp_path / "m"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_export_that_fails_leaves_the_folder_as_it_was(own, tmp_path, monkeypatch):
    export(own[1], own[2], tmp_path / "m")
    before = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_write_json", fail)
    with pytest.raises(OSError, match="No space left"):
        export(decoder(), Tokenizer([]), tmp_path / "m")
    assert {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_what_no_published_folder_holds_is_refused(own, tmp_path):
    with pytest.raises(ValueError, match="a published architecture can say all"):
        export(decoder(replace(own[1].cfg, mlp="relu")), own[2], tmp_path / "m")
    with pytest.raises(ValueError, match="only a tokenizer that cuts by GPT2_PATTERN"):
        export(own[1], Tokenizer([], pattern=r"\S+|\s+"), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_an_export_leaves_nothing_of_another_tokenizer(own, tmp_path):
    (tmp_path / "m").mkdir()
    for name in ("chat_template.jinja", "special_tokens_map.json", "notes.txt"):
        (tmp_path / "m" / name).write_text("{}")
    export(own[1], own[2], tmp_path / "m")
    left = {file.name for file in (tmp_path / "m").iterdir()}
    assert "notes.txt" in left and left.isdisjoint(weights.OF_A_TOKENIZER)
