"""GGUF files: what they say of a model, and its tensors, packed in blocks of few bits.

The file is mapped into memory, and a tensor is unpacked when it is asked for. A file that is cut
short, or contradicts itself, is refused in one sentence. What its names mean to us is not here but
in `published` and `vocabulary`. Lesson 08 opens a real one.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

# ---------------------------------------------------------------- blocks of few bits
# The blocks of ggml, as they lie in the file: a few numbers share a scale in 16 bits.


def four_bits(blocks: np.ndarray) -> np.ndarray:
    """The numbers 0 to 15 in blocks of 16 bytes: the low halves of all bytes, then the high."""
    quants = blocks["quants"]
    return np.concatenate([quants & 15, quants >> 4], axis=1).astype(np.float32)


def scaled(numbers: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The numbers, each row times the scale of its block; they are changed, not copied."""
    numbers *= blocks["scale"].astype(np.float32)[:, None]
    return numbers


def above_least(numbers: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The same, and each row raised by the least number of its block."""
    numbers = scaled(numbers, blocks)
    numbers += blocks["least"].astype(np.float32)[:, None]
    return numbers


class Kind(NamedTuple):
    """A way of packing: how many numbers a block holds, how it lies in the file, how it opens."""

    name: str
    n: int
    block: np.dtype
    unpack: Callable[[np.ndarray], np.ndarray]


SCALE, LEAST, NIBBLES = ("scale", "<f2"), ("least", "<f2"), ("quants", "u1", 16)
PACKED = [SCALE, NIBBLES], [SCALE, LEAST, NIBBLES], [SCALE, ("quants", "i1", 32)]
Q4_0, Q4_1, Q8_0 = map(np.dtype, PACKED)
KINDS = {  # by the number that ggml gives them
    0: Kind("F32", 1, np.dtype("<f4"), lambda numbers: numbers.astype(np.float32)),
    1: Kind("F16", 1, np.dtype("<f2"), lambda numbers: numbers.astype(np.float32)),
    2: Kind("Q4_0", 32, Q4_0, lambda blocks: scaled(four_bits(blocks) - 8, blocks)),
    3: Kind("Q4_1", 32, Q4_1, lambda blocks: above_least(four_bits(blocks), blocks)),
    8: Kind("Q8_0", 32, Q8_0, lambda blocks: scaled(blocks["quants"].astype(np.float32), blocks)),
}


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor as it lies in the file: its shape, (out, in) for a matrix, and its bytes."""

    shape: tuple[int, ...]
    kind: Kind
    content: np.ndarray

    def unpack(self) -> np.ndarray:
        """Its numbers in 32 bits, in memory of their own."""
        return self.kind.unpack(self.content.view(self.kind.block)).reshape(self.shape)


# ---------------------------------------------------------------- front to back


class Flaw(Exception):
    """What is wrong with a file: the end of a sentence that begins with its name."""


def require(true: bool, flaw: str) -> None:
    """Raises Flaw unless `true`."""
    if not true:
        raise Flaw(flaw)


NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?"}
NUMBERS |= {10: "<u8", 11: "<i8", 12: "<f8"}
UINT32, TEXT, ARRAY, UINT64 = 4, 8, 9, 10
LENGTH = struct.Struct("<Q")


class Cursor:
    """Reads the bytes of a file front to back; Flaw where they end too early."""

    def __init__(self, content: memoryview):
        self.content, self.at = content, 0

    def take(self, n: int) -> memoryview:
        """The next n bytes."""
        require(n <= len(self.content) - self.at, "is cut short, or says a size that cannot be")
        self.at += n
        return self.content[self.at - n : self.at]

    def number(self, kind: int):
        """The next number of this type."""
        return self.values(kind, 1)[0]

    def text(self) -> str:
        """The next text, which stands after its length."""
        (length,) = LENGTH.unpack(self.take(LENGTH.size))
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            raise Flaw("holds a text that is not UTF-8") from None

    def value(self):
        """The next value of the metadata, which stands after its type."""
        kind = self.number(UINT32)
        if kind == ARRAY:
            return self.values(self.number(UINT32), self.number(UINT64))
        return self.values(kind, 1)[0]

    def values(self, kind: int, n: int) -> list:
        """The next n values of one type."""
        if kind == TEXT:
            return [self.text() for _ in range(n)]
        require(kind in NUMBERS, f"holds a value of type {kind}, which is not known here")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(n * dtype.itemsize), dtype).tolist()


# ---------------------------------------------------------------- the file


class Place(NamedTuple):
    """Where a tensor lies: from `start` to `end` in the bytes after the tables."""

    start: int
    end: int
    name: str
    shape: tuple[int, ...]
    kind: Kind


def read(file: str | Path) -> tuple[dict, dict[str, Packed]]:
    """(metadata, tensors) by their names; ValueError says what is wrong with the file.

    The format is that of ggml's docs/gguf.md, versions 2 and 3, little end first.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        return _read(_mapped(file))
    except Flaw as flaw:
        raise ValueError(f"{file} {flaw}") from None


def _mapped(file: str | Path) -> np.ndarray:
    with open(file, "rb") as opened:
        magic = opened.read(4)
    require(magic == b"GGUF", f"is no GGUF file: it begins with {magic!r}")
    return np.memmap(file, np.uint8, "r")


def _read(content: np.ndarray) -> tuple[dict, dict[str, Packed]]:
    cursor = Cursor(memoryview(content))
    cursor.take(4)
    version = cursor.number(UINT32)
    require(version in (2, 3), f"has version {version}, and known here are 2 and 3")
    n_tensors, n_values = cursor.number(UINT64), cursor.number(UINT64)
    metadata = _by_name((cursor.text(), cursor.value()) for _ in range(n_values))
    alignment = metadata.get("general.alignment", 32)
    require(type(alignment) is int and alignment > 0, f"has the alignment {alignment!r}")
    places = _by_name((place.name, place) for place in (_place(cursor) for _ in range(n_tensors)))
    data = content[-(-cursor.at // alignment) * alignment :]
    _require_apart(sorted(places.values()), len(data), alignment)
    return metadata, {
        name: Packed(place.shape, place.kind, data[place.start : place.end])
        for name, place in places.items()
    }


def _by_name(pairs) -> dict:
    named = {}
    for name, value in pairs:
        require(name not in named, f"says {name} twice")
        named[name] = value
    return named


def _place(cursor: Cursor) -> Place:
    name, n_axes = cursor.text(), cursor.number(UINT32)
    require(1 <= n_axes <= 4, f"gives {name} {n_axes} axes, not 1 to 4")
    shape = tuple(cursor.number(UINT64) for _ in range(n_axes))[::-1]  # the innermost stands first
    number, start = cursor.number(UINT32), cursor.number(UINT64)
    known = ", ".join(kind.name for kind in KINDS.values())
    require(number in KINDS, f"packs {name} as ggml's type {number}, and known here are {known}")
    kind = KINDS[number]
    require(min(shape) > 0, f"gives {name} the shape {shape}")
    require(shape[-1] % kind.n == 0, f"has rows of {shape[-1]} in {name}, no multiple of {kind.n}")
    return Place(start, start + math.prod(shape) // kind.n * kind.block.itemsize, name, shape, kind)


def _require_apart(places: list[Place], size: int, alignment: int) -> None:
    for place in places:
        require(place.start % alignment == 0, f"has {place.name} at no multiple of {alignment}")
        require(place.end <= size, f"is cut short: {place.name} ends outside it")
    for one, next_one in pairwise(places):
        require(one.end <= next_one.start, f"has {one.name} and {next_one.name} in one place")
