"""What a long run needs besides arithmetic: many processes, a stop button, a file to go on from.

A `Checkpoint` holds all that decides what comes next, so that a run which was stopped goes on bit
for bit; one run at a time may use it. The training itself is in `train`. Lesson 04 stops a run.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from glob import escape
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from helpers import weights

# ---------------------------------------------------------------- processes

# Each process draws the same batches and takes every n-th sequence of each, so that the losses are
# those of one process. What they must agree on, they add up.


@contextmanager
def torchrun(device: str) -> Iterator[None]:
    """While inside, this is one of the processes that torchrun started; without it, the only one.

    A process that waits for a dead one gives up: at once on CPUs, after five minutes on GPUs.
    """
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=5))
    try:
        yield
    finally:
        dist.destroy_process_group()


def leave_torchrun() -> None:
    """Ends a process of torchrun's at once, its work done; any other goes on.

    DDP leaves gloo's threads behind. One that still asks for the interpreter while that shuts down
    aborts the process, and a run that went well counts as failed.
    """
    if "LOCAL_RANK" in os.environ:
        sys.stdout.flush()
        os._exit(0)


def rank() -> int:
    """The number of this process, from 0; 0 if there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def n_processes() -> int:
    """How many processes train this model together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def add_up(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, in each of them."""
    if n_processes() > 1:
        dist.all_reduce(value)
    return value


def add_up_number(number: float, device: torch.device) -> float:
    """The same for a plain number, in 64 bits; `device` is where the processes' tensors are."""
    if n_processes() == 1:
        return number
    return add_up(torch.tensor(number, dtype=torch.float64, device=device)).item()


def my_share(*tensors: Tensor) -> list[Tensor]:
    """Every n-th row of each tensor, beginning with the number of this process."""
    if len(tensors[0]) < n_processes():
        n = len(tensors[0])
        raise ValueError(f"{n} sequences cannot be shared by {n_processes()} processes: take more")
    return [tensor[rank() :: n_processes()] for tensor in tensors]


def owners(parameters: dict[str, nn.Parameter]) -> dict[str, int]:
    """{name: the process that steps it}: the largest first, each to whoever has least so far."""
    load, owner = [0] * n_processes(), {}
    for name in sorted(parameters, key=lambda name: -parameters[name].numel()):
        owner[name] = load.index(min(load))
        load[owner[name]] += parameters[name].numel()
    return owner


def hand_round(parameters: dict[str, nn.Parameter]) -> None:
    """Sends each parameter from its owner to all: ZeRO's first stage (arXiv:1910.02054, 5.1)."""
    if n_processes() > 1:
        owner = owners(parameters)
        sent = [
            dist.broadcast(p.data, owner[name], async_op=True) for name, p in parameters.items()
        ]
        for one in sent:
            one.wait()


# ---------------------------------------------------------------- the stop button


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """While inside, the stop button and SIGTERM only leave their number in the list given here.

    Afterwards they do what they would have done. A second press is obeyed at once.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield asked
        return

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    heeded = [n for n in numbers if signal.getsignal(n) not in (None, signal.SIG_IGN)]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in asked:
        signal.raise_signal(number)


def anyone(asked: list[int], device: torch.device) -> bool:
    """Was any process asked to stop? The same answer in all, so that all stop after one step."""
    return add_up_number(len(asked), device) > 0


# ---------------------------------------------------------------- one user at a time


def lock(file) -> None:
    """Takes the lock of an open file, or BlockingIOError. A process that dies leaves no lock."""
    if os.name == "nt":
        import msvcrt

        os.lseek(file.fileno(), 1 << 20, os.SEEK_SET)  # beyond what is written: that stays readable
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            raise BlockingIOError from None
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def taken(path: Path):
    """The file, open and locked. Its last user may remove it while we open it: then we try anew."""
    while True:
        file = open(path, "a+")
        try:
            lock(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        file.close()


@contextmanager
def only_user(file: Path | None) -> Iterator[None]:
    """While inside, no other run can use this file. BlockingIOError if one does already."""
    if file is None or rank() > 0:
        yield
        return
    if not file.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {file.parent}: make it, then train again")
    beside = file.with_name(f".{file.name}.lock")
    try:
        locked = taken(beside)
    except BlockingIOError:
        who = beside.read_text() if beside.exists() else ""
        raise BlockingIOError(
            f"process {who} is training with {file}: stop it, or take another file"
        ) from None
    with locked:
        locked.truncate(0)
        locked.write(str(os.getpid()))
        locked.flush()
        sweep(file)
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no open file: it stays, and is free
                beside.unlink(missing_ok=True)


def sweep(file: Path) -> None:
    """Removes what a run left half written when it was killed."""
    for part in file.parent.glob(f"{escape(file.name)}.*.part"):
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------- the file

FORMAT = "text-to-assistant checkpoint 1"


class Checkpoint:
    """All that a run needs to go on bit for bit, in one file; without a file it keeps nothing.

    `facts` {kind: {name: value}} say how the run was made: it goes on only under the same.
    `sharded` says that each process has the optimizers' state of other parameters.
    """

    def __init__(self, file: Path | None, model, optimizers, batches, facts: dict, sharded=False):
        self.file, self.model, self.optimizers, self.batches = file, model, optimizers, batches
        self.facts, self.sharded = json.loads(json.dumps(facts)), sharded  # as they will be read
        self.names = {p: name for name, p in model.named_parameters()}

    def save(self, records: list) -> None:
        """Writes the file whole, or leaves the old one as it was; OSError says why it could not."""
        if self.file is None:
            return
        kept = self._optimizer_tensors()  # in all processes: they take part
        state = {"records": records, "batches": self.batches.state_dict(), **self.facts}
        metadata = {name: json.dumps(value) for name, value in state.items()}
        if rank() > 0:
            return
        try:
            tensors = self._model_tensors() | kept | random_states()
            weights.write(self.file, tensors, {"format": FORMAT, **metadata})
        except OSError as error:
            raise OSError(f"the run ended after step {len(records)}, unsaved: {error}") from None

    def load(self) -> list:
        """Puts all back as it was saved and returns the records; an empty list without a file."""
        if self.file is None or not self.file.exists():
            return []
        tensors, metadata = weights.read(self.file)
        if metadata.pop("format", None) != FORMAT:
            raise ValueError(f"{self.file} is no checkpoint of a training run: take another file")
        state = {name: json.loads(text) for name, text in metadata.items()}
        for kind, values in self.facts.items():
            self._require_same(state[kind], values)
        self._require_shapes(tensors)
        self.batches.load_state_dict(state["batches"])
        self._fill(tensors)
        return state["records"]

    def _require_same(self, saved: dict, here: dict) -> None:
        for name in here:
            if saved.get(name) != here[name]:
                raise ValueError(
                    f"{self.file} was trained with {name} = {saved.get(name)}, and now it is "
                    f"{here[name]}: go on with what it was, or take another file"
                )

    def _require_shapes(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self._model_tensors().items():
            here, there = looks(tensor), looks(tensors.get(name))
            if here != there:
                raise ValueError(
                    f"{self.file} is of another model, in which {name} is {there} and not {here}: "
                    "take another file"
                )

    def _model_tensors(self) -> dict[str, Tensor]:
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {f"model.{name}": tensor.detach() for name, tensor in named}

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """What the optimizers keep of each parameter; if sharded, the first process gets it all."""
        mine = {
            f"optimizer.{self.names[p]}.{key}": value
            for optimizer in self.optimizers
            for p, state in optimizer.state.items()
            for key, value in state.items()
        }
        return gathered(mine) if self.sharded and n_processes() > 1 else mine

    @torch.no_grad()
    def _fill(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self._model_tensors().items():
            tensor.copy_(tensors[name])
        for optimizer in self.optimizers:
            for p in [p for group in optimizer.param_groups for p in group["params"]]:
                kept = below(f"optimizer.{self.names[p]}.", tensors)
                optimizer.state[p] = {key: value.to(p.device) for key, value in kept.items()}
        set_random_states(tensors)


def looks(tensor: Tensor | None) -> str:
    """Its shape and type in words."""
    return "absent" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, under the rest of it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of all processes in the first, on the CPU; nothing in the others."""
    parts = [None] * n_processes() if rank() == 0 else None
    dist.gather_object({name: tensor.cpu() for name, tensor in tensors.items()}, parts)
    return {name: tensor for part in parts or [] for name, tensor in part.items()}


def random_states() -> dict[str, Tensor]:
    """Where torch's random generators are."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(tensors: dict[str, Tensor]) -> None:
    """Puts the generators back to where `random_states` found them."""
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
