"""The catalogue: every model of the lecture as what it changes in a relative, with its sources.

Also arithmetic on a config alone, without torch and without building anything: parameters, FLOPs,
bytes of the cache, memory. Lesson 03 prints `difference(a, b)`: that table is what really changed.
"""

import math
from dataclasses import fields, is_dataclass, replace

from helpers.config import Latent, Layer, ModelConfig, MoE, Rope

# A source in brackets holds for all that follows until the next one. Reports by their arXiv number,
# code by its repository; "counted" means that only this value gives the published total.

# ---------------------------------------------------------------- multi-head, learned positions

GPT2_124M = ModelConfig(  # [openai/gpt-2: src/model.py and the hparams.json of each size]
    name="GPT-2 124M",
    vocab_size=50257,
    context_length=1024,
    n_layers=12,
    d_model=768,
    n_heads=12,
    n_kv_heads=12,
    head_dim=64,
    d_ff=3072,
    norm="layer",
    mlp="gelu",
    bias=True,
    rope=None,
    learned_positions=True,
    tie_embeddings=True,
)


def _wider(cfg: ModelConfig, name: str, n_layers: int, n_heads: int, d_model: int) -> ModelConfig:
    """The same with more layers and heads of the same size, and MLPs four times d_model wide."""
    heads = {"n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": d_model // n_heads}
    return replace(cfg, name=name, n_layers=n_layers, d_model=d_model, d_ff=4 * d_model, **heads)


GPT2_355M = _wider(GPT2_124M, "GPT-2 355M", 24, 16, 1024)
GPT2_774M = _wider(GPT2_124M, "GPT-2 774M", 36, 20, 1280)
GPT2_1558M = _wider(GPT2_124M, "GPT-2 1558M", 48, 25, 1600)

# ---------------------------------------------------------------- RMSNorm, RoPE, SwiGLU

LLAMA2_7B = replace(  # [meta-llama/llama: llama/model.py; litgpt/config.py]
    GPT2_124M,
    name="Llama 2 7B",
    vocab_size=32000,
    context_length=4096,
    n_layers=32,
    d_model=4096,
    n_heads=32,
    n_kv_heads=32,
    head_dim=128,
    d_ff=11008,
    norm="rms",
    mlp="swiglu",
    bias=False,
    rope=Rope(theta=10_000.0),
    learned_positions=False,
    tie_embeddings=False,
)
LLAMA2_70B = replace(
    LLAMA2_7B,
    name="Llama 2 70B",
    n_layers=80,
    d_model=8192,
    n_heads=64,
    n_kv_heads=8,
    d_ff=28672,
)
TINYLLAMA_1B = replace(  # [jzhang38/TinyLlama; litgpt/config.py]
    LLAMA2_7B,
    name="TinyLlama 1.1B",
    context_length=2048,
    n_layers=22,
    d_model=2048,
    n_kv_heads=4,
    head_dim=64,
    d_ff=5632,
)
SMOLLM2_135M = replace(  # [litgpt/config.py; tied: counted]
    LLAMA2_7B,
    name="SmolLM2 135M",
    vocab_size=49152,
    context_length=8192,
    n_layers=30,
    d_model=576,
    n_heads=9,
    n_kv_heads=3,
    head_dim=64,
    d_ff=1536,
    rope=Rope(theta=100_000.0),
    tie_embeddings=True,
)
LLAMA3_8B = replace(  # [meta-llama/llama3: llama/model.py; litgpt/config.py]
    LLAMA2_7B,
    name="Llama 3 8B",
    vocab_size=128256,
    context_length=8192,
    n_kv_heads=8,
    d_ff=14336,
    rope=Rope(theta=500_000.0),
)
LLAMA3_1_8B = replace(  # [litgpt/config.py; meta-llama/llama3: apply_scaling]
    LLAMA3_8B,
    name="Llama 3.1 8B",
    context_length=131072,
    rope=Rope(theta=500_000.0, scaling="by_wavelength", factor=8.0, original_context=8192),
)
LLAMA3_1_405B = replace(
    LLAMA3_1_8B,
    name="Llama 3.1 405B",
    n_layers=126,
    d_model=16384,
    n_heads=128,
    d_ff=53248,
)
LLAMA3_2_1B = replace(  # [litgpt/config.py: here the factor is 32, not 8]
    LLAMA3_1_8B,
    name="Llama 3.2 1B",
    n_layers=16,
    d_model=2048,
    head_dim=64,
    d_ff=8192,
    rope=replace(LLAMA3_1_8B.rope, factor=32.0),
    tie_embeddings=True,
)
LLAMA3_2_3B = replace(
    LLAMA3_2_1B, name="Llama 3.2 3B", n_layers=28, d_model=3072, n_heads=24, head_dim=128
)

# ---------------------------------------------------------------- layers without positions, experts

LLAMA4_SCOUT = replace(  # [meta-llama/llama-models: models/llama4]
    LLAMA3_8B,
    name="Llama 4 Scout",
    vocab_size=202048,
    context_length=10_485_760,
    n_layers=48,
    d_model=5120,
    n_heads=40,
    d_ff=16384,
    pattern="CCCN",  # every fourth layer sees all, and has no rotary positions
    window=8192,
    qk_norm="rms_unweighted",
    nope_qk_norm="none",
    nope_temperature=(8192.0, 0.1),
    # One step instead of a ramp: low and high frequency factors are equal.
    rope=replace(LLAMA3_1_8B.rope, factor=16.0, high_freq_factor=1.0),
    moe=MoE(
        n_experts=16,
        n_active=1,
        d_ff=8192,
        router="topk_sigmoid",
        n_shared=1,
        scale_input=True,
    ),
    ffn_pattern="m",
)
LLAMA4_MAVERICK = replace(
    LLAMA4_SCOUT,
    name="Llama 4 Maverick",
    context_length=1_048_576,
    rope=LLAMA3_8B.rope,
    qk_norm="none",  # [transformers: modeling_llama4.py, "the 128E model does not use qk_norm"]
    moe=replace(LLAMA4_SCOUT.moe, n_experts=128),
    ffn_pattern="dm",  # [counted]
)
GPT_OSS_20B = replace(  # [openai/gpt-oss: gpt_oss/torch/model.py]
    LLAMA3_8B,
    name="GPT-OSS 20B",
    vocab_size=201088,
    context_length=131072,
    n_layers=24,
    d_model=2880,
    n_heads=64,
    head_dim=64,  # so queries are wider (4096) than the residual stream
    d_ff=2880,
    mlp="clamped_swiglu",
    bias=True,
    sinks=True,
    pattern="WG",
    window=128,
    rope=Rope(
        theta=150_000.0,
        scaling="yarn",
        factor=32.0,
        original_context=4096,
        truncate=False,
        mscale=0.1 * math.log(32) + 1,
    ),
    moe=MoE(n_experts=32, n_active=4, d_ff=2880, bias=True),
    ffn_pattern="m",
)
GPT_OSS_120B = replace(
    GPT_OSS_20B, name="GPT-OSS 120B", n_layers=36, moe=replace(GPT_OSS_20B.moe, n_experts=128)
)

# ---------------------------------------------------------------- norms before and after

GEMMA2_2B = replace(  # [litgpt/config.py; google/gemma_pytorch: gemma/model.py]
    LLAMA2_7B,
    name="Gemma 2 2B",
    vocab_size=256000,
    context_length=8192,
    n_layers=26,
    d_model=2304,
    n_heads=8,
    n_kv_heads=4,
    head_dim=256,
    d_ff=9216,
    norm_eps=1e-6,
    post_norms=True,
    mlp="geglu",
    attn_scale=256**-0.5,
    attn_softcap=50.0,
    logit_softcap=30.0,
    pattern="WG",
    window=4096,
    tie_embeddings=True,
    embed_scale=2304**0.5,
)
GEMMA2_9B = replace(
    GEMMA2_2B,
    name="Gemma 2 9B",
    n_layers=42,
    d_model=3584,
    n_heads=16,
    n_kv_heads=8,
    d_ff=14336,
    embed_scale=3584**0.5,
)
GEMMA2_27B = replace(
    GEMMA2_2B,
    name="Gemma 2 27B",
    n_layers=46,
    d_model=4608,
    n_heads=32,
    n_kv_heads=16,
    head_dim=128,
    d_ff=36864,
    attn_scale=144**-0.5,  # 4608 / 32: not the head's width
    embed_scale=4608**0.5,
)
GEMMA3_1B = replace(  # [litgpt/config.py; arXiv:2503.19786, section 2, also for the context]
    GEMMA2_2B,
    name="Gemma 3 1B",
    vocab_size=262144,
    context_length=32768,
    d_model=1152,
    n_heads=4,
    n_kv_heads=1,
    d_ff=6912,
    qk_norm="rms",
    attn_softcap=None,
    logit_softcap=None,
    pattern="WWWWWG",
    window=512,
    rope=Rope(theta=1_000_000.0),
    local_rope=Rope(theta=10_000.0),
    embed_scale=1152**0.5,
)
GEMMA3_270M = replace(
    GEMMA3_1B, name="Gemma 3 270M", n_layers=18, d_model=640, d_ff=2048, embed_scale=640**0.5
)
GEMMA3_4B = replace(  # the text part
    GEMMA3_1B,
    name="Gemma 3 4B",
    context_length=131072,
    n_layers=34,
    d_model=2560,
    n_heads=8,
    n_kv_heads=4,
    d_ff=10240,
    window=1024,
    rope=Rope(theta=1_000_000.0, scaling="linear", factor=8.0),
    embed_scale=2560**0.5,
)

# ---------------------------------------------------------------- norms of queries and keys

QWEN3_0_6B = replace(  # [litgpt/config.py; tied: counted]
    LLAMA3_8B,
    name="Qwen3 0.6B",
    vocab_size=151936,
    context_length=40960,
    n_layers=28,
    d_model=1024,
    n_heads=16,
    d_ff=3072,
    norm_eps=1e-6,
    qk_norm="rms",
    rope=Rope(theta=1_000_000.0),
    tie_embeddings=True,
)
QWEN3_30B_A3B = replace(
    QWEN3_0_6B,
    name="Qwen3 30B-A3B",
    n_layers=48,
    d_model=2048,
    n_heads=32,
    n_kv_heads=4,
    d_ff=6144,  # of no layer: all have experts
    tie_embeddings=False,
    moe=MoE(n_experts=128, n_active=8, d_ff=768),
    ffn_pattern="m",
)
QWEN3_235B_A22B = replace(
    QWEN3_30B_A3B,
    name="Qwen3 235B-A22B",
    n_layers=94,
    d_model=4096,
    n_heads=64,
    moe=replace(QWEN3_30B_A3B.moe, d_ff=1536),
)

# ---------------------------------------------------------------- latent attention

DEEPSEEK_V3 = replace(  # [deepseek-ai/DeepSeek-V3: inference/; arXiv:2412.19437, section 4.2]
    LLAMA2_7B,
    name="DeepSeek-V3",
    vocab_size=129280,
    context_length=131072,
    n_layers=61,
    d_model=7168,
    n_heads=128,
    n_kv_heads=128,
    d_ff=18432,
    norm_eps=1e-6,
    latent=Latent(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128),
    # YaRN's factor for cos and sin is squared and stands in the scale of attention instead.
    attn_scale=192**-0.5 * (0.1 * math.log(40) + 1) ** 2,
    rope=Rope(theta=10_000.0, scaling="yarn", factor=40.0, original_context=4096),
    moe=MoE(
        n_experts=256,
        n_active=8,
        d_ff=2048,
        router="grouped_sigmoid",
        steered=True,
        n_shared=1,
        n_groups=8,
        n_active_groups=4,
        route_scale=2.5,
    ),
    ffn_pattern="m",
    n_dense_first=3,
)

CATALOGUE = {cfg.name: cfg for cfg in list(globals().values()) if isinstance(cfg, ModelConfig)}

# Of whom each is told as a difference, above: the shape of the tree.
RELATIVES = {
    "GPT-2 355M": "GPT-2 124M",
    "GPT-2 774M": "GPT-2 124M",
    "GPT-2 1558M": "GPT-2 124M",
    "Llama 2 7B": "GPT-2 124M",
    "Llama 2 70B": "Llama 2 7B",
    "TinyLlama 1.1B": "Llama 2 7B",
    "SmolLM2 135M": "Llama 2 7B",
    "Llama 3 8B": "Llama 2 7B",
    "Llama 3.1 8B": "Llama 3 8B",
    "Llama 3.1 405B": "Llama 3.1 8B",
    "Llama 3.2 1B": "Llama 3.1 8B",
    "Llama 3.2 3B": "Llama 3.2 1B",
    "Llama 4 Scout": "Llama 3 8B",
    "Llama 4 Maverick": "Llama 4 Scout",
    "GPT-OSS 20B": "Llama 3 8B",
    "GPT-OSS 120B": "GPT-OSS 20B",
    "Gemma 2 2B": "Llama 2 7B",
    "Gemma 2 9B": "Gemma 2 2B",
    "Gemma 2 27B": "Gemma 2 2B",
    "Gemma 3 1B": "Gemma 2 2B",
    "Gemma 3 270M": "Gemma 3 1B",
    "Gemma 3 4B": "Gemma 3 1B",
    "Qwen3 0.6B": "Llama 3 8B",
    "Qwen3 30B-A3B": "Qwen3 0.6B",
    "Qwen3 235B-A22B": "Qwen3 30B-A3B",
    "DeepSeek-V3": "Llama 2 7B",
}

# ---------------------------------------------------------------- small, and side by side


def tiny(cfg: ModelConfig, vocab_size: int = 97, context_length: int = 64) -> ModelConfig:
    """The same architecture at d_model 32 with 4 heads of 8, and each layer of its pattern once."""
    n_layers = cfg.n_dense_first + max(2, len(cfg.pattern), len(cfg.ffn_pattern))
    n_kv_heads = max(1, 4 * cfg.n_kv_heads // cfg.n_heads)
    scale = cfg.attn_scale and cfg.attn_scale * math.sqrt(_query_width(cfg) / 8)
    small = {"vocab_size": vocab_size, "context_length": context_length, "n_layers": n_layers}
    small |= {"d_model": 32, "n_heads": 4, "n_kv_heads": n_kv_heads, "head_dim": 8, "d_ff": 64}
    small |= {"embed_scale": math.sqrt(32) if cfg.embed_scale != 1 else 1.0, "attn_scale": scale}
    small |= {"window": cfg.window and 8, "moe": cfg.moe and _tiny_moe(cfg.moe)}
    if cfg.nope_temperature:
        small["nope_temperature"] = (8.0, cfg.nope_temperature[1])
    if cfg.latent:
        q_rank = cfg.latent.q_rank and 16
        small["latent"] = Latent(q_rank=q_rank, kv_rank=12, nope_dim=4, rope_dim=4, v_dim=8)
    return replace(cfg, name=f"tiny {cfg.name}", **small)


def _tiny_moe(moe: MoE) -> MoE:
    grouped = {"n_groups": 4, "n_active_groups": 2} if moe.n_groups > 1 else {}
    return replace(moe, n_experts=8, n_active=min(moe.n_active, 2), d_ff=24, **grouped)


def matched(cfg: ModelConfig, n_parameters: int) -> ModelConfig:
    """The same with the d_ff that brings its number of parameters closest to n_parameters."""
    thin, wide = (parameters(replace(cfg, d_ff=d_ff)) for d_ff in (1, 2))
    return replace(cfg, d_ff=max(1, 1 + round((n_parameters - thin) / (wide - thin))))


def difference(a: ModelConfig, b: ModelConfig) -> list[tuple[str, object, object]]:
    """Rows (field, value in a, value in b) where they differ; parts by field, like "rope.theta"."""
    rows = []
    for field in fields(a):
        if field.compare:
            rows += _rows(field.name, getattr(a, field.name), getattr(b, field.name))
    return rows


def _rows(name: str, a, b) -> list[tuple[str, object, object]]:
    if is_dataclass(a) and is_dataclass(b):
        pairs = [
            (field.name, getattr(a, field.name), getattr(b, field.name)) for field in fields(a)
        ]
        return [(f"{name}.{part}", x, y) for part, x, y in pairs if x != y]
    return [(name, a, b)] if a != b else []


SIZES = {"vocab_size", "context_length", "n_layers", "d_model", "n_heads", "n_kv_heads"}
SIZES |= {"head_dim", "d_ff", "n_experts", "n_active", "embed_scale"}


def choices(a: ModelConfig, b: ModelConfig) -> list[tuple[str, object, object]]:
    """The rows of `difference` that are no mere sizes: what was decided, not how large it became.

    n_kv_heads counts if it is not n_heads alone that moved it: heads are shared by more, or fewer.
    """
    shared = a.n_heads * b.n_kv_heads != b.n_heads * a.n_kv_heads
    decided = {"n_kv_heads"} if shared else set()
    rows = difference(a, b)
    return [row for row in rows if row[0].split(".")[-1] not in SIZES or row[0] in decided]


def shown(value) -> str:
    """A field's value in short: 4,096; of a part, what is not its default."""
    if not is_dataclass(value):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return f"{value:,}" if whole else f"{value:.4g}" if isinstance(value, float) else str(value)
    pairs = [(field, getattr(value, field.name)) for field in fields(value)]
    inside = [f"{field.name}={shown(x)}" for field, x in pairs if x != field.default]
    return f"{type(value).__name__}({', '.join(inside)})"


def in_words(cfg: ModelConfig) -> dict[str, tuple[list[str], str]]:
    """Each part of the model, from the tokens up: (what there is to say of its kind, its size)."""
    norm = [{"rms": "RMSNorm", "layer": "LayerNorm"}[cfg.norm]]
    before, after = norm * cfg.pre_norms, norm * cfg.post_norms
    learned = ["learned positions"] * cfg.learned_positions
    tied = "the embedding, used again" if cfg.tie_embeddings else "a table of its own"
    return {
        "embedding": (["a row per token", *learned], f"{cfg.vocab_size:,} rows of {cfg.d_model:,}"),
        "norm before attention": (before, ""),
        "attention": (_attention_in_words(cfg), f"{cfg.n_heads} heads of {_query_width(cfg)}"),
        "norm after attention": (after, ""),
        "norm before MLP": (before, ""),
        "MLP": _mlp_in_words(cfg),
        "norm after MLP": (after, ""),
        "last norm": (norm, ""),
        "unembedding": ([tied], ""),
    }


def _attention_in_words(cfg: ModelConfig) -> list[str]:
    sharing = cfg.n_heads // cfg.n_kv_heads
    own = "keys from a latent" if cfg.latent else "a key for each head"
    words = [own if sharing == 1 else f"a key for {sharing} heads"]
    if cfg.rope:
        words.append(f"rotary positions, base {cfg.rope.theta:,.0f}")
        words += [f"stretched by {cfg.rope.factor:g}"] * (cfg.rope.scaling != "none")
    if cfg.window:
        n_local = sum(letter in "WC" for letter in cfg.pattern)
        words.append(f"sees {cfg.window:,} tokens in {n_local} of {len(cfg.pattern)} layers")
    words += ["norms of queries and keys"] * (cfg.qk_norm != "none")
    words += ["softcap"] * (cfg.attn_softcap is not None) + ["sinks"] * cfg.sinks
    return words + ["biases"] * cfg.bias


def _mlp_in_words(cfg: ModelConfig) -> tuple[list[str], str]:
    bend = {"gelu": "GELU", "swiglu": "SwiGLU", "geglu": "GeGLU"}.get(cfg.mlp, "SwiGLU, clamped")
    if not cfg.moe:
        return [bend, *["biases"] * cfg.bias], f"{cfg.d_model:,} to {cfg.d_ff:,} and back"
    moe = cfg.moe
    words = ["mixture of experts", *["one expert for all"] * bool(moe.n_shared), bend]
    size = f"{moe.n_active} of {moe.n_experts} experts, {moe.d_ff:,} wide"
    return words + ["biases"] * moe.bias, size


# ---------------------------------------------------------------- parameters


def parameters(cfg: ModelConfig, active: bool = False) -> int:
    """How many numbers there are to store; active: those that take part in computing one token.

    Active counts the chosen and shared experts only, and the embedding table in full.
    """
    ends = cfg.vocab_size * cfg.d_model * (1 if cfg.tie_embeddings else 2)
    ends += cfg.context_length * cfg.d_model if cfg.learned_positions else 0
    blocks = sum(_block_parameters(cfg, layer, active) for layer in cfg.layers())
    return ends + blocks + _norm_parameters(cfg)


def embedding_parameters(cfg: ModelConfig) -> int:
    """The rows that are looked up, not multiplied: tokens (if not tied) and learned positions."""
    rows = 0 if cfg.tie_embeddings else cfg.vocab_size
    return (rows + (cfg.context_length if cfg.learned_positions else 0)) * cfg.d_model


def _block_parameters(cfg: ModelConfig, layer: Layer, active: bool) -> int:
    norms = 2 * cfg.pre_norms + 2 * cfg.post_norms
    attention = _latent_parameters(cfg) if cfg.latent else _attention_parameters(cfg, layer)
    mlp = _moe_parameters(cfg, active) if layer.moe else _mlp_parameters(cfg, cfg.d_ff, cfg.bias)
    return norms * _norm_parameters(cfg) + attention + mlp


def _norm_parameters(cfg: ModelConfig) -> int:
    return cfg.d_model * (2 if cfg.norm == "layer" else 1)  # LayerNorm has a bias too


def _attention_parameters(cfg: ModelConfig, layer: Layer) -> int:
    q, kv = cfg.n_heads * cfg.head_dim, cfg.n_kv_heads * cfg.head_dim
    norms = {"rms": 2 * cfg.head_dim, "rms_all_heads": q + kv}.get(layer.qk_norm, 0)
    qkv_bias = cfg.bias if cfg.qkv_bias is None else cfg.qkv_bias
    biases = (q + 2 * kv) * qkv_bias + cfg.d_model * cfg.bias
    return cfg.d_model * (2 * q + 2 * kv) + biases + norms + cfg.n_heads * cfg.sinks


def _latent_parameters(cfg: ModelConfig) -> int:
    m, C, H = cfg.latent, cfg.d_model, cfg.n_heads
    q = H * (m.nope_dim + m.rope_dim)
    biases = ((m.q_rank or 0) + m.kv_rank + m.rope_dim + C) * cfg.bias
    queries = C * m.q_rank + m.q_rank + m.q_rank * q if m.q_rank else C * q
    keys = C * (m.kv_rank + m.rope_dim) + m.kv_rank + m.kv_rank * H * (m.nope_dim + m.v_dim)
    return queries + keys + H * m.v_dim * C + biases


def _mlp_parameters(cfg: ModelConfig, d_ff: int, bias: bool) -> int:
    ins = 2 if cfg.mlp.endswith("glu") else 1  # a gated MLP has two ways in
    return (ins + 1) * cfg.d_model * d_ff + (ins * d_ff + cfg.d_model) * bias


def _moe_parameters(cfg: ModelConfig, active: bool) -> int:
    moe = cfg.moe
    router = (cfg.d_model + moe.bias) * moe.n_experts
    router += moe.n_experts * (moe.steered and not active)  # stored, but in no product
    visited = moe.n_active if active else moe.n_experts
    shared = _mlp_parameters(cfg, moe.n_shared * moe.d_ff, moe.bias) if moe.n_shared else 0
    return router + visited * _mlp_parameters(cfg, moe.d_ff, moe.bias) + shared


# ---------------------------------------------------------------- work and memory


def flops_per_token(cfg: ModelConfig, T: int, training: bool = True) -> float:
    """Multiplications and additions for one token of a sequence of T, averaged over the sequence.

    Matrix products only: 2 per weight, and 2 per number of each query and value that meets a key
    it may see. Training counts three times: forward, and backward for inputs and for weights.
    """
    weights = parameters(cfg, active=True) - embedding_parameters(cfg) - _vectors(cfg)
    keys = sum(_mean_keys(layer, T) for layer in cfg.layers())
    value_width = cfg.latent.v_dim if cfg.latent else cfg.head_dim
    attention = keys * cfg.n_heads * (_query_width(cfg) + value_width)
    return 2 * (weights + attention) * (3 if training else 1)


def kv_bytes_per_token(cfg: ModelConfig, bytes_per_number: int = 2) -> int:
    """Bytes that the cache grows by for each token while no window is full, all layers together."""
    return cfg.n_layers * _kept_numbers(cfg) * bytes_per_number


def kv_bytes(cfg: ModelConfig, T: int, bytes_per_number: int = 2) -> int:
    """Bytes of the cache after T tokens of one sequence: a layer keeps only what it can see."""
    slots = sum(min(T, layer.reach or T) for layer in cfg.layers())
    return slots * _kept_numbers(cfg) * bytes_per_number


def training_bytes(cfg: ModelConfig, bytes_per_parameter: int = 16) -> int:
    """Weights, gradients and Adam's two moments, without activations.

    16 in 32 bits: 4 each. 16 also in mixed precision: 2 + 2, and a 32-bit copy, 4 + 4 + 4.
    """
    return parameters(cfg) * bytes_per_parameter


def _kept_numbers(cfg: ModelConfig) -> int:
    if cfg.latent:
        return cfg.latent.kv_rank + cfg.latent.rope_dim
    return 2 * cfg.n_kv_heads * cfg.head_dim


def _query_width(cfg: ModelConfig) -> int:
    return cfg.latent.nope_dim + cfg.latent.rope_dim if cfg.latent else cfg.head_dim


def _mean_keys(layer: Layer, T: int) -> float:
    """How many keys a query of a sequence of T sees, on average."""
    if layer.chunk:
        seen = sum(t % layer.chunk + 1 for t in range(T))
    else:
        seen = sum(min(t + 1, layer.window or T) for t in range(T))
    return seen / T


def _vectors(cfg: ModelConfig) -> int:
    """The active parameters that are added or scaled by, not matrices: norms, biases, sinks."""
    bare = {"bias": False, "qkv_bias": False, "sinks": False, "pre_norms": False, "qk_norm": "none"}
    moe = cfg.moe and replace(cfg.moe, bias=False)
    matrices = replace(cfg, **bare, post_norms=False, nope_qk_norm=None, moe=moe)
    latent = ((cfg.latent.q_rank or 0) + cfg.latent.kv_rank) * cfg.n_layers if cfg.latent else 0
    last_norm = _norm_parameters(cfg)
    return parameters(cfg, active=True) - parameters(matrices, active=True) + latent + last_norm
