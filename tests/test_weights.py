"""python -m pytest tests/test_weights.py -p no:nbval -o addopts="" """

import json
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from helpers import weights
from helpers.config import as_dict, from_dict
from helpers.families import CATALOGUE, tiny
from helpers.model import Decoder
from helpers.published import (
    HALVES,
    INTERLEAVED,
    ONE_PLUS,
    in_one_row,
    in_pairs,
    in_rows,
    plain,
    read_config,
    stacked,
    transposed,
    write_config,
)
from helpers.shelves import decode_mxfp4
from helpers.tokenizer import Tokenizer
from helpers.weights import from_pretrained, load, save, save_pretrained
from tests.reference import FAMILIES, T, V

SMALL = tiny(CATALOGUE["Llama 3 8B"], V)
TOKENS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(3))


pytestmark = pytest.mark.usefixtures("one_thread")


def decoder(cfg=SMALL):
    """A random decoder."""
    torch.manual_seed(0)
    return Decoder(cfg)


@lru_cache
def reference(family):
    """(model of transformers, our config), once for all tests."""
    return FAMILIES[family](0.1)


@torch.no_grad()
def logits(model):
    """The logits of TOKENS, from ours or theirs."""
    return model(TOKENS) if isinstance(model, Decoder) else model(input_ids=TOKENS).logits


def assert_same_weights(a, b):
    """Bit for bit, and no tensor more."""
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# ---------------------------------------------------------------- one file


def test_a_file_keeps_tensors_and_metadata(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3).t(), "b": torch.ones(2, dtype=torch.bfloat16)}
    weights.write(tmp_path / "x.safetensors", tensors, {"step": "7"})
    found, metadata = weights.read(tmp_path / "x.safetensors")
    assert metadata == {"step": "7"} and found.keys() == {"a", "b"}
    assert torch.equal(found["a"], tensors["a"]) and found["b"].dtype == torch.bfloat16


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    file = tmp_path / "x.safetensors"
    weights.write(file, {"a": torch.zeros(1000)}, {})
    found, _ = weights.read(file)
    file.write_bytes(b"\1" * file.stat().st_size)
    assert found["a"].eq(0).all()


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "x.safetensors"
    weights.write(file, {"a": torch.zeros(3)}, {})
    before = file.read_bytes()

    def half(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise weights.SafetensorError("No space left on device")

    monkeypatch.setattr(weights, "save_file", half)
    with pytest.raises(OSError, match=r"x\.safetensors could not be written.*No space left"):
        weights.write(file, {"a": torch.ones(3)}, {})
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("cut", [0, 5, 40, -1], ids=str)
def test_a_file_cut_short_is_refused(tmp_path, cut):
    file = tmp_path / "x.safetensors"
    weights.write(file, {"a": torch.zeros(300)}, {})
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"x\.safetensors is cut short or no safetensors file"):
        weights.read(file)


def test_nothing_is_unpickled(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no safetensors file"):
        weights.read(tmp_path / "x.pt")


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.safetensors"):
        weights.read(tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone"):
        weights.write(tmp_path / "gone" / "x.safetensors", {}, {})


# ---------------------------------------------------------------- our own format


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_config_comes_back_from_json(name):
    assert from_dict(json.loads(json.dumps(as_dict(CATALOGUE[name])))) == CATALOGUE[name]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"d_modell": 3}, "ModelConfig has no field d_modell"),
        ({"n_layers": "three"}, "ModelConfig has a field of a wrong type"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"rope": {"thetta": 3}}, "Rope has no field thetta"),
        ({"rope": 3}, "Rope is 3: give its fields by name"),
        ({"moe": {"n_experts": 3}}, "MoE needs the field d_ff, n_active"),
    ],
)
def test_values_that_are_no_config_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_dict(as_dict(SMALL) | change)
    with pytest.raises(ValueError, match="ModelConfig needs the field d_model"):
        from_dict({name: value for name, value in as_dict(SMALL).items() if name != "d_model"})


@pytest.mark.parametrize("name", ["GPT-2 124M", "Llama 4 Scout", "GPT-OSS 20B", "DeepSeek-V3"])
def test_a_saved_model_comes_back(tmp_path, name):
    model = decoder(tiny(CATALOGUE[name], V))
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.cfg == model.cfg and again.cfg.name == model.cfg.name
    assert_same_weights(again, model)
    trained = [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in again.parameters()] == trained
    assert torch.equal(logits(again), logits(model))


def test_tied_embeddings_are_written_once_and_stay_one(tmp_path):
    model = decoder(replace(SMALL, tie_embeddings=True))
    save(model, tmp_path / "m.safetensors")
    assert "lm_head.weight" not in load_file(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.lm_head.weight is again.tok_emb.weight


def test_a_model_is_loaded_in_the_dtype_asked_for(tmp_path):
    save(decoder().bfloat16(), tmp_path / "m.safetensors")
    kept, wide = load(tmp_path / "m.safetensors"), load(tmp_path / "m.safetensors", torch.float32)
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert torch.equal(kept.norm.weight.float(), wide.norm.weight)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("norm.weight"), "lacks the tensor norm.weight: its config"),
        (lambda t: (t.pop("norm.weight"), t.pop("lm_head.weight")), "lm_head.weight and 1 more"),
        (lambda t: t.update(x=torch.ones(1)), "should not have the tensor x"),
        (
            lambda t: t.update({"norm.weight": torch.ones(31)}),
            r"norm.weight has shape \(31,\), but its config makes it \(32,\)",
        ),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(tmp_path, change, sentence):
    file = tmp_path / "m.safetensors"
    save(decoder(), file)
    tensors, metadata = weights.read(file)
    change(tensors)
    weights.write(file, tensors, metadata)
    with pytest.raises(ValueError, match=sentence):
        load(file)


def test_a_file_without_config_is_refused(tmp_path):
    weights.write(tmp_path / "m.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(ValueError, match=r"holds no config: was it written by weights\.save"):
        load(tmp_path / "m.safetensors")


def test_the_story_model_comes_with_its_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    save(decoder().bfloat16(), tmp_path / "story_pt.safetensors")
    Tokenizer.train("era uma vez um gato", 265).save(tmp_path / "story_tokenizer.json")
    model, tokenizer = weights.story_model("pt")
    assert model.tok_emb.weight.dtype == torch.float32 and not model.training
    assert tokenizer.decode(tokenizer.encode("um gato")) == "um gato"
    with pytest.raises(ValueError, match=r"no story model for 'fr': choose \"en\" \(English\)"):
        weights.story_model("fr")
    with pytest.raises(FileNotFoundError, match=r"no file .*story_en\.safetensors"):
        weights.story_model()


def test_the_chat_model_comes_with_its_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    save(decoder().half(), tmp_path / "story_chat.safetensors")
    Tokenizer.train("era uma vez um gato", 265).save(tmp_path / "story_tokenizer.json")
    model, tokenizer = weights.chat_model()
    assert model.tok_emb.weight.dtype == torch.float32 and not model.training
    assert tokenizer.decode(tokenizer.encode("um gato")) == "um gato"


# ---------------------------------------------------------------- layouts, MXFP4

LAYOUTS = {
    "halves": (HALVES, (6, 3)),
    "interleaved": (INTERLEAVED, (6, 3)),
    "interleaved, a vector": (INTERLEAVED, (6,)),
    "rows": (in_rows(4, 1, 1), (6, 3)),
    "one row": (in_one_row(2), (6,)),
    "pairs": (in_pairs(2, 4), (12, 3)),
    "transposed rows": (transposed(in_rows(1, 2)), (6, 3)),
    "a transposed vector": (transposed(in_rows(4, 2)), (6,)),
    "stacked": (stacked(4, transposed(INTERLEAVED)), (4, 3, 6)),
    "one plus": (ONE_PLUS, (6,)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_taken_apart_can_be_put_together(name):
    layout, shape = LAYOUTS[name]
    theirs = torch.arange(float(torch.Size(shape).numel())).view(shape)
    assert torch.equal(layout.together(list(layout.apart(theirs))), theirs)


def test_layouts_worked_by_hand():
    """A head of 6 rows, of which the last 4 turn: 0 1 stay, then the firsts, then the seconds."""
    rows = torch.arange(6)
    assert in_pairs(1, 4).apart(rows)[0].tolist() == [0, 1, 2, 4, 3, 5]
    assert [part.tolist() for part in INTERLEAVED.apart(rows)] == [[0, 2, 4], [1, 3, 5]]
    assert [part.tolist() for part in stacked(2).apart(rows.view(2, 3))] == [[0, 1, 2], [3, 4, 5]]


def test_norms_near_one_lose_no_bit_in_16():
    """1 + 2⁻¹⁰ is not a number of bfloat16: there it would be 1."""
    theirs = torch.tensor([2**-10], dtype=torch.bfloat16)
    (ours,) = ONE_PLUS.apart(theirs)
    assert ours.item() == 1 + 2**-10 and ONE_PLUS.together([ours]).item() == 2**-10


def test_mxfp4_worked_by_hand():
    """The 16 numbers of 4 bits from the specification, times 2⁻¹, 2⁰ and 2³."""
    halves = [0, 1, 2, 3, 4, 6, 8, 12]  # twice 0, 0.5, 1, 1.5, 2, 3, 4, 6
    numbers = [h / 2 for h in halves] + [-h / 2 for h in halves]
    low_first = [(2 * i + 1) * 16 + 2 * i for i in range(8)]  # bytes that hold 0, 1, ..., 15
    blocks = torch.tensor([low_first * 2] * 3, dtype=torch.uint8)
    scales = torch.tensor([126, 127, 130], dtype=torch.uint8)
    for row, factor in zip(decode_mxfp4(blocks[:, None], scales[:, None]), (0.5, 1, 8)):
        assert row.tolist() == [factor * number for number in numbers * 2]


def packed(*shape, seed=0):
    """Random blocks and scales, (..., n, 16) and (..., n)."""
    draw = torch.Generator().manual_seed(seed)
    blocks = torch.randint(256, (*shape, 16), generator=draw, dtype=torch.uint8)
    return blocks, torch.randint(120, 130, shape, generator=draw, dtype=torch.uint8)


def test_mxfp4_equals_the_reference():
    blocks, scales = packed(3, 5, 2)
    expected = convert_moe_packed_tensors(blocks, scales)
    assert torch.equal(decode_mxfp4(blocks, scales).mT, expected)


def test_mxfp4_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"blocks have shape \(3, 15\), scales \(3,\): give"):
        decode_mxfp4(torch.zeros(3, 15).byte(), torch.zeros(3).byte())
    with pytest.raises(ValueError, match=r"scales \(4,\)"):
        decode_mxfp4(torch.zeros(3, 16).byte(), torch.zeros(4).byte())


def test_a_folder_in_mxfp4_is_read_as_if_it_were_not(tmp_path):
    cfg = tiny(CATALOGUE["GPT-OSS 20B"], V)
    save_pretrained(decoder(replace(cfg, d_ff=64, moe=replace(cfg.moe, d_ff=64))), tmp_path / "a")
    said, plain_tensors = read_folder(tmp_path / "a")
    packed_tensors = dict(plain_tensors)
    for name in [name for name in plain_tensors if name.endswith(("up_proj", "down_proj"))]:
        n_experts, columns, rows = packed_tensors.pop(name).shape
        blocks, scales = packed(n_experts, rows, columns // 32, seed=len(name))
        plain_tensors[name] = convert_moe_packed_tensors(blocks, scales)
        packed_tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    method = {"quantization_config": {"quant_method": "mxfp4"}}
    read = from_pretrained(write_folder(tmp_path / "b", said | method, packed_tensors))
    assert read.blocks[0].mlp.experts[7].down.weight.dtype == torch.bfloat16
    assert_same_weights(read, from_pretrained(write_folder(tmp_path / "c", said, plain_tensors)))


# ---------------------------------------------------------------- published folders, both ways


def read_folder(folder):
    """(config.json, tensors) of a folder with one file."""
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def write_folder(folder, said, tensors):
    """The folder, made of these."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(said))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def opened_by_transformers(folder):
    """Their model of a folder that we wrote; every tensor must have found its place."""
    model, info = tf.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_is_read(tmp_path, family):
    model, cfg = reference(family)
    model.save_pretrained(tmp_path / family)
    ours = from_pretrained(tmp_path / family)
    assert plain(ours.cfg) == plain(cfg) and ours.cfg.name == family
    torch.testing.assert_close(logits(ours), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_a_folder_of_ours(tmp_path, family):
    """Also written as just this architecture, where another could say the same."""
    model, _ = reference(family)
    model.save_pretrained(tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours", model_type=model.config.model_type)
    again = opened_by_transformers(tmp_path / "ours")
    assert type(again) is type(model)
    assert torch.equal(logits(again), logits(model))
    assert_same_weights(from_pretrained(tmp_path / "ours"), ours)


@pytest.mark.parametrize("family", ["gpt2", "llama3", "gemma2", "qwen3_moe", "gpt_oss", "llama4"])
def test_shards_are_read_and_written(tmp_path, family):
    model, _ = reference(family)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    ours = from_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours", max_shard_bytes=20_000)
    for folder in ("theirs", "ours"):
        assert len(list((tmp_path / folder).glob("model-0*-of-0*.safetensors"))) > 2
    assert torch.equal(logits(opened_by_transformers(tmp_path / "ours")), logits(model))
    assert_same_weights(from_pretrained(tmp_path / "ours"), ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_of_transformers_memory_is_read_too(tmp_path, family):
    """Where files keep experts one by one, memory keeps them in stacks."""
    model, _ = reference(family)
    model.save_pretrained(tmp_path / "file")
    said, found = read_folder(tmp_path / "file")[0], model.state_dict()
    tensors = {name: tensor.clone() for name, tensor in found.items()}
    memory = from_pretrained(write_folder(tmp_path / "memory", said, tensors))
    assert_same_weights(memory, from_pretrained(tmp_path / "file"))


def with_start(start, tensors):
    """The tensors with this before their names."""
    return {start + name: tensor for name, tensor in tensors.items()}


def test_old_files_of_gpt2_have_no_prefix_and_keep_the_mask(tmp_path):
    reference("gpt2")[0].save_pretrained(tmp_path / "new")
    said, tensors = read_folder(tmp_path / "new")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.0.attn.masked_bias": torch.ones(1)}
    found = from_pretrained(write_folder(tmp_path / "old", said, old))
    assert_same_weights(found, from_pretrained(tmp_path / "new"))


@pytest.mark.parametrize("start", ["language_model.", "model.language_model"])
@pytest.mark.parametrize("family", ["gemma3", "llama4"])
def test_of_a_model_that_also_sees_the_text_part_is_read(tmp_path, family, start):
    reference(family)[0].save_pretrained(tmp_path / "text")
    said, tensors = read_folder(tmp_path / "text")
    both = {"model_type": family, "text_config": said, "vision_config": {"hidden_size": 3}}
    if start == "language_model.":
        tensors = with_start(start, tensors)
    else:
        tensors = {name.replace("model.", f"{start}.", 1): t for name, t in tensors.items()}
    tensors |= {"vision_tower.x": torch.ones(1), "multi_modal_projector.x": torch.ones(1)}
    found = from_pretrained(write_folder(tmp_path / "both", both, tensors))
    assert_same_weights(found, from_pretrained(tmp_path / "text"))


def test_the_module_that_predicts_a_second_token_is_left(tmp_path):
    reference("deepseek_v3")[0].save_pretrained(tmp_path / "a")
    said, tensors = read_folder(tmp_path / "a")
    more = {"model.layers.3.eh_proj.weight": torch.ones(1), "model.layers.3.x": torch.ones(1)}
    found = from_pretrained(write_folder(tmp_path / "b", said, tensors | more))
    assert_same_weights(found, from_pretrained(tmp_path / "a"))


@pytest.mark.parametrize("family", ["gemma3", "qwen3_moe"])
def test_half_precision_comes_and_goes_without_loss(tmp_path, family):
    model = FAMILIES[family](0.1)[0].bfloat16()
    model.save_pretrained(tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs")
    assert ours.tok_emb.weight.dtype == torch.bfloat16
    save_pretrained(ours, tmp_path / "ours")
    again = opened_by_transformers(tmp_path / "ours")
    assert again.dtype == torch.bfloat16
    assert_same_weights(again, model)
    wide = from_pretrained(tmp_path / "theirs", torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}


def test_the_order_of_the_families_decides_who_is_written():
    assert write_config(SMALL)["model_type"] == "llama"
    assert write_config(SMALL, "phi3")["architectures"] == ["Phi3ForCausalLM"]
    with pytest.raises(ValueError, match=r"no config\.json of gemma2 can say all"):
        write_config(SMALL, "gemma2")
    with pytest.raises(ValueError, match=r"a published .* can say all .* our own format"):
        write_config(replace(SMALL, mlp="relu"))
    with pytest.raises(ValueError, match="model_type = 'bert', and known here is only 'gpt2' or"):
        write_config(SMALL, "bert")


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_model_of_the_catalogue_can_be_written(tmp_path, name):
    cfg, model = CATALOGUE[name], decoder(tiny(CATALOGUE[name], V))
    assert plain(read_config(json.loads(json.dumps(write_config(cfg))))[1]) == plain(cfg)
    save_pretrained(model, tmp_path / "m")
    assert_same_weights(from_pretrained(tmp_path / "m"), model)


# ---------------------------------------------------------------- config.json
# What the published files say of the arithmetic, with their own names and in their own style.

LLAMA_RULES = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
LLAMA3_SCALING = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA3 = LLAMA_RULES | {
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
GEMMA2 = {
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
QWEN3 = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA4_TEXT = {
    "model_type": "llama4_text",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "max_position_embeddings": 10485760,
    "no_rope_layers": [],
    "num_attention_heads": 40,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "num_local_experts": 16,
    "rms_norm_eps": 1e-05,
    "rope_scaling": LLAMA3_SCALING | {"factor": 16.0, "high_freq_factor": 1.0},
    "rope_theta": 500000.0,
    "use_qk_norm": True,
    "vocab_size": 202048,
}
DEEPSEEK_SCALING = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
FILES = {
    "GPT-2 124M": {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    },
    "Llama 2 7B": {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Llama 3 8B": LLAMA3,
    "Llama 3.1 8B": LLAMA3 | {"max_position_embeddings": 131072, "rope_scaling": LLAMA3_SCALING},
    "Llama 3.2 1B": LLAMA3
    | {
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_hidden_layers": 16,
        "rope_scaling": LLAMA3_SCALING | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "Gemma 2 2B": GEMMA2,
    "Gemma 2 27B": GEMMA2
    | {
        "head_dim": 128,
        "hidden_size": 4608,
        "intermediate_size": 36864,
        "num_attention_heads": 32,
        "num_hidden_layers": 46,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 144,
    },
    "Gemma 3 1B": {
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "Gemma 3 4B": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    },
    "Qwen3 0.6B": QWEN3,
    "Qwen3 30B-A3B": QWEN3
    | {
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "GPT-OSS 20B": {
        "model_type": "gpt_oss",
        "attention_bias": True,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072,
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "quantization_config": {"quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": 201088,
    },
    "Llama 4 Scout": {"model_type": "llama4", "text_config": LLAMA4_TEXT},
    "Llama 4 Maverick": {
        "model_type": "llama4",
        "text_config": LLAMA4_TEXT
        | {
            "interleave_moe_layer_step": 2,
            "max_position_embeddings": 1048576,
            "num_local_experts": 128,
            "rope_scaling": None,
            "use_qk_norm": False,
        },
    },
    "DeepSeek-V3": {
        "model_type": "deepseek_v3",
        "attention_bias": False,
        "first_k_dense_replace": 3,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": DEEPSEEK_SCALING,
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
}
# Where a file says another number than the catalogue, which follows the report or the counts: rows
# for images in the vocabulary, positions with the last stretching, the width of no dense layer.
SAID_OTHERWISE = {
    "Gemma 3 4B": {"vocab_size": 262208},
    "DeepSeek-V3": {"context_length": 163840},
}


@pytest.mark.parametrize("name", FILES)
def test_a_published_config_is_the_entry_of_the_catalogue(name):
    expected = replace(CATALOGUE[name], **SAID_OTHERWISE.get(name, {}))
    assert read_config(FILES[name])[1] == expected


@pytest.mark.parametrize("name", FILES)
def test_the_new_style_says_the_same(name):
    """What transformers makes of the old style and writes in the new one."""
    said = FILES[name].get("text_config", FILES[name])
    new = tf.AutoConfig.for_model(**{k: v for k, v in said.items() if k != "quantization_config"})
    assert read_config(json.loads(new.to_json_string(use_diff=False)))[1] == read_config(said)[1]


# Fields that change no logits: for training, generation, speed or bookkeeping;
NO_ARITHMETIC = set(
    "_name_or_path architectures attention_dropout attn_pdrop bos_token_id chunk_size_feed_forward "
    "dtype embd_pdrop eos_token_id hidden_dropout id2label is_encoder_decoder label2id "
    "num_nextn_predict_layers output_attentions output_hidden_states output_router_logits "
    "pad_token_id pretraining_tp problem_type reorder_and_upcast_attn resid_pdrop return_dict "
    "router_aux_loss_coef router_jitter_noise summary_activation summary_first_dropout "
    "summary_proj_to_labels summary_type summary_use_proj transformers_version use_cache".split()
)
# and those that another field decides: what layer_types, no_rope_layers or moe_layers spell out,
# windows that use_sliding_window switches off, sums of two widths, a context never stretched.
DECIDED_ELSEWHERE = {
    "gemma3": {"_sliding_window_pattern"},
    "qwen2": {"sliding_window", "max_window_layers"},
    "qwen3": {"sliding_window", "max_window_layers"},
    "qwen3_moe": {"sliding_window"},
    "llama4": {"no_rope_layer_interval", "interleave_moe_layer_step"},
    "deepseek_v2": {"qk_head_dim", "head_dim"},
    "deepseek_v3": {"qk_head_dim", "head_dim"},
    "phi3": {"original_max_position_embeddings"},
}


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 2 * value + 2
    if isinstance(value, list):
        return value[:-1] if value else [0]
    return {"rope_type": "linear", "factor": 3.0} if isinstance(value, dict) else "other"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_field_of_transformers_is_passed_over(family):
    """Each field of their class, changed, changes our config or is refused."""
    said = json.loads(reference(family)[0].config.to_json_string(use_diff=False))
    cfg, passed_over = read_config(said)[1], []
    for name in said.keys() - NO_ARITHMETIC - DECIDED_ELSEWHERE.get(family, set()):
        try:
            same = read_config(said | {name: changed(said[name])})[1] == cfg
        except ValueError:
            same = False
        passed_over += [name] if same else []
    assert passed_over == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "bert"}, "model_type = 'bert', and known here is only 'gpt2' or 'llama'"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu', and known here is only 'silu' or None"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type = 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "does not say factor"),
        ({"rope_scaling": 3}, "a field of a wrong type"),
        ({"layer_types": ["full_attention"]}, "as many layer_types = 1, .* is only 32"),
        ({"layer_types": ["linear_attention"] * 32}, "layer_types = 'linear_attention'"),
        ({"hidden_size": "wide"}, "a field of a wrong type or size"),
        ({"num_attention_heads": 0}, "a field of a wrong type or size"),
        ({"num_key_value_heads": 5}, "n_heads is 32, n_kv_heads 5"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers = 1000000000000: no model has so many"),
        ({"rms_norm_eps": 0}, "norm_eps is 0"),
    ],
    ids=str,
)
def test_a_config_that_we_cannot_read_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_config(LLAMA3 | change)


def test_a_config_that_leaves_out_a_size_is_refused():
    said = {name: value for name, value in LLAMA3.items() if name != "hidden_size"}
    with pytest.raises(ValueError, match=r"config\.json does not say hidden_size"):
        read_config(said)


# ---------------------------------------------------------------- folders that are refused


@pytest.fixture
def folder(tmp_path):
    """A folder of our small model."""
    save_pretrained(decoder(), tmp_path / "m")
    return tmp_path / "m"


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop(Q_PROJ), f"lacks the tensor {Q_PROJ}, of which its config.json speaks"),
        (
            lambda t: t.update({Q_PROJ: t[Q_PROJ][:, 1:]}),
            rf"{Q_PROJ} has shape \(32, 31\), which does not make the \(32, 32\) of "
            r"blocks.1.attn.wq.weight",
        ),
        (lambda t: t.update({"model.x": torch.ones(1)}), "holds model.x, a tensor for which its"),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
            "holds model.layers.0.self_attn.q_proj.bias",
        ),
    ],
    ids=["missing", "misshaped", "extra", "extra bias"],
)
def test_a_folder_with_a_wrong_tensor_is_refused(folder, tmp_path, change, sentence):
    said, tensors = read_folder(folder)
    change(tensors)
    with pytest.raises(ValueError, match=sentence):
        from_pretrained(write_folder(tmp_path / "wrong", said, tensors))


@pytest.mark.parametrize("name", ["GPT-2 124M", "GPT-OSS 20B", "Llama 4 Scout", "DeepSeek-V3"])
def test_any_tensor_cut_by_a_row_is_refused_by_name(tmp_path, name):
    """Also where it cannot even be taken apart: fused, stacked, in pairs."""
    save_pretrained(decoder(tiny(CATALOGUE[name], V)), tmp_path / "m")
    said, tensors = read_folder(tmp_path / "m")
    for i, theirs in enumerate(name for name in tensors if ".1." in name or "layers" not in name):
        cut = tensors | {theirs: tensors[theirs][1:]}
        with pytest.raises(ValueError, match=f"{theirs} has shape"):
            from_pretrained(write_folder(tmp_path / str(i), said, cut))


def test_a_folder_that_is_not_whole_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"model\.safetensors is cut short"):
        from_pretrained(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in .*, and no index"):
        from_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a pickle \(pytorch_model\.bin\), and nothing is unp"):
        from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json is cut short or no JSON table"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json in .*m: is it a model"):
        from_pretrained(folder)


def test_a_missing_shard_is_named(tmp_path):
    save_pretrained(decoder(), tmp_path / "m", max_shard_bytes=20_000)
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"index.json names {shards[1].name}, which is not"):
        from_pretrained(tmp_path / "m")


def test_weights_in_8_bits_are_refused(folder):
    said = json.loads((folder / "config.json").read_text())
    said["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="quantized as fp8, and only mxfp4 is decoded here"):
        from_pretrained(folder)


# ---------------------------------------------------------------- writing


def test_an_interrupted_save_leaves_the_folder_as_it_was(folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    whole, count = weights.save_file, []

    def break_at_the_second(tensors, name, metadata):
        count.append(name)
        if len(count) == 2:
            raise KeyboardInterrupt
        whole(tensors, name, metadata)

    monkeypatch.setattr(weights, "save_file", break_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(decoder(), folder, max_shard_bytes=20_000)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_first_save_leaves_no_folder(tmp_path, monkeypatch):
    def fail(tensors, name, metadata):
        raise weights.SafetensorError("No space left on device")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(decoder(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_saving_again_leaves_nothing_of_the_old_weights(folder):
    (folder / "tokenizer.json").write_text("{}")
    small = decoder(replace(SMALL, n_layers=1))
    for limit in (20_000, 1e9, 30_000):
        save_pretrained(small, folder, max_shard_bytes=limit)
        assert_same_weights(from_pretrained(folder), small)
        assert (folder / "tokenizer.json").exists()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {file.name for file in folder.glob("*.safetensors")}
    assert set(index["weight_map"].values()) == shards


def test_a_folder_that_no_one_made_is_not_made_in_the_dark(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone: make it"):
        save_pretrained(decoder(), tmp_path / "gone" / "m")


# ---------------------------------------------------------------- memory

PEAK = """
import sys
from helpers.weights import from_pretrained

def kilobytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

before = kilobytes("VmRSS")
model = from_pretrained(sys.argv[1])
print(sum(p.nbytes for p in model.parameters()), 1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_loading_takes_little_more_memory_than_the_model(tmp_path):
    """All memory in use at the peak, pages of the file included: the model and one tensor."""
    cfg = replace(CATALOGUE["GPT-OSS 20B"], vocab_size=2000, n_layers=8, d_model=512, n_heads=8)
    cfg = replace(cfg, moe=replace(cfg.moe, n_experts=4, d_ff=512))
    save_pretrained(Decoder(cfg).bfloat16(), tmp_path / "m")
    command = [sys.executable, "-c", PEAK, tmp_path / "m"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n_bytes, peak = map(int, done.stdout.split())
    assert 60e6 < n_bytes < peak < 1.25 * n_bytes
