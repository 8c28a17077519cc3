"""How fast this machine is, and how fast the decoder on it; lesson 09 uses the parts.

What is compared computes the same, and everything runs in turns in one process, so that what else
the machine does falls on all alike. A row gives medians over the rounds and ratios to the first
row. Machines are noisy: quote the ratios, not the times.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from inspect import getsource
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import sources, weights
from helpers.config import ModelConfig, Rope
from helpers.families import GPT2_124M, SMOLLM2_135M, matched, parameters
from helpers.generate import generate, laid_out
from helpers.model import Decoder
from helpers.quantization import Quantized, dequantized, quantized

# ---------------------------------------------------------------- in turns


@dataclass(frozen=True)
class Timing:
    """Medians of one job over the rounds, and how many times as fast as the first job it was."""

    name: str
    seconds: float
    cpu_seconds: float  # of all threads together
    ratio: float = 1.0  # the first job's seconds over this one's, round by round
    cpu_ratio: float = 1.0


def timed(job: Callable[[], Any]) -> tuple[float, float]:
    """(seconds by the clock, CPU seconds of this process) that the job takes."""
    clock, busy = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - clock, time.process_time() - busy


def in_turns(
    jobs: Mapping[str, Callable[[], Any]],
    rounds: int = 5,
    measure: Callable[[Callable], tuple[float, float]] = timed,
) -> list[Timing]:
    """Runs all jobs once to warm up, then `rounds` times in turns: a Timing for each."""
    if not jobs or rounds < 1:
        raise ValueError(f"{len(jobs)} jobs in {rounds} rounds: there is nothing to measure")
    turns = [[measure(job) for job in jobs.values()] for _ in range(1 + rounds)]
    by_job = list(zip(*turns[1:]))  # for each its (seconds, CPU seconds), round by round
    return [_summary(name, mine, by_job[0]) for name, mine in zip(jobs, by_job)]


def _summary(name: str, mine: Sequence[tuple], first: Sequence[tuple]) -> Timing:
    times = [statistics.median(column) for column in zip(*mine)]
    ratios = [
        statistics.median(a / b if b else float("nan") for a, b in zip(*columns))
        for columns in zip(zip(*first), zip(*mine))
    ]
    return Timing(name, *times, *ratios)


def table(rows: Sequence[Timing], title: str, notes: Mapping[str, str] | None = None) -> str:
    """The rows as text, with a note at the end of a row where there is one."""
    width = max(len(row.name) for row in rows) + 2
    head = f"{'':{width}}{'ms':>10}{'CPU ms':>10}{'times as fast':>15}{'by CPU':>9}"
    lines = [
        f"{row.name:{width}}{1000 * row.seconds:10.1f}{1000 * row.cpu_seconds:10.1f}"
        f"{row.ratio:15.2f}{row.cpu_ratio:9.2f}  {(notes or {}).get(row.name, '')}".rstrip()
        for row in rows
    ]
    return "\n".join([title, head, *lines])


def agreed(jobs: Mapping[str, Callable[[], list[int]]]) -> list[int]:
    """The tokens that all jobs choose; ValueError where two differ: they are no comparison."""
    chosen = {name: job() for name, job in jobs.items()}
    first, expected = next(iter(chosen.items()))
    for name, tokens in chosen.items():
        if tokens != expected:
            raise ValueError(
                f"{first} and {name} chose different tokens: there is nothing to compare"
            )
    return expected


def agreement(a: Sequence[int], b: Sequence[int]) -> float:
    """The share of places with the same token; a different length counts as different places."""
    return sum(x == y for x, y in zip(a, b)) / max(len(a), len(b), 1)


# ---------------------------------------------------------------- the machine


def bandwidth(n_bytes: int = 2**28, rounds: int = 5) -> float:
    """Bytes per second at which a large array is read, the best of the rounds, all threads.

    The array must not fit into the processor's caches: 256 MiB do not fit into most.
    """
    numbers = torch.ones(n_bytes // 4)
    return numbers.nbytes / _best(numbers.sum, rounds)


def peak_flops(n: int = 2048, rounds: int = 5) -> float:
    """FLOP per second of a product of two (n, n) matrices in 32 bits, the best of the rounds.

    It is what torch reaches on this machine now, not what the maker of the processor promises.
    """
    a, b = torch.ones(n, n), torch.ones(n, n)
    return 2 * n**3 / _best(lambda: a @ b, rounds)


def _best(job: Callable[[], Any], rounds: int) -> float:
    job()
    return min(timed(job)[0] for _ in range(rounds))


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had; None where the system does not say."""
    try:  # Linux: getrusage there counts what the parent had, too
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---------------------------------------------------------------- the same weights, elsewhere


def imported(name: str) -> ModuleType | None:
    """The module, or None if it is not there or does not work here."""
    try:
        return import_module(name)
    except Exception:  # a library that was built for another machine may raise anything
        return None


def absent() -> list[str]:
    """A sentence for each thing that could be compared with and is not here."""
    packages = {"transformers": "transformers", "llama_cpp": "llama-cpp-python"}
    sentences = [
        f"{name} cannot be imported, so its rows are missing: python -m pip install {package}"
        for name, package in packages.items()
        if imported(name) is None
    ]
    if not sources.have("smollm2"):
        sentences.append(
            "SmolLM2 is not here, so a random model of its shape stands in: "
            "python -m helpers.sources fetch smollm2"
        )
    return sentences


def in_transformers(model: Decoder):
    """The same weights as a model of transformers, which no token stops; None if it is absent."""
    transformers = imported("transformers")
    if transformers is None:
        return None
    transformers.logging.disable_progress_bar()
    # On Windows a file that is still mapped cannot be removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        weights.save_pretrained(model, f"{folder}/model")
        return transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/model").eval()


def in_llama_cpp(file: str | Path, length: int):
    """The GGUF file in llama.cpp, with as many threads as torch has; None if it is absent."""
    llama_cpp = imported("llama_cpp")
    if llama_cpp is None:
        return None
    threads = {"n_threads": torch.get_num_threads(), "n_threads_batch": torch.get_num_threads()}
    return llama_cpp.Llama(str(file), n_ctx=length, verbose=False, **threads)


@dataclass
class Subject:
    """One set of weights in all that can run it, and a prompt."""

    name: str
    ours: Decoder
    prompt: list[int]
    theirs: Any = None  # in transformers
    file: Path | None = None  # for llama.cpp
    trained: bool = False


def smollm() -> Subject:
    """SmolLM2 and a question, or a random model of its shape where it cannot be had offline."""
    if not sources.have("smollm2"):
        return random_subject("SmolLM2's shape", SMOLLM2_135M)
    model, tokenizer = weights.smollm_model()
    question = [{"role": "user", "content": "Why is the sky blue? Explain it to a child."}]
    prompt, file = tokenizer.chat_prompt(question), sources.path("smollm2/instruct")
    return Subject("SmolLM2 135M", model, prompt, in_transformers(model), file, trained=True)


def random_subject(name: str, cfg: ModelConfig, T: int = 32) -> Subject:
    """A random model, strong enough that the likeliest token stands out, and a random prompt."""
    torch.manual_seed(0)
    model = Decoder(replace(cfg, init_std=0.2)).eval()
    prompt = torch.randint(cfg.vocab_size, (T,)).tolist()
    return Subject(name, model, prompt, in_transformers(model))


# ---------------------------------------------------------------- decoding and prefill


def decode(subject: Subject, n_new: int = 64, rounds: int = 5) -> tuple[list[Timing], dict]:
    """(rows, notes): the prompt is read and n_new greedy tokens follow, in each way there is.

    Ways with the same arithmetic must choose the same tokens, or ValueError. Of the others a note
    says how many are the same, if the model is a trained one: a random one's hang by a thread.
    """
    same, others = alike(subject, n_new), in_fewer_bits(subject, n_new)
    expected, notes = agreed(same), {}
    for name, (job, exact) in others.items() if subject.trained else ():
        notes[name] = f"{agreement(job(), exact() if exact else expected):.0%} the same"
    return in_turns(same | {name: job for name, (job, _) in others.items()}, rounds), notes


def prefill(subject: Subject, T: int = 256, rounds: int = 5) -> tuple[list[Timing], dict]:
    """(rows, notes): T tokens are read, and one follows."""
    tokens = (subject.prompt * T)[:T]
    return decode(replace(subject, prompt=tokens), n_new=1, rounds=rounds)


def alike(subject: Subject, n_new: int) -> dict[str, Callable[[], list[int]]]:
    """Jobs that return n_new tokens and must agree: all compute in 32 bits."""
    jobs, stored = {}, laid_out(deepcopy(subject.ours))
    if subject.theirs is not None:
        jobs["transformers"] = lambda: their_tokens(subject.theirs, subject.prompt, n_new)
    jobs["ours"] = lambda: our_tokens(subject.ours, subject.prompt, n_new)
    jobs["ours, laid out"] = lambda: our_tokens(stored, subject.prompt, n_new)
    return jobs


def in_fewer_bits(subject: Subject, n_new: int) -> dict[str, tuple[Callable, Callable | None]]:
    """Jobs that return n_new tokens, each with one that computes the same weights in 32 bits.

    llama.cpp has none: it reads the file that the subject's own weights come from.
    """
    jobs, prompt = {}, subject.prompt
    for bits in (16, 8, 4):
        model = quantized(subject.ours, bits)
        job = partial(our_tokens, model, prompt, n_new)
        jobs[f"ours, {bits} bits"] = job, partial(exact_tokens, model, prompt, n_new)
    llama = subject.file and in_llama_cpp(subject.file, len(prompt) + n_new)
    if llama:
        jobs["llama.cpp, 4 bits"] = partial(llama_tokens, llama, prompt, n_new), None
    return jobs


def our_tokens(model: Decoder, prompt: list[int], n_new: int) -> list[int]:
    """The greedy tokens of `generate`."""
    return generate(model, [prompt], n_new)[0]


def exact_tokens(model: Quantized, prompt: list[int], n_new: int) -> list[int]:
    """The greedy tokens of the same numbers in 32 bits."""
    return our_tokens(dequantized(model), prompt, n_new)


@torch.no_grad()
def their_tokens(theirs, prompt: list[int], n_new: int) -> list[int]:
    """The greedy tokens of transformers' generate."""
    tokens = torch.tensor([prompt])
    settings = {"max_new_tokens": n_new, "do_sample": False, "pad_token_id": 0}
    made = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)
    return made[0, len(prompt) :].tolist()


def llama_tokens(llama, prompt: list[int], n_new: int) -> list[int]:
    """The greedy tokens of llama.cpp, which would remember the prompt of the turn before."""
    llama.reset()
    return list(islice(llama.generate(prompt, temp=0.0), n_new))


# ---------------------------------------------------------------- loading

# Each in a process of its own: what it imports, and how it gets from a path to the first logits.
TORCH = "import torch\ntorch.set_num_threads(threads)\n"
LOADS = {
    "transformers": (
        TORCH + "from transformers import AutoModelForCausalLM",
        "AutoModelForCausalLM.from_pretrained(path).eval()(torch.tensor([tokens]))",
    ),
    "ours": (
        TORCH + "from helpers import weights",
        "weights.from_pretrained(path).eval()(torch.tensor([tokens]))",
    ),
    "ours, from GGUF": (
        TORCH + "from helpers import weights",
        "weights.from_gguf(path).eval()(torch.tensor([tokens]))",
    ),
    "llama.cpp, from GGUF": (
        "from llama_cpp import Llama",
        "Llama(path, n_threads=threads, n_threads_batch=threads, verbose=False).eval(tokens)",
    ),
}
PROCESS = """
import json, sys, time
from pathlib import Path
path, threads, tokens = sys.argv[1], int(sys.argv[2]), list(range(16))
{peak_memory}
{imports}
clock, busy = time.perf_counter(), time.process_time()
{load}
spent = time.perf_counter() - clock, time.process_time() - busy
print(json.dumps([*spent, peak_memory()]))
"""


def load(subject: Subject, rounds: int = 3) -> tuple[list[Timing], dict]:
    """(rows, notes): from files to the first logits, what is imported not counted; and memory."""
    with tempfile.TemporaryDirectory() as folder:
        weights.save_pretrained(subject.ours, f"{folder}/model")
        paths = {"ours": f"{folder}/model"}
        if subject.theirs is not None:
            paths = {"transformers": f"{folder}/model"} | paths
        if subject.file:
            paths["ours, from GGUF"] = subject.file
        if subject.file and imported("llama_cpp"):
            paths["llama.cpp, from GGUF"] = subject.file
        peaks = {name: [] for name in paths}
        jobs = {name: partial(load_once, name, path, peaks) for name, path in paths.items()}
        rows = in_turns(jobs, rounds, measure=lambda job: job())
    return rows, {name: in_words(found) for name, found in peaks.items()}


def load_once(name: str, path: str | Path, peaks: dict) -> tuple[float, float]:
    """(seconds, CPU seconds) in a new process; its most bytes of memory go to `peaks`."""
    imports, first_logits = LOADS[name]
    parts = {"imports": imports, "load": first_logits, "peak_memory": getsource(peak_memory)}
    command = [sys.executable, "-W", "ignore", "-c", PROCESS.format(**parts)]
    command += [str(path), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended without a word ({done.returncode})"]
        raise RuntimeError(f"{name} could not load {path}: {said[-1]}")
    *spent, peak = json.loads(done.stdout.splitlines()[-1])
    peaks[name].append(peak)
    return tuple(spent)


def in_words(peaks: Sequence[int | None]) -> str:
    """The median of the peaks."""
    return "" if None in peaks else f"{statistics.median(peaks) / 1e6:,.0f} MB at most"


# ---------------------------------------------------------------- training

B, T = 16, 128
GPT2 = replace(
    GPT2_124M,
    vocab_size=1024,
    context_length=256,
    n_layers=4,
    d_model=128,
    n_heads=4,
    n_kv_heads=4,
    head_dim=32,
    d_ff=512,
)
LARGER = replace(GPT2, n_layers=12, d_model=384, n_heads=6, n_kv_heads=6, head_dim=64, d_ff=1536)


def today(cfg: ModelConfig) -> ModelConfig:
    """With the parts of today's models and about as many parameters, in whole groups of 32."""
    parts = {"norm": "rms", "mlp": "swiglu", "bias": False, "rope": Rope()}
    as_large = matched(replace(cfg, learned_positions=False, **parts), parameters(cfg))
    return replace(as_large, d_ff=32 * round(as_large.d_ff / 32))


class LeanBlock(nn.Module):
    """GPT-2's block with nothing that could be left out: what a hand-written loop would train."""

    def __init__(self, C: int, H: int):
        super().__init__()
        self.H, self.norm_1, self.norm_2 = H, nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (self.H, -1)) for part in self.qkv(self.norm_1(x)).chunk(3, -1))
        q, k, v = (part.transpose(1, 2) for part in heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Lean(nn.Module):
    """GPT-2 written out for speed."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.places = nn.Embedding(cfg.context_length, cfg.d_model)
        blocks = (LeanBlock(cfg.d_model, cfg.n_heads) for _ in range(cfg.n_layers))
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(cfg.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        return self.norm(self.blocks(x)) @ self.tokens.weight.T


def train(cfg: ModelConfig = GPT2, rounds: int = 20) -> list[Timing]:
    """A training step: transformers, ours, a lean loop, and ours of today."""
    ours, lean, modern, jobs = Decoder(cfg), Lean(cfg), Decoder(today(cfg)), {}
    theirs = in_transformers(ours)
    if theirs is not None:
        probe = torch.arange(64)[None]
        torch.testing.assert_close(theirs(probe).logits, ours(probe), atol=1e-5, rtol=1e-4)
        jobs["transformers"] = training_step(theirs.train(), lambda tokens: theirs(tokens).logits)
    jobs["ours"] = training_step(ours, ours)
    jobs["a lean loop"] = training_step(lean, lean)
    jobs["ours, RMSNorm, RoPE, SwiGLU"] = training_step(modern, modern)
    return in_turns(jobs, rounds)


def training_step(model: nn.Module, logits_of: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """A function that trains the model by one step, always on the same random tokens."""
    tokens = torch.randint(1024, (B, T + 1), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()

    def step() -> None:
        F.cross_entropy(logits_of(inputs).flatten(0, 1), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


# ---------------------------------------------------------------- the command


def some(text: str) -> int:
    """A number from 1 on, as typed."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"it is {text!r}: give 1 or more")
    return int(text)


def options() -> ArgumentParser:
    """What the command takes."""
    about = __doc__.split("\n\n")[1] + " Beside transformers, SmolLM2 fills 3.5 GB of memory."
    parser = ArgumentParser(prog="python -m helpers.bench", description=about)
    what = ["decode", "prefill", "load", "train", "all"]
    parser.add_argument("what", nargs="?", choices=what, default="all")
    parser.add_argument("--rounds", type=some, default=5, help="rounds of each table (%(default)s)")
    parser.add_argument("--threads", type=some, default=torch.get_num_threads())
    return parser


def machine() -> str:
    """One line on what torch reaches here."""
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads: reads "
        f"{bandwidth() / 1e9:.1f} GB/s, multiplies at {peak_flops() / 1e9:.0f} GFLOP/s in 32 bits"
    )


def tables(what: str, rounds: int) -> Iterator[str]:
    """The tables asked for, each as soon as it is measured."""
    if what in ("train", "all"):
        size = f"{parameters(GPT2):,} parameters, {B} rows of {T} tokens"
        yield table(train(rounds=4 * rounds), f"A training step, {size}; rounds: {4 * rounds}")
    for subject in subjects() if what != "train" else ():
        size = f"{subject.name}, {parameters(subject.ours.cfg):,} parameters"
        for name, measure, title in (
            ("load", load, f"From files to first logits, {size}"),
            ("prefill", prefill, f"256 tokens read, {size}"),
            ("decode", decode, f"64 greedy tokens, {size}"),
        ):
            if what in (name, "all"):
                rows, notes = measure(subject, rounds=rounds)
                yield table(rows, f"{title}; rounds: {rounds}", notes)


def subjects() -> Iterator[Subject]:
    """The models of the tables, one at a time: each takes its place in memory."""
    yield smollm()
    yield random_subject("GPT-2's parts", LARGER)
    yield random_subject("RMSNorm, RoPE, SwiGLU", today(LARGER))


def main(arguments: Sequence[str]) -> None:
    """Prints what is absent, what the machine can do, and the tables."""
    chosen = options().parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    for line in [*absent(), machine()]:
        print(line)
    for text in tables(chosen.what, chosen.rounds):
        print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
