"""The file that lesson 08 opens: a real model's, or where that cannot be had a small one of ours.

The small one is the course's chat model, written as llama.cpp's converter would lay it out, so that
the lesson's cells run on either. Reading such files is in `gguf`, what they mean in `published`.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import sources, weights
from helpers.config import ModelConfig
from helpers.model import Decoder
from helpers.published import GGUF_LLAMA, rules
from helpers.tokenizer import Tokenizer


class Specimen(NamedTuple):
    """A file, the model and the tokenizer in it, and a sentence where it is not the real one."""

    file: Path
    model: Decoder
    tokenizer: Tokenizer
    note: str


def real_or_small(source: str, folder: str | Path) -> Specimen:
    """The model in the source's GGUF file; where it cannot be had, the small one, in `folder`."""
    try:
        file = sources.path(source)
    except sources.NotHad as problem:
        model, tokenizer = weights.chat_model()
        file = Path(folder) / "story_chat.gguf"
        write_gguf(model, file)
        note = f"{problem.finding}: going on with the course's own chat model. {problem.advice}"
        return Specimen(file, model, tokenizer, note)
    return Specimen(file, *weights.local_model(file), "")


# ---------------------------------------------------------------- a GGUF file, written

ALIGNMENT = 32
UINT32, FLOAT32, TEXT = 4, 6, 8  # of values
F32 = 0  # of tensors


def write_gguf(model: Decoder, file: str | Path) -> None:
    """Writes the weights in 32 bits, and the config; ValueError if it cannot say this config."""
    _require_llama(model.cfg)
    ours = {name: p.detach().float() for name, p in model.named_parameters()}
    tensors = {
        rule.theirs: rule.layout.together([ours[name] for name in rule.ours]).numpy()
        for rule in rules(GGUF_LLAMA, model.cfg, ours)
    }
    said = _metadata(model.cfg)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(said))
    head += b"".join(_text(name) + _value(value) for name, value in said.items())
    Path(file).write_bytes(
        _padded(head + _table(tensors)) + b"".join(map(_content, tensors.values()))
    )


def _require_llama(cfg: ModelConfig) -> None:
    usual = ModelConfig(
        **{name: getattr(cfg, name) for name in SIZES}, rope=cfg.rope, norm_eps=cfg.norm_eps
    )
    plain = cfg.rope is not None and cfg.rope.scaling == "none"
    others = {"tie_embeddings", "init_std", "name"}
    same = all(
        getattr(cfg, name) == getattr(usual, name)
        for name in usual.__dataclass_fields__
        if name not in others
    )
    if not (same and plain):
        raise ValueError("only a decoder that differs from Llama 2 in its sizes is written here")


SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "context_length",
    "d_model": "embedding_length",
    "n_layers": "block_count",
    "d_ff": "feed_forward_length",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
}


def _metadata(cfg: ModelConfig) -> dict[str, str | int | float]:
    said = {f"llama.{theirs}": getattr(cfg, ours) for ours, theirs in SIZES.items()}
    said["llama.attention.layer_norm_rms_epsilon"] = cfg.norm_eps
    said["llama.rope.freq_base"] = float(cfg.rope.theta)
    return {"general.architecture": "llama", **said}


def _text(said: str) -> bytes:
    return struct.pack("<Q", len(said.encode())) + said.encode()


def _value(said: str | int | float) -> bytes:
    """A value after its type."""
    if isinstance(said, str):
        return struct.pack("<I", TEXT) + _text(said)
    kind, letter = (UINT32, "I") if isinstance(said, int) else (FLOAT32, "f")
    return struct.pack(f"<I{letter}", kind, said)


def _table(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Name, axes (the innermost first), type and place of each tensor."""
    table, start = b"", 0
    for name, numbers in tensors.items():
        shape = numbers.shape[::-1]
        table += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        table += struct.pack("<IQ", F32, start)
        start += math.ceil(numbers.nbytes / ALIGNMENT) * ALIGNMENT
    return table


def _content(numbers: np.ndarray) -> bytes:
    return _padded(np.ascontiguousarray(numbers, "<f4").tobytes())


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % ALIGNMENT)
