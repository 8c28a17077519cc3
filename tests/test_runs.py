"""Runs that are stopped, killed, crowded or shared out: python -m pytest tests/test_runs.py."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager
from torch import nn

from helpers import runs, weights
from helpers.data import Batches, RowBatches
from helpers.families import GPT2_124M, tiny
from helpers.model import Decoder
from helpers.runs import owners
from helpers.train import Recipe, main, train

ROOT = Path(__file__).resolve().parents[1]
V, T = 23, 12
TEXT = torch.arange(400) ** 2 % V
ROWS = (
    torch.stack([TEXT[i : i + T] for i in range(20)]),
    torch.stack([TEXT[i + 1 : i + T + 1] for i in range(20)]),
)
RECIPE = Recipe(steps=9, lr=0.01)


@pytest.fixture(autouse=True)
def listening():
    """SIGINT means KeyboardInterrupt, also where pytest runs in a background that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def small(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "n_heads": 2, "n_kv_heads": 2, "d_ff": 32, **changes}
    return Decoder(replace(tiny(GPT2_124M, V, 16), **sizes))


def batches(seed=0):
    return Batches(TEXT, B=4, T=T, seed=seed)


def lasting(records):
    """All of the records but what the clock says."""
    return [replace(record, seconds=0, tokens_per_second=0) for record in records]


def same(one, two):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters()))


def stops_at(step, number=signal.SIGINT):
    """A hook that presses the stop button after this step."""
    return lambda record, model: record.step == step and os.kill(os.getpid(), number)


def in_two_parts(file, step, make=small, drawn=batches, recipe=RECIPE, **more):
    """(model, records) of a run that is stopped after a step, and goes on in new objects."""
    with pytest.raises(KeyboardInterrupt):
        train(make(), drawn(), recipe, hook=stops_at(step), checkpoint=file, **more)
    torch.manual_seed(step)  # the new process stands somewhere else
    model = make(seed=1)
    return model, train(model, drawn(), recipe, checkpoint=file, **more)


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, optimizer, step):
    recipe = replace(RECIPE, optimizer=optimizer, accumulate=2, eval_every=2)
    whole = small()
    expected = train(whole, batches(), recipe, validation=ROWS)
    model, records = in_two_parts(tmp_path / "c", step, recipe=recipe, validation=ROWS)
    assert lasting(records) == lasting(expected)
    assert same(model, whole)


def test_batches_of_rows_go_on_too(tmp_path):
    def drawn():
        return RowBatches(*ROWS, B=6)

    whole = small()
    train(whole, drawn(), RECIPE)
    model, _ = in_two_parts(tmp_path / "c", 4, drawn=drawn)
    assert same(model, whole)


class Noisy(nn.Module):
    """A model of its own kind, that needs the random state and has a buffer to keep."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.inner, self.drop = nn.Linear(V, V), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, tokens):
        self.calls += 1
        return self.drop(self.inner(nn.functional.one_hot(tokens, V).float())) / self.calls


def test_the_random_state_and_the_buffers_are_part_of_the_run(tmp_path):
    whole = Noisy()
    train(whole, batches(), RECIPE)
    model, _ = in_two_parts(tmp_path / "c", 4, make=Noisy)
    assert same(model, whole)
    assert model.calls == 9


def test_the_clock_of_a_run_goes_on_too(tmp_path):
    _, records = in_two_parts(tmp_path / "c", 8)
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds)


def test_a_finished_run_gives_its_records_and_weights_at_once(tmp_path):
    first, second = small(), small(seed=1)
    records = train(first, batches(), RECIPE, checkpoint=tmp_path / "c")
    again = train(second, batches(), RECIPE, checkpoint=tmp_path / "c", hook=stops_at(9))
    assert records == again and same(first, second)


def test_a_checkpoint_is_written_every_so_many_steps_and_at_the_end(tmp_path):
    seen = []

    def look(record, model):
        file = tmp_path / "c"
        seen.append(len(json.loads(weights.read(file)[1]["records"])) if file.exists() else 0)

    train(small(), batches(), RECIPE, hook=look, checkpoint=tmp_path / "c", checkpoint_every=4)
    assert seen == [0, 0, 0, 0, 4, 4, 4, 4, 8]
    assert len(json.loads(weights.read(tmp_path / "c")[1]["records"])) == 9


def test_a_run_whose_hook_fails_goes_on_from_its_last_checkpoint(tmp_path):
    def fail(record, model):
        if record.step == 6:
            raise RuntimeError("no more paper")

    whole, model = small(), small(seed=1)
    kept = {"checkpoint": tmp_path / "c", "checkpoint_every": 4}
    with pytest.raises(RuntimeError, match="no more paper"):
        train(small(), batches(), RECIPE, hook=fail, **kept)
    train(whole, batches(), RECIPE)
    train(model, batches(), RECIPE, **kept)
    assert same(model, whole)


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.02}, {"steps": 10}, {"optimizer": "muon"}, {"clip": None}, {"betas": (0.9, 0.99)}],
)
def test_another_recipe_is_refused_by_the_name_of_the_field(tmp_path, changes):
    train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")
    (name,) = changes
    with pytest.raises(ValueError, match=f"c was trained with {name} = .*, and now it is "):
        train(small(), batches(), replace(RECIPE, **changes), checkpoint=tmp_path / "c")


def test_another_model_is_refused_by_the_name_of_the_field(tmp_path):
    train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="was trained with d_ff = 32, and now it is 64: go on"):
        train(small(d_ff=64), batches(), RECIPE, checkpoint=tmp_path / "c")


def test_other_batches_are_refused(tmp_path):
    train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="the saved batches had B = 4, these have 2"):
        train(small(), Batches(TEXT, B=2, T=T), RECIPE, checkpoint=tmp_path / "c")


def test_a_model_in_another_precision_is_refused_by_the_name_of_the_tensor(tmp_path):
    train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=r"model.tok_emb.weight is \(23, 16\) torch.float32 and"):
        train(small().double(), batches(), RECIPE, checkpoint=tmp_path / "c")


def test_when_to_evaluate_and_what_the_model_is_called_may_change(tmp_path):
    in_two_parts(tmp_path / "c", 4)
    changed = replace(RECIPE, eval_every=3)
    assert len(train(small(name="other"), batches(), changed, checkpoint=tmp_path / "c")) == 9


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    weights.save(small(), tmp_path / "model")
    with pytest.raises(ValueError, match="model is no checkpoint of a training run"):
        train(small(), batches(), RECIPE, checkpoint=tmp_path / "model")
    train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-100])
    with pytest.raises(ValueError, match="c is cut short"):
        train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere: make it"):
        train(small(), batches(), RECIPE, checkpoint=tmp_path / "nowhere" / "c")


# ---------------------------------------------------------------- the stop button


class Presses(Batches):
    """Batches that press the stop button while the fourth is drawn."""

    def next(self):
        if self.n_given == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().next()


def press_when(monkeypatch, owner, name, call):
    """Lets a function press the stop button when it is called for this time."""
    function, calls = getattr(owner, name), []

    def pressing(*arguments, **more):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments, **more)

    monkeypatch.setattr(owner, name, pressing)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Batches, "next", 4),
        (Decoder, "forward", 4),
        (torch.Tensor, "backward", 4),
        (torch.optim.AdamW, "step", 4),
        (weights, "save_file", 1),
        (os, "replace", 1),
    ],
)
def test_wherever_the_button_is_pressed_the_step_is_finished_first(
    tmp_path, monkeypatch, owner, name, call
):
    kept = {"checkpoint": tmp_path / "c", "checkpoint_every": 4}
    whole, model = small(), small(seed=1)
    train(whole, batches(), RECIPE)
    with monkeypatch.context() as patch:
        press_when(patch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            train(small(), batches(), RECIPE, **kept)
    assert 4 <= len(json.loads(weights.read(tmp_path / "c")[1]["records"])) <= 5
    train(model, batches(), RECIPE, **kept)
    assert same(model, whole)


def test_a_second_press_is_obeyed_at_once(tmp_path):
    def twice(record, model):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    with pytest.raises(KeyboardInterrupt):
        train(small(), batches(), RECIPE, hook=twice, checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_sigterm_saves_and_then_does_what_it_would_have_done(tmp_path):
    def leave(number, frame):
        raise SystemExit(number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(SystemExit, match=str(int(signal.SIGTERM))):
            hook = stops_at(5, signal.SIGTERM)
            train(small(), batches(), RECIPE, hook=hook, checkpoint=tmp_path / "c")
        assert signal.getsignal(signal.SIGTERM) is leave
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(json.loads(weights.read(tmp_path / "c")[1]["records"])) == 5


def test_without_a_checkpoint_the_button_works_too_and_belongs_to_its_owner_again():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(small(), batches(), RECIPE, hook=stops_at(2))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_button_that_was_switched_off_stays_off():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert len(train(small(), batches(), RECIPE, hook=stops_at(2))) == 9
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    records = []

    def work():
        records.extend(train(small(), batches(), RECIPE, checkpoint=tmp_path / "c"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(records) == 9


CELL = """
from dataclasses import replace
from tests.test_runs import RECIPE, batches, small, train
show = lambda record, model: print(record.step, flush=True)
train(small(), batches(), replace(RECIPE, steps=100_000), hook=show, checkpoint={file!r})
"""


def test_the_stop_button_of_a_notebook_leaves_a_checkpoint_that_goes_on(tmp_path):
    """In a real kernel: a long run is interrupted while it prints its steps."""
    manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    manager.start_kernel(cwd=ROOT)
    client = manager.blocking_client()
    client.start_channels()
    printed = []

    def listen(message):
        if message["header"]["msg_type"] == "stream":
            printed.append(message["content"]["text"])
            if len(printed) == 3:
                manager.interrupt_kernel()

    try:
        client.wait_for_ready(timeout=120)
        code = CELL.format(file=str(tmp_path / "c"))
        reply = client.execute_interactive(code, timeout=120, output_hook=listen)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    n_steps = int("".join(printed).split()[-1])
    assert len(json.loads(weights.read(tmp_path / "c")[1]["records"])) == n_steps


# ---------------------------------------------------------------- killed, crowded, full


def die(where, file):
    """Trains in a process of its own and is killed while it writes the third checkpoint."""
    writes = []

    def killed(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    def write_half(tensors, path, metadata):
        writes.append(path)
        save_file(tensors, path, metadata)
        if len(writes) == 3 and where == "halfway":
            os.truncate(path, os.path.getsize(path) // 2)
            killed()
        if len(writes) == 3:
            os.replace = killed

    save_file, weights.save_file = weights.save_file, write_half
    train(small(), batches(), RECIPE, checkpoint=file, checkpoint_every=1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("where", ["halfway", "before the rename"])
def test_a_run_killed_while_it_writes_leaves_the_checkpoint_before_whole(tmp_path, where):
    file = tmp_path / "c"
    code = f"from tests.test_runs import die; die({where!r}, {str(file)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert len(json.loads(weights.read(file)[1]["records"])) == 2
    assert len([*tmp_path.glob("c.*.part")]) == 1
    whole, model = small(), small(seed=1)
    train(whole, batches(), RECIPE)
    train(model, batches(), RECIPE, checkpoint=file)
    assert same(model, whole)
    assert [*tmp_path.glob("c.*.part")] == []


@pytest.mark.parametrize("limit", [0, 3000])
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before_whole(tmp_path, limit):
    resource = pytest.importorskip("resource", reason="no limits on files here")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(record, model):
        if record.step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))

    kept = {"checkpoint": tmp_path / "c", "checkpoint_every": 4}
    try:
        with pytest.raises(
            OSError, match=r"the run ended after step 8, unsaved: .*c could"
        ) as caught:
            train(small(), batches(), RECIPE, hook=fill_the_disk, **kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
    whole, model = small(), small(seed=1)
    train(whole, batches(), RECIPE)
    train(model, batches(), RECIPE, **kept)
    assert same(model, whole)


def test_two_runs_cannot_use_one_checkpoint_at_a_time(tmp_path):
    def second(record, model):
        train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")

    mine = f"process {os.getpid()} is training with .*c: stop it, or take another file"
    with pytest.raises(BlockingIOError, match=mine):
        train(small(), batches(), RECIPE, hook=second, checkpoint=tmp_path / "c")
    assert len(train(small(), batches(), RECIPE, checkpoint=tmp_path / "c")) == 9


def test_two_runs_can_use_one_folder_at_a_time(tmp_path):
    def second(record, model):
        if record.step == 4:
            train(small(), batches(), RECIPE, checkpoint=tmp_path / "d")

    one, two = small(), small()
    train(one, batches(), RECIPE, hook=second, checkpoint=tmp_path / "c")
    train(two, batches(), RECIPE, checkpoint=tmp_path / "d")
    assert same(one, two)


# ---------------------------------------------------------------- many processes


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A token file of the same text."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(file, TEXT.numpy().astype(np.uint16))
    return file


def arguments(tokens, out, *more):
    """A run of five sequences in a batch, which two processes cannot share evenly."""
    sizes = "--tiny --context 12 --batch 5 --accumulate 2 --steps 5 --eval-every 1".split()
    return ["--tokens", tokens, "--val", tokens, "--out", out, *sizes, *more]


def on_two_processes(arguments):
    """The run under torchrun, its output a pipe."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    whole = map(str, [*command, "-m", "helpers.train", *arguments])
    return subprocess.Popen(
        whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kept(folder):
    tensors, metadata = weights.read(folder / "checkpoint.safetensors")
    return tensors, [record[:6] for record in json.loads(metadata["records"])]


@pytest.mark.parametrize(
    "how", [["--family=Llama 3 8B", "--optimizer=muon", "--shard"], ["--family=Qwen3 30B-A3B"]]
)
def test_two_processes_train_as_one(tmp_path, tokens, how):
    process = on_two_processes(arguments(tokens, tmp_path / "two", *how))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    main([str(argument) for argument in arguments(tokens, tmp_path / "one", *how)])
    (one, expected), (two, records) = kept(tmp_path / "one"), kept(tmp_path / "two")
    torch.testing.assert_close(torch.tensor(records), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert one.keys() == two.keys()
    for name in one.keys() - {"random.cpu"}:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)


def test_when_one_process_dies_the_other_ends_and_the_run_can_go_on(tmp_path, tokens):
    many = arguments(tokens, tmp_path, "--steps=100000", "--checkpoint-every=1")
    process = on_two_processes(many)
    for line in process.stdout:
        if line.startswith("step 3 "):
            os.kill(int((tmp_path / ".checkpoint.safetensors.lock").read_text()), signal.SIGKILL)
            break
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "exitcode  : -9" in output
    assert len(kept(tmp_path)[1]) >= 2


def test_each_parameter_has_one_owner_and_the_load_is_even(monkeypatch):
    parameters = {name: torch.zeros(n) for name, n in zip("abcdef", (9, 1, 5, 5, 4, 2))}
    assert set(owners(parameters).values()) == {0}
    monkeypatch.setattr(runs, "n_processes", lambda: 2)
    assert owners(parameters) == {"a": 0, "c": 1, "d": 1, "e": 0, "f": 1, "b": 1}
