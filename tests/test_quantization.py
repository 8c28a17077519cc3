"""Weights in few bits: rounding, groups, MXFP4, products of codes, and whole models.

python -m pytest tests/test_quantization.py -p no:nbval -o addopts=""
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from helpers import lora, quantization, recipe, train, weights
from helpers.config import Latent, ModelConfig, MoE
from helpers.generate import generate
from helpers.model import Decoder
from helpers.quantization import (
    CodedLinear,
    HalfLinear,
    Int4Linear,
    Int8Linear,
    dequantized,
    halves,
    mxfp4,
    nbytes,
    nearest_fp4,
    quantize,
    quantized,
    relative_error,
    two_digits,
    whole_product,
)
from helpers.shelves import decode_mxfp4
from tests.test_sources import need

steady = settings(deadline=None, derandomize=True, database=None, max_examples=60)
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP4 += [-x for x in FP4]


def normal(*shape, seed=0, scale=1.0):
    """Random numbers, the same each time."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- rounding and groups


def test_four_numbers_by_hand_without_offset():
    """The scale is 14 / 7 = 2: -7 is -3.5 steps, which goes to the even -4, and 3.4 is 1.7."""
    rounded = quantize(torch.tensor([[-7.0, 3.4, 0.0, 14.0]]), 4, None, "symmetric")
    assert rounded.codes.tolist() == [[-4, 2, 0, 7]] and rounded.scales.tolist() == [[2.0]]
    assert rounded.offsets is None
    assert rounded.dequantize().tolist() == [[-8.0, 4.0, 0.0, 14.0]]


def test_four_numbers_by_hand_with_offset():
    """Four codes, -2 to 1, for 1 to 10: steps of 3 from 1, so that code 0 stands for 7."""
    rounded = quantize(torch.tensor([[1.0, 5.0, 6.0, 10.0]]), 2, None, "affine")
    assert rounded.codes.tolist() == [[-2, -1, 0, 1]]
    assert (rounded.scales.item(), rounded.offsets.item()) == (3.0, 7.0)
    assert rounded.dequantize().tolist() == [[1.0, 4.0, 7.0, 10.0]]


def test_each_group_has_a_scale_of_its_own():
    weight = torch.tensor([[0.1, 0.7, 100.0, 700.0]])
    assert_close(quantize(weight, 4, 2, "symmetric").dequantize(), weight)
    assert quantize(weight, 4, 4, "symmetric").dequantize().tolist() == [[0, 0, 100, 700]]


@given(
    st.integers(2, 8),
    st.sampled_from([1, 4, 32, None]),
    st.sampled_from(["affine", "symmetric"]),
    st.integers(0, 99),
)
@steady
def test_no_weight_moves_by_more_than_half_a_scale(bits, group, kind, seed):
    weight = normal(6, 64, seed=seed) + 0.3
    rounded = quantize(weight, bits, group, kind)
    assert rounded.group == (group or 64)
    half = rounded.scales.repeat_interleave(rounded.group, dim=1) / 2
    assert ((rounded.dequantize() - weight).abs() <= half * 1.0001 + 1e-6).all()
    assert rounded.codes.min().item() >= -(2 ** (bits - 1))
    assert rounded.codes.max().item() < 2 ** (bits - 1)


def test_the_ends_of_a_group_are_kept():
    weight = normal(5, 64)
    grouped = weight.unflatten(1, (-1, 32))
    affine = quantize(weight, 4, 32, "affine").dequantize().unflatten(1, (-1, 32))
    for end in (torch.amin, torch.amax):
        assert_close(end(affine, -1), end(grouped, -1))


def test_an_offset_is_worth_its_bytes_where_numbers_are_not_centred():
    weight = normal(8, 64) + 5
    errors = {
        kind: relative_error(weight, quantize(weight, 4, 32, kind).dequantize())
        for kind in ("affine", "symmetric")
    }
    assert errors["affine"] < errors["symmetric"] / 2


def test_a_bit_more_halves_the_error_and_larger_groups_raise_it():
    weight = normal(64, 256)
    by_bits = [relative_error(weight, quantize(weight, b).dequantize()) for b in range(2, 9)]
    assert all(1.8 < a / b < 2.5 for a, b in pairwise(by_bits[1:]))
    by_group = [relative_error(weight, quantize(weight, 4, g).dequantize()) for g in (16, 64, 256)]
    assert by_group == sorted(by_group)


@pytest.mark.parametrize("kind", ["affine", "symmetric"])
@pytest.mark.parametrize("constant", [0.0, 0.37, -2e-30])
def test_a_group_of_equal_numbers_stays_as_it_is(kind, constant):
    weight = torch.full((2, 32), constant)
    assert_close(quantize(weight, kind=kind).dequantize(), weight)


def test_what_already_lies_on_such_groups_is_found_again():
    """As in a file of blocks with a scale and a least number each, both in 16 bits."""
    codes = torch.randint(0, 16, (8, 4, 32), generator=torch.Generator().manual_seed(0))
    codes[..., 0], codes[..., 1] = 0, 15
    scales, least = (normal(8, 4, 1, seed=s, scale=0.1).half().float() for s in (1, 2))
    weight = (codes * scales.abs() + least).flatten(1)
    found = quantize(weight, 4, 32, "affine")
    assert torch.equal(found.codes, (codes - 8).flatten(1).to(torch.int8))
    assert relative_error(weight, found.dequantize()) < 1e-6
    found = quantize(weight, 4, 32, "affine", dtype=torch.bfloat16)
    assert 1e-4 < relative_error(weight, found.dequantize()) < 0.01


def test_the_codes_are_chosen_for_the_scales_as_they_are_kept():
    """Rounded to 16 bits, a scale is off by up to 1 in 256, of which 8 codes make half a step."""
    weight = normal(16, 64, scale=0.02)
    rounded = quantize(weight, 8, 32, "symmetric", dtype=torch.bfloat16)
    best = (weight.unflatten(1, (-1, 32)) / rounded.scales.float()[..., None]).round()
    assert torch.equal(rounded.codes, best.clamp(-128, 127).flatten(1).to(torch.int8))


def test_bytes_by_hand():
    """256 codes of 4 bits are 128 bytes; 8 groups have a scale and an offset of 4 or 2 bytes."""
    weight = normal(4, 64)
    assert quantize(weight).nbytes == 128 + 8 * 2 * 4
    assert quantize(weight, dtype=torch.bfloat16).nbytes == 128 + 8 * 2 * 2
    assert quantize(weight, 8, None, "symmetric").nbytes == 256 + 4 * 4


def test_the_relative_error_by_hand():
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: quantize(normal(4, 48)), "rows of 48 weights cannot be cut into groups of 32"),
        (lambda: quantize(normal(4, 64), group=0), "into groups of 0"),
        (lambda: quantize(normal(4, 64), bits=9), "bits is 9: choose from 2 to 8"),
        (lambda: quantize(normal(4, 64), kind="log"), "'log': choose one of symmetric, affine"),
        (lambda: quantize(normal(64)), r"shape \(64,\): give a matrix"),
        (lambda: quantize(normal(4, 64) / 0), "not finite"),
        (lambda: halves(torch.full((4, 64), 65505.0)), "do not hold a weight .* above 65,504"),
        (lambda: halves(normal(4, 64) * torch.nan), "that is no number, or above 65,504"),
        (lambda: quantize(normal(4, 64) * torch.nan), "not finite"),
        (lambda: mxfp4(normal(4, 48)), "blocks of 32, not rows of 48"),
        (lambda: mxfp4(normal(4, 32) * torch.nan), "finite numbers"),
        (lambda: quantized(Decoder(TINY), bits=3), "bits is 3: .* to 4, to 8 or to 16"),
        (lambda: quantized(Decoder(TINY), group=48), "rows of 64 .* groups of 48"),
        (lambda: quantized(quantized(Decoder(TINY))), "a quantised model holds codes"),
        (lambda: dequantized(Decoder(TINY)), "the model is not quantised"),
        (lambda: quantized(lora.add_lora(Decoder(TINY), 2)), "merge its adapters first"),
    ],
)
def test_bad_input_gets_one_clear_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        wrong()
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- MXFP4


def test_representable_numbers_survive_mxfp4():
    """Every scale that one byte can say and whose numbers 32 bits can hold, every number."""
    numbers = torch.tensor(FP4 * 2)
    weight = torch.stack([numbers * 2.0**power for power in range(-120, 120)])
    blocks, scales = mxfp4(weight)
    assert blocks.shape == (240, 1, 16) and blocks.dtype == scales.dtype == torch.uint8
    assert torch.equal(decode_mxfp4(blocks, scales).float(), weight)


@given(st.integers(0, 9999), st.sampled_from([1e-30, 0.02, 1.0, 3e4]))
@steady
def test_mxfp4_takes_the_nearest_of_all_sixteen(seed, scale):
    weight = normal(3, 32, seed=seed, scale=scale)
    blocks, scales = mxfp4(weight)
    units = torch.exp2(scales.float() - 127)  # (3, 1)
    choices = torch.tensor(FP4) * units[..., None]  # (3, 1, 16)
    nearest = (weight[..., None] - choices).abs().amin(dim=-1)
    assert_close((decode_mxfp4(blocks, scales).float() - weight).abs(), nearest)
    largest = weight.abs().amax(dim=-1, keepdim=True) / units
    assert (largest >= 4).all() and (largest < 8).all()


def test_ties_go_to_the_even_code_and_nothing_is_above_6():
    halfway = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.9, -0.25, -5.0])
    assert nearest_fp4(halfway).tolist() == [0, 2, 2, 4, 4, 6, 6, 7, 8, 14]


def test_a_block_of_zeros_is_zeros():
    assert not decode_mxfp4(*mxfp4(torch.zeros(2, 64))).any()


# ---------------------------------------------------------------- products of codes


def product_of(layer, x):
    """The product by the numbers that the layer's codes stand for."""
    return x @ layer.groups().dequantize().T + (0 if layer.bias is None else layer.bias)


def test_two_digits_say_a_number_to_15_bits():
    x = normal(5, 300) * torch.logspace(-3, 6, 5)[:, None]
    digits, unit = two_digits(x)
    first, second = digits.float().chunk(2)
    assert digits.dtype == torch.int8 and digits.abs().max() <= 127
    assert ((first + second / 254) * unit - x).abs().le(unit / 254 * 0.51).all()
    assert_close(unit[:, 0], x.abs().amax(dim=1) / 127)


@pytest.mark.parametrize("shape", [(1, 1, 64), (2, 5, 64), (7, 64)])
@pytest.mark.parametrize("biased", [False, True])
def test_the_product_of_8_bits_is_that_of_the_numbers(shape, biased):
    layer = Int8Linear(
        quantize(normal(30, 64), 8, None, "symmetric"), normal(30) if biased else None
    )
    x = normal(*shape, seed=1)
    x[..., 3] = 500.0  # one number among many far larger than the others, as real models have it
    assert_close(layer(x), product_of(layer, x), atol=0.3, rtol=0)
    x[..., 3] = 1.0
    assert_close(layer(x), product_of(layer, x), atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 64), (2, 5, 64), (7, 64)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kind", [HalfLinear, CodedLinear])
def test_the_product_of_16_bits_rounds_weights_and_nothing_else(shape, biased, kind):
    weight, bias = normal(30, 64), normal(30) if biased else None
    layer, x = kind(halves(weight), bias), normal(*shape, seed=1)
    x[..., 3] = 1e5  # above all that 16 bits could hold
    exact = x.double() @ weight.half().double().T + (0 if bias is None else bias)
    assert layer(x).dtype == torch.float32
    assert relative_error(exact, layer(x)) < 1e-6
    assert relative_error(x @ weight.T, x @ weight.half().float().T) > 1e-5


def test_weights_of_16_bits_come_back_from_the_packed_matrix():
    groups = halves(normal(30, 70, scale=1e-5))  # 70 is no multiple of what a register holds
    again = HalfLinear(groups).groups()
    assert torch.equal(again.codes, groups.codes) and again.nbytes == 30 * 70 * 2 + 30 * 4


def test_without_torchs_product_the_same_16_bits_come_out(monkeypatch):
    def missing(*_):
        raise RuntimeError("not here")

    fast = quantized(model := Decoder(TINY), 16)
    HalfLinear.works.cache_clear()
    with monkeypatch.context() as without:
        without.setattr(torch.ops.quantized, "linear_prepack_fp16", missing)
        slow = quantized(model, 16)
    HalfLinear.works.cache_clear()
    tokens = torch.arange(20)[None]
    assert type(slow.blocks[0].mlp.up) is CodedLinear
    assert type(fast.blocks[0].mlp.up) is HalfLinear
    assert_close(slow(tokens), fast(tokens), atol=1e-4, rtol=1e-4)


def test_sums_of_whole_products_are_exact_whatever_the_cpu(monkeypatch):
    """Some CPUs add two products of 8 bits in 16: 127 · 127 + 127 · 127 is just too large."""
    digits, codes = (torch.randint(-127, 128, (n, 200), dtype=torch.int8) for n in (5, 30))
    digits[0] = codes[0] = 127
    exact = digits.long() @ codes.long().T
    assert torch.equal(whole_product(digits, codes).long(), exact)
    monkeypatch.setattr(quantization, "adds_up_exactly", lambda: False)
    assert torch.equal(whole_product(digits, codes).long(), exact)


def test_one_digit_would_not_do():
    """What dynamic quantisation does: the other numbers drown beside the large one."""
    layer, x = Int8Linear(quantize(normal(30, 64), 8, None, "symmetric")), normal(1, 64, seed=1)
    x[0, 3] = 500.0
    digits, unit = two_digits(x)
    first = digits[:1].float() * unit
    error = (product_of(layer, first) - product_of(layer, x)).abs().mean()
    assert error > 50 * (layer(x) - product_of(layer, x)).abs().mean()


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("n_rows", [1, 5, 40])
def test_the_product_of_4_bits_is_that_of_the_numbers(group, n_rows):
    """To the 8 bits that bfloat16 has: each x, and each y, may be off by 1 in 256."""
    layer = Int4Linear(quantize(normal(48, 512), 4, group, dtype=torch.bfloat16), normal(48))
    x = normal(n_rows, 512, seed=1)
    exact = product_of(layer, x)
    assert layer(x).dtype == torch.float32
    assert relative_error(exact, layer(x)) < 2**-8
    assert_close(layer(x[None]), layer(x)[None])


@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_packed_codes_can_be_unpacked_again(group):
    groups = quantize(normal(48, 512), 4, group, dtype=torch.bfloat16)
    again = Int4Linear(groups).groups()
    assert torch.equal(again.codes, groups.codes) and again.group == group
    assert torch.equal(again.dequantize(), groups.dequantize())


@pytest.mark.parametrize(("head_dim", "group"), [(24, 32), (16, 16)])
def test_where_torch_has_no_product_the_numbers_are_multiplied(head_dim, group):
    cfg = replace(TINY, n_kv_heads=1, head_dim=head_dim, bias=True)
    layer, x = quantized(Decoder(cfg), group=group).blocks[0].attn.wk, normal(2, 3, 64)
    assert type(layer) is CodedLinear
    assert_close(layer(x), product_of(layer, x))


def test_without_torchs_product_the_same_numbers_come_out(monkeypatch):
    model, made = Decoder(TINY), []
    for kind in (Int4Linear, CodedLinear):
        monkeypatch.setattr(Int4Linear, "takes", lambda groups, kind=kind: kind is Int4Linear)
        made.append(quantized(model))
        assert type(made[-1].blocks[0].mlp.up) is kind
    fast, slow = made
    tokens = torch.arange(20)[None]
    assert relative_error(slow(tokens), fast(tokens)) < 0.02
    assert_close(dequantized(slow)(tokens), dequantized(fast)(tokens))


# ---------------------------------------------------------------- whole models

TINY = ModelConfig(
    vocab_size=96,
    context_length=48,
    n_layers=2,
    d_model=64,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    d_ff=96,
    init_std=0.2,
)
KINDS = {
    "plain": TINY,
    "tied": replace(TINY, tie_embeddings=True),
    "biases": replace(TINY, bias=True, norm="layer", mlp="gelu", rope=None, learned_positions=True),
    "experts": replace(TINY, moe=MoE(n_experts=4, n_active=2, d_ff=32), ffn_pattern="m"),
    "latent": replace(
        TINY, n_kv_heads=4, latent=Latent(kv_rank=32, nope_dim=16, rope_dim=16, v_dim=16)
    ),
}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    return Decoder(KINDS[request.param]).eval()


def typical_error(model, other, tokens):
    """The median over all places: here and there a router takes another expert, rightly."""
    pairs = zip(model(tokens).flatten(0, 1), other(tokens).flatten(0, 1))
    return torch.tensor([relative_error(one, two) for one, two in pairs]).median().item()


@torch.no_grad()
def test_a_model_of_16_bits_computes_what_its_numbers_do(model):
    few, tokens = quantized(model, 16), torch.randint(96, (2, 30))
    assert typical_error(dequantized(few), few, tokens) < 1e-5
    assert 3e-5 < typical_error(model, few, tokens) < 3e-3


@torch.no_grad()
def test_a_model_of_8_bits_computes_what_its_numbers_do(model):
    few, tokens = quantized(model, 8), torch.randint(96, (2, 30))
    assert typical_error(dequantized(few), few, tokens) < 1e-3
    assert 3e-3 < typical_error(model, few, tokens) < 0.1


@torch.no_grad()
def test_a_model_of_4_bits_computes_nearly_what_its_numbers_do(model):
    few, tokens = quantized(model, 4), torch.randint(96, (2, 30))
    near, far = (typical_error(other, few, tokens) for other in (dequantized(few), model))
    assert near < 0.03 and 3 * near < far < 0.5


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_it_decodes_over_a_cache_as_without(model, bits):
    few, tokens = quantized(model, bits), torch.randint(96, (1, 30))
    cache = few.new_cache(1, 30)
    steps = torch.cat([few(part, cache) for part in tokens.split(6, dim=1)], dim=1)
    assert relative_error(few(tokens), steps) < (0.05 if bits == 4 else 1e-3)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_model_it_was_made_from_is_left_alone(model, bits):
    before = {name: p.clone() for name, p in model.named_parameters()}
    few = quantized(model, bits)
    for parameter in few.parameters():
        parameter.data.zero_()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_head_and_embedding_are_one_matrix_of_8_bits_where_they_were_one():
    torch.manual_seed(0)
    model = Decoder(KINDS["tied"])
    few = quantized(model, 4)
    assert few.tok_emb.codes.data_ptr() == few.lm_head.codes.data_ptr()
    tokens = torch.tensor([[5, 95]])
    assert_close(few.tok_emb(tokens)[0], few.lm_head.groups().dequantize()[[5, 95]])
    assert relative_error(model.tok_emb(tokens), few.tok_emb(tokens)) < 0.01
    plain = dequantized(few)
    assert plain.lm_head.weight is plain.tok_emb.weight


def test_routers_norms_and_biases_stay_in_32_bits():
    few = quantized(Decoder(KINDS["experts"]).bfloat16())
    assert type(few.blocks[0].mlp.router) is nn.Linear
    assert {p.dtype for p in few.parameters()} == {torch.float32}
    assert few.new_cache(1, 4).kept[0][0].dtype == torch.float32


@pytest.mark.parametrize(("kind", "bits"), [(Int4Linear, 5), (CodedLinear, 9)])
def test_bytes_of_a_model_by_hand(monkeypatch, kind, bits):
    """A block has 2·64·64 + 2·64·32 + 3·64·96 weights, the head 96·64 and 96 scales, a norm 64.

    For 32 weights a scale and an offset, 16 bits each: one bit each, beside the 4 of its own; 8
    where codes are not packed.
    """
    monkeypatch.setattr(Int4Linear, "takes", lambda groups: kind is Int4Linear)
    model = Decoder(KINDS["tied"])
    block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    assert nbytes(quantized(model)) == 2 * block * bits // 8 + 96 * 64 + 96 * 4 + 5 * 64 * 4
    assert nbytes(model) == 4 * sum(p.numel() for p in model.parameters())


def test_bytes_of_a_model_of_16_bits_by_hand():
    """As above; but a packed head does not give single rows, so the embedding is there twice."""
    few = quantized(Decoder(KINDS["tied"]), 16)
    n_weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) + 2 * 96 * 64
    n_rows = 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64) + 96  # each has a scale, which is 1
    assert nbytes(few) == 2 * n_weights + 4 * n_rows + 5 * 64 * 4


def test_what_is_wrong_in_codes_is_refused_in_one_sentence(tmp_path):
    few = quantized(Decoder(TINY))
    for wrong in (
        lambda: weights.save(few, tmp_path / "few.safetensors"),
        lambda: weights.save_pretrained(few, tmp_path / "few"),
        lambda: train.train(few, None, recipe.Recipe(steps=1)),
    ):
        with pytest.raises(ValueError, match="a quantised model holds codes, not weights: train"):
            wrong()
    assert not [*tmp_path.iterdir()]
    with pytest.raises(ValueError, match="the model has no matrix to adapt: adapt it first"):
        lora.add_lora(few, 4)
    with pytest.raises(ValueError, match="the model is on 'meta', and codes are multiplied on the"):
        quantized(weights.empty_decoder(TINY))


def test_its_loss_can_be_measured(model):
    inputs, targets = torch.randint(96, (2, 4, 20))
    few = quantized(model, 8)
    near, exact = (train.evaluate(m, inputs, targets) for m in (few, dequantized(few)))
    assert near == pytest.approx(exact, rel=0.01) and not any(
        p.requires_grad for p in few.parameters()
    )


def test_its_dequantized_copy_is_an_ordinary_model(tmp_path, model):
    plain = dequantized(quantized(model))
    weights.save(plain, tmp_path / "plain.safetensors")
    again = weights.load(tmp_path / "plain.safetensors")
    tokens = torch.randint(96, (1, 20))
    assert_close(again.eval()(tokens), plain(tokens))
    plain(tokens).sum().backward()
    assert all(p.grad is not None for p in plain.parameters() if p.requires_grad)


# ---------------------------------------------------------------- a real model, where it is


@pytest.fixture(scope="module")
def smollm():
    need("smollm2")
    return weights.smollm_model()


STORY = """The tide was out, and the long beach shone like a plate. Two children walked along it
with a bucket, looking for crabs under the stones. They had found 17 by noon, and let them go."""


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_a_file_of_4_bits_loses_next_to_nothing_in_groups_of_its_own_size(smollm):
    """Its blocks are affine groups of 32 with scales in other 16 bits; 64 would cost much more."""
    model, tokenizer = smollm
    few = quantized(model)
    plain, matrix = dequantized(few), model.blocks[7].mlp.up.weight
    layers = [(n, p) for n, p in model.blocks.named_modules() if isinstance(p, nn.Linear)]
    errors = [relative_error(p.weight, plain.blocks.get_submodule(n).weight) for n, p in layers]
    assert len(errors) == 210 and max(errors) < 0.003
    assert relative_error(matrix, quantize(matrix, 4, 64).dequantize()) > 0.05
    tokens = torch.tensor([tokenizer.encode(STORY)])
    agree = few(tokens).argmax(-1) == plain(tokens).argmax(-1)
    assert agree.float().mean() > 0.9


@pytest.mark.usefixtures("one_thread")
def test_in_16_bits_it_says_what_its_numbers_say_and_what_32_bits_say(smollm):
    model, tokenizer = smollm
    few = quantized(model, 16)
    prompt = tokenizer.chat_prompt([{"role": "user", "content": "Why is the sky blue?"}])
    assert generate(few, [prompt], 32) == generate(dequantized(few), [prompt], 32)
    tokens = torch.tensor([tokenizer.encode(STORY)])
    assert_close(few(tokens), model(tokens), atol=0.1, rtol=0)  # logits reach 30


@pytest.mark.usefixtures("one_thread")
def test_in_8_bits_it_says_what_its_numbers_say(smollm):
    model, tokenizer = smollm
    few = quantized(model, 8)
    prompt = tokenizer.chat_prompt([{"role": "user", "content": "What is the capital of France?"}])
    new = generate(few, [prompt], 24)
    assert new == generate(dequantized(few), [prompt], 24)
    assert tokenizer.decode(new[0]).startswith("The capital of France is Paris.")
