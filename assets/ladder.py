"""From GPT-2 to Llama 3 rung by rung, with more steps and seeds than lesson 03b has time for.

`python assets/ladder.py` trains every rung with every seed on the small world's stories and writes
ladder.csv beside this file, one line per run: about four minutes on one core.
"""

import csv
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from helpers import data
from helpers.config import ModelConfig, Rope
from helpers.families import GPT2_124M, kv_bytes_per_token, matched, parameters
from helpers.model import Decoder
from helpers.tokenizer import Tokenizer
from helpers.world import World

SEEDS, STEPS, B, T, LR = (0, 1, 2), 400, 16, 64, 6e-3
CHANGES = {
    "+ RMSNorm": {"norm": "rms"},
    "+ RoPE": {"rope": Rope(), "learned_positions": False},
    "+ SwiGLU": {"mlp": "swiglu"},
    "+ GQA": {"n_kv_heads": 1},
    "- biases": {"bias": False},
}


def ladder(vocab_size: int) -> dict[str, ModelConfig]:
    """Each rung changes one thing in the one before; d_ff makes up for the parameters."""
    shape = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 4, "head_dim": 16}
    ends = {"vocab_size": vocab_size, "context_length": T, "init_std": 0.07}
    cfg = replace(GPT2_124M, d_ff=256, **shape, **ends)
    rungs, n = {"GPT-2": cfg}, parameters(cfg)
    for name, change in CHANGES.items():
        cfg = rungs[name] = matched(replace(cfg, **change), n)
    return rungs


def loss_of(model: Decoder, inputs, targets):
    """Mean loss in nats per token."""
    return cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def trained(cfg: ModelConfig, tokens, seed: int) -> Decoder:
    """A model after STEPS steps: 20 of warm-up, then the learning rate falls to 0."""
    torch.manual_seed(seed)
    model, batches = Decoder(cfg), data.Batches(tokens, B, T, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min((step + 1) / 20, 1 - step / STEPS)
        loss = loss_of(model, *batches.next())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def main() -> None:
    """Trains all, and writes the file when all are done."""
    torch.set_num_threads(1)
    train_stories, val_stories = data.split(World("en").stories(5000, seed=0))
    tokenizer = Tokenizer.train(train_stories[:300], vocab_size=512)
    tokens, val = (data.encode(part, tokenizer) for part in (train_stories, val_stories))
    val_windows = data.windows(val[: 300 * T + 1], T)
    head = ["rung", "seed", "parameters", "kv_bytes", "tokens", "val_loss", "seconds"]
    lines = []
    for seed in SEEDS:
        for name, cfg in ladder(tokenizer.vocab_size).items():
            start = time.perf_counter()
            model = trained(cfg, tokens, seed)
            with torch.no_grad():
                loss = loss_of(model, *val_windows).item()
            seconds = time.perf_counter() - start
            sizes = parameters(cfg), kv_bytes_per_token(cfg), STEPS * B * T
            lines.append([name, seed, *sizes, f"{loss:.4f}", f"{seconds:.1f}"])
    with open(Path(__file__).with_name("ladder.csv"), "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])


if __name__ == "__main__":
    main()
