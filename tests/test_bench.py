"""The benchmark: what it runs, in which order, what it makes of the times. No time is asserted.

python -m pytest tests/test_bench.py
"""

import math
import subprocess
import sys
from dataclasses import replace
from inspect import getsource
from types import SimpleNamespace

import pytest
import torch

from helpers import bench, sources
from helpers.bench import Timing, agreed, agreement, in_turns, table
from helpers.families import parameters
from helpers.generate import generate

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = replace(bench.GPT2, n_layers=1, d_model=32, n_heads=2, n_kv_heads=2, head_dim=16, d_ff=64)


@pytest.fixture(scope="module")
def subject():
    return bench.random_subject("tiny", TINY, T=4)


@pytest.fixture
def alone(monkeypatch):
    """Neither transformers nor llama.cpp can be imported, and SmolLM2 is not here."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr(sources, "have", lambda name: False)


# ---------------------------------------------------------------- in turns


def test_jobs_take_turns_after_a_warm_up():
    done = []
    jobs = {name: lambda name=name: done.append(name) for name in "abc"}
    rows = in_turns(jobs, rounds=2)
    assert "".join(done) == "abc" * 3 and [row.name for row in rows] == ["a", "b", "c"]


def test_medians_and_ratios_by_hand():
    """Three rounds after the warm-up; the ratio is the median of a round's, not of the medians."""
    spent = {
        "a": iter([(99, 99), (2, 4), (4, 8), (6, 6)]),
        "b": iter([(99, 99), (1, 4), (4, 2), (2, 1)]),
    }
    first, second = in_turns({"a": "a", "b": "b"}, 3, measure=lambda job: next(spent[job]))
    assert first == Timing("a", 4, 6, 1.0, 1.0)
    assert second == Timing("b", 2, 2, 2.0, 4.0)  # of 2 1 3, and of 1 4 6


def test_a_clock_too_coarse_gives_no_ratio():
    assert math.isnan(in_turns({"a": 0}, 1, measure=lambda job: (1.0, 0.0))[0].cpu_ratio)


def test_the_clocks_stop_when_the_job_ends(monkeypatch):
    clock, busy = iter([10.0, 13.0]), iter([1.0, 1.5])
    fake = SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(busy))
    monkeypatch.setattr(bench, "time", fake)
    assert bench.timed(lambda: None) == (3.0, 0.5)


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="0 jobs in 5 rounds: there is nothing to measure"):
        in_turns({})
    with pytest.raises(ValueError, match="1 jobs in 0 rounds"):
        in_turns({"a": print}, rounds=0)


def test_a_table_says_milliseconds_ratios_and_notes():
    rows = [Timing("first", 0.5, 0.25), Timing("the second", 0.1234, 0.1, 4.05, 2.5)]
    title, head, first, second = table(rows, "Title", {"the second": "99 %"}).splitlines()
    assert title == "Title" and head.split() == "ms CPU ms times as fast by CPU".split()
    assert first.split() == ["first", "500.0", "250.0", "1.00", "1.00"]
    assert second.split()[-5:] == ["100.0", "4.05", "2.50", "99", "%"]
    assert head.index("ms") + 2 == first.index("500.0") + 5 == second.index("123.4") + 5


def test_different_tokens_are_no_comparison():
    assert agreed({"a": lambda: [1, 2], "b": lambda: [1, 2]}) == [1, 2]
    with pytest.raises(ValueError, match="a and c chose different tokens"):
        agreed({"a": lambda: [1, 2], "b": lambda: [1, 2], "c": lambda: [1, 3]})


def test_agreement_by_hand():
    assert agreement([1, 2, 3, 4], [1, 2, 0, 4]) == 0.75
    assert agreement([1, 2], [1, 2, 3, 4]) == 0.5 and agreement([], []) == 0


# ---------------------------------------------------------------- the machine


def test_rates_are_sizes_over_the_best_time(monkeypatch):
    seconds = iter([4.0, 0.5, 2.0] * 2)
    monkeypatch.setattr(bench, "timed", lambda job: (next(seconds), 0.0))
    assert bench.bandwidth(n_bytes=4096, rounds=3) == 4096 / 0.5
    assert bench.peak_flops(n=10, rounds=3) == 2000 / 0.5


def test_the_peak_of_memory_keeps_what_was_given_back():
    """In a process of its own, which holds 200 MB for a moment."""
    script = f"import sys\nfrom pathlib import Path\n{getsource(bench.peak_memory)}\n"
    script += "held = b'x' * 200_000_000\ndel held\nprint(peak_memory())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert 200e6 < int(done.stdout) < 260e6


# ---------------------------------------------------------------- what is compared


def test_decoding_compares_the_same_tokens_of_transformers_and_ours(subject, monkeypatch):
    stored = []
    monkeypatch.setattr(bench, "laid_out", lambda model: stored.append(model) or model)
    same = bench.alike(subject, 6)
    assert list(same) == ["transformers", "ours", "ours, laid out"]
    assert agreed(same) == generate(subject.ours, [subject.prompt], 6)[0]
    assert len(stored) == 1 and stored[0] is not subject.ours  # a copy


def test_fewer_bits_are_compared_with_their_own_numbers_in_32(subject, monkeypatch):
    monkeypatch.setattr(bench, "quantized", lambda model, bits: f"{bits} bits")
    monkeypatch.setattr(bench, "dequantized", lambda model: f"{model} exactly")
    monkeypatch.setattr(bench, "our_tokens", lambda model, prompt, n_new: model)
    for bits, (job, exact) in zip((16, 8, 4), bench.in_fewer_bits(subject, 2).values()):
        assert (job(), exact()) == (f"{bits} bits", f"{bits} bits exactly")


def test_a_note_compares_with_the_same_weights_and_only_of_a_trained_model(subject, monkeypatch):
    monkeypatch.setattr(bench, "alike", lambda *_: {"ours": lambda: [9, 9]})
    others = {"a": (lambda: [1, 2], lambda: [1, 3]), "b": (lambda: [9, 9], None)}
    monkeypatch.setattr(bench, "in_fewer_bits", lambda *_: others)
    _, notes = bench.decode(replace(subject, trained=True), rounds=1)
    assert notes == {"a": "50% the same", "b": "100% the same"}
    rows, notes = bench.decode(subject, rounds=1)
    assert [row.name for row in rows] == ["ours", "a", "b"] and notes == {}


def test_todays_models_are_as_large_and_can_be_cut_into_groups():
    today = bench.today(bench.LARGER)
    assert today.d_ff % 32 == 0
    assert parameters(today) == pytest.approx(parameters(bench.LARGER), rel=0.02)


@pytest.mark.parametrize("cfg", [TINY, bench.today(TINY)], ids=["GPT-2", "today"])
def test_no_token_stops_transformers(cfg):
    assert bench.in_transformers(bench.Decoder(cfg)).generation_config.eos_token_id is None


def test_other_weights_are_refused(subject):
    torch.manual_seed(3)
    other = bench.random_subject("other", replace(TINY, d_ff=96), T=4)
    with pytest.raises(ValueError, match="transformers and ours chose different tokens"):
        bench.decode(replace(subject, theirs=other.theirs), n_new=6, rounds=1)


class FakeLlama:
    """What of llama.cpp's bindings is used; its second token is always wrong."""

    def __init__(self, path, n_ctx=512, n_threads=None, n_threads_batch=None, verbose=True):
        self.path, self.n_ctx, self.n_threads = path, n_ctx, n_threads
        self.n_resets = 0

    def reset(self):
        self.n_resets += 1

    def generate(self, tokens, temp):
        assert temp == 0.0
        for i, token in enumerate(self.answers):
            yield -1 if i == 1 else token
        raise AssertionError("more tokens were asked for than wanted")


def test_llama_cpp_gets_the_file_the_room_and_a_note(subject, monkeypatch, tmp_path):
    made = []
    FakeLlama.answers = generate(subject.ours, [subject.prompt], 4)[0]
    fake = SimpleNamespace(Llama=lambda *a, **k: made.append(FakeLlama(*a, **k)) or made[-1])
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    real = replace(subject, file=tmp_path / "weights.gguf", trained=True)
    rows, notes = bench.decode(real, n_new=4, rounds=1)
    others = ["ours, 16 bits", "ours, 8 bits", "ours, 4 bits", "llama.cpp, 4 bits"]
    assert [row.name for row in rows] == ["transformers", "ours", "ours, laid out", *others]
    assert list(notes) == others and notes["llama.cpp, 4 bits"] == "75% the same"
    (llama,) = made
    assert (llama.path, llama.n_ctx, llama.n_threads) == (str(real.file), 8, 1)
    assert llama.n_resets == 3  # to compare, to warm up, to measure


def test_prefill_reads_as_many_tokens_as_asked(subject, monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "decode", lambda *a, **k: seen.append((a, k)))
    bench.prefill(subject, T=10, rounds=2)
    ((given,), settings) = seen[0]
    assert given.prompt == (subject.prompt * 3)[:10] and settings == {"n_new": 1, "rounds": 2}


def test_loading_is_measured_in_processes_of_their_own(subject):
    rows, notes = bench.load(replace(subject, theirs=None), rounds=1)
    assert [row.name for row in rows] == ["ours"] and rows[0].cpu_seconds > 0
    assert notes["ours"].endswith(" MB at most")


def test_what_cannot_be_loaded_is_said_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match=r"ours could not load .*there is no config.json"):
        bench.load_once("ours", tmp_path, {"ours": []})
    monkeypatch.setitem(bench.LOADS, "killed", ("import os", "os._exit(9)"))
    with pytest.raises(RuntimeError, match=r"killed could not load .*without a word \(9\)"):
        bench.load_once("killed", tmp_path, {"killed": []})


def test_a_peak_that_is_not_known_is_not_said():
    assert bench.in_words([3_000_000, 9_000_000, 5_000_000]) == "5 MB at most"
    assert bench.in_words([None, 5]) == ""


def test_a_training_step_trains():
    model = bench.Lean(TINY)
    before = model.tokens.weight.detach().clone()
    bench.training_step(model, model)()
    assert not torch.equal(before, model.tokens.weight) and model.tokens.weight.grad is None


def test_the_rows_of_training():
    names = [row.name for row in bench.train(TINY, rounds=1)]
    assert names == ["transformers", "ours", "a lean loop", "ours, RMSNorm, RoPE, SwiGLU"]


# ---------------------------------------------------------------- what is absent, and the command


def test_what_is_absent_is_said_in_a_line_each(alone):
    first, second, third = bench.absent()
    assert first.startswith("transformers cannot be imported") and first.endswith("transformers")
    assert second.startswith("llama_cpp cannot be imported") and "llama-cpp-python" in second
    assert third.startswith("SmolLM2 is not here") and third.endswith("fetch smollm2")


def test_a_library_that_does_not_work_here_counts_as_absent(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise OSError('built for another machine')")
    monkeypatch.syspath_prepend(tmp_path)
    assert bench.imported("broken_library") is None and bench.imported("json") is not None


def test_what_is_absent_has_no_row(alone, subject):
    lonely = bench.random_subject("tiny", TINY, T=4)
    assert lonely.theirs is None and lonely.prompt == subject.prompt
    rows, notes = bench.decode(replace(lonely, file="weights.gguf"), n_new=3, rounds=1)
    names = ["ours", "ours, laid out", "ours, 16 bits", "ours, 8 bits", "ours, 4 bits"]
    assert [row.name for row in rows] == names and notes == {}
    assert next(row.name for row in bench.train(TINY, rounds=1)) == "ours"


def test_smollm_comes_with_its_file_and_a_question(subject, monkeypatch):
    tokenizer = SimpleNamespace(chat_prompt=lambda messages: [len(messages)])
    monkeypatch.setattr(sources, "have", lambda name: True)
    monkeypatch.setattr(sources, "path", lambda name: f"{name}.gguf")
    monkeypatch.setattr(bench.weights, "smollm_model", lambda: (subject.ours, tokenizer))
    monkeypatch.setattr(bench, "in_transformers", lambda model: "theirs")
    real = bench.smollm()
    assert (real.file, real.prompt, real.theirs) == ("smollm2/instruct.gguf", [1], "theirs")
    assert real.trained and not subject.trained


def test_without_smollm_its_shape_stands_in(alone, monkeypatch):
    monkeypatch.setattr(bench, "SMOLLM2_135M", TINY)
    assert bench.smollm().name == "SmolLM2's shape" and bench.smollm().ours.cfg.d_model == 32


@pytest.mark.parametrize(
    ("what", "titles"),
    [
        ("train", ["A training step"]),
        ("decode", ["64 greedy tokens"]),
        ("prefill", ["256 tokens read"]),
        ("load", ["From files to first logits"]),
        ("all", ["A training step", "From files", "256 tokens read", "64 greedy tokens"]),
    ],
)
def test_the_command_prints_the_tables_asked_for(what, titles, subject, monkeypatch, capsys):
    rows = [Timing("transformers", 1.0, 1.0), Timing("ours", 0.5, 0.5, 2.0, 2.0)]
    for name in ("decode", "prefill", "load"):
        monkeypatch.setattr(bench, name, lambda subject, rounds: (rows, {}))
    monkeypatch.setattr(bench, "train", lambda rounds: rows)
    monkeypatch.setattr(bench, "subjects", lambda: iter([subject]))
    monkeypatch.setattr(bench, "absent", lambda: ["something is not here"])
    monkeypatch.setattr(bench, "machine", lambda: "a machine")
    bench.main([what, "--rounds", "2", "--threads", "1"])
    said, *blocks = capsys.readouterr().out.split("\n\n")
    assert said == "something is not here\na machine"
    assert len(blocks) == len(titles) and all(map(str.startswith, blocks, titles))
    assert all("transformers" in block and "ours" in block for block in blocks)


def test_a_table_of_training_loads_no_other_model(monkeypatch):
    monkeypatch.setattr(bench, "train", lambda rounds: [Timing("ours", 1.0, 1.0)])
    monkeypatch.setattr(bench, "subjects", pytest.fail)
    assert len(list(bench.tables("train", rounds=1))) == 1


def test_the_machine_in_a_line(monkeypatch):
    monkeypatch.setattr(bench, "bandwidth", lambda: 12.34e9)
    monkeypatch.setattr(bench, "peak_flops", lambda: 56.7e9)
    said = bench.machine()
    assert said.endswith("reads 12.3 GB/s, multiplies at 57 GFLOP/s in 32 bits")
    assert "1 threads" in said


def test_an_unknown_table_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["sleep"])
    assert "invalid choice: 'sleep'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rounds", "--threads"])
@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_less_than_one_of_anything_is_refused(option, number, capsys):
    with pytest.raises(SystemExit):
        bench.options().parse_args(["decode", f"{option}={number}"])
    assert f"{option}: it is '{number}': give 1 or more" in capsys.readouterr().err
