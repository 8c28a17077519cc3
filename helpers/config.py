"""What a decoder is made of, in plain numbers and words: one frozen dataclass per idea, no torch.

A config that cannot be is refused here, in one sentence. The models of the lecture are in
`families`, the network itself in `model`. Lesson 03 meets the fields one by one.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields, replace

LAYER_LETTERS = {
    "G": "global: every earlier position",
    "W": "window: the last `window` positions",
    "C": "chunk: earlier positions of the same chunk of `window`",
    "N": "global, without rotary positions",
}
FFN_LETTERS = {"d": "dense", "m": "mixture of experts"}


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary positions (RoFormer, arXiv:2104.09864) and how they are stretched for long context."""

    theta: float = 10_000.0  # pair i of a head turns by theta ** (-2i / head_dim) per position
    fraction: float = 1.0  # the part of each head that turns; the rest stays as it is
    scaling: str = "none"  # a key of model.ROPE_SCALINGS
    factor: float = 1.0  # how many times longer the context becomes
    original_context: int = 8192  # the context before stretching
    low_freq_factor: float = (
        1.0  # "by_wavelength": waves longer than original_context / this slow down
    )
    high_freq_factor: float = (
        4.0  # "by_wavelength": waves shorter than original_context / this stay
    )
    beta_fast: float = 32.0  # "yarn": pairs that turn more often than this in a context stay
    beta_slow: float = 1.0  # "yarn": pairs that turn less often than this slow down
    truncate: bool = True  # "yarn": the ramp between the two begins and ends at whole pairs
    mscale: float = 1.0  # "yarn": multiplies cos and sin

    def __post_init__(self):
        _require_positive(self, "theta", "factor", "original_context", "mscale")
        _require(0 < self.fraction <= 1, f"fraction is {self.fraction}: it must be in (0, 1]")
        _require(
            self.high_freq_factor >= self.low_freq_factor and self.beta_fast > self.beta_slow,
            "the ends of the ramp are swapped: high_freq_factor must not be below "
            "low_freq_factor, and beta_fast must be above beta_slow",
        )


@dataclass(frozen=True, kw_only=True)
class MoE:
    """A mixture of experts: many MLPs, of which a router chooses a few for each token."""

    n_experts: int
    n_active: int  # experts that each token visits, the shared ones not counted
    d_ff: int  # width of one expert
    router: str = "topk_softmax"  # a key of model.ROUTERS
    steered: bool = False  # a number per expert, moved by its load, joins the choice of experts
    bias: bool = False  # biases in the router and the experts
    n_shared: int = 0  # experts that every token visits
    scale_input: bool = False  # weight what goes into an expert, not what comes out
    n_groups: int = 1  # the experts stand in groups,
    n_active_groups: int = 1  # and a token chooses among these many groups only
    route_scale: float = 1.0  # multiplies the weights of the "grouped" routers

    def __post_init__(self):
        _require_positive(self, "n_experts", "n_active", "d_ff", "n_groups", "n_active_groups")
        _require(self.n_shared >= 0, f"n_shared is {self.n_shared}: it cannot be negative")
        _require(
            self.n_experts % self.n_groups == 0,
            f"n_experts is {self.n_experts}, n_groups {self.n_groups}: groups must be equal",
        )
        _require(
            self.n_active_groups <= self.n_groups,
            f"n_active_groups is {self.n_active_groups}, but there are {self.n_groups} groups",
        )
        _require(
            self.router.startswith("grouped") or not (self.steered or self.n_groups > 1),
            f'router is "{self.router}": only the "grouped" routers know groups and steering',
        )
        choice = self.n_experts // self.n_groups * self.n_active_groups
        _require(
            self.n_active <= choice,
            f"n_active is {self.n_active}, but a token can choose among {choice} experts only",
        )


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (arXiv:2405.04434, section 2.1): what is kept is squeezed."""

    kv_rank: int  # keys and values of all heads are made from this many numbers
    q_rank: int | None = None  # queries likewise; None: straight from the residual stream
    nope_dim: int  # the part of a query and key without a position
    rope_dim: int  # the part that is rotated; its key is shared by all heads
    v_dim: int

    def __post_init__(self):
        _require_positive(self, "kv_rank", "nope_dim", "rope_dim", "v_dim")
        _require(
            self.q_rank is None or self.q_rank > 0,
            f"q_rank is {self.q_rank}: it must be above 0, or None for no squeezing",
        )
        _require_even("rope_dim", self.rope_dim)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one block has that its neighbours may not have. Made by `ModelConfig.layers`."""

    rope: Rope | None = None
    window: int | None = None  # a query sees this many positions, itself included
    chunk: int | None = None  # or: the earlier positions of its own chunk
    qk_norm: str = "none"
    temperature: tuple[float, float] | None = None
    moe: bool = False

    @property
    def sight(self) -> "Layer":
        """What this layer sees, nothing else: layers of equal sight share masks and rotations."""
        return replace(self, qk_norm="none", moe=False)

    @property
    def reach(self) -> int | None:
        """The most positions that a query of this layer can see; None: all before it."""
        return self.window or self.chunk


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One decoder. Eight numbers are always needed; every default is the commonest choice today."""

    vocab_size: int
    context_length: int
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int  # of the dense MLPs; the experts' width is moe.d_ff

    # the block
    norm: str = "rms"  # a key of model.NORMS
    norm_eps: float = 1e-5
    pre_norms: bool = True  # normalise what goes into attention and MLP
    post_norms: bool = False  # normalise what comes out of them
    mlp: str = "swiglu"  # a key of model.GATES or model.ACTIVATIONS
    bias: bool = False  # biases in every projection of attention and MLP
    qkv_bias: bool | None = None  # biases in wq, wk and wv only; None: like bias

    # attention
    qk_norm: str = "none"  # a key of model.QK_NORMS
    nope_qk_norm: str | None = None  # on the layers "N"; None: like qk_norm
    attn_scale: float | None = None  # multiplies q·k; None: 1 / sqrt(width of a query)
    attn_softcap: float | None = None  # scores stay within ± this
    sinks: bool = False  # each head has a learned score for looking nowhere
    latent: Latent | None = None

    # positions, a letter for each layer, repeated as often as needed: see LAYER_LETTERS
    pattern: str = "G"
    window: int | None = None
    rope: Rope | None = field(default_factory=Rope)
    local_rope: Rope | None = None  # on the layers "W" and "C"; None: like rope
    nope_temperature: tuple[float, float] | None = None  # (floor, scale) of "N": model.temperature
    learned_positions: bool = False

    # mixture of experts, a letter for each layer, repeated likewise: see FFN_LETTERS
    moe: MoE | None = None
    ffn_pattern: str = "d"
    n_dense_first: int = 0  # so many layers at the bottom are dense whatever the pattern says

    # both ends
    tie_embeddings: bool = False
    embed_scale: float = 1.0
    logit_softcap: float | None = None  # logits stay within ± this

    init_std: float = 0.02  # lesson 03 measures what it does to the first loss
    name: str = field(default="", compare=False)

    def __post_init__(self):
        _require_positive(self, "vocab_size", "context_length", "n_layers", "d_model", "n_heads")
        _require_positive(self, "n_kv_heads", "head_dim", "d_ff", "norm_eps", "embed_scale")
        for name in ("attn_scale", "attn_softcap", "logit_softcap", "window"):
            if getattr(self, name) is not None:
                _require_positive(self, name)
        self._check_attention()
        self._check_positions()
        self._check_experts()

    def layers(self) -> list[Layer]:
        """One Layer for each block, bottom up: the patterns spelled out."""
        return [self._layer(i) for i in range(self.n_layers)]

    def _layer(self, i: int) -> Layer:
        letter = self.pattern[i % len(self.pattern)]
        local, nope = letter in "WC", letter == "N"
        nope_qk_norm = self.qk_norm if self.nope_qk_norm is None else self.nope_qk_norm
        return Layer(
            rope=None if nope else (local and self.local_rope) or self.rope,
            window=self.window if letter == "W" else None,
            chunk=self.window if letter == "C" else None,
            qk_norm=nope_qk_norm if nope else self.qk_norm,
            temperature=self.nope_temperature if nope else None,
            moe=i >= self.n_dense_first and self.ffn_pattern[i % len(self.ffn_pattern)] == "m",
        )

    def _check_attention(self):
        _require(
            self.n_heads % self.n_kv_heads == 0,
            f"n_heads is {self.n_heads}, n_kv_heads {self.n_kv_heads}: "
            "each key/value head must serve equally many query heads",
        )
        _require(
            not self.latent or (set(self.pattern) == {"G"} and self.n_heads == self.n_kv_heads),
            "latent attention makes keys for every head and every position: "
            'take n_kv_heads equal to n_heads, and pattern "G"',
        )
        _require(
            not self.latent or not (self.sinks or self.attn_softcap or self.qk_norm != "none"),
            "latent attention has norms of its own: leave sinks, attn_softcap and qk_norm away",
        )

    def _check_positions(self):
        _require_letters("pattern", self.pattern, LAYER_LETTERS)
        _require(
            self.window is not None or not set(self.pattern) & set("WC"),
            f'pattern is "{self.pattern}", but window is None: say how far the local layers see',
        )
        _require(
            self.rope is not None or not self.latent,
            "latent attention needs rope: half of its key exists to be rotated",
        )
        rotated = self.rope or self.local_rope
        if rotated and not self.latent:
            _require_even("the rotated part of head_dim", self.head_dim * rotated.fraction)

    def _check_experts(self):
        _require_letters("ffn_pattern", self.ffn_pattern, FFN_LETTERS)
        _require(
            (self.moe is not None) == ("m" in self.ffn_pattern),
            f'ffn_pattern is "{self.ffn_pattern}" and moe is {self.moe}: '
            'give both a MoE and a pattern with "m", or neither',
        )


# ---------------------------------------------------------------- as plain values


def as_dict(cfg: ModelConfig) -> dict:
    """Every field by name, parts as dicts of their own: ready for JSON."""
    return asdict(cfg)


def from_dict(values: dict) -> ModelConfig:
    """The config that `as_dict` wrote; ValueError for a field unknown, missing or of a wrong type.

    JSON knows no tuples, so nope_temperature may be a list. A field left out has its default.
    """
    values, parts = dict(values), {"rope": Rope, "local_rope": Rope, "moe": MoE, "latent": Latent}
    for name, part in parts.items():
        if values.get(name) is not None:
            values[name] = _build(part, values[name])
    if isinstance(values.get("nope_temperature"), list):
        values["nope_temperature"] = tuple(values["nope_temperature"])
    return _build(ModelConfig, values)


def _build(part: type, values: dict):
    _require(isinstance(values, dict), f"{part.__name__} is {values!r}: give its fields by name")
    known = {field.name for field in fields(part)}
    optional = {field.name for field in fields(part) if not _is_needed(field)}
    unknown, missing = sorted(set(values) - known), sorted(known - optional - set(values))
    _require(not unknown, f"{part.__name__} has no field {', '.join(unknown)}")
    _require(not missing, f"{part.__name__} needs the field {', '.join(missing)}")
    try:
        return part(**values)
    except TypeError as error:
        raise ValueError(f"{part.__name__} has a field of a wrong type ({error})") from None


def _is_needed(field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _require(true: bool, sentence: str) -> None:
    if not true:
        raise ValueError(sentence)


def _require_positive(part, *names: str) -> None:
    for name in names:
        value = getattr(part, name)
        _require(value > 0, f"{name} is {value}: it must be above 0")


def _require_even(name: str, value: float) -> None:
    _require(value % 2 == 0, f"{name} is {value}: rotary positions turn pairs, so it must be even")


def _require_letters(name: str, pattern: str, letters: dict[str, str]) -> None:
    _require(
        bool(pattern) and set(pattern) <= set(letters),
        f'{name} is "{pattern}": use the letters {", ".join(letters)}, at least one',
    )
