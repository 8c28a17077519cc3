"""LoRA: a model's matrices stay as they are, and beside each a thin correction is learnt.

`add_lora` puts the corrections in and freezes all the rest, `merge` adds them to the matrices and
takes them out again, `save` and `load` keep them alone in a file. Training is not here: `train`
moves whatever learns. Lesson 06 compares it with tuning every weight.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers import weights
from helpers.recipe import require

Adapters = dict[str, "Adapted"]


class Adapted(nn.Module):
    """W x + (alpha / rank) B A x, of which only A and B learn (arXiv:2106.09685, section 4.1).

    A is (rank, in), drawn at random; B is (out, rank) and begins at 0, so that at first nothing is
    changed. The paper leaves the scale of A open: here its rows have a length of about 1.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        super().__init__()
        new = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        width_out, width_in = linear.weight.shape
        self.linear, self.rank, self.alpha = linear, rank, alpha
        self.A = nn.Parameter(torch.randn(rank, width_in, **new) * width_in**-0.5)
        self.B = nn.Parameter(torch.zeros(width_out, rank, **new))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.alpha / self.rank * ((x @ self.A.T) @ self.B.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear layer, the correction added to its matrix."""
        self.linear.weight += self.alpha / self.rank * (self.B @ self.A)
        return self.linear


# ---------------------------------------------------------------- in and out


def add_lora(
    model: nn.Module, rank: int, alpha: float = 16.0, where: Sequence[str] | None = None
) -> nn.Module:
    """The same model, with an adapter on each linear layer of its blocks named in `where`.

    None means all of them but routers. From now on only adapters learn. ValueError for a name that
    is not there, a rank that does not fit, or a model that has adapters already.
    """
    require(not adapters(model), "the model has adapters already: merge them first")
    layers = linear_layers(model)
    require(bool(layers), "the model has no matrix to adapt: adapt it first, then quantise it")
    names = {last(name) for name in layers}
    where = sorted(names - {"router"}) if where is None else where
    for name in where:
        require(name in names, f"no linear layer is named {name!r}: choose of {sorted(names)}")
    chosen = {name: layer for name, layer in layers.items() if last(name) in where}
    for name, layer in chosen.items():
        _require_rank(rank, name, layer)
    _freeze(model)
    for name, layer in chosen.items():
        model.set_submodule(name, Adapted(layer, rank, alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """The same model without adapters: its own matrices are corrected, and all learns again."""
    for name, adapter in adapters(model).items():
        model.set_submodule(name, adapter.merged())
    for parameter in model.__dict__.pop("frozen_for_lora", []):
        parameter.requires_grad_(True)
    return model


def adapters(model: nn.Module) -> Adapters:
    """The adapted layers by name; none in a model without adapters."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Adapted)}


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices A and B of all adapters by name."""
    pairs = adapters(model).items()
    return {f"{name}.{side}": getattr(part, side) for name, part in pairs for side in "AB"}


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the model's blocks by name; embedding and lm_head are none of them."""
    parts = model.named_modules()
    return {n: part for n, part in parts if isinstance(part, nn.Linear) and "blocks." in n}


def last(name: str) -> str:
    """The last part of a layer's name: wq of blocks.0.attn.wq."""
    return name.rpartition(".")[2]


def _require_rank(rank: int, name: str, layer: nn.Linear) -> None:
    least = min(layer.weight.shape)
    shape = " x ".join(map(str, layer.weight.shape))
    require(1 <= rank <= least, f"rank is {rank}: for {name}, {shape}, take 1 to {least}")


def _freeze(model: nn.Module) -> None:
    """Lets nothing learn, and remembers on the model what did."""
    model.frozen_for_lora = [p for p in model.parameters() if p.requires_grad]
    for parameter in model.frozen_for_lora:
        parameter.requires_grad_(False)


# ---------------------------------------------------------------- files


def save(model: nn.Module, file: str | Path) -> None:
    """Writes the adapters alone, for `load`; ValueError if there are none."""
    found = adapters(model)
    require(bool(found), "the model has no adapters: add_lora first")
    tensors = {name: p.detach() for name, p in lora_parameters(model).items()}
    tensors["base"] = _first_weights(adapter.linear for adapter in found.values())
    weights.write(file, tensors, {"lora": json.dumps(_settings(found))})


def load(model: nn.Module, file: str | Path) -> nn.Module:
    """The same model with the adapters in the file, which take the place of any of its own.

    ValueError if the file holds none, if they were learnt on another model, or if the model has
    others; then it is left as it was.
    """
    tensors, metadata = weights.read(file)
    require("lora" in metadata, f"{file} holds no adapters: was it written by lora.save?")
    settings = json.loads(metadata["lora"])
    _require_same(_settings(adapters(model)) or settings, settings, file)
    _require_base(model, settings["layers"], tensors["base"], file)
    if not adapters(model):
        add_lora(model, settings["rank"], settings["alpha"], set(map(last, settings["layers"])))
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            parameter.copy_(tensors[name])
    return model


def _settings(found: Adapters) -> dict:
    """What adapters were made with; nothing if there are none."""
    if not found:
        return {}
    one = next(iter(found.values()))
    return {"rank": one.rank, "alpha": one.alpha, "layers": [*found]}


def _require_same(ours: dict, theirs: dict, file) -> None:
    words = "rank {rank} and alpha {alpha:g} on {n} layers"
    here, there = (words.format(n=len(made["layers"]), **made) for made in (ours, theirs))
    require(ours == theirs, f"{file} holds adapters of {there}, the model has some of {here}")


def _first_weights(layers: Iterable[nn.Linear]) -> Tensor:
    """One weight of each layer: enough to tell a model from others of its shape."""
    return torch.stack([layer.weight.detach()[0, 0] for layer in layers])


def _require_base(model: nn.Module, names: list[str], base: Tensor, file) -> None:
    """ValueError, unless the model has these layers, and the weights that the adapters correct."""
    kinds = {last(name) for name in names}
    layers = {name.removesuffix(".linear"): layer for name, layer in linear_layers(model).items()}
    layers = {name: layer for name, layer in layers.items() if last(name) in kinds}
    here = _first_weights(layers.values()).to(base) if [*layers] == names else base + 1
    # Some room, for a model that was stored in 16 bits in between.
    other = f"{file} holds adapters of another model: load that one first, and do not train it"
    require(torch.allclose(here, base, rtol=0.02, atol=1e-4), other)
