"""python -m pytest tests/test_model.py -p no:nbval -o addopts="" """

import math
from dataclasses import fields, replace
from functools import lru_cache
from tempfile import TemporaryDirectory

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.config import Latent, ModelConfig, MoE, Rope
from helpers.data import document_mask, positions
from helpers.model import (
    Cache,
    Decoder,
    RMSNorm,
    attend,
    attend_fast,
    attention_weights,
    cos_sin,
    precise,
    rotate,
)
from helpers.weights import from_pretrained
from tests.reference import FAMILIES, T, V

MILD, STRONG = 0.05, 0.4  # each scale of weights hides what the other shows
# Of the largest logit, or of 1 where all are smaller. Strong weights amplify rounding: there the
# reference in 32 bits is as far from the result in 64 bits as from ours.
TOLERANCE = {MILD: 1e-5, STRONG: 2e-5}
TEETH = 20  # a mutation must break parity by so many tolerances

SMALL = ModelConfig(
    vocab_size=V,
    context_length=64,
    n_layers=2,
    d_model=32,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    d_ff=48,
)


pytestmark = pytest.mark.usefixtures("one_thread")


@lru_cache
def case(family, std):
    """(our config, our weights, tokens, the reference's logits)."""
    reference, cfg = FAMILIES[family](std)
    with TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        weights = from_pretrained(folder).state_dict()
    tokens = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return cfg, weights, tokens, reference(input_ids=tokens).logits


def distance(found, expected, std=STRONG):
    """The largest difference in units of the tolerance."""
    scale = max(1.0, expected.abs().max().item())
    return (found - expected).abs().max().item() / (TOLERANCE[std] * scale)


def assert_equal(found, expected):
    """Equal but for rounding in 64 bits."""
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def decoder(cfg, weights, strict=True):
    """A decoder with these weights, ready to be asked."""
    model = Decoder(cfg).eval()
    model.load_state_dict(weights, strict=strict)
    return model


def by_parts(model, tokens, sizes):
    """Logits of the tokens given in parts of these sizes, through a cache."""
    cache = model.new_cache(len(tokens), tokens.shape[1])
    return torch.cat([model(part, cache) for part in tokens.split(sizes, dim=1)], dim=1)


# ---------------------------------------------------------------- equal to the reference


@pytest.mark.parametrize("std", [MILD, STRONG])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_equal_the_reference(family, std):
    cfg, weights, tokens, expected = case(family, std)
    assert distance(decoder(cfg, weights)(tokens), expected, std) < 1


SIZES = pytest.mark.parametrize("sizes", [[1] * T, [9, 1, 7, 1, 6], [3, 21], [20, 4]], ids=str)


@SIZES
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_logits_equal_the_reference(family, sizes):
    cfg, weights, tokens, expected = case(family, MILD)
    assert distance(by_parts(decoder(cfg, weights), tokens, sizes), expected, MILD) < 1


@SIZES
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_logits_equal_uncached_ones_in_64_bits(family, sizes):
    cfg, weights, tokens, _ = case(family, STRONG)
    model = decoder(cfg, weights).double()
    assert_equal(by_parts(model, tokens, sizes), model(tokens))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_readable_attention_equals_the_fused_one(family):
    cfg, weights, tokens, _ = case(family, STRONG)
    model = decoder(cfg, weights).double()
    fused = model(tokens)
    for block in model.blocks:
        block.attn.attend = attend
    assert_equal(model(tokens), fused)
    assert_equal(by_parts(model, tokens, [9, 1, 14]), fused)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padded_prompts_equal_single_ones(family):
    """4 of padding before one row, decoded in parts: it sees nothing of them, nor the other row."""
    cfg, weights, tokens, _ = case(family, STRONG)
    model, pads = decoder(cfg, weights).double(), torch.tensor([0, 4])
    expected, padded = model(tokens), torch.stack([tokens[0], tokens[1].roll(4)])
    places = torch.arange(T) - pads[:, None]
    cache = model.new_cache(2, T)
    steps = [slice(0, 9), slice(9, 10), slice(10, T)]
    logits = torch.cat([model(padded[:, s], cache, places[:, s]) for s in steps], dim=1)
    assert_equal(logits[0], expected[0])
    assert_equal(logits[1, 4:], expected[1, :-4])
    assert logits.isfinite().all()


# ---------------------------------------------------------------- teeth: no field is ignored


def rope(**changes):
    """A mutation of the rope."""
    return lambda c: replace(c, rope=replace(c.rope, **changes))


def scaled_rope(scaling, field, by):
    """A mutation of a number that only one way of scaling reads."""

    def mutate(c):
        right = c.rope and c.rope.scaling == scaling
        return rope(**{field: by(getattr(c.rope, field))})(c) if right else c

    return mutate


def moe(field, by):
    """A mutation of the mixture of experts."""
    return lambda c: c.moe and replace(c, moe=replace(c.moe, **{field: by(getattr(c.moe, field))}))


OTHER_ROUTER = {
    "topk_softmax": "topk_sigmoid",
    "topk_sigmoid": "topk_softmax",
    "grouped_sigmoid": "grouped_softmax",
    "grouped_softmax": "grouped_sigmoid",
}
MUTATIONS = {
    "norm": lambda c: replace(c, norm="rms" if c.norm == "layer" else "layer"),
    "norm_eps": lambda c: replace(c, norm_eps=c.norm_eps * 30),
    "pre_norms": lambda c: replace(c, pre_norms=not c.pre_norms),
    "post_norms": lambda c: replace(c, post_norms=not c.post_norms),
    "mlp": lambda c: replace(c, mlp={"gelu": "relu", "swiglu": "geglu"}.get(c.mlp, "swiglu")),
    "bias": lambda c: replace(c, bias=False),
    "qkv_bias": lambda c: replace(c, qkv_bias=False) if c.bias or c.qkv_bias else None,
    "qk_norm": lambda c: replace(c, qk_norm="none"),
    "nope_qk_norm": lambda c: replace(c, nope_qk_norm=None),
    "attn_scale": lambda c: replace(c, attn_scale=1.1 * (c.attn_scale or c.head_dim**-0.5)),
    "attn_softcap": lambda c: replace(c, attn_softcap=None),
    "sinks": lambda c: replace(c, sinks=False),
    "pattern": lambda c: replace(c, pattern="G"),
    "window": lambda c: c.window and replace(c, window=c.window + 1),
    "rope": lambda c: None if c.latent else replace(c, rope=None if c.rope else Rope()),
    "local_rope": lambda c: replace(c, local_rope=None),
    "nope_temperature": lambda c: replace(c, nope_temperature=None),
    "learned_positions": lambda c: replace(c, learned_positions=False),
    "embed_scale": lambda c: replace(c, embed_scale=1.0),
    "logit_softcap": lambda c: replace(c, logit_softcap=None),
    "rope.theta": lambda c: c.rope and rope(theta=c.rope.theta * 2)(c),
    "rope.fraction": lambda c: c.rope and rope(fraction=1.5 - c.rope.fraction)(c),
    "rope.scaling": lambda c: c.rope and rope(scaling="none")(c),
    "rope.factor": lambda c: c.rope and c.rope.scaling != "none" and rope(factor=4.0)(c),
    "rope.original_context": scaled_rope("by_wavelength", "original_context", lambda n: n * 2),
    "rope.low_freq_factor": scaled_rope("by_wavelength", "low_freq_factor", lambda x: x / 2),
    "rope.high_freq_factor": scaled_rope("by_wavelength", "high_freq_factor", lambda x: x / 2),
    "rope.beta_fast": scaled_rope("yarn", "beta_fast", lambda x: x / 8),
    "rope.beta_slow": scaled_rope("yarn", "beta_slow", lambda x: x * 8),
    "rope.truncate": scaled_rope("yarn", "truncate", lambda x: not x),
    "rope.mscale": lambda c: c.rope and rope(mscale=1.0)(c),
    "moe.n_active": moe("n_active", lambda n: n + 1),
    "moe.router": moe("router", OTHER_ROUTER.get),
    "moe.steered": moe("steered", lambda _: False),
    "moe.bias": moe("bias", lambda _: False),
    "moe.n_shared": moe("n_shared", lambda _: 0),
    "moe.scale_input": moe("scale_input", lambda x: not x),
    "moe.n_groups": lambda c: c.moe and c.moe.n_groups > 1 and moe("n_groups", lambda n: 2)(c),
    "moe.n_active_groups": lambda c: c.moe and moe("n_active_groups", lambda n: c.moe.n_groups)(c),
    "moe.route_scale": lambda c: moe("route_scale", lambda _: 1.0)(c),
}
# What these change, a tensor's shape or name shows: loading refuses.
SHAPED = {
    "vocab_size": lambda c: replace(c, vocab_size=V + 1),
    "context_length": lambda c: c.learned_positions and replace(c, context_length=65),
    "n_layers": lambda c: replace(c, n_layers=c.n_layers + 1),
    "d_model": lambda c: replace(c, d_model=34),
    "n_heads": lambda c: None if c.latent else replace(c, n_heads=8),
    "n_kv_heads": lambda c: None if c.latent else replace(c, n_kv_heads=1),
    "head_dim": lambda c: None if c.latent else replace(c, head_dim=c.head_dim * 2),
    "d_ff": lambda c: None if c.ffn_pattern == "m" and not c.n_dense_first else replace(c, d_ff=50),
    "moe": lambda c: c.moe and replace(c, moe=None, ffn_pattern="d"),
    "ffn_pattern": lambda c: c.moe and replace(c, ffn_pattern="md"),
    "n_dense_first": lambda c: c.n_dense_first and replace(c, n_dense_first=0),
    "latent": lambda c: c.latent and replace(c, latent=None),
    "moe.n_experts": moe("n_experts", lambda n: n * 2),
    "moe.d_ff": moe("d_ff", lambda n: n + 2),
} | {
    f"latent.{name.name}": lambda c, name=name.name: (
        c.latent
        and replace(c, latent=replace(c.latent, **{name: (getattr(c.latent, name) or 18) + 2}))
    )
    for name in fields(Latent)
}
NOT_IN_FORWARD = {"name", "init_std", "tie_embeddings"}  # each has a test of its own, below


def mutants(mutations, cfg):
    """(name, config) for each mutation that changes this config."""
    for name, mutate in mutations.items():
        changed = mutate(cfg)
        if changed and changed != cfg:
            yield name, changed


def test_every_field_has_its_mutation():
    parts = [("", ModelConfig), ("rope.", Rope), ("moe.", MoE), ("latent.", Latent)]
    names = {prefix + field.name for prefix, part in parts for field in fields(part)}
    assert names == MUTATIONS.keys() | SHAPED.keys() | NOT_IN_FORWARD
    cfgs = [case(family, MILD)[0] for family in FAMILIES]
    tried = {name for cfg in cfgs for name, _ in mutants(MUTATIONS | SHAPED, cfg)}
    assert tried == MUTATIONS.keys() | SHAPED.keys()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_changed_field_breaks_parity(family):
    broken = {}
    for std in (MILD, STRONG):
        cfg, weights, tokens, expected = case(family, std)
        for name, mutant in mutants(MUTATIONS, cfg):
            found = decoder(mutant, weights, strict=False)(tokens)
            broken[name] = max(broken.get(name, 0), distance(found, expected, std))
    assert {name: times for name, times in broken.items() if times < TEETH} == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_shape_is_refused(family):
    cfg, weights, _, _ = case(family, MILD)
    for _, mutant in mutants(SHAPED, cfg):
        with pytest.raises(RuntimeError, match=r"size mismatch|Missing key|Unexpected key"):
            Decoder(mutant).load_state_dict(weights)


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_future_tokens_do_not_change_past_logits(family):
    cfg, weights, tokens, _ = case(family, STRONG)
    model, changed = decoder(cfg, weights), tokens.clone()
    changed[:, 15] = (tokens[:, 15] + 1) % V
    before, after = model(tokens), model(changed)
    assert distance(after[:, :15], before[:, :15]) < 1
    assert distance(after[:, 15:], before[:, 15:]) > TEETH


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_permuted_batch_gives_permuted_logits(family):
    cfg, weights, tokens, expected = case(family, STRONG)
    assert distance(decoder(cfg, weights)(tokens.flip(0)), expected.flip(0)) < 1


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_first_loss_is_near_log_v(family):
    torch.manual_seed(0)
    model, tokens = Decoder(case(family, MILD)[0]), torch.randint(V, (8, T))
    loss = cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(V)) < 0.1


def test_init_std_is_the_scale_of_the_first_weights():
    model = Decoder(replace(SMALL, init_std=0.5, d_model=256))
    assert abs(model.blocks[0].attn.wq.weight.std().item() - 0.5) < 0.02
    assert abs(model.blocks[0].mlp.down.weight.std().item() - 0.5 / 2) < 0.02  # four writers


def test_tied_embeddings_are_one_tensor():
    assert Decoder(replace(SMALL, tie_embeddings=True)).lm_head.weight.numel() == V * 32
    tied, untied = (
        sum(p.numel() for p in Decoder(replace(SMALL, tie_embeddings=t)).parameters())
        for t in (True, False)
    )
    assert untied - tied == V * 32


@torch.no_grad()
def test_packed_documents_equal_single_ones():
    torch.manual_seed(0)
    model, tokens = Decoder(replace(SMALL, init_std=0.3)), torch.randint(V, (1, 10))
    doc_ids = torch.tensor([[0] * 4 + [1] * 6])
    logits = model(tokens, positions=positions(doc_ids), mask=document_mask(doc_ids))
    torch.testing.assert_close(logits[:, 4:], model(tokens[:, 4:]), atol=1e-5, rtol=0)


def test_a_single_batch_is_learned_by_heart():
    torch.manual_seed(0)
    model, tokens = Decoder(SMALL), torch.randint(V, (2, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_a_model_that_decoded_can_be_trained():
    """Tables made in inference mode would refuse to take part in a backward pass."""
    model, tokens = Decoder(SMALL), torch.arange(5)[None]
    with torch.inference_mode():
        model(tokens)
    model(tokens).sum().backward()
    assert model.blocks[0].attn.wq.weight.grad.abs().sum() > 0


def test_a_refused_token_leaves_the_cache_as_it_was():
    model = Decoder(SMALL)
    cache = model.new_cache(1, 4)
    with pytest.raises(ValueError, match="vocab_size"):
        model(torch.tensor([[V]]), cache)
    assert cache.n_seen == 0 and cache.positions[SMALL.layers()[0].sight].sum() == 0


def test_hidden_and_logits_apart_are_the_forward():
    model, tokens = Decoder(SMALL), torch.arange(5)[None]
    assert model.hidden(tokens).shape == (1, 5, 32)
    assert torch.equal(model.logits(model.hidden(tokens)), model(tokens))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_stays_finite(dtype):
    for family in FAMILIES:
        cfg, weights, tokens, _ = case(family, STRONG)
        assert decoder(cfg, weights).to(dtype)(tokens).isfinite().all(), family
    norm = RMSNorm(8, eps=1e-5).to(dtype)
    torch.testing.assert_close(
        norm(torch.full((1, 8), 3e4, dtype=dtype)), torch.ones(1, 8, dtype=dtype)
    )


# ---------------------------------------------------------------- the parts


def test_attention_worked_by_hand():
    """Scores ln 1 and ln 3 give weights 1/4 and 3/4; a sink of ln 4 halves both."""
    q, k = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 3.0]).log().view(1, 1, 2, 1)
    v = torch.tensor([8.0, 0.0]).view(1, 1, 2, 1)
    assert attend(q, k, v).item() == pytest.approx(2)
    assert attend(q, k, v, sinks=torch.tensor([4.0]).log()).item() == pytest.approx(1)
    assert attend(q, k, v, mask=torch.tensor([[[[True, False]]]])).item() == pytest.approx(8)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_both_attentions_are_equal(n_kv_heads):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 7, 8) for n in (4, n_kv_heads, n_kv_heads))
    torch.testing.assert_close(attend_fast(q, k, v, scale=0.3), attend(q, k, v, scale=0.3))
    mask = torch.rand(2, 1, 7, 7).gt(0.5) | torch.eye(7).bool()
    fast, plain = attend_fast(q, k, v, mask, 0.3), attend(q, k, v, mask, 0.3)
    torch.testing.assert_close(fast, plain)


def test_gradients_of_the_parts_written_by_hand():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, 3, 4, dtype=torch.double, requires_grad=True) for n in (2, 1, 1))
    sinks = torch.randn(2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, v, s: attend(q, k, v, None, 0.5, 2.0, s), (q, k, v, sinks)
    )
    assert torch.autograd.gradcheck(RMSNorm(4, eps=1e-5).double(), (q,))
    cos, sin = cos_sin(torch.rand(3, 1, 2, dtype=torch.double))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (q.transpose(1, 2),))


# ---------------------------------------------------------------- the cache and refusals


def test_a_cache_keeps_no_more_than_a_layer_can_see():
    cfg = replace(SMALL, pattern="WG", window=5)
    shapes = [kept[0].shape for kept in Cache(cfg, B=3, length=20).kept]
    assert shapes == [(3, 5, 2, 8), (3, 20, 2, 8)]


def test_latent_attention_keeps_the_latent_only():
    cfg = case("deepseek_v3", MILD)[0]
    assert Cache(cfg, B=2, length=10).n_bytes == 3 * 2 * 10 * (12 + 8) * 4


@torch.no_grad()
def test_decoding_allocates_no_new_memory_for_the_cache():
    model, tokens = Decoder(SMALL), torch.zeros(1, 1, dtype=torch.long)
    cache = model.new_cache(1, 8)
    before = [held.data_ptr() for kept in cache.kept for held in kept]
    for _ in range(8):
        model(tokens, cache)
    assert [held.data_ptr() for kept in cache.kept for held in kept] == before


@torch.no_grad()
def test_a_cache_that_is_cut_back_goes_on_as_if_the_rest_had_never_been_read():
    model = Decoder(replace(SMALL, pattern="WG", window=5, init_std=0.4)).double()
    tokens, others = torch.randint(V, (2, 2, 12))
    cache = model.new_cache(2, 20, whole=True)
    model(tokens, cache)
    cache.cut_back(8)
    expected = model(torch.cat([tokens[:, :8], others], dim=1))[:, 8:]
    torch.testing.assert_close(model(others, cache), expected)
    cache.cut_back(30)  # nothing is to be forgotten
    assert cache.n_seen == 20


def test_a_window_that_let_tokens_go_cannot_be_cut_back():
    model, tokens = Decoder(replace(SMALL, pattern="WG", window=5)), torch.zeros(1, 5).long()
    cache = model.new_cache(1, 20)
    model(tokens, cache)
    cache.cut_back(4)  # all five were still there
    model(tokens[:, :2], cache)
    with pytest.raises(ValueError, match="5 slots that has seen 6 tokens cannot be cut back to 5"):
        cache.cut_back(5)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (torch.tensor([[0, V]]), f"go from 0 to {V}, but vocab_size is {V}"),
        (torch.tensor([[-1, 0]]), "go from -1 to 0"),
        (torch.zeros(1, 65, dtype=torch.long), "65 positions, but context_length is 64"),
        (torch.zeros(1, 3), "they are ids"),
        (torch.arange(3), r"give \(B, T\)"),
    ],
    ids=["id above", "id below", "too long", "not ids", "one row"],
)
def test_bad_tokens_are_refused_in_one_sentence(tokens, sentence):
    with pytest.raises(ValueError, match=sentence):
        Decoder(SMALL)(tokens)


def test_a_full_cache_and_an_unknown_choice_are_refused():
    model = Decoder(SMALL)
    cache = model.new_cache(1, 2)
    with pytest.raises(ValueError, match="1 sequences of 3 tokens do not fit"):
        model(torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="length is 65"):
        model.new_cache(1, 65)
    with pytest.raises(ValueError, match="mlp is 'swish': choose one of relu"):
        Decoder(replace(SMALL, mlp="swish"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_kv_heads": 3}, "equally many query heads"),
        ({"d_model": 0}, "d_model is 0"),
        ({"pattern": "GX"}, 'pattern is "GX"'),
        ({"pattern": "WG"}, "window is None"),
        ({"head_dim": 7}, "it must be even"),
        ({"ffn_pattern": "m"}, "or neither"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (lambda: MoE(n_experts=8, n_active=9, d_ff=4), "among 8 experts only"),
        (lambda: MoE(n_experts=8, n_active=2, d_ff=4, n_groups=3), "groups must be equal"),
        (lambda: MoE(n_experts=8, n_active=2, d_ff=4, steered=True), 'only the "grouped" routers'),
        (lambda: Rope(theta=0), "theta is 0"),
        (lambda: Rope(fraction=1.5), "fraction is 1.5"),
        (lambda: Rope(beta_fast=1, beta_slow=32), "are swapped"),
        (lambda: Latent(kv_rank=4, nope_dim=4, rope_dim=3, v_dim=4), "rope_dim is 3"),
    ],
)
def test_a_part_that_cannot_be_is_refused(part, sentence):
    with pytest.raises(ValueError, match=sentence):
        part()


def test_a_pattern_is_spelled_out_layer_by_layer():
    cfg = replace(SMALL, n_layers=7, pattern="WWG", window=9)
    assert [layer.window for layer in cfg.layers()] == [9, 9, None, 9, 9, None, 9]


# ---------------------------------------------------------------- who looks at whom


@torch.no_grad()
def test_attention_weights_worked_by_hand():
    """One block without positions: weights are the masked softmax of q·k / sqrt(D)."""
    model = Decoder(replace(SMALL, n_layers=1, rope=None, n_kv_heads=4, init_std=0.4)).double()
    tokens = torch.tensor([[5, 9, 5]])
    attention, x = model.blocks[0].attn, model.blocks[0].attn_norm(model.tok_emb(tokens))
    q, k = (w(x).view(1, 3, 4, 8).transpose(1, 2) for w in (attention.wq, attention.wk))
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    expected = (q @ k.mT / 8**0.5).masked_fill(future, -math.inf).softmax(dim=-1)
    [found] = attention_weights(model, tokens)
    assert_equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_attention_weights_are_shares_of_what_may_be_seen(family):
    cfg, weights, tokens, _ = case(family, STRONG)
    model = decoder(cfg, weights)
    before = model(tokens)
    looks = attention_weights(model, tokens)
    assert torch.equal(model(tokens), before)  # the model is left as it was
    for layer, found in zip(cfg.layers(), looks):
        assert found.shape == (2, cfg.n_heads, T, T) and found.triu(1).sum() == 0
        sums = found.sum(dim=-1)
        assert sums.max() < 1.0001 and (sums.min() < 0.9) == cfg.sinks
        assert layer.window is None or found.tril(-layer.window).sum() == 0


@torch.no_grad()
def test_attention_weights_fall_back_after_an_error():
    model = Decoder(SMALL)
    own = model.blocks[0].attn.attend
    with pytest.raises(ValueError, match="were they made by another tokenizer"):
        attention_weights(model, torch.tensor([[V]]))
    assert model.blocks[0].attn.attend is own


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
    ],
)
def test_precise_numbers_have_32_bits_at_least(given, wanted):
    assert precise(torch.ones(2, dtype=given)).dtype == wanted
