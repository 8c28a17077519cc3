"""The one decoder. Every model of the lecture is a `ModelConfig`; nothing here knows their names.

Read it from the top: norms, positions, attention, MLPs, experts, the block, the decoder. Shapes
stand in the margin: B sequences, T positions, S positions looked at, C = d_model, H heads, G
key/value heads, D = head_dim, F = d_ff, E experts, V vocabulary. Lesson 03 builds it by hand.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.config import Layer, ModelConfig, MoE, Rope


def choose(table: dict, key: str, field: str):
    """The entry `key` of a table of choices; ValueError with the field's name if there is none."""
    if key not in table:
        raise ValueError(f"{field} is {key!r}: choose one of {', '.join(table)}")
    return table[key]


# ---------------------------------------------------------------- norms


def precise(x: Tensor) -> Tensor:
    """x in at least 32 bits: squares and exponentials overflow in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RMSNorm(nn.Module):
    """x divided by its root mean square, times a weight (arXiv:1910.07467, equation 4)."""

    def __init__(self, *shape: int, eps: float, weighted: bool = True):
        super().__init__()
        self.shape, self.eps = shape, eps
        self.weight = nn.Parameter(torch.ones(shape)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else precise(self.weight)
        return F.rms_norm(precise(x), self.shape, weight, self.eps).type_as(x)


NORMS = {
    "rms": lambda width, eps: RMSNorm(width, eps=eps),
    "layer": lambda width, eps: nn.LayerNorm(width, eps=eps),
}
QK_NORMS = {  # of queries or keys, (B, T, heads, D)
    "none": lambda heads, width, eps: nn.Identity(),
    "rms": lambda heads, width, eps: RMSNorm(width, eps=eps),
    "rms_unweighted": lambda heads, width, eps: RMSNorm(width, eps=eps, weighted=False),
    "rms_all_heads": lambda heads, width, eps: RMSNorm(heads, width, eps=eps),
}


# ---------------------------------------------------------------- positions


def scale_linearly(frequencies: Tensor, rope: Rope) -> Tensor:
    """All slower by the same factor: positions are squeezed (arXiv:2306.15595, equation 4)."""
    return frequencies / rope.factor


def scale_by_wavelength(frequencies: Tensor, rope: Rope) -> Tensor:
    """Long waves slower by the factor, short ones as they are, blended between the two."""
    turns = rope.original_context * frequencies / (2 * math.pi)  # within the old context
    ramp = rope.high_freq_factor - rope.low_freq_factor
    keep = ((turns - rope.low_freq_factor) / max(ramp, 1e-9)).clamp(0, 1)  # (R/2,)
    return keep * frequencies + (1 - keep) * frequencies / rope.factor


def scale_yarn(frequencies: Tensor, rope: Rope) -> Tensor:
    """The same, blended evenly over the pairs in between (arXiv:2309.00071, section 3.2)."""
    n_pairs = len(frequencies)

    def pair_that_turns(times: float) -> float:
        wave = rope.original_context / (2 * math.pi * times)
        return n_pairs * math.log(wave) / math.log(rope.theta)

    first, last = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * n_pairs - 1)
    slow = ((torch.arange(n_pairs, device="cpu") - first) / max(last - first, 1e-3)).clamp(0, 1)
    return (1 - slow) * frequencies + slow * frequencies / rope.factor


ROPE_SCALINGS = {
    "none": lambda frequencies, rope: frequencies,
    "linear": scale_linearly,
    "by_wavelength": scale_by_wavelength,
    "yarn": scale_yarn,
}


def rope_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position of each pair, (R/2,), R the part of a head that turns. On the CPU."""
    turning = int(head_dim * rope.fraction)
    frequencies = rope.theta ** (-torch.arange(0, turning, 2, device="cpu").float() / turning)
    return choose(ROPE_SCALINGS, rope.scaling, "rope.scaling")(frequencies, rope)


def cos_sin(angles: Tensor) -> tuple[Tensor, Tensor]:
    """What `rotate` takes, each (..., R), for the angles (..., R/2) of the pairs.

    A pair is two numbers, and sin moves the second into the first with a minus.
    """
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


class RopeTable:
    """cos and sin of every position asked for so far: computed once, doubled when outgrown."""

    def __init__(self, rope: Rope, head_dim: int):
        self.frequencies, self.mscale = rope_frequencies(rope, head_dim), rope.mscale
        self.cos = self.sin = torch.empty(0)

    def at(self, positions: Tensor, n_positions: int) -> tuple[Tensor, Tensor]:
        """(cos, sin), each (B, T, 1, R), at positions (B, T), all of them below n_positions."""
        if len(self.cos) < n_positions or self.cos.device != positions.device:
            self._fill(max(n_positions, 2 * len(self.cos)), positions.device)
        places = positions.clamp(min=0)  # padding stands before 0, and no one looks at it
        return self.cos[places][:, :, None], self.sin[places][:, :, None]

    @torch.inference_mode(False)  # made while decoding, it may serve training later
    def _fill(self, length: int, device) -> None:
        places = torch.arange(length, device="cpu").float()
        angles = torch.outer(places, self.frequencies)  # (length, R/2)
        self.cos, self.sin = ((self.mscale * table).to(device) for table in cos_sin(angles))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, heads, D), each pair turned by its angle (arXiv:2104.09864, equation 34).

    Pair i is (x[i], x[i + R/2]), not two neighbours: permuting the rows of wq and wk is the same.
    """
    R = cos.shape[-1]
    if R < x.shape[-1]:  # the other numbers of the head stand still
        return torch.cat([rotate(x[..., :R], cos, sin), x[..., R:]], dim=-1)
    return (x * cos + x.roll(R // 2, dims=-1) * sin).type_as(x)


def temperature(positions: Tensor, floor: float, scale: float) -> Tensor:
    """How much sharper a query looks the later it stands, (B, T, 1, 1) (after arXiv:2501.19399)."""
    blocks = ((positions.clamp(min=0) + 1) / floor).floor()  # (B, T), whole floors passed
    return (1 + scale * blocks.log1p())[:, :, None, None]


def visible(q: Tensor, k: Tensor, layer: Layer) -> Tensor:
    """May the query at position q look at the key at position k? (B, T), (B, S) -> (B, T, S) bool.

    Padding has negative positions: no text looks at it, and it looks at padding only.
    """
    q, k = q[:, :, None], k[:, None, :]  # (B, T, 1), (B, 1, S)
    allowed = (k <= q) & ((k < 0) == (q < 0))  # (B, T, S)
    if layer.window:
        allowed &= k > q - layer.window
    if layer.chunk:
        allowed &= k // layer.chunk == q // layer.chunk
    return allowed


# ---------------------------------------------------------------- the cache


def kept_shapes(cfg: ModelConfig) -> list[tuple[int, ...]]:
    """The shapes of what one layer keeps of one token: its key and value, or what makes them."""
    if cfg.latent:
        return [(1, cfg.latent.kv_rank), (1, cfg.latent.rope_dim)]
    return [(cfg.n_kv_heads, cfg.head_dim)] * 2


class Cache:
    """What decoding keeps of the tokens so far, in memory set aside once for `length` tokens.

    A layer with a window or chunk gets that many slots and uses them in turn. A `whole` cache has a
    slot for every token in every layer, so that it can be cut back.
    """

    def __init__(self, cfg: ModelConfig, B: int, length: int, dtype=None, device=None, whole=False):
        if not 0 < length <= cfg.context_length:
            raise ValueError(
                f"length is {length}: a cache holds from 1 to context_length = "
                f"{cfg.context_length} tokens"
            )
        self.B, self.length, self.n_seen = B, length, 0
        self.kept, self.positions = [], {}  # by layer; by what a layer sees
        for layer in cfg.layers():
            slots = (B, length if whole else min(length, layer.reach or length))
            shapes = [(*slots, *shape) for shape in kept_shapes(cfg)]
            self.kept.append([torch.zeros(shape, dtype=dtype, device=device) for shape in shapes])
            self.positions[layer.sight] = torch.zeros(slots, dtype=torch.long, device=device)

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensors kept, all layers together."""
        return sum(held.nbytes for kept in self.kept for held in kept)

    def cut_back(self, n: int) -> None:
        """Forgets all but the first n tokens; ValueError if a window has let some of them go."""
        slots = min(held.shape[1] for held in self.positions.values())
        if n < self.n_seen > slots:
            raise ValueError(
                f"a cache of {slots} slots that has seen {self.n_seen} tokens cannot be cut back "
                f"to {n}: make it with whole=True"
            )
        self.n_seen = min(n, self.n_seen)


def remember(held: Tensor, new: Tensor, n_seen: int) -> Tensor:
    """Writes new (B, T, ...) into held (B, slots, ...); returns everything to look at, (B, S, ...).

    Where slots are used in turn, several new tokens may overwrite what the first of them still has
    to see, so then the old is copied out first. The order of keys does not matter, only positions.
    """
    T, slots = new.shape[1], held.shape[1]
    if T == 1 or n_seen + T <= slots:
        start = n_seen % slots
        held[:, start : start + T] = new
        return held[:, : min(n_seen + T, slots)]
    new = new.expand(len(held), *new.shape[1:])
    everything = torch.cat([held[:, : min(n_seen, slots)], new], dim=1)
    latest = torch.arange(max(n_seen, n_seen + T - slots), n_seen + T, device=held.device)
    held[:, latest % slots] = new[:, latest - n_seen]
    return everything


# ---------------------------------------------------------------- attention


def attend(q, k, v, mask=None, scale=1.0, softcap=None, sinks=None) -> Tensor:
    """softmax(q kᵀ · scale) v, (B, H, T, D), with every twist that a model may add.

    q (B, H, T, D), k and v (B, G, S, D), mask (B, 1, T, S) True where a query may look; None: at
    all that came before it. arXiv:1706.03762, equation 1; grouped heads: arXiv:2305.13245.
    """
    T, S, sharing = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(sharing, dim=1) for t in (k, v))  # (B, H, S, D)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    scores = precise((q * scale) @ k.mT)  # (B, H, T, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -math.inf)
    if sinks is not None:  # one score more, for looking nowhere
        nowhere = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)  # (B, H, T, 1)
        scores = torch.cat([scores, nowhere], dim=-1)  # (B, H, T, S+1)
    weights = scores.softmax(dim=-1)[..., :S].type_as(v)  # (B, H, T, S)
    return weights @ v


def attend_fast(q, k, v, mask=None, scale=1.0, softcap=None, sinks=None) -> Tensor:
    """The same by torch's fused kernel, which keeps no scores and knows no softcap and no sinks."""
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None and q.shape[2] > 1,  # one query sees every key there is
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


@dataclass(frozen=True)
class View:
    """What all layers of one kind share in one forward pass."""

    rotation: tuple[Tensor, Tensor] | None  # cos and sin, (B, T, 1, R)
    temperature: Tensor | None  # (B, T, 1, 1)
    mask: Tensor | None  # (B, 1, T, S); None: all that came before, and so no mask is needed
    n_seen: int  # tokens in the cache before these


class GroupedQueryAttention(nn.Module):
    """H heads ask, G heads answer: G = H is multi-head, G = 1 multi-query (arXiv:2305.13245)."""

    def __init__(self, cfg: ModelConfig, layer: Layer):
        super().__init__()
        C, H, G, D = cfg.d_model, cfg.n_heads, cfg.n_kv_heads, cfg.head_dim
        qkv_bias = cfg.bias if cfg.qkv_bias is None else cfg.qkv_bias
        self.wq = nn.Linear(C, H * D, bias=qkv_bias)
        self.wk = nn.Linear(C, G * D, bias=qkv_bias)
        self.wv = nn.Linear(C, G * D, bias=qkv_bias)
        self.wo = nn.Linear(H * D, C, bias=cfg.bias)
        norm = choose(QK_NORMS, layer.qk_norm, "qk_norm")
        self.q_norm, self.k_norm = norm(H, D, cfg.norm_eps), norm(G, D, cfg.norm_eps)
        self.sinks = nn.Parameter(torch.zeros(H)) if cfg.sinks else None
        self.head_dim, self.softcap = D, cfg.attn_softcap
        self.scale = cfg.attn_scale or D**-0.5
        self.attend = attend if cfg.sinks or cfg.attn_softcap else attend_fast

    def forward(self, x: Tensor, view: View, kept: list[Tensor] | None = None) -> Tensor:
        q = self.q_norm(self.wq(x).unflatten(-1, (-1, self.head_dim)))  # (B, T, H, D)
        k = self.k_norm(self.wk(x).unflatten(-1, (-1, self.head_dim)))  # (B, T, G, D)
        v = self.wv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, G, D)
        if view.rotation:
            q, k = rotate(q, *view.rotation), rotate(k, *view.rotation)
        if view.temperature is not None:
            q = (q * view.temperature).type_as(q)
        if kept:
            k = remember(kept[0], k, view.n_seen)  # (B, S, G, D)
            v = remember(kept[1], v, view.n_seen)  # (B, S, G, D)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T or S, D)
        y = self.attend(q, k, v, view.mask, self.scale, self.softcap, self.sinks)  # (B, H, T, D)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, T, C)


class LatentAttention(nn.Module):
    """All heads' keys and values from one short vector, which alone is kept (arXiv:2405.04434)."""

    def __init__(self, cfg: ModelConfig, layer: Layer):
        super().__init__()
        m, C, H = cfg.latent, cfg.d_model, cfg.n_heads
        squeezed = m.q_rank is not None
        self.q_down = nn.Linear(C, m.q_rank, bias=cfg.bias) if squeezed else nn.Identity()
        self.q_norm = RMSNorm(m.q_rank, eps=cfg.norm_eps) if squeezed else nn.Identity()
        self.q_up = nn.Linear(m.q_rank or C, H * (m.nope_dim + m.rope_dim), bias=False)
        self.kv_down = nn.Linear(C, m.kv_rank + m.rope_dim, bias=cfg.bias)
        self.kv_norm = RMSNorm(m.kv_rank, eps=cfg.norm_eps)
        self.kv_up = nn.Linear(m.kv_rank, H * (m.nope_dim + m.v_dim), bias=False)
        self.wo = nn.Linear(H * m.v_dim, C, bias=cfg.bias)
        self.latent, self.n_heads, self.attend = m, H, attend_fast
        self.scale = cfg.attn_scale or (m.nope_dim + m.rope_dim) ** -0.5

    def forward(self, x: Tensor, view: View, kept: list[Tensor] | None = None) -> Tensor:
        m, H = self.latent, self.n_heads
        q = self.q_up(self.q_norm(self.q_down(x))).unflatten(-1, (H, -1))  # (B, T, H, nope + rope)
        q_nope, q_rope = q.split([m.nope_dim, m.rope_dim], dim=-1)
        q = torch.cat([q_nope, rotate(q_rope, *view.rotation)], dim=-1)
        latent, k_rope = self.kv_down(x)[:, :, None].split([m.kv_rank, m.rope_dim], dim=-1)
        latent = self.kv_norm(latent)  # (B, T, 1, kv_rank)
        k_rope = rotate(k_rope, *view.rotation)  # (B, T, 1, rope)
        if kept:
            latent = remember(kept[0], latent, view.n_seen)  # (B, S, 1, kv_rank)
            k_rope = remember(kept[1], k_rope, view.n_seen)  # (B, S, 1, rope)
        kv = self.kv_up(latent).unflatten(-1, (H, -1))[:, :, 0]  # (B, S, H, nope + v)
        k_nope, v = kv.split([m.nope_dim, m.v_dim], dim=-1)
        k = torch.cat([k_nope, k_rope.expand(-1, -1, H, -1)], dim=-1)  # (B, S, H, nope + rope)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T or S, ...)
        y = self.attend(q, k, v, view.mask, self.scale)  # (B, H, T, v)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, T, C)


# ---------------------------------------------------------------- feed-forward


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU as most models compute it, by tanh (arXiv:1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


def clamped_swiglu(gate: Tensor, up: Tensor, limit: float = 7.0, alpha: float = 1.702) -> Tensor:
    """SwiGLU whose inputs cannot run away; `up` works around 1 instead of 0."""
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


ACTIVATIONS = {"relu": F.relu, "gelu": gelu_tanh, "gelu_exact": F.gelu}
GATES = {  # two inputs, one of them the gate of the other (arXiv:2002.05202, section 2)
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "geglu": lambda gate, up: gelu_tanh(gate) * up,
    "clamped_swiglu": clamped_swiglu,
}


class MLP(nn.Module):
    """Up, bend, down: every position on its own (arXiv:1706.03762, equation 2)."""

    def __init__(self, cfg: ModelConfig, d_ff: int, bias: bool):
        super().__init__()
        self.up = nn.Linear(cfg.d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, cfg.d_model, bias=bias)
        self.bend = choose(ACTIVATIONS | GATES, cfg.mlp, "mlp")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.bend(self.up(x)))  # (B, T, C) -> (B, T, F) -> (B, T, C)


class GatedMLP(MLP):
    """A third matrix says how much of each of the F numbers passes (arXiv:2002.05202)."""

    def __init__(self, cfg: ModelConfig, d_ff: int, bias: bool):
        super().__init__(cfg, d_ff, bias)
        self.gate = nn.Linear(cfg.d_model, d_ff, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.bend(self.gate(x), self.up(x)))


def make_mlp(cfg: ModelConfig, d_ff: int, bias: bool) -> MLP:
    """The gated or the plain kind, as the config says."""
    return (GatedMLP if cfg.mlp in GATES else MLP)(cfg, d_ff, bias)


# A router takes logits (N, E) of N tokens, and what steers its choice: numbers (E,), or 0. It
# returns the weights (N, k) of the k experts chosen for each token, and their numbers (N, k).


def topk_softmax(logits: Tensor, moe: MoE, steer: Tensor | float) -> tuple[Tensor, Tensor]:
    """The k largest, weighted by a softmax over these k (arXiv:2401.04088, section 2.1)."""
    largest, chosen = logits.topk(moe.n_active, dim=-1)
    return largest.softmax(dim=-1), chosen


def topk_sigmoid(logits: Tensor, moe: MoE, steer: Tensor | float) -> tuple[Tensor, Tensor]:
    """The k largest, each weighted by its own sigmoid: weights need not sum to 1."""
    largest, chosen = logits.topk(moe.n_active, dim=-1)
    return largest.sigmoid(), chosen


def choose_in_groups(scores: Tensor, moe: MoE, n_best: int) -> Tensor:
    """The k best (N, k) in the groups whose n_best best experts have the largest sum."""
    grouped = scores.unflatten(-1, (moe.n_groups, -1))  # (N, groups, E / groups)
    merit = grouped.topk(n_best, dim=-1).values.sum(dim=-1)  # (N, groups)
    barred = torch.ones_like(merit, dtype=torch.bool)
    barred.scatter_(1, merit.topk(moe.n_active_groups, dim=-1).indices, False)
    allowed = grouped.masked_fill(barred[:, :, None], -math.inf).flatten(1)  # (N, E)
    return allowed.topk(moe.n_active, dim=-1).indices


def grouped_sigmoid(logits: Tensor, moe: MoE, steer: Tensor | float) -> tuple[Tensor, Tensor]:
    """Steered choice; unsteered weights of sum route_scale (arXiv:2412.19437, section 2.1.2)."""
    scores = logits.sigmoid()
    chosen = choose_in_groups(scores + steer, moe, n_best=min(2, moe.n_experts // moe.n_groups))
    weights = scores.gather(1, chosen)
    return moe.route_scale * weights / weights.sum(dim=-1, keepdim=True), chosen


def grouped_softmax(logits: Tensor, moe: MoE, steer: Tensor | float) -> tuple[Tensor, Tensor]:
    """Weights from the softmax over all experts, not made to sum to 1 (arXiv:2405.04434, 2.2)."""
    scores = logits.softmax(dim=-1)
    chosen = choose_in_groups(scores + steer, moe, n_best=1)
    return moe.route_scale * scores.gather(1, chosen), chosen


ROUTERS = {r.__name__: r for r in (topk_softmax, topk_sigmoid, grouped_sigmoid, grouped_softmax)}


class MixtureOfExperts(nn.Module):
    """Each token visits the experts that the router chooses for it, and the shared ones."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        moe = self.moe = cfg.moe
        self.router = nn.Linear(cfg.d_model, moe.n_experts, bias=moe.bias)
        self.rule = choose(ROUTERS, moe.router, "moe.router")
        steer = torch.zeros(moe.n_experts)  # a trainer moves it by the load, not by a gradient
        self.steer = nn.Parameter(steer, requires_grad=False) if moe.steered else 0.0
        widths = [moe.d_ff] * moe.n_experts
        self.experts = nn.ModuleList(make_mlp(cfg, d_ff, moe.bias) for d_ff in widths)
        self.shared = make_mlp(cfg, moe.n_shared * moe.d_ff, moe.bias) if moe.n_shared else None

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (N, k) and numbers (N, k) of the experts chosen for each row of x (N, C)."""
        return self.rule(precise(self.router(x)), self.moe, self.steer)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)  # (N, C), N = B·T
        weights, chosen = self.route(flat)  # (N, k) each
        out = self.shared(flat) if self.shared else torch.zeros_like(flat)  # (N, C)
        for e in chosen.unique().tolist():
            n, slot = torch.where(chosen == e)  # the tokens that chose expert e
            out = out.index_add(0, n, self._visit(e, flat[n], weights[n, slot, None].type_as(x)))
        return out.view_as(x)  # (B, T, C)

    def _visit(self, e: int, tokens: Tensor, weight: Tensor) -> Tensor:
        if self.moe.scale_input:
            return self.experts[e](weight * tokens)
        return weight * self.experts[e](tokens)


# ---------------------------------------------------------------- the decoder


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream; an absent norm does nothing."""

    def __init__(self, cfg: ModelConfig, layer: Layer):
        super().__init__()
        norm = choose(NORMS, cfg.norm, "norm")

        def norm_if(wanted: bool) -> nn.Module:
            return norm(cfg.d_model, cfg.norm_eps) if wanted else nn.Identity()

        self.attn_norm, self.attn_post_norm = norm_if(cfg.pre_norms), norm_if(cfg.post_norms)
        self.mlp_norm, self.mlp_post_norm = norm_if(cfg.pre_norms), norm_if(cfg.post_norms)
        self.attn = (LatentAttention if cfg.latent else GroupedQueryAttention)(cfg, layer)
        self.mlp = MixtureOfExperts(cfg) if layer.moe else make_mlp(cfg, cfg.d_ff, cfg.bias)

    def forward(self, x: Tensor, view: View, kept: list[Tensor] | None = None) -> Tensor:
        x = x + self.attn_post_norm(self.attn(self.attn_norm(x), view, kept))  # (B, T, C)
        return x + self.mlp_post_norm(self.mlp(self.mlp_norm(x)))  # (B, T, C)


class Decoder(nn.Module):
    """Tokens in, logits of the next token out: `hidden` and `logits` are also of use apart."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg, self.plan = cfg, cfg.layers()
        self.sights = [layer.sight for layer in self.plan]
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.d_model)
        if cfg.learned_positions:
            self.pos_emb = nn.Embedding(cfg.context_length, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg, layer) for layer in self.plan)
        self.norm = choose(NORMS, cfg.norm, "norm")(cfg.d_model, cfg.norm_eps)
        self.lm_head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        if cfg.tie_embeddings:
            self.lm_head.weight = self.tok_emb.weight
        turning = cfg.latent.rope_dim if cfg.latent else cfg.head_dim
        ropes = {layer.rope for layer in self.plan if layer.rope}
        self.rope_tables = {rope: RopeTable(rope, turning) for rope in ropes}
        self.initialise()

    def forward(self, tokens, cache=None, positions=None, mask=None) -> Tensor:
        """Logits (B, T, V) for what follows each of the tokens (B, T); arguments as in `hidden`."""
        return self.logits(self.hidden(tokens, cache, positions, mask))

    def hidden(self, tokens, cache=None, positions=None, mask=None) -> Tensor:
        """What the blocks make of tokens (B, T): (B, T, C), normalised, ready for `logits`.

        With a cache, tokens follow those it has seen. positions (B, T), where they do not simply
        count up; negative ones are padding. Give them at each step of a cache, or at none.
        mask (B, T, T) bool, without a cache, forbids more: other documents.
        """
        self._require_room(tokens, cache, positions)
        n_seen = cache.n_seen if cache else 0
        plain = positions is None and mask is None
        if positions is None:
            positions = torch.arange(n_seen, n_seen + tokens.shape[1], device=tokens.device)[None]
        x = self.embed(tokens, positions)  # (B, T, C)
        views = {
            sight: self._view(sight, positions, n_seen, cache, plain, mask)
            for sight in set(self.sights)
        }
        for i, (block, sight) in enumerate(zip(self.blocks, self.sights)):
            x = block(x, views[sight], cache.kept[i] if cache else None)  # (B, T, C)
        if cache:
            cache.n_seen += tokens.shape[1]
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (B, T, V) from hidden states (B, T, C)."""
        logits, cap = self.lm_head(hidden), self.cfg.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The residual stream as it enters the first block, (B, T, C)."""
        try:
            x = self.tok_emb(tokens) * self.cfg.embed_scale  # (B, T, C)
        except IndexError:
            raise ValueError(
                f"tokens go from {int(tokens.min())} to {int(tokens.max())}, but vocab_size is "
                f"{self.cfg.vocab_size}: were they made by another tokenizer?"
            ) from None
        return x + self.pos_emb(positions.clamp(min=0)) if self.cfg.learned_positions else x

    def new_cache(self, B: int, length: int, whole: bool = False) -> Cache:
        """An empty cache for B sequences of up to `length` tokens, where and as the weights are."""
        weight = self.tok_emb.weight
        return Cache(self.cfg, B, length, weight.dtype, weight.device, whole)

    @torch.no_grad()
    def initialise(self) -> None:
        """Small random matrices: no logit stands out, and the first loss is near log V.

        What writes to the residual stream starts smaller by sqrt(writers), so that the stream does
        not grow with depth (Language Models are Unsupervised Multitask Learners, section 2.3).
        """
        writers = 2 * self.cfg.n_layers
        for name, parameter in self.named_parameters():
            writes = name.endswith((".wo.weight", ".down.weight"))
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2 and not name.endswith("norm.weight"):
                std = self.cfg.init_std / math.sqrt(writers if writes else 1)
                nn.init.normal_(parameter, std=std)

    def _view(self, sight, positions, n_seen, cache, plain, mask) -> View:
        """What the layers that see alike share; no mask where all that came before is visible."""
        rotation = sharper = None
        n_tokens = n_seen + positions.shape[1] if plain else int(positions.max()) + 1
        if sight.rope:
            rotation = self.rope_tables[sight.rope].at(positions, n_tokens)
        if sight.temperature:
            sharper = temperature(positions, *sight.temperature)
        keys = remember(cache.positions[sight], positions, n_seen) if cache else positions  # (B, S)
        fits = n_tokens <= (sight.reach or n_tokens)
        if plain and fits and (n_seen == 0 or positions.shape[1] == 1):
            return View(rotation, sharper, None, n_seen)
        allowed = visible(positions, keys, sight)  # (B, T, S)
        allowed = allowed if mask is None else allowed & mask
        return View(rotation, sharper, allowed[:, None], n_seen)

    def _require_room(self, tokens: Tensor, cache: Cache | None, positions: Tensor | None) -> None:
        if tokens.dim() != 2 or tokens.shape[1] == 0:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}: give (B, T), for one text tokens[None]"
            )
        if tokens.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"tokens are {tokens.dtype}: they are ids, so give torch.int64")
        (B, T), longest = tokens.shape, self.cfg.context_length
        n_tokens = T + (cache.n_seen if cache else 0)
        if cache and (n_tokens > cache.length or cache.B != B):
            raise ValueError(
                f"{B} sequences of {n_tokens} tokens do not fit into a cache for "
                f"{cache.B} sequences of {cache.length}"
            )
        n_positions = n_tokens if positions is None else int(positions.max()) + 1
        if n_positions > longest:
            raise ValueError(
                f"the text has {n_positions} positions, but context_length is {longest}: cut it"
            )


@torch.no_grad()
def attention_weights(model: Decoder, tokens: Tensor) -> list[Tensor]:
    """Who looks at whom in tokens (B, T): for each block (B, H, T, S), query then key.

    A row sums to 1, or to less where a sink takes the rest. The model is left as it was.
    """
    attentions, looks = [block.attn for block in model.blocks], []

    def watched(q, k, v, *twists) -> Tensor:
        identity = torch.eye(k.shape[2]).to(v).expand(*k.shape[:2], -1, -1)  # (B, G, S, S)
        looks.append(attend(q, k, identity, *twists))  # weights times identity: the weights
        return attend(q, k, v, *twists)

    before = [attention.attend for attention in attentions]
    try:
        for attention in attentions:
            attention.attend = watched
        model.hidden(tokens)
    finally:
        for attention, own in zip(attentions, before):
            attention.attend = own
    return looks
