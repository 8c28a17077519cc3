"""Weights in few bits: rounding, groups, MXFP4, layers that multiply codes, and a whole model.

Only weights are rounded; what flows through the model is not. Files of few bits are opened in
`gguf` and `weights`. Lesson 08 rounds by hand, lesson 09 measures what it gains.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.model import Decoder
from helpers.weights import empty_decoder, fill

# ---------------------------------------------------------------- rounding
# A code is a whole number, in four bits from -8 to 7: weight = scale · code + offset.


def symmetric(numbers: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(scales, offsets) of the rows: what is farthest from 0 gets the last code, and 0 gets 0."""
    scales = numbers.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return scales, torch.zeros_like(scales)


def affine(numbers: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(scales, offsets) of the rows: the least number gets the first code, the largest the last."""
    least, largest = numbers.aminmax(dim=-1, keepdim=True)
    scales = (largest - least) / (2**bits - 1)
    return scales, least + 2 ** (bits - 1) * scales


KINDS = {"symmetric": symmetric, "affine": affine}


def nearest_codes(numbers: Tensor, scales: Tensor, offsets: Tensor, bits: int) -> Tensor:
    """The codes, int8, that come nearest to the numbers."""
    steps = (numbers - offsets).div_(scales.clamp(min=torch.finfo(scales.dtype).tiny))
    return steps.round_().clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)


def relative_error(weight: Tensor, rounded: Tensor) -> float:
    """How large the error is beside the weights, both as root mean squares: 0.1 is a tenth."""
    return ((rounded - weight).norm() / weight.norm()).item()


# ---------------------------------------------------------------- groups


@dataclass(frozen=True, eq=False)
class Groups:
    """A matrix of codes; neighbours in a row, a group of them, share a scale and an offset."""

    codes: Tensor  # (out, in) int8; float16 where bits is 16, and they are the weights
    scales: Tensor  # (out, in / group)
    offsets: Tensor | None  # the same, or None where all are 0
    bits: int

    @property
    def group(self) -> int:
        """How many weights share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes with the codes packed tightly, scales and offsets as they are."""
        shared = self.scales.nbytes + (0 if self.offsets is None else self.offsets.nbytes)
        return self.codes.numel() * self.bits // 8 + shared

    def dequantize(self) -> Tensor:
        """The matrix (out, in) in 32 bits."""
        weight = self.codes.unflatten(1, (-1, self.group)) * self.scales.float()[..., None]
        if self.offsets is not None:
            weight += self.offsets.float()[..., None]
        return weight.flatten(1)


def quantize(
    weight: Tensor, bits: int = 4, group: int | None = 32, kind: str = "affine", dtype=torch.float32
) -> Groups:
    """The matrix (out, in) in 2 to 8 bits and groups of this size; None: a row is a group.

    Scales and offsets are kept in `dtype`; in 32 bits no weight moves by more than half a scale.
    """
    _require_roundable(weight, bits, group, kind)
    numbers = weight.detach().float().unflatten(1, (-1, group or weight.shape[1]))
    scales, offsets = (t.to(dtype) for t in KINDS[kind](numbers, bits))  # (out, in / group, 1)
    codes = nearest_codes(numbers, scales.float(), offsets.float(), bits).flatten(1)
    shift = None if kind == "symmetric" else offsets.squeeze(-1)
    return Groups(codes, scales.squeeze(-1), shift, bits)


def halves(weight: Tensor) -> Groups:
    """The matrix (out, in) in float16; ValueError where a weight is too large for it."""
    largest = torch.finfo(torch.float16).max
    if not (weight.abs() <= largest).all():
        raise ValueError(f"16 bits do not hold a weight that is no number, or above {largest:,.0f}")
    return Groups(weight.detach().half(), torch.ones(len(weight), 1), None, bits=16)


def _require_roundable(weight: Tensor, bits: int, group: int | None, kind: str) -> None:
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: give a matrix (out, in)")
    if bits not in range(2, 9):
        raise ValueError(f"bits is {bits}: choose from 2 to 8")
    if group is not None and (group < 1 or weight.shape[1] % group):
        raise ValueError(
            f"rows of {weight.shape[1]} weights cannot be cut into groups of {group}: choose a "
            "size that divides them"
        )
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: choose one of {', '.join(KINDS)}")
    if not weight.isfinite().all():
        raise ValueError("weight holds numbers that are not finite, and no scale fits them")


# ---------------------------------------------------------------- MXFP4


def mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(blocks (..., n, 16), scales (..., n)), both uint8, of numbers (..., 32 n).

    What `shelves.decode_mxfp4` decodes: 32 numbers share the power of two by which the largest
    comes to lie from 4 to 8 (OCP Microscaling Formats, version 1.0, section 6.3).
    """
    if weight.shape[-1] % 32 or not weight.isfinite().all():
        raise ValueError(f"give finite numbers in blocks of 32, not rows of {weight.shape[-1]}")
    numbers = weight.detach().float().unflatten(-1, (-1, 32))  # (..., n, 32)
    exponents = torch.frexp(numbers.abs().amax(dim=-1)).exponent - 3
    exponents = exponents.clamp(-127, 127)
    codes = nearest_fp4(torch.ldexp(numbers, -exponents[..., None]))
    low, high = codes.unflatten(-1, (16, 2)).unbind(dim=-1)
    return low | high << 4, (exponents + 127).to(torch.uint8)


def nearest_fp4(numbers: Tensor) -> Tensor:
    """The codes, uint8, of 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives (8 more); ties go to even.

    Steps are ½ below 2, 1 from 2 to 4 and 2 above; nothing is larger than 6.
    """
    x = numbers.abs()
    above_2 = torch.where(x < 4, x.round() + 2, (x / 2).round() + 4).clamp(max=7)
    return (torch.where(x < 2, (2 * x).round(), above_2) + 8 * numbers.signbit()).to(torch.uint8)


# ---------------------------------------------------------------- layers


class Coded(nn.Module):
    """A layer that holds a matrix in codes."""

    def __init__(self, groups: Groups):
        super().__init__()
        self.bits = groups.bits
        for name in ("codes", "scales", "offsets"):
            self.register_buffer(name, getattr(groups, name))

    def groups(self) -> Groups:
        """The codes, and what they mean."""
        return Groups(self.codes, self.scales, self.offsets, self.bits)


class CodedEmbedding(Coded):
    """The numbers of a token from its row of codes, (B, T) -> (B, T, C)."""

    weight = property(lambda self: self.scales, doc="What has the model's type and place.")

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codes) * F.embedding(tokens, self.scales)


class CodedLinear(Coded):
    """x Wᵀ + b, where W becomes numbers anew for each product: always right, and slow."""

    def __init__(self, groups: Groups, bias: Tensor | None = None):
        super().__init__(groups)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def product(self, x: Tensor) -> Tensor:
        """x Wᵀ, (N, in) -> (N, out)."""
        return F.linear(x, self.groups().dequantize())


class HalfLinear(CodedLinear):
    """The same for weights of 16 bits: torch widens a few at a time, next to the processor.

    Half the bytes travel, and all arithmetic is that of 32 bits.
    """

    def __init__(self, groups: Groups, bias: Tensor | None = None):
        super().__init__(groups, bias)
        self.packed = torch.ops.quantized.linear_prepack_fp16(groups.codes.float(), None)
        self.codes = None

    @staticmethod
    @cache
    def works() -> bool:
        """Whether torch has such a product on this CPU."""
        try:
            HalfLinear(halves(torch.ones(1, 1)))(torch.ones(1, 1))
        except RuntimeError:
            return False
        return True

    def groups(self) -> Groups:
        weight, _ = torch.ops.quantized.linear_unpack_fp16(self.packed)
        return Groups(weight.half(), self.scales, None, self.bits)

    def product(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


class Int8Linear(CodedLinear):
    """The same for rows of 8 bits without offsets: whole numbers are multiplied.

    One digit of 8 bits for each x would be far too few; two of them lose next to nothing.
    """

    def product(self, x: Tensor) -> Tensor:
        digits, unit = two_digits(x)  # (2 N, in) int8, (N, 1)
        first, second = (whole_product(digits, self.codes) * self.scales.T).chunk(2)  # (N, out)
        return torch.add(first, second, alpha=1 / 254) * unit


def whole_product(digits: Tensor, codes: Tensor) -> Tensor:
    """digits (N, in) times codes (out, in), both int8: sums (N, out), exact where the CPU can."""
    if adds_up_exactly():
        return torch._int_mm(digits, codes.T)
    return digits.float() @ codes.float().T


@cache
def adds_up_exactly() -> bool:
    """Whether torch does so on this CPU: older ones add two products in 16 bits, too few."""
    most = torch.full((32, 64), 127, dtype=torch.int8)
    sums = torch._int_mm(torch.cat([most, -most]), most.T)
    return bool((sums.abs() == 64 * 127 * 127).all())


def two_digits(x: Tensor) -> tuple[Tensor, Tensor]:
    """((2 N, in) int8, (N, 1)): first digits, then second ones; x = (first + second / 254) · unit.

    Both go from -127 to 127: a second digit of 127 is half a first one.
    """
    unit = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127
    x = x / unit
    first = x.round()
    return torch.cat([first, (254 * (x - first)).round()]).to(torch.int8), unit


class Int4Linear(CodedLinear):
    """The same for affine groups of 4 bits, by a product of torch's that unpacks codes as it goes.

    It takes x, and gives y, in bfloat16: two or three digits each. All else stays in 32 bits.
    """

    def __init__(self, groups: Groups, bias: Tensor | None = None):
        super().__init__(groups, bias)
        self.group, self.n_inputs = groups.group, groups.codes.shape[1]
        self.codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(groups.codes.int() + 8, 1)
        shared = torch.stack([groups.scales.T, groups.offsets.T], dim=-1)  # (in / group, out, 2)
        self.scales, self.offsets = shared.bfloat16().contiguous(), None

    @staticmethod
    def takes(groups: Groups) -> bool:
        """Whether torch has a product for these groups that is fast on this CPU."""
        fast = torch.backends.cpu.get_cpu_capability().startswith("AVX")
        return fast and groups.group in (32, 64, 128, 256) and len(groups.codes) % 16 == 0

    def groups(self) -> Groups:
        """The codes: x Wᵀ of the unit matrix, were each scale 1 and each offset 0."""
        plain = torch.tensor([1.0, 0.0]).to(self.scales).expand_as(self.scales).contiguous()
        codes = self._multiply(torch.eye(self.n_inputs), plain).T.contiguous()
        return Groups(codes.to(torch.int8), *self.scales.transpose(0, 1).unbind(dim=-1), self.bits)

    def product(self, x: Tensor) -> Tensor:
        return self._multiply(x, self.scales).float()

    def _multiply(self, x: Tensor, shared: Tensor) -> Tensor:
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        return multiply(x.bfloat16(), self.codes, self.group, shared)


# ---------------------------------------------------------------- a model


class Quantized(Decoder):
    """A decoder that reads and answers like any other, but cannot be trained or saved."""

    def named_parameters(self, *args, **kwargs):
        raise ValueError(
            "a quantised model holds codes, not weights: train, save or quantise the model it was "
            "made from, or what `dequantized` makes of it"
        )

    def parameters(self, recurse: bool = True):
        """What is not in codes, norms above all: it tells where the model is, and never learns."""
        return (parameter for _, parameter in super().named_parameters(recurse=recurse))


def quantized(model: Decoder, bits: int = 4, group: int = 32) -> Quantized:
    """A copy of the model whose matrices hold numbers of 16 bits, rows of 8 or affine groups of 4.

    Of 4 bits are the blocks alone: embedding and head, which decide most, have 8. What is small
    stays in 32: norms, biases, routers. ValueError for other bits, for adapters, and off the CPU.
    """
    if bits not in (4, 8, 16):
        raise ValueError(f"bits is {bits}: a model is quantised to 4, to 8 or to 16")
    place = model.tok_emb.weight.device.type
    if place != "cpu":
        raise ValueError(f"the model is on {place!r}, and codes are multiplied on the CPU: move it")
    names = {name for name, _ in model.named_parameters()}
    if names != {name for name, _ in empty_decoder(model.cfg).named_parameters()}:
        raise ValueError("the model has other parts than its config says: merge its adapters first")
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    layers = {name: part for name, part in layers.items() if not name.endswith("router")}
    large = [model.tok_emb.weight, *(part.weight for part in layers.values())]
    new = deepcopy(model, {id(weight): weight for weight in large})  # these are not copied
    for name, linear in layers.items():
        new.set_submodule(name, _coded(linear, max(bits, 8) if name == "lm_head" else bits, group))
    tied = model.cfg.tie_embeddings
    of_tokens = new.lm_head.groups() if tied else _in_rows(model.tok_emb.weight, max(bits, 8))
    new.tok_emb = CodedEmbedding(of_tokens)
    for parameter in new.requires_grad_(False).parameters():
        parameter.data = parameter.data.float()
    new.__class__ = Quantized
    return new.eval()


def _coded(linear: nn.Linear, bits: int, group: int) -> CodedLinear:
    """The layer in codes, with the fastest product there is for them."""
    if bits == 16:
        kind = HalfLinear if HalfLinear.works() else CodedLinear
        return kind(_in_rows(linear.weight, bits), linear.bias)
    if bits == 8:
        return Int8Linear(_in_rows(linear.weight, bits), linear.bias)
    groups = quantize(linear.weight, bits, group, dtype=torch.bfloat16)
    return (Int4Linear if Int4Linear.takes(groups) else CodedLinear)(groups, linear.bias)


def _in_rows(weight: Tensor, bits: int) -> Groups:
    return halves(weight) if bits == 16 else quantize(weight, bits, None, "symmetric")


def dequantized(model: Quantized) -> Decoder:
    """The same numbers in 32 bits, as an ordinary model: to compare with, or to train."""
    if not isinstance(model, Quantized):
        raise ValueError("the model is not quantised: its weights are numbers already")
    weights = {name: p.clone() for name, p in nn.Module.named_parameters(model)}
    for name, part in model.named_modules():
        if isinstance(part, Coded):
            weights[f"{name}.weight"] = part.groups().dequantize()
    return fill(empty_decoder(model.cfg), weights).eval()


def nbytes(model: nn.Module) -> int:
    """Bytes of all that a model holds in memory; what is shared counts once."""
    packed = (part for part in model.modules() if isinstance(part, HalfLinear))
    listed = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
    return sum(listed.values()) + sum(part.groups().codes.nbytes for part in packed)
