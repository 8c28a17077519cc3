"""How to train: a `Recipe` in plain numbers, the learning rate of each step, the optimizers.

Everything that decides the result but model and data is here; what is done with it, in `train`.
Lesson 04 builds AdamW by hand, lesson 05 compares it with Muon.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.model import choose
from helpers.runs import owners, rank

# ---------------------------------------------------------------- what decides the result


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. A run that goes on from its checkpoint may change only what MAY_CHANGE says."""

    steps: int  # updates of the weights
    lr: float = 3e-3  # the highest learning rate of AdamW
    optimizer: str = "adamw"  # a key of OPTIMIZERS
    muon_lr: float = 0.02  # the highest learning rate of Muon
    schedule: str = "cosine"  # a key of SCHEDULES
    warmup: float = 0.05  # the share of the steps in which the learning rate rises
    decay: float = 0.5  # "wsd": the share of the steps in which it falls
    final: float = 0.0  # the share of the learning rate to which it falls
    weight_decay: float = 0.1  # of matrices
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip: float | None = 1.0  # the largest norm that a gradient keeps
    accumulate: int = 1  # batches whose gradients make one step
    eval_every: int | None = None  # steps; None: only after the last
    precision: str = "float32"  # or "bfloat16", of products: the weights stay as they are
    compile: bool = False
    shard: bool = False  # each process keeps the optimizer's state of a share of the weights

    def __post_init__(self):
        for name in ("steps", "lr", "muon_lr", "clip", "accumulate", "eval_every"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}: it must be above 0")
        for name in ("warmup", "decay", "final"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} is {value}: it is a share, from 0 to 1")
        require(
            self.schedule != "wsd" or self.warmup + self.decay <= 1,
            f"warmup is {self.warmup} and decay {self.decay}: together they cannot pass 1",
        )
        choose(SCHEDULES, self.schedule, "schedule")
        choose(OPTIMIZERS, self.optimizer, "optimizer")
        choose({"float32": None, "bfloat16": None}, self.precision, "precision")


MAY_CHANGE = ("eval_every", "compile", "shard")


def require(true: bool, sentence: str) -> None:
    """ValueError with this sentence, unless it is true."""
    if not true:
        raise ValueError(sentence)


# ---------------------------------------------------------------- the learning rate


def fall_along_cosine(step: int, recipe: Recipe) -> float:
    """From 1 after the warm-up to nearly 0 at the last step (arXiv:1608.03983, equation 5)."""
    n_warmup = _warmup_steps(recipe)
    gone = (step - 1 - n_warmup) / (recipe.steps - n_warmup)
    return (1 + math.cos(math.pi * gone)) / 2


def stay_then_fall(step: int, recipe: Recipe) -> float:
    """1, then evenly down over the last steps: warm-up, stable, decay (arXiv:2404.06395)."""
    n_decay = max(1, round(recipe.decay * recipe.steps))
    return min(1.0, (recipe.steps - step + 1) / n_decay)


SCHEDULES = {  # after the warm-up; the last step always has something left to do
    "cosine": fall_along_cosine,
    "wsd": stay_then_fall,
    "constant": lambda step, recipe: 1.0,
}


def share_of_lr(step: int, recipe: Recipe) -> float:
    """The share of the highest learning rate, 0 to 1, that a step takes; steps count from 1."""
    n_warmup = _warmup_steps(recipe)
    if step <= n_warmup:
        return step / n_warmup
    return recipe.final + (1 - recipe.final) * SCHEDULES[recipe.schedule](step, recipe)


def learning_rate(step: int, recipe: Recipe) -> float:
    """The learning rate of AdamW in a step; Muon's is `muon_lr` times the same share."""
    return recipe.lr * share_of_lr(step, recipe)


def _warmup_steps(recipe: Recipe) -> int:
    return round(recipe.warmup * recipe.steps)


# ---------------------------------------------------------------- optimizers


class Optimizers:
    """Optimizers, each of its own parameters, that step as one."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]):
        self.optimizers = optimizers
        self.highest = [group["lr"] for group in self.param_groups]

    @property
    def param_groups(self) -> list[dict]:
        """The groups of all, as torch's optimizers have them."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def set_share(self, share: float) -> None:
        """Lets each group learn at this share of its highest learning rate."""
        for group, highest in zip(self.param_groups, self.highest):
            group["lr"] = share * highest

    def step(self) -> None:
        """Moves the parameters by their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Does it multiply? Then it decays. Biases and the weights of norms do not."""
    return parameter.dim() >= 2 and not name.endswith("norm.weight")


def by_adamw(parameters: dict[str, nn.Parameter], recipe: Recipe) -> list:
    """[AdamW] (arXiv:1711.05101, algorithm 2), which lets matrices decay and nothing else."""
    matrices = [p for name, p in parameters.items() if is_matrix(name, p)]
    vectors = [p for name, p in parameters.items() if not is_matrix(name, p)]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda", "mps") for p in parameters.values())
    settings = {"lr": recipe.lr, "betas": recipe.betas, "fused": fused}
    return [torch.optim.AdamW(groups, **settings)] if parameters else []


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix with its singular values brought near 1; only very small ones lag behind.

    By the Newton-Schulz iteration of https://kellerjordan.github.io/posts/muon/, which needs only
    products of matrices: each step sends a singular value s to a s + b s³ + c s⁵. From 0.002 of the
    matrix's norm upwards, five steps bring it to between 0.68 and 1.21.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)  # now no singular value is above 1
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, so that a matrix moves equally far in all of its directions.

    The arithmetic of torch.optim.Muon, but on CPUs in the precision of the weights and not in 16
    bits, so that results depend less on the processor.
    """

    def __init__(self, parameters, lr: float, weight_decay: float, momentum: float = 0.95):
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self) -> None:
        """Moves the matrices by their gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group["lr"], group["weight_decay"], group["momentum"])

    def _move(self, p: nn.Parameter, lr: float, weight_decay: float, momentum: float) -> None:
        mean = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - momentum)
        push = p.grad.lerp(mean, momentum)  # Nesterov: the latest gradient counts once more
        move = orthogonal(push.bfloat16() if push.is_cuda else push).to(push.dtype)
        rows, columns = p.shape
        p.mul_(1 - lr * weight_decay).sub_(move, alpha=lr * math.sqrt(max(1, rows / columns)))


def by_muon(parameters: dict[str, nn.Parameter], recipe: Recipe) -> list:
    """[Muon, AdamW]: Muon steps the matrices of the blocks, AdamW all the rest."""
    inner = {
        name: p
        for name, p in parameters.items()
        if name.startswith("blocks.") and is_matrix(name, p)
    }
    rest = {name: p for name, p in parameters.items() if name not in inner}
    muon = [Muon(inner.values(), recipe.muon_lr, recipe.weight_decay)] if inner else []
    return muon + by_adamw(rest, recipe)


OPTIMIZERS = {"adamw": by_adamw, "muon": by_muon}


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizers:
    """The recipe's optimizers of all parameters that learn: of this process' share, if sharded."""
    parameters = learning(model)
    if recipe.shard:
        owner = owners(parameters)
        parameters = {name: p for name, p in parameters.items() if owner[name] == rank()}
    return Optimizers(OPTIMIZERS[recipe.optimizer](parameters, recipe))
