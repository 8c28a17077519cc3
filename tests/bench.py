"""How fast the decoder is beside the reference: `python -m tests.bench`. It measures, and asserts
only that what is compared computes the same.

Everything runs in turns in one process; a row gives medians over the rounds, by the clock and in
CPU time, and the ratio of each round to the first row of its table. Machines are noisy: quote the
ratios, not the times.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
import transformers
from torch import nn

from helpers import weights
from helpers.config import ModelConfig, Rope
from helpers.families import GPT2_124M, matched, parameters
from helpers.generate import generate
from helpers.model import Decoder

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
CHANGES = {"norm": "rms", "mlp": "swiglu", "bias": False, "rope": Rope()}
MODERN = matched(replace(GPT2, learned_positions=False, **CHANGES), parameters(GPT2))
LARGER = replace(GPT2, n_layers=12, d_model=384, n_heads=6, n_kv_heads=6, head_dim=64, d_ff=1536)
LARGER_MODERN = matched(replace(LARGER, learned_positions=False, **CHANGES), parameters(LARGER))


class LeanBlock(nn.Module):
    """GPT-2's block with nothing that could be left out: what a hand-written loop would train."""

    def __init__(self, C: int, H: int):
        super().__init__()
        self.H, self.norm_1, self.norm_2 = H, nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
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

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        return self.norm(self.blocks(x)) @ self.tokens.weight.T


def as_reference(model: Decoder):
    """The same weights in transformers."""
    with tempfile.TemporaryDirectory() as folder:
        weights.save_pretrained(model, f"{folder}/model")
        return transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/model")


def training_step(model: nn.Module, logits_of):
    """A function that trains the model by one step on the same random tokens."""
    tokens = torch.randint(1024, (B, T + 1), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()

    def step():
        F.cross_entropy(logits_of(model, inputs).flatten(0, 1), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_turns(title: str, jobs: dict, rounds: int) -> None:
    """Runs the jobs in turns and prints a row for each: medians, and ratios to the first."""
    wall, cpu = ({name: [] for name in jobs} for _ in range(2))
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            clock, busy = time.perf_counter(), time.process_time()
            job()
            if turn:  # the first warms up
                wall[name].append(time.perf_counter() - clock)
                cpu[name].append(time.process_time() - busy)
    first = next(iter(jobs))
    print(f"\n{title}; {rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'':34}{'ms':>9}{'CPU ms':>9}{'times as fast':>15}{'by CPU':>9}")
    for name in jobs:
        ratios = [
            statistics.median(a / b for a, b in zip(table[first], table[name]))
            for table in (wall, cpu)
        ]
        times = [1000 * statistics.median(table[name]) for table in (wall, cpu)]
        print(f"{name:34}{times[0]:9.1f}{times[1]:9.1f}{ratios[0]:15.2f}{ratios[1]:9.2f}")


def train_in_turns(rounds: int) -> None:
    """A training step: transformers, ours, a lean loop, and ours with today's parts."""
    ours = Decoder(GPT2)
    theirs = as_reference(ours).train()
    probe = torch.arange(64)[None]
    torch.testing.assert_close(theirs.eval()(probe).logits, ours(probe), atol=1e-5, rtol=1e-4)
    jobs = {
        "transformers, GPT-2": training_step(theirs.train(), lambda m, x: m(x).logits),
        "ours, GPT-2": training_step(ours, lambda m, x: m(x)),
        "lean, GPT-2": training_step(Lean(GPT2), lambda m, x: m(x)),
        "ours, RMSNorm, RoPE, SwiGLU": training_step(Decoder(MODERN), lambda m, x: m(x)),
    }
    title = f"A training step, {parameters(GPT2):,} parameters, {B} rows of {T} tokens"
    in_turns(title, jobs, rounds)


def decode_in_turns(name: str, cfg: ModelConfig, rounds: int, n_new: int = 128) -> None:
    """Greedy tokens after one prompt of 32: transformers' generate and ours."""
    torch.manual_seed(0)
    ours = Decoder(replace(cfg, init_std=0.2)).eval()
    theirs, prompt = as_reference(ours).eval(), torch.randint(1024, (1, 32))
    settings = {"max_new_tokens": n_new, "do_sample": False, "pad_token_id": 0}

    def reference():
        mask = torch.ones_like(prompt)
        return theirs.generate(prompt, attention_mask=mask, **settings)[0, 32:].tolist()

    def mine():
        return generate(ours, prompt.tolist(), n_new)[0]

    if reference() != mine():
        sys.exit("the two chose different tokens: there is nothing to compare")
    title = f"{n_new} greedy tokens, {name}, {parameters(cfg):,} parameters"
    in_turns(title, {"transformers' generate": reference, "ours": mine}, rounds)


def main(rounds: int = 30) -> None:
    """All tables; decoding in a fifth of the rounds."""
    train_in_turns(rounds)
    decode_in_turns("GPT-2", LARGER, max(2, rounds // 5))
    decode_in_turns("RMSNorm, RoPE, SwiGLU", LARGER_MODERN, max(2, rounds // 5))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
