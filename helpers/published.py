"""Published architectures: how their config.json and their tensors say what ours say.

A family is a few small tables that are read in both directions: a checkpoint comes in by them and
goes out by them, and every quirk ends here. To add one, write a `Family` as the difference from its
relative, at the end. Reading and writing the files is in `weights`; lesson 08 opens a real one.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.config import Layer, ModelConfig, Rope, as_dict, from_dict
from helpers.model import precise

# ---------------------------------------------------------------- layouts
# A published tensor may hold several of ours, or ours in another order. Both ways stand together,
# so that reading and writing cannot come apart.


class Layout(NamedTuple):
    """`apart` finds our tensors in a published one, `together` makes it of them again."""

    apart: Callable[[Tensor], Iterable[Tensor]]
    together: Callable[[list[Tensor]], Tensor]


SAME = Layout(lambda theirs: [theirs], lambda ours: ours[0])
HALVES = Layout(lambda theirs: theirs.chunk(2), torch.cat)
INTERLEAVED = Layout(
    lambda theirs: [theirs[0::2], theirs[1::2]],
    lambda ours: torch.stack(ours, dim=1).flatten(0, 1),
)
# Norm weights kept as their distance from 1. In 32 bits: in 16 the sum would lose its last bits.
ONE_PLUS = Layout(lambda theirs: [precise(theirs) + 1], lambda ours: ours[0] - 1)


def in_rows(*sizes: int) -> Layout:
    """Ours one after the other, each with so many rows."""
    return Layout(lambda theirs: theirs.split(sizes), torch.cat)


def in_one_row(head_dim: int) -> Layout:
    """One vector for all heads, where ours is (heads, head_dim)."""
    return Layout(
        lambda theirs: [theirs.unflatten(0, (-1, head_dim))], lambda ours: ours[0].flatten()
    )


def in_pairs(n_heads: int, turning: int) -> Layout:
    """The last rows of a head turn with their neighbours; ours half of them apart: model.rotate."""

    def order(n_rows: int) -> Tensor:
        rows = torch.arange(n_rows).view(n_heads, -1)
        still, turn = rows[:, :-turning], rows[:, -turning:]
        return torch.cat([still, turn[:, 0::2], turn[:, 1::2]], dim=1).flatten()

    return Layout(
        lambda theirs: [theirs[order(len(theirs))]],
        lambda ours: ours[0][order(len(ours[0])).argsort()],
    )


def transposed(layout: Layout = SAME) -> Layout:
    """The same in a matrix kept as (in, out); a vector stays as it is."""
    return Layout(lambda theirs: layout.apart(theirs.t()), lambda ours: layout.together(ours).t())


def stacked(n_experts: int, layout: Layout = SAME) -> Layout:
    """All experts in one tensor: what is ours of the first, then of the second, ..."""

    def together(ours: list[Tensor]) -> Tensor:
        n = len(ours) // n_experts
        return torch.stack([layout.together(ours[i : i + n]) for i in range(0, len(ours), n)])

    return Layout(lambda theirs: [part for one in theirs for part in layout.apart(one)], together)


# ---------------------------------------------------------------- names
# Theirs on the left, ours on the right, of modules or tensors; of each block without the number.
# "{}" is the number of an expert. Where more than the name differs, `Held` says how.


class Held(NamedTuple):
    """Our tensors, with spaces between them, that one published tensor holds, and how."""

    ours: str
    layout: Layout


Table = dict[str, str | Held]

ENDS = {"model.embed_tokens": "tok_emb", "model.norm": "norm", "lm_head": "lm_head"}
ATTENTION = {f"self_attn.{name}_proj": f"attn.w{name}" for name in "qkvo"}
ATTENTION |= {"self_attn.q_norm": "attn.q_norm", "self_attn.k_norm": "attn.k_norm"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm"}
NORMS_AROUND = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "attn_post_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
}


def mlp(theirs: str, ours: str = "mlp") -> Table:
    """The three matrices of a gated MLP."""
    return {f"{theirs}.{name}_proj": f"{ours}.{name}" for name in ("gate", "up", "down")}


def in_stacks(cfg: ModelConfig, theirs: str, gate_up: Layout, down: Layout = SAME) -> Table:
    """All experts of a layer in two tensors, and in two more if they have biases."""
    table, n = {}, cfg.moe.n_experts
    for kind, ending in (("weight", ""), ("bias", "_bias")):
        both = f"mlp.experts.{{}}.gate.{kind} mlp.experts.{{}}.up.{kind}"
        table[f"{theirs}.gate_up_proj{ending}"] = Held(both, stacked(n, gate_up))
        last = f"mlp.experts.{{}}.down.{kind}"
        table[f"{theirs}.down_proj{ending}"] = Held(last, stacked(n, down))
    return table


def one_plus(table: dict[str, str]) -> Table:
    """The table, with every norm kept as its distance from 1."""
    norms = {name: Held(ours, ONE_PLUS) for name, ours in table.items() if ours.endswith("norm")}
    return table | norms


def llama_block(cfg: ModelConfig, layer: Layer) -> Table:
    """What most families share."""
    return ATTENTION | NORMS | mlp("mlp")


def gpt2_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Matrices kept as (in, out); queries, keys and values in one of them."""
    return {
        "ln_1": "attn_norm",
        "ln_2": "mlp_norm",
        "attn.c_attn": Held("attn.wq attn.wk attn.wv", transposed(in_rows(*[cfg.d_model] * 3))),
        "attn.c_proj": Held("attn.wo", transposed()),
        "mlp.c_fc": Held("mlp.up", transposed()),
        "mlp.c_proj": Held("mlp.down", transposed()),
    }


def gemma_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Norms before and after. What others call so before the MLP, here comes after attention."""
    return one_plus(ATTENTION | NORMS_AROUND) | mlp("mlp")


def olmo2_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Norms after only; one for the queries of all heads, one for the keys."""
    after = {name: ours for name, ours in NORMS_AROUND.items() if "post" in ours}
    heads = {f"self_attn.{n}_norm": Held(f"attn.{n}_norm", in_one_row(cfg.head_dim)) for n in "qk"}
    return ATTENTION | after | heads | mlp("mlp")


def phi3_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Queries, keys and values in one matrix, gate and up in another."""
    q, kv = cfg.n_heads * cfg.head_dim, cfg.n_kv_heads * cfg.head_dim
    return NORMS | {
        "self_attn.qkv_proj": Held("attn.wq attn.wk attn.wv", in_rows(q, kv, kv)),
        "self_attn.o_proj": "attn.wo",
        "mlp.gate_up_proj": Held("mlp.gate mlp.up", HALVES),
        "mlp.down_proj": "mlp.down",
    }


def qwen3_moe_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Experts one by one, as in files, or in stacks, as in transformers' memory."""
    table = mlp("mlp.experts.{}", "mlp.experts.{}") | {"mlp.gate": "mlp.router"}
    return ATTENTION | NORMS | table | in_stacks(cfg, "mlp.experts", HALVES)


def mixtral_block(cfg: ModelConfig, layer: Layer) -> Table:
    """The same, in files by older names."""
    table = {"block_sparse_moe.gate": "mlp.router", "mlp.gate": "mlp.router"}
    for theirs, ours in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
        table[f"block_sparse_moe.experts.{{}}.{theirs}"] = f"mlp.experts.{{}}.{ours}"
    return ATTENTION | NORMS | table | in_stacks(cfg, "mlp.experts", HALVES)


def gpt_oss_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Stacks of (in, out), gate and up in turns; a sink for each head."""
    table = {"self_attn.sinks": "attn.sinks", "mlp.router": "mlp.router"}
    stacks = in_stacks(cfg, "mlp.experts", transposed(INTERLEAVED), transposed())
    return ATTENTION | NORMS | table | stacks


def llama4_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Queries and keys that turn do so in neighbouring pairs; stacks of (in, out)."""
    table: Table = ATTENTION | NORMS
    if layer.rope:
        for name, n_heads in (("q", cfg.n_heads), ("k", cfg.n_kv_heads)):
            pairs = in_pairs(n_heads, cfg.head_dim)
            table |= {f"self_attn.{name}_proj": Held(f"attn.w{name}", pairs)}
    if not layer.moe:
        return table | mlp("feed_forward")
    table |= {"feed_forward.router": "mlp.router"} | mlp("feed_forward.shared_expert", "mlp.shared")
    return table | in_stacks(cfg, "feed_forward.experts", transposed(HALVES), transposed())


def deepseek_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Latent attention, whose rotated rows turn in neighbouring pairs; experts either way."""
    turning = cfg.latent.rope_dim
    q_up = "self_attn.q_b_proj" if cfg.latent.q_rank else "self_attn.q_proj"
    table = NORMS | {
        "self_attn.q_a_proj": "attn.q_down",
        "self_attn.q_a_layernorm": "attn.q_norm",
        q_up: Held("attn.q_up", in_pairs(cfg.n_heads, turning)),
        "self_attn.kv_a_proj_with_mqa": Held("attn.kv_down", in_pairs(1, turning)),
        "self_attn.kv_a_layernorm": "attn.kv_norm",
        "self_attn.kv_b_proj": "attn.kv_up",
        "self_attn.o_proj": "attn.wo",
    }
    if not layer.moe:
        return table | mlp("mlp")
    table |= {"mlp.gate": "mlp.router", "mlp.gate.e_score_correction_bias": "mlp.steer"}
    table |= mlp("mlp.shared_experts", "mlp.shared") | mlp("mlp.experts.{}", "mlp.experts.{}")
    return table | in_stacks(cfg, "mlp.experts", HALVES)


# ---------------------------------------------------------------- config.json: positions


class Said(dict):
    """What a config.json says; ValueError for what it should say and does not."""

    def __missing__(self, name: str):
        raise ValueError(f"config.json does not say {name}")


def require(name: str, value, known: Iterable) -> None:
    """ValueError, with the field's name, for a value that our decoder does not know."""
    if value not in list(known):
        choices = " or ".join(map(repr, known))
        raise ValueError(f"config.json says {name} = {value!r}, and known here is only {choices}")


def in_one_style(said: dict) -> dict:
    """The same in the words of older files: rope_theta, rope_scaling, ... for rope_parameters."""
    if "num_local_experts" in said:
        said = {"num_experts": said["num_local_experts"]} | said
    ropes = said.get("rope_parameters") or {}
    main, local = ropes.get("full_attention", ropes), ropes.get("sliding_attention") or {}
    require("rope_type of sliding_attention", local.get("rope_type", "default"), ["default"])
    moved = {name: main[name] for name in ("rope_theta", "partial_rotary_factor") if name in main}
    moved |= {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
    return said | moved | ({"rope_scaling": main} if main else {})


ROPE_TYPES = {"default": "none", "linear": "linear", "llama3": "by_wavelength", "yarn": "yarn"}
ROPE_FIELDS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "attention_factor": "mscale",
}
STRETCH = ("factor", "original_max_position_embeddings")
READ_BY = {  # what each way of scaling must say,
    "none": (),
    "linear": ("factor",),
    "by_wavelength": (*STRETCH, "low_freq_factor", "high_freq_factor"),
    "yarn": (*STRETCH, "attention_factor"),
}
MAY_SAY = {"yarn": ("beta_fast", "beta_slow", "truncate")}  # and what it may


def read_rope(said: dict) -> dict:
    """The fields of our Rope."""
    scaling = said.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    require("rope_type", kind, ROPE_TYPES)
    ours = ROPE_TYPES[kind]
    found = {name: value for name, value in scaling.items() if value is not None}
    found = Said({"original_max_position_embeddings": said.get("max_position_embeddings")} | found)
    if kind == "yarn":
        found.setdefault("attention_factor", yarn_attention_factor(found))
    rope = {"theta": said["rope_theta"], "fraction": said.get("partial_rotary_factor") or 1.0}
    names = READ_BY[ours] + tuple(name for name in MAY_SAY.get(ours, ()) if name in found)
    return rope | {"scaling": ours} | {ROPE_FIELDS[name]: found[name] for name in names}


def yarn_attention_factor(scaling: Said) -> float:
    """What cos and sin are multiplied by where no one says it (arXiv:2309.00071, section 3.4)."""
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if above and below:
        return longer(scaling["factor"], above) / longer(scaling["factor"], below)
    return longer(scaling["factor"])


def longer(factor: float, weight: float = 1.0) -> float:
    """By how much queries, and keys, grow with a context `factor` times as long."""
    return 0.1 * weight * math.log(max(factor, 1.0)) + 1.0


def write_rope(cfg: ModelConfig) -> dict:
    """The reverse of `read_rope`."""
    if cfg.rope is None:
        return {}
    types = {ours: theirs for theirs, ours in ROPE_TYPES.items()}
    names = READ_BY[cfg.rope.scaling] + MAY_SAY.get(cfg.rope.scaling, ())
    scaling = {name: getattr(cfg.rope, ROPE_FIELDS[name]) for name in names}
    return {
        "rope_theta": cfg.rope.theta,
        "partial_rotary_factor": cfg.rope.fraction,
        "rope_scaling": {"rope_type": types[cfg.rope.scaling]} | scaling if scaling else None,
    }


# ---------------------------------------------------------------- config.json: layers

LAYER_TYPES = {"full_attention": "G", "sliding_attention": "W", "chunked_attention": "C"}


def read_layers(said: dict, default: str) -> str:
    """The pattern of the layers, from `layer_types` where it is given."""
    types = said.get("layer_types")
    if not types:
        return default
    require("as many layer_types", len(types), [said["num_hidden_layers"]])
    for name in types:
        require("layer_types", name, LAYER_TYPES)
    return shortest("".join(LAYER_TYPES[name] for name in types))


def write_layers(cfg: ModelConfig) -> dict:
    """The reverse; a layer without positions is a global one."""
    types = {letter: name for name, letter in LAYER_TYPES.items()} | {"N": "full_attention"}
    return {"layer_types": [types[letter] for letter in spelled(cfg.pattern, cfg.n_layers)]}


def spelled(pattern: str, n: int) -> str:
    """The pattern repeated up to n letters: "WG", 5 -> "WGWGW"."""
    return (pattern * n)[:n]


def shortest(letters: str) -> str:
    """The shortest pattern that spells these letters: "WGWGW" -> "WG"."""
    lengths = range(1, len(letters) + 1)
    return next(letters[:n] for n in lengths if spelled(letters[:n], len(letters)) == letters)


def plain(cfg: ModelConfig) -> ModelConfig:
    """The same decoder said in one way, whatever its fields without effect and its last digits."""
    pattern = shortest(spelled(cfg.pattern, cfg.n_layers))
    return replace(
        cfg,
        pattern=pattern,
        ffn_pattern=shortest(spelled(cfg.ffn_pattern, cfg.n_layers)),
        window=cfg.window if set(pattern) & set("WC") else None,
        head_dim=cfg.latent.v_dim if cfg.latent else cfg.head_dim,
        d_ff=cfg.d_ff if any(not layer.moe for layer in cfg.layers()) else cfg.moe.d_ff,
        qkv_bias=None if cfg.qkv_bias == cfg.bias else cfg.qkv_bias,
        attn_scale=cfg.attn_scale and float(f"{cfg.attn_scale:.12g}"),
    )


# ---------------------------------------------------------------- families


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one architecture says what our config and our tensors say."""

    architecture: str  # the class of transformers
    block: Callable[[ModelConfig, Layer], Table]  # the names in one block,
    blocks: str = "model.layers"  # what stands before its number,
    ends: Table = field(default_factory=ENDS.copy)  # and the names outside the blocks
    fields: dict[str, str]  # of config.json -> of ModelConfig, where only the name differs
    only: dict  # fields of config.json that may say nothing but this
    always: dict = field(default_factory=dict)  # fields of ModelConfig of which it is silent
    silent: dict = field(default_factory=dict)  # what it means to say where it is silent
    pattern: str = "G"  # of its layers, where it is silent
    read: Callable[[Said], dict] = lambda said: {}  # fields of ModelConfig by arithmetic,
    write: Callable[[ModelConfig], dict] = lambda cfg: {}  # and the reverse
    renamed: dict[str, str] = field(default_factory=dict)  # beginnings of names in some folders
    ignored: str = r"rotary_emb\.inv_freq$"  # tensors that no one needs


SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "n_layers",
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "d_ff",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
    "initializer_range": "init_std",
}
SILENT = {"rope_theta": 10_000.0, "tie_word_embeddings": False, "initializer_range": 0.02}
WHOLE = {"partial_rotary_factor": 1.0}  # all of a head turns
LLAMA = Family(
    architecture="LlamaForCausalLM",
    block=llama_block,
    fields=SIZES,
    only={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False} | WHOLE,
    silent=SILENT,
)
MISTRAL = replace(
    LLAMA,
    architecture="MistralForCausalLM",
    fields=SIZES | {"sliding_window": "window"},
    read=lambda said: {"pattern": "W" if said["sliding_window"] else "G"},
)
PHI3 = replace(
    MISTRAL, architecture="Phi3ForCausalLM", block=phi3_block, only={"hidden_act": "silu"}
)
OLMO2 = replace(
    LLAMA,
    architecture="Olmo2ForCausalLM",
    block=olmo2_block,
    always={"pre_norms": False, "post_norms": True, "qk_norm": "rms_all_heads"},
)
STABLELM = replace(
    LLAMA,
    architecture="StableLmForCausalLM",
    fields={name: ours for name, ours in SIZES.items() if name != "rms_norm_eps"},
    only={"hidden_act": "silu", "qk_layernorm": False, "use_parallel_residual": False},
    always={"norm": "layer"},
    silent=SILENT | {"partial_rotary_factor": 0.25},
    read=lambda said: {
        "norm_eps": said["layer_norm_eps"],
        "qkv_bias": said["use_qkv_bias"] or None,
    },
    write=lambda cfg: {"layer_norm_eps": cfg.norm_eps, "use_qkv_bias": bool(cfg.qkv_bias)},
)
QWEN2 = replace(
    LLAMA,
    architecture="Qwen2ForCausalLM",
    only={"hidden_act": "silu", "use_sliding_window": False} | WHOLE,
    always={"qkv_bias": True},
)
QWEN3 = replace(
    QWEN2,
    architecture="Qwen3ForCausalLM",
    only=QWEN2.only | {"attention_bias": False},
    always={"qk_norm": "rms"},
)

# ---------------------------------------------------------------- learned positions

GELUS = {"gelu_new": "gelu", "gelu": "gelu_exact", "relu": "relu"}


def read_gpt2(said: Said) -> dict:
    """As many heads for keys; a width of None is four times d_model."""
    require("activation_function", said["activation_function"], GELUS)
    heads = {"n_kv_heads": said["n_head"], "head_dim": said["n_embd"] // said["n_head"]}
    d_ff = said.get("n_inner") or 4 * said["n_embd"]
    return heads | {"d_ff": d_ff, "mlp": GELUS[said["activation_function"]]}


def write_gpt2(cfg: ModelConfig) -> dict:
    """The reverse."""
    names = {ours: theirs for theirs, ours in GELUS.items()}
    return {"n_inner": cfg.d_ff, "activation_function": names.get(cfg.mlp)}


GPT2 = Family(
    architecture="GPT2LMHeadModel",
    block=gpt2_block,
    blocks="transformer.h",
    ends={
        "transformer.wte": "tok_emb",
        "transformer.wpe": "pos_emb",
        "transformer.ln_f": "norm",
        "lm_head": "lm_head",
    },
    fields={
        "vocab_size": "vocab_size",
        "n_positions": "context_length",
        "n_layer": "n_layers",
        "n_embd": "d_model",
        "n_head": "n_heads",
        "layer_norm_epsilon": "norm_eps",
        "tie_word_embeddings": "tie_embeddings",
        "initializer_range": "init_std",
    },
    only={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    always={"norm": "layer", "bias": True, "rope": None, "learned_positions": True},
    silent={"tie_word_embeddings": True, "initializer_range": 0.02},
    read=read_gpt2,
    write=write_gpt2,
    renamed={name: f"transformer.{name}" for name in ("wte.", "wpe.", "h.", "ln_f.")},
    ignored=r"\.attn\.(masked_)?bias$",  # the causal mask, kept in old files
)

# ---------------------------------------------------------------- norms before and after, windows


def read_gemma(said: Said) -> dict:
    """The scales of attention and of the embeddings."""
    scale = said["query_pre_attn_scalar"] ** -0.5
    return {"attn_scale": scale, "embed_scale": said["hidden_size"] ** 0.5}


def write_gemma(cfg: ModelConfig) -> dict:
    """The reverse; no one says the scale of the embeddings."""
    scale = cfg.attn_scale or cfg.head_dim**-0.5
    return {"query_pre_attn_scalar": round(scale**-2)} | write_layers(cfg)


def read_gemma3(said: Said) -> dict:
    """The same, and the local layers with a rope of their own."""
    period = said.get("sliding_window_pattern") or 6
    pattern = read_layers(said, "W" * (period - 1) + "G")
    local = {"theta": said["rope_local_base_freq"]}
    return read_gemma(said) | {"local_rope": local, "pattern": pattern}


def write_gemma3(cfg: ModelConfig) -> dict:
    """The reverse."""
    return write_gemma(cfg) | {"rope_local_base_freq": (cfg.local_rope or cfg.rope).theta}


# Folders of models that also see: the text part has names of its own, the rest is left.
TEXT_PART = {"language_model.model.": "model.", "model.language_model.": "model."}
TEXT_PART |= {"language_model.lm_head.": "lm_head."}
SIGHT = r"^(model\.)?(vision_tower|vision_model|multi_modal_projector)\."

CAPS = {"attn_logit_softcapping": "attn_softcap", "final_logit_softcapping": "logit_softcap"}
GEMMA2 = replace(
    LLAMA,
    architecture="Gemma2ForCausalLM",
    block=gemma_block,
    ends=one_plus(ENDS),
    fields=SIZES | CAPS | {"sliding_window": "window"},
    only={
        **WHOLE,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "use_bidirectional_attention": False,
    },
    always={"post_norms": True, "mlp": "geglu"},
    silent=SILENT | {"tie_word_embeddings": True},
    pattern="WG",
    read=read_gemma,
    write=write_gemma,
)
GEMMA3 = replace(
    GEMMA2,
    architecture="Gemma3ForCausalLM",
    always=GEMMA2.always | {"qk_norm": "rms"},
    silent={  # published files leave out what this class has anyway
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    },
    read=read_gemma3,
    write=write_gemma3,
    renamed=TEXT_PART,
    ignored=SIGHT,
)

# ---------------------------------------------------------------- experts

CHOICE = {"num_local_experts": "moe.n_experts", "num_experts_per_tok": "moe.n_active"}
WIDTH = {"moe_intermediate_size": "moe.d_ff"}
MIXTRAL = replace(
    MISTRAL,
    architecture="MixtralForCausalLM",
    block=mixtral_block,
    fields=MISTRAL.fields | CHOICE,
    always={"moe.router": "topk_softmax", "ffn_pattern": "m"},
    read=lambda said: MISTRAL.read(said) | {"moe.d_ff": said["intermediate_size"]},
    write=lambda cfg: {"intermediate_size": cfg.moe.d_ff},
)
QWEN3_MOE = replace(
    QWEN3,
    architecture="Qwen3MoeForCausalLM",
    block=qwen3_moe_block,
    fields=SIZES | WIDTH | {"num_experts": "moe.n_experts", "num_experts_per_tok": "moe.n_active"},
    only=QWEN3.only | {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    always=QWEN3.always | MIXTRAL.always,
    silent=SILENT | {"norm_topk_prob": False},
)
SWIGLU_OF_GPT_OSS = {"swiglu_limit": 7.0, "swiglu_alpha": 1.702}  # as in model.clamped_swiglu
GPT_OSS = replace(
    LLAMA,
    architecture="GptOssForCausalLM",
    block=gpt_oss_block,
    fields=MIXTRAL.fields,
    only={"hidden_act": "silu", "attention_bias": True, **SWIGLU_OF_GPT_OSS, **WHOLE},
    always=MIXTRAL.always
    | {"mlp": "clamped_swiglu", "bias": True, "sinks": True, "moe.bias": True},
    pattern="WG",
    read=lambda said: {"moe.d_ff": said["intermediate_size"]},
    write=lambda cfg: write_layers(cfg) | {"intermediate_size": cfg.moe.d_ff},
)


def read_llama4(said: Said) -> dict:
    """Which layers turn and which have experts; what stands for rotation in the others."""
    n, step = said["num_hidden_layers"], said["interleave_moe_layer_step"]
    interval = said["no_rope_layer_interval"]
    turns = said.get("no_rope_layers") or [(i + 1) % interval for i in range(n)]
    require("as many no_rope_layers", len(turns), [n])
    moe = said.get("moe_layers")
    moe = range(step - 1, n, step) if moe is None else moe
    pattern = shortest("".join("C" if turn else "N" for turn in turns))
    require("layer_types", read_layers(said, pattern).replace("G", "N"), [pattern])
    warmth = (said["floor_scale"], said["attn_scale"])
    return {
        "pattern": pattern,
        "ffn_pattern": shortest("".join("m" if i in moe else "d" for i in range(n))),
        "qk_norm": "rms_unweighted" if said["use_qk_norm"] else "none",
        "nope_temperature": warmth if said["attn_temperature_tuning"] else None,
    }


def write_llama4(cfg: ModelConfig) -> dict:
    """The reverse, layer by layer."""
    layers, warmth = cfg.layers(), cfg.nope_temperature or (8192, 0.1)
    return write_layers(cfg) | {
        "no_rope_layers": [int(layer.rope is not None) for layer in layers],
        "moe_layers": [i for i, layer in enumerate(layers) if layer.moe],
        "use_qk_norm": cfg.qk_norm != "none",
        "attn_temperature_tuning": cfg.nope_temperature is not None,
        "floor_scale": int(warmth[0]),
        "attn_scale": warmth[1],
    }


LLAMA4 = replace(
    LLAMA,
    architecture="Llama4ForCausalLM",
    block=llama4_block,
    fields={
        **SIZES,
        **CHOICE,
        "intermediate_size": "moe.d_ff",
        "intermediate_size_mlp": "d_ff",
        "attention_chunk_size": "window",
    },
    always={
        "nope_qk_norm": "none",
        "moe.router": "topk_sigmoid",
        "moe.n_shared": 1,
        "moe.scale_input": True,
    },
    silent={
        **SILENT,
        "rope_theta": 500_000.0,
        "attention_chunk_size": 8192,
        "no_rope_layer_interval": 4,
        "interleave_moe_layer_step": 1,
        "use_qk_norm": True,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    read=read_llama4,
    write=write_llama4,
    renamed=TEXT_PART,
    ignored=SIGHT,
)

# ---------------------------------------------------------------- latent attention


def read_latent(said: Said) -> dict:
    """The scale of attention, in which YaRN's factor for queries and keys stands here."""
    scaling, rope = said.get("rope_scaling") or {}, read_rope(said)
    scale, weight = None, scaling.get("mscale_all_dim")
    if weight and rope["scaling"] != "none":
        width = said["qk_nope_head_dim"] + said["qk_rope_head_dim"]
        scale = width**-0.5 * longer(rope["factor"], weight) ** 2
    return {"attn_scale": scale, "head_dim": said["v_head_dim"]}


def write_latent(cfg: ModelConfig) -> dict:
    """The reverse, which is said in `rope_scaling`."""
    if cfg.attn_scale is None or cfg.rope.scaling == "none":
        return {}
    growth = math.sqrt(cfg.attn_scale * math.sqrt(cfg.latent.nope_dim + cfg.latent.rope_dim))
    weight = round((growth - 1) / (longer(cfg.rope.factor) - 1), 6)
    return {"rope_scaling": write_rope(cfg)["rope_scaling"] | {"mscale_all_dim": weight}}


def read_deepseek_v2(said: Said) -> dict:
    """The same; groups count only where the choice is limited to some of them."""
    require("topk_method", said["topk_method"], ("greedy", "group_limited_greedy"))
    grouped = said["topk_method"] != "greedy"
    groups = (said["n_group"], said["topk_group"]) if grouped else (1, 1)
    return read_latent(said) | {"moe.n_groups": groups[0], "moe.n_active_groups": groups[1]}


def write_deepseek_v2(cfg: ModelConfig) -> dict:
    """The reverse."""
    method = "group_limited_greedy" if cfg.moe.n_groups > 1 else "greedy"
    return write_latent(cfg) | {"topk_method": method}


LATENT = {
    "kv_lora_rank": "latent.kv_rank",
    "q_lora_rank": "latent.q_rank",
    "qk_nope_head_dim": "latent.nope_dim",
    "qk_rope_head_dim": "latent.rope_dim",
    "v_head_dim": "latent.v_dim",
    "first_k_dense_replace": "n_dense_first",
    "n_routed_experts": "moe.n_experts",
    "n_shared_experts": "moe.n_shared",
    "num_experts_per_tok": "moe.n_active",
    "n_group": "moe.n_groups",
    "topk_group": "moe.n_active_groups",
    "routed_scaling_factor": "moe.route_scale",
}
DEEPSEEK_V3 = replace(
    LLAMA,
    architecture="DeepseekV3ForCausalLM",
    block=deepseek_block,
    fields={name: ours for name, ours in SIZES.items() if name != "head_dim"} | WIDTH | LATENT,
    only={
        **LLAMA.only,
        "norm_topk_prob": True,
        "moe_layer_freq": 1,
        "rope_interleave": True,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    always={"moe.router": "grouped_sigmoid", "moe.steered": True, "ffn_pattern": "m"},
    read=read_latent,
    write=write_latent,
    ignored=r"^model\.layers\.{n_layers}\.",  # it predicts one token more, and is not asked
)
DEEPSEEK_V2 = replace(
    DEEPSEEK_V3,
    architecture="DeepseekV2ForCausalLM",
    only={
        **LLAMA.only,
        "norm_topk_prob": False,
        "moe_layer_freq": 1,
        "scoring_func": "softmax",
    },
    always={"moe.router": "grouped_softmax", "moe.steered": False, "ffn_pattern": "m"},
    read=read_deepseek_v2,
    write=write_deepseek_v2,
)

FAMILIES = {  # by model_type; of those that can say the same, the first is written
    "gpt2": GPT2,
    "llama": LLAMA,
    "llama4_text": LLAMA4,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gpt_oss": GPT_OSS,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "mistral": MISTRAL,
    "mixtral": MIXTRAL,
    "olmo2": OLMO2,
    "phi3": PHI3,
    "stablelm": STABLELM,
}

# ---------------------------------------------------------------- GGUF
# Other names for one of these architectures, and its config as metadata; they are only read.


def gguf_block(cfg: ModelConfig, layer: Layer) -> Table:
    """Queries and keys turn in neighbouring pairs."""
    table = {"attn_norm": "attn_norm", "ffn_norm": "mlp_norm"}
    table |= {"attn_v": "attn.wv", "attn_output": "attn.wo"}
    table |= {f"ffn_{name}": f"mlp.{name}" for name in ("gate", "up", "down")}
    for name, n_heads in (("q", cfg.n_heads), ("k", cfg.n_kv_heads)):
        table[f"attn_{name}"] = Held(f"attn.w{name}", in_pairs(n_heads, cfg.head_dim))
    return table


GGUF_LLAMA = replace(
    LLAMA,
    block=gguf_block,
    blocks="blk",
    ends={"token_embd": "tok_emb", "output_norm": "norm", "output": "lm_head"},
)
LARGEST = 2**20  # no size of a real model is above this


def read_metadata(metadata: dict, tensors: Iterable[str]) -> tuple[Family, ModelConfig]:
    """The family and our config of what a GGUF file says; ValueError names what it says wrongly.

    The head is tied to the embeddings where the file has no tensor for it.
    """
    tensors = set(tensors)
    _require_said(metadata, "general.architecture", ["llama"])
    _require_said(metadata, "llama.rope.scaling.type", ["none", None])
    size = partial(_size, metadata)
    width, n_heads = size("embedding_length"), size("attention.head_count")
    head_dim = size("attention.key_length", width // n_heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        _require_said(metadata, f"llama.{name}", [head_dim, None])
    n_layers, tokens = size("block_count"), metadata.get("tokenizer.ggml.tokens")
    if n_layers > len(tensors):  # before so many blocks are made
        raise ValueError(f"it speaks of {n_layers} blocks, and holds {len(tensors)} tensors")
    return GGUF_LLAMA, ModelConfig(
        vocab_size=size("vocab_size", len(tokens) if isinstance(tokens, list) else None),
        context_length=size("context_length"),
        n_layers=n_layers,
        d_model=width,
        n_heads=n_heads,
        n_kv_heads=size("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        d_ff=size("feed_forward_length"),
        norm_eps=_decimal(metadata, "attention.layer_norm_rms_epsilon"),
        rope=Rope(theta=_decimal(metadata, "rope.freq_base", 10_000.0)),
        tie_embeddings="output.weight" not in tensors,
    )


def _require_said(metadata: dict, name: str, known: list) -> None:
    if metadata.get(name) not in known:
        choices = " or ".join(repr(value) for value in known if value is not None)
        raise ValueError(f"it says {name} = {metadata.get(name)!r}, and known here is {choices}")


def _size(metadata: dict, name: str, default: int | None = None) -> int:
    value = metadata.get(f"llama.{name}", default)
    if type(value) is not int or not 0 < value <= LARGEST:
        raise ValueError(f"it says llama.{name} = {value!r}: that is no size of a model")
    return value


def _decimal(metadata: dict, name: str, default: float | None = None) -> float:
    """The number as it was before it was rounded to 32 bits: 1e-05 for 9.999999747378752e-06."""
    value = metadata.get(f"llama.{name}", default)
    if type(value) is not float or not 0 < value < math.inf:
        raise ValueError(f"it says llama.{name} = {value!r}: it must be a number above 0")
    return float(f"{value:.7g}")


# ---------------------------------------------------------------- both directions

MOST_PARTS = 4096  # no real model has more blocks, or more experts in one


def read_config(said: dict) -> tuple[Family, ModelConfig]:
    """The family and our config of what a config.json says; of several senses, the text part.

    ValueError names the field that is missing, or that says what our decoder cannot do.
    """
    said = said.get("text_config") or said
    require("model_type", said.get("model_type"), FAMILIES)
    family = FAMILIES[said["model_type"]]
    said = Said(family.silent | in_one_style(said))
    for name, value in family.only.items():
        require(name, said.get(name, value), (value, None))
    try:
        return family, from_dict(_our_values(family, said))
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"config.json has a field of a wrong type or size ({error})") from None


def write_config(cfg: ModelConfig, model_type: str | None = None) -> dict:
    """A config.json that says just this: of this model_type, or of the first that can."""
    if model_type:
        require("model_type", model_type, FAMILIES)
    for name in [model_type] if model_type else FAMILIES:
        said = _their_values(FAMILIES[name], cfg) | {"model_type": name}
        if _says(said, cfg):
            return said
    raise ValueError(
        f"no config.json of {model_type or 'a published architecture'} can say all that this "
        "config says: weights.save keeps it in our own format"
    )


def _our_values(family: Family, said: Said) -> dict:
    heads, width = said.get("num_attention_heads", 1), said.get("hidden_size", 0)
    for name, value in (("num_key_value_heads", heads), ("head_dim", width // heads)):
        said[name] = value if said.get(name) is None else said[name]
    _require_few_parts(family, said)
    ours = {ours: said[theirs] for theirs, ours in family.fields.items()}
    ours |= {"pattern": read_layers(said, family.pattern)}
    ours |= {} if "rope" in family.always else {"rope": read_rope(said)}
    return _nested(ours | family.always | family.read(said))


def _require_few_parts(family: Family, said: Said) -> None:
    """Before so many blocks, or so many experts, are made."""
    for theirs, ours in family.fields.items():
        if ours in ("n_layers", "moe.n_experts") and said[theirs] > MOST_PARTS:
            raise ValueError(f"config.json says {theirs} = {said[theirs]}: no model has so many")


def _their_values(family: Family, cfg: ModelConfig) -> dict:
    ours = _dotted(as_dict(plain(cfg)) | {"d_ff": cfg.d_ff})
    if any(ours.get(name) != value for name, value in family.always.items()):
        return {}
    theirs = {theirs: ours.get(name) for theirs, name in family.fields.items()}
    theirs = family.only | write_rope(cfg) | theirs | family.write(cfg)
    theirs |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # not the model's
    return theirs | {"architectures": [family.architecture]}


def _says(said: dict, cfg: ModelConfig) -> bool:
    try:
        return plain(read_config(said)[1]) == plain(cfg)
    except ValueError:
        return False


def _nested(dotted: dict) -> dict:
    """{"moe.d_ff": 8} -> {"moe": {"d_ff": 8}}."""
    nested: dict = {}
    for name, value in dotted.items():
        part, _, inner = name.rpartition(".")
        (nested.setdefault(part, {}) if part else nested)[inner] = value
    return nested


def _dotted(nested: dict) -> dict:
    """The reverse."""
    parts = {name: value for name, value in nested.items() if isinstance(value, dict)}
    inner = {f"{name}.{key}": v for name, values in parts.items() for key, v in values.items()}
    return {name: value for name, value in nested.items() if name not in parts} | inner


class Rule(NamedTuple):
    """One published tensor, by its whole name, and ours that it holds."""

    theirs: str
    ours: list[str]
    layout: Layout


def rules(family: Family, cfg: ModelConfig, ours: Iterable[str]) -> list[Rule]:
    """The tables spelled out for the tensors `ours`, block by block, expert by expert."""
    tables = [("", "", family.ends)]
    for i, layer in enumerate(cfg.layers()):
        tables.append((f"{family.blocks}.{i}.", f"blocks.{i}.", family.block(cfg, layer)))
    n_experts, ours = cfg.moe.n_experts if cfg.moe else 0, set(ours)
    return [
        rule
        for their_start, our_start, table in tables
        for name, held in table.items()
        for rule in _spelled_out(their_start + name, our_start, held, n_experts)
        if rule.ours[0] in ours
    ]


def _spelled_out(theirs: str, our_start: str, held: str | Held, n_experts: int) -> Iterator[Rule]:
    names, layout = held if isinstance(held, Held) else (held, SAME)
    names = [our_start + name for name in names.split()]
    for kind in ("", ".weight", ".bias"):
        if "{}" in theirs:
            for e in range(n_experts):
                yield Rule((theirs + kind).format(e), [n.format(e) + kind for n in names], layout)
        elif "{}" in names[0]:
            each = [name.format(e) + kind for e in range(n_experts) for name in names]
            yield Rule(theirs + kind, each, layout)
        else:
            yield Rule(theirs + kind, [name + kind for name in names], layout)
