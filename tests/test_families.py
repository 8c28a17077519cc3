"""python -m pytest tests/test_families.py -p no:nbval -o addopts="" """

import csv
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.config import Latent, MoE, Rope
from helpers.families import (
    CATALOGUE,
    GPT2_124M,
    LLAMA2_7B,
    LLAMA3_8B,
    RELATIVES,
    choices,
    difference,
    embedding_parameters,
    flops_per_token,
    in_words,
    kv_bytes,
    kv_bytes_per_token,
    matched,
    parameters,
    shown,
    tiny,
    training_bytes,
)
from helpers.model import Decoder, attend, rope_frequencies

# Published totals, and for mixtures the active part; bytes of cache per token in 16 bits.
PUBLISHED = {
    "GPT-2 124M": (124_439_808, 36_864),
    "GPT-2 355M": (354_823_168, 98_304),
    "GPT-2 774M": (774_030_080, 184_320),
    "GPT-2 1558M": (1_557_611_200, 307_200),
    "Llama 2 7B": (6_738_415_616, 524_288),
    "Llama 2 70B": (68_976_648_192, 327_680),
    "TinyLlama 1.1B": (1_100_048_384, 22_528),
    "SmolLM2 135M": (134_515_008, 23_040),
    "Llama 3 8B": (8_030_261_248, 131_072),
    "Llama 3.1 8B": (8_030_261_248, 131_072),
    "Llama 3.1 405B": (405_853_388_800, 516_096),
    "Llama 3.2 1B": (1_235_814_400, 32_768),
    "Llama 3.2 3B": (3_212_749_824, 114_688),
    "Llama 4 Scout": (107_769_861_120, 196_608),
    "Llama 4 Maverick": (400_711_848_960, 196_608),
    "GPT-OSS 20B": (20_914_757_184, 49_152),
    "GPT-OSS 120B": (116_829_156_672, 73_728),
    "Gemma 2 2B": (2_614_341_888, 106_496),
    "Gemma 2 9B": (9_241_705_984, 344_064),
    "Gemma 2 27B": (27_227_128_320, 376_832),
    "Gemma 3 270M": (268_098_176, 18_432),
    "Gemma 3 1B": (999_885_952, 26_624),
    "Gemma 3 4B": (3_880_099_328, 139_264),
    "Qwen3 0.6B": (596_049_920, 114_688),
    "Qwen3 30B-A3B": (30_532_122_624, 98_304),
    "Qwen3 235B-A22B": (235_093_634_560, 192_512),
    "DeepSeek-V3": (671_026_419_200, 70_272),
}
ACTIVE = {
    "Llama 4 Scout": 17_172_894_720,
    "Llama 4 Maverick": 17_184_691_200,
    "Qwen3 30B-A3B": 3_353_032_704,
    "Qwen3 235B-A22B": 22_190_763_520,
    "DeepSeek-V3": 37_552_282_624,
}
DEEPSEEK_V2_LITE = replace(
    CATALOGUE["DeepSeek-V3"],
    vocab_size=102400,
    n_layers=27,
    d_model=2048,
    n_heads=16,
    n_kv_heads=16,
    d_ff=10944,
    latent=Latent(kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128),
    moe=MoE(n_experts=64, n_active=6, d_ff=1408, router="grouped_softmax", n_shared=2),
    n_dense_first=1,
)

DEEPSEEK_V2 = replace(
    DEEPSEEK_V2_LITE,
    n_layers=60,
    d_model=5120,
    n_heads=128,
    n_kv_heads=128,
    d_ff=12288,
    latent=replace(DEEPSEEK_V2_LITE.latent, q_rank=1536),
    moe=replace(DEEPSEEK_V2_LITE.moe, n_experts=160, d_ff=1536, n_groups=8, n_active_groups=3),
)
GPT3 = replace(
    GPT2_124M,
    context_length=2048,
    n_layers=96,
    d_model=12288,
    n_heads=96,
    n_kv_heads=96,
    head_dim=128,
    d_ff=49152,
)

# ---------------------------------------------------------------- published numbers


def test_the_table_of_published_numbers_is_the_catalogue():
    assert PUBLISHED.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_cache_are_the_published_ones(name):
    assert (parameters(CATALOGUE[name]), kv_bytes_per_token(CATALOGUE[name])) == PUBLISHED[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_the_published_ones(name):
    assert parameters(CATALOGUE[name], active=True) == ACTIVE[name]


def test_active_parameters_of_gpt_oss_leave_the_embedding_out():
    """The card's 3.6 and 5.1 billion count the unembedding, not the table that is looked up."""
    active = {
        name: parameters(cfg, active=True) - embedding_parameters(cfg)
        for name, cfg in CATALOGUE.items()
    }
    assert active["GPT-OSS 20B"] == 3_608_307_264
    assert active["GPT-OSS 120B"] == 5_132_849_472


@pytest.mark.parametrize(
    ("cfg", "total", "active", "kv"),
    [
        (DEEPSEEK_V2_LITE, 15_706_484_224, 2_661_150_208, 31_104),
        (DEEPSEEK_V2, 235_741_434_880, 21_375_800_320, 69_120),
        (GPT3, 174_604_259_328, 174_604_259_328, 4_718_592),
    ],
    ids=["DeepSeek-V2 Lite", "DeepSeek-V2", "GPT-3"],
)
def test_a_model_outside_the_catalogue_is_counted_too(cfg, total, active, kv):
    assert parameters(cfg) == total
    assert parameters(cfg, active=True) == active
    assert kv_bytes_per_token(cfg) == kv


@pytest.mark.parametrize(
    ("name", "counts"), [("Llama 3.1 8B", (29, 6, 29)), ("Llama 3.2 1B", (15, 3, 14))]
)
def test_frequencies_kept_blended_and_divided_are_as_many_as_published(name, counts):
    cfg = CATALOGUE[name]
    plain = rope_frequencies(replace(cfg.rope, scaling="none"), cfg.head_dim)
    slower = plain / rope_frequencies(cfg.rope, cfg.head_dim)
    kept, divided = slower.eq(1).sum(), slower.isclose(torch.tensor(cfg.rope.factor)).sum()
    assert (kept, len(plain) - kept - divided, divided) == counts


# ---------------------------------------------------------------- equal to the built model


pytestmark = pytest.mark.usefixtures("one_thread")


TINY = {name: tiny(cfg) for name, cfg in CATALOGUE.items()}
TINY["DeepSeek-V2 Lite"] = tiny(DEEPSEEK_V2_LITE)
TINY["with biases in wq, wk and wv"] = replace(TINY["Llama 3 8B"], qkv_bias=True)
TINY["with one norm for all heads"] = replace(TINY["Llama 3 8B"], qk_norm="rms_all_heads")
TINY["with norms after, not before"] = replace(
    TINY["Llama 3 8B"], pre_norms=False, post_norms=True, rope=Rope(fraction=0.5)
)


@pytest.mark.parametrize("name", TINY)
def test_the_built_model_has_as_many_parameters(name):
    model = Decoder(TINY[name])
    assert parameters(TINY[name]) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["GPT-2 124M", "Llama 3.1 8B", "GPT-OSS 20B", "Gemma 3 1B"])
def test_the_model_at_full_size_has_as_many_parameters(name):
    with torch.device("meta"):  # shapes without numbers: no memory
        model = Decoder(CATALOGUE[name])
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", TINY)
def test_the_cache_has_as_many_bytes(name):
    cache = Decoder(TINY[name]).new_cache(B=1, length=30)
    assert cache.n_bytes == kv_bytes(TINY[name], T=30, bytes_per_number=4)
    assert kv_bytes(TINY[name], T=3) == 3 * kv_bytes_per_token(TINY[name])


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_tiny_model_runs_cached_and_uncached(name):
    torch.manual_seed(0)
    model, tokens = Decoder(TINY[name]), torch.randint(97, (2, 20))
    cache = model.new_cache(2, 20)
    parts = torch.cat([model(part, cache) for part in tokens.split([11, 1, 8], dim=1)], dim=1)
    torch.testing.assert_close(parts, model(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_one_token_costs_as_many_flops_as_torch_counts(name):
    """One token sees itself only, so no half of a score matrix is computed in vain."""
    model = Decoder(TINY[name])
    for block in model.blocks:
        block.attn.attend = attend  # torch does not count what its fused kernel does
    with FlopCounterMode(display=False) as forward:
        logits = model(torch.zeros(1, 1, dtype=torch.long))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    counted = forward.get_total_flops()
    assert counted == flops_per_token(TINY[name], T=1, training=False)
    assert counted + backward.get_total_flops() == flops_per_token(TINY[name], T=1)


# ---------------------------------------------------------------- laws and tables


def test_tiny_keeps_the_architecture():
    """Only numbers shrink: every choice, pattern and part is the large model's."""
    numbers = {"vocab_size", "context_length", "n_layers", "d_model", "n_heads", "n_kv_heads"}
    numbers |= {"head_dim", "d_ff", "window", "embed_scale", "attn_scale", "nope_temperature"}
    for name, cfg in CATALOGUE.items():
        changed = {row[0] for row in difference(cfg, tiny(cfg))}
        wide = {field for field in changed - numbers if not field.startswith(("moe.", "latent."))}
        assert wide == set(), name
        assert parameters(tiny(cfg)) < 250_000


def test_difference_is_the_table_of_what_changed():
    assert difference(LLAMA2_7B, LLAMA3_8B) == [
        ("vocab_size", 32000, 128256),
        ("context_length", 4096, 8192),
        ("n_kv_heads", 32, 8),
        ("d_ff", 11008, 14336),
        ("rope.theta", 10_000.0, 500_000.0),
    ]
    assert difference(LLAMA3_8B, LLAMA3_8B) == []
    assert ("rope", None, Rope()) in difference(GPT2_124M, LLAMA2_7B)


def test_flops_worked_by_hand():
    """Llama 2 7B, one token: 2 per weight in a product, 4 · 4096 in each layer's attention."""
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert flops_per_token(LLAMA2_7B, T=1, training=False) == 2 * weights + 32 * 4 * 4096
    assert flops_per_token(LLAMA2_7B, T=1) == 3 * flops_per_token(LLAMA2_7B, T=1, training=False)


def test_windows_and_chunks_make_long_sequences_cheaper():
    """T = 6: causal sees 3.5 keys on average, a window of 2 sees 11/6, chunks of 2 see 1.5."""
    base = replace(LLAMA2_7B, n_layers=1, window=2)
    costs = [flops_per_token(replace(base, pattern=letter), 6, training=False) for letter in "GWC"]
    per_key = 2 * 32 * 256
    assert costs[0] - costs[1] == pytest.approx((3.5 - 11 / 6) * per_key)
    assert costs[0] - costs[2] == pytest.approx((3.5 - 1.5) * per_key)


def test_training_takes_sixteen_bytes_a_parameter():
    assert training_bytes(GPT2_124M) == 16 * 124_439_808


# ---------------------------------------------------------------- the tree


def test_everyone_but_the_first_has_a_relative_in_the_catalogue():
    assert [*RELATIVES] == [*CATALOGUE][1:]
    assert set(RELATIVES.values()) <= set(CATALOGUE)


@pytest.mark.parametrize("name, relative", RELATIVES.items())
def test_no_one_in_the_catalogue_is_closer_than_the_relative_by_more_than_three(name, relative):
    """The tree follows history; it must not be far from the shortest tree."""
    earlier = [*CATALOGUE][: [*CATALOGUE].index(name)]
    distances = {other: len(choices(CATALOGUE[other], CATALOGUE[name])) for other in earlier}
    assert distances[relative] <= min(distances.values()) + 3


def test_choices_are_differences_that_are_no_sizes():
    names = [name for name, *_ in choices(GPT2_124M, LLAMA2_7B)]
    assert names == ["norm", "mlp", "bias", "rope", "learned_positions", "tie_embeddings"]
    assert choices(CATALOGUE["GPT-OSS 20B"], CATALOGUE["GPT-OSS 120B"]) == []


def test_fewer_key_heads_are_a_choice_and_more_heads_of_both_kinds_are_none():
    assert choices(LLAMA2_7B, CATALOGUE["Llama 2 70B"]) == [("n_kv_heads", 32, 8)]
    assert choices(LLAMA2_7B, replace(LLAMA2_7B, n_heads=64, n_kv_heads=64)) == []


@pytest.mark.parametrize("change", [{"mlp": "swiglu"}, {"n_kv_heads": 2}, {"norm": "rms"}])
def test_matched_comes_as_close_as_one_more_in_d_ff_can(change):
    small = tiny(GPT2_124M)
    found = matched(replace(small, **change), parameters(small))
    off = abs(parameters(found) - parameters(small))
    for step in (-1, 1):
        near = replace(found, d_ff=found.d_ff + step)
        assert off <= abs(parameters(near) - parameters(small))


@pytest.mark.parametrize(
    "value, text",
    [
        (131072, "131,072"),
        (True, "True"),
        (None, "None"),
        (0.0625, "0.0625"),
        ("swiglu", "swiglu"),
        (Rope(), "Rope()"),
        (Rope(theta=500_000.0, scaling="yarn"), "Rope(theta=5e+05, scaling=yarn)"),
        (MoE(n_experts=8, n_active=2, d_ff=4096), "MoE(n_experts=8, n_active=2, d_ff=4,096)"),
    ],
)
def test_a_field_is_shown_in_short(value, text):
    assert shown(value) == text


def test_words_of_gpt2_and_gpt_oss():
    old, new = in_words(GPT2_124M), in_words(CATALOGUE["GPT-OSS 120B"])
    assert old["attention"] == (["a key for each head", "biases"], "12 heads of 64")
    assert new["attention"][0] == [
        "a key for 8 heads",
        "rotary positions, base 150,000",
        "stretched by 32",
        "sees 128 tokens in 1 of 2 layers",
        "sinks",
        "biases",
    ]
    assert new["MLP"][1] == "4 of 128 experts, 2,880 wide"
    assert old["norm after MLP"] == ([], "") and old["MLP"][0] == ["GELU", "biases"]


@pytest.mark.parametrize("name", CATALOGUE)
def test_words_speak_of_the_same_parts_for_every_model(name):
    assert [*in_words(CATALOGUE[name])] == [*in_words(GPT2_124M)]


def test_the_recorded_ladder_is_the_one_that_its_script_climbs():
    script = Path(__file__).resolve().parents[1] / "assets" / "ladder.py"
    rungs = runpy.run_path(str(script))["ladder"](vocab_size=512)
    with open(script.with_suffix(".csv"), newline="") as file:
        runs = list(csv.DictReader(file))
    assert [run["rung"] for run in runs] == 3 * [*rungs]
    for run in runs:
        cfg = rungs[run["rung"]]
        assert int(run["parameters"]) == parameters(cfg)
        assert int(run["kv_bytes"]) == kv_bytes_per_token(cfg)
