"""The training loop: batches go in, a trained model and the records of its steps come out.

`train` reads in the order in which things happen. It can be stopped at any moment and goes on from
its checkpoint bit for bit, and it runs on one process or, under torchrun, on many. Making batches
is in `data`, the learning rate and the optimizers in `recipe`, what makes a run last in `runs`.
Lesson 04 builds the loop by hand.
"""

import math
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, fields, is_dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from helpers import sources, weights
from helpers.config import ModelConfig
from helpers.data import IGNORED, Batches, read_tokens, row_lengths, windows, write_tokens
from helpers.families import CATALOGUE, tiny
from helpers.model import Decoder, choose, precise
from helpers.recipe import (
    MAY_CHANGE,
    Optimizers,
    Recipe,
    learning,
    learning_rate,
    make_optimizer,
    require,
    share_of_lr,
)
from helpers.runs import (
    Checkpoint,
    add_up,
    add_up_number,
    anyone,
    deferred_signals,
    hand_round,
    leave_torchrun,
    my_share,
    n_processes,
    only_user,
    rank,
    torchrun,
)
from helpers.tokenizer import Tokenizer
from helpers.world import World

# ---------------------------------------------------------------- what happened


@dataclass(frozen=True)
class Record:
    """One step of a run, in plain numbers."""

    step: int  # from 1
    tokens: int  # targets learnt from so far, this step's included
    loss: float  # nats per token, on this step's batches, before the step
    val_loss: float | None  # nats per token, after the step, where it was measured
    lr: float  # of AdamW
    grad_norm: float  # before clipping
    tokens_per_second: float  # of this step, evaluation not counted
    seconds: float  # in training so far, what came before an interruption included


class LossBlewUp(ArithmeticError):
    """The loss or its gradient is no number any more. The model is as it was before that step."""


def spikes(records: list[Record], deviations: float = 6.0, window: int = 50) -> list[int]:
    """The steps whose loss stands so many deviations above the median of the `window` before."""
    found = []
    for i in range(10, len(records)):  # a median of fewer says little
        before = [record.loss for record in records[max(0, i - window) : i]]
        middle = median(before)
        deviation = 1.4826 * median(abs(loss - middle) for loss in before)  # as a normal's sigma
        if records[i].loss > middle + deviations * deviation:
            found.append(records[i].step)
    return found


# ---------------------------------------------------------------- the loss


def total_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The sum of the cross-entropies of all targets, in nats; those of -100 are left out."""
    logits = precise(model(inputs))  # (B, T, V)
    return F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def count(targets: Tensor) -> int:
    """How many targets there are to learn from. ValueError if there is none."""
    n = int((targets != IGNORED).sum())
    require(n > 0, "the targets are all -100: there is nothing to learn or to measure")
    return n


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the targets (B, T) that are not -100, in nats per token."""
    return total_loss(model, inputs, targets) / count(targets)


def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor, B: int = 64) -> float:
    """`loss_of` over rows (N, T), B at a time, without a gradient; padding is not computed."""
    return total_over(model, inputs, targets, B) / count(targets)


@torch.no_grad()
def total_over(model: nn.Module, inputs: Tensor, targets: Tensor, B: int = 64) -> float:
    """The nats of all targets. Rows of like length go together, cut after their last target."""
    lengths = row_lengths(targets)
    was_training, total = model.training, 0.0
    model.eval()
    by_length = lengths.argsort(stable=True)
    for rows in by_length[lengths[by_length] > 0].split(B):
        places = rows, slice(int(lengths[rows].max()))
        total += total_loss(model, *on(model, inputs[places], targets[places])).item()
    model.train(was_training)
    return total


def on(model: nn.Module, *tensors: Tensor) -> list[Tensor]:
    """The tensors where the model is."""
    return [tensor.to(device_of(model), non_blocking=True) for tensor in tensors]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


# ---------------------------------------------------------------- one step


def prepared(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model as training calls it: processes average their gradients, and it is compiled."""
    if n_processes() > 1:
        some_rest = bool(getattr(getattr(model, "cfg", None), "moe", None))  # experts not chosen
        model = DistributedDataParallel(model, find_unused_parameters=some_rest)
    return torch.compile(model) if recipe.compile else model


def in_precision(recipe: Recipe, model: nn.Module):
    """A context in which products are taken in the recipe's precision."""
    wanted = recipe.precision == "bfloat16"
    return torch.autocast(device_of(model).type, torch.bfloat16, enabled=wanted)


def add_gradients(model: nn.Module, batches, recipe: Recipe) -> tuple[Tensor, int]:
    """(loss, number of targets) of one step's batches; their mean's gradient comes into p.grad.

    The mean is over all targets of the step, however they are spread over batches and processes.
    """
    drawn = [batches.next() for _ in range(recipe.accumulate)]
    n_targets = count(torch.cat([targets.flatten() for _, targets in drawn]))
    total = torch.zeros((), device=device_of(model))
    model.zero_grad()  # here, not after the step: a hook may want to look at the gradients
    for left, batch in zip(reversed(range(len(drawn))), drawn):
        inputs, targets = on(model, *my_share(*batch))
        several_to_come = n_processes() > 1 and left > 0  # average gradients after the last only
        with model.no_sync() if several_to_come else nullcontext():
            with in_precision(recipe, model):
                nats = total_loss(model, inputs, targets)
            (nats * n_processes() / n_targets).backward()
        total = total + nats.detach()
    return add_up(total) / n_targets, n_targets


def clip_gradient(model: nn.Module, recipe: Recipe) -> Tensor:
    """The norm of all gradients together; they are scaled down if it is above `clip`."""
    return nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or math.inf)


def numbers(loss: Tensor, norm: Tensor, step: int, recipe: Recipe) -> tuple[float, float]:
    """Both as numbers, fetched from the GPU at one go; LossBlewUp if one is infinite or none."""
    loss, norm = torch.stack([loss, norm.to(loss)]).tolist()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise LossBlewUp(
            f"in step {step} the loss is {loss} and the gradient's norm {norm}, at a learning rate "
            f"of {learning_rate(step, recipe):.3g}: go on from before it, with a smaller one"
        )
    return loss, norm


def update(model: nn.Module, optimizer: Optimizers, recipe: Recipe) -> None:
    """Moves the weights; under `shard` each process moves its own and sends them to the others."""
    optimizer.step()
    if recipe.shard:
        hand_round(learning(model))


def measure(model: nn.Module, validation: tuple[Tensor, Tensor], recipe: Recipe) -> float:
    """`evaluate`, its rows shared out among the processes."""
    with in_precision(recipe, model):
        nats = total_over(model, *my_share(*validation))
    return add_up_number(nats, device_of(model)) / count(validation[1])


# ---------------------------------------------------------------- the loop


def train(
    model: nn.Module,
    batches,
    recipe: Recipe,
    validation: tuple[Tensor, Tensor] | None = None,
    hook: Callable[[Record, nn.Module], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
) -> list[Record]:
    """Trains the model where it is and returns a Record of each step.

    `hook(record, model)` is called after each. Where the file `checkpoint` exists, the run goes on
    from it; it is written every so many steps, at the end, and when the run is stopped: then the
    step is finished first. LossBlewUp, before the weights change, if the loss is no number.
    """
    optimizer = make_optimizer(model, recipe)
    saved = checkpoint_of(checkpoint, model, optimizer, batches, recipe)
    with deferred_signals() as asked, only_user(saved.file):
        records = [Record(*values) for values in saved.load()]
        computed = prepared(model.train(), recipe)
        begun = perf_counter() - (records[-1].seconds if records else 0.0)
        tokens = records[-1].tokens if records else 0
        for step in range(len(records) + 1, recipe.steps + 1):
            start = perf_counter()
            optimizer.set_share(share_of_lr(step, recipe))
            loss, n_targets = add_gradients(computed, batches, recipe)
            norm = clip_gradient(model, recipe)
            loss, norm = numbers(loss, norm, step, recipe)
            update(model, optimizer, recipe)
            tokens, speed = tokens + n_targets, n_targets / (perf_counter() - start)

            last, val_loss = step == recipe.steps, None
            if validation and (last or is_due(step, recipe.eval_every)):
                val_loss = measure(model, validation, recipe)
            lr, seconds = learning_rate(step, recipe), perf_counter() - begun
            records.append(Record(step, tokens, loss, val_loss, lr, norm, speed, seconds))
            if hook and rank() == 0:
                hook(records[-1], model)

            stop = anyone(asked, device_of(model))
            if last or stop or is_due(step, checkpoint_every):
                saved.save([astuple(record) for record in records])
            if stop:
                break
    return records


def is_due(step: int, every: int | None) -> bool:
    """Is this one of every so many steps? Never, if `every` is None."""
    return every is not None and step % every == 0


def checkpoint_of(file, model, optimizer: Optimizers, batches, recipe: Recipe) -> Checkpoint:
    """The run's checkpoint, which refuses to go on with another recipe or config."""
    cfg = getattr(model, "cfg", None)
    facts = {"recipe": asdict(recipe), "config": asdict(cfg) if is_dataclass(cfg) else {}}
    for name in (*MAY_CHANGE, "name"):
        facts["recipe"].pop(name, None)
        facts["config"].pop(name, None)
    parts = model, optimizer.optimizers, batches, facts
    return Checkpoint(Path(file) if file else None, *parts, sharded=recipe.shard)


# ---------------------------------------------------------------- python -m helpers.train

EXAMPLES = """
Tokens first: from a text or the small world, by a tokenizer that is learnt if there is none yet.
  python -m helpers.train prepare --world en --tokenizer words.json --out train.npy
Then train. The same command goes on from where it was stopped.
  python -m helpers.train --family "GPT-2 124M" --tiny --tokens train.npy --steps 500 --out run
On two processes, or GPUs:
  torchrun --nproc_per_node 2 -m helpers.train --tokens train.npy --steps 500 --out run
"""
MOST_VAL_TOKENS = 100_000


def preparing_options() -> ArgumentParser:
    """Which texts become which ids."""
    parser = ArgumentParser(prog="python -m helpers.train prepare")
    add = parser.add_argument
    add("--text", type=Path, help="a text file; <|endoftext|> parts its documents")
    add("--world", metavar="LANGUAGE", help="or stories of the small world: en or pt")
    add("--documents", type=int, default=20_000, help="how many stories (%(default)s)")
    add("--seed", type=int, default=0, help="of the stories (%(default)s)")
    add("--tokenizer", required=True, help="a .json file, or an encoding: gpt2")
    add("--vocab", type=int, default=1024, help="of a tokenizer not learnt yet (%(default)s)")
    add("--out", required=True, help="the .npy file to write")
    return parser


def prepare(options) -> None:
    """Writes the token file that the options ask for."""
    require(bool(options.text) != bool(options.world), "give --text FILE or --world LANGUAGE")
    if options.world:
        documents = World(options.world).stories(options.documents, options.seed)
    else:
        documents = options.text.read_text(encoding="utf-8").split("<|endoftext|>")
    tokenizer = tokenizer_of(options.tokenizer, documents, options.vocab)
    n_tokens = write_tokens(options.out, documents, tokenizer)
    print(f"{options.out}: {n_tokens:,} tokens of a vocabulary of {tokenizer.vocab_size:,}")


def tokenizer_of(name: str, documents: list[str], vocab_size: int) -> Tokenizer:
    """The tokenizer in a .json file, learnt first if there is none, or the encoding so called."""
    if Path(name).suffix != ".json":
        return Tokenizer.from_tiktoken(sources.encoding(name))
    if not Path(name).exists():
        Tokenizer.train(documents, vocab_size).save(name)
    return Tokenizer.load(name)


def training_options() -> ArgumentParser:
    """The model, the data, and every field of Recipe by its name."""
    parser = ArgumentParser("python -m helpers.train", None, EXAMPLES)
    parser.formatter_class = RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--tokens", required=True, help="a .npy file of ids to learn from")
    add("--val", help="a .npy file of ids to measure on")
    add("--out", type=Path, default=Path("run"), help="the folder of what is kept (%(default)s)")
    add("--family", default="GPT-2 124M", help="in helpers.families.CATALOGUE (%(default)s)")
    add("--tiny", action="store_true", help="the family's architecture, very small")
    for size in ("layers", "width", "heads"):
        add(f"--{size}", type=int, help="instead of the family's")
    add("--context", type=int, default=256, help="tokens in a sequence (%(default)s)")
    add("--batch", type=int, default=16, help="sequences in a batch (%(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    add("--checkpoint-every", type=int, default=500, help="steps (%(default)s)")
    for field in fields(Recipe):
        add(f"--{field.name.replace('_', '-')}", **_as_option(field))
    return parser


def _as_option(field) -> dict:
    default, whole = field.default, field.name in ("steps", "eval_every")
    if default is False:
        return {"action": "store_true"}
    if whole:
        return {"type": int, "required": field.name == "steps", "help": "a number of steps"}
    n_values = {"nargs": 2, "type": float} if field.name == "betas" else {"type": type(default)}
    return {**n_values, "default": default, "help": "(%(default)s)"}


def run(options) -> None:
    """Trains as the options say, or goes on; leaves checkpoint and model in the folder."""
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    tokens, T = read_tokens(options.tokens), options.context
    val = read_tokens(options.val)[:MOST_VAL_TOKENS].astype(np.int64) if options.val else None
    n_ids = 1 + int(max(tokens.max(), 0 if val is None else val.max()))
    options.out.mkdir(parents=True, exist_ok=True)
    with torchrun(options.device):
        torch.manual_seed(options.seed)
        model = Decoder(config_of(options, n_ids)).to(options.device)
        train(
            model,
            Batches(tokens, options.batch, T, options.seed),
            recipe,
            validation=None if val is None else windows(val, T),
            hook=progress(recipe),
            checkpoint=options.out / "checkpoint.safetensors",
            checkpoint_every=options.checkpoint_every,
        )
        if rank() == 0:
            weights.save(model, options.out / "model.safetensors")


def config_of(options, n_ids: int) -> ModelConfig:
    """The family's config in the sizes asked for; with a width of its own, a vocabulary too."""
    cfg = choose(CATALOGUE, options.family, "family")
    cfg = tiny(cfg, vocab_size=n_ids) if options.tiny else cfg
    width, n_heads = options.width or cfg.d_model, options.heads or cfg.n_heads
    sizes = {"n_layers": options.layers or cfg.n_layers, "context_length": options.context}
    sizes |= {"vocab_size": n_ids if options.width else max(n_ids, cfg.vocab_size)}
    if options.width or options.heads:
        n_kv_heads = max(1, n_heads * cfg.n_kv_heads // cfg.n_heads)
        sizes |= {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": width // n_heads}
        sizes |= {"d_model": width, "d_ff": width * cfg.d_ff // cfg.d_model}
    return replace(cfg, **sizes)


def progress(recipe: Recipe, seconds: float = 2.0) -> Callable[[Record, nn.Module], None]:
    """A hook that prints a line every so many seconds, after each evaluation, and at the end."""
    printed = -math.inf

    def hook(record: Record, model: nn.Module) -> None:
        nonlocal printed
        due = record.val_loss is not None or record.step == recipe.steps
        if due or perf_counter() - printed > seconds:
            printed = perf_counter()
            print(line_of(record, recipe), flush=True)

    return hook


def line_of(record: Record, recipe: Recipe) -> str:
    """One line of progress: how far, how good, how fast, and how long it still takes."""
    val = "" if record.val_loss is None else f"  val {record.val_loss:.4f}"
    left = (recipe.steps - record.step) * record.seconds / record.step / 60
    return (
        f"step {record.step:,} of {recipe.steps:,}  loss {record.loss:.4f}{val}  "
        f"lr {record.lr:.1e}  gradient {record.grad_norm:.2f}  "
        f"{record.tokens_per_second:,.0f} tokens/s  {left:.1f} min left"
    )


def main(arguments: list[str]) -> None:
    """The command line; whatever goes wrong is one sentence and exit status 1."""
    try:
        if arguments[:1] == ["prepare"]:
            prepare(preparing_options().parse_args(arguments[1:]))
        else:
            run(training_options().parse_args(arguments))
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from here")
    except (ValueError, OSError, ArithmeticError, sources.SourceError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
    leave_torchrun()
