"""The tensors of published files, safetensors and GGUF, by name: told first, read when asked for.

So a model is checked, and its size known, before memory fills; and memory holds one tensor beside
it. What the names mean is in `published`, and `weights` makes the model; lesson 08 opens real ones.
"""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from helpers import gguf
from helpers.published import Family, read_metadata

# ---------------------------------------------------------------- MXFP4

FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
PAIRS = torch.tensor([[FP4[byte & 15], FP4[byte >> 4]] for byte in range(256)]).bfloat16()


def decode_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """The numbers in blocks (..., n, 16) and scales (..., n), both uint8: (..., 32 n) bfloat16.

    A byte holds two numbers of 4 bits, the low one first; 32 numbers share a power of two (OCP
    Microscaling Formats, version 1.0: E2M1 numbers, E8M0 scales). Nothing is rounded.
    """
    if blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16:
        raise ValueError(
            f"blocks have shape {tuple(blocks.shape)}, scales {tuple(scales.shape)}: "
            "give (..., n, 16) and (..., n)"
        )
    numbers = PAIRS.to(blocks.device)[blocks.int()].flatten(-2)  # (..., n, 32)
    return torch.ldexp(numbers, scales.int()[..., None] - 127).flatten(-2)


# ---------------------------------------------------------------- files


def read_json(file: Path) -> dict:
    """The table in a JSON file; ValueError if it is not whole."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is cut short or no JSON table ({error})") from None


@contextmanager
def opened(file: str | Path):
    """The safetensors file, its tensors not yet read."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        with safe_open(file, framework="pt") as found:
            yield found
    except SafetensorError as error:
        raise ValueError(f"{file} is cut short or no safetensors file ({error})") from None


# ---------------------------------------------------------------- a folder

ITEMSIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class Shelf:
    """The tensors of a published folder by the names of the tables, read one at a time."""

    config = "config.json"

    def __init__(self, path: Path, family: Family):
        self.path, self.family = path, family
        self.places = {}  # by name: the file, and the name there
        self.dtypes = {}
        for file in _files(path):
            with opened(file) as found:
                for name in found.keys():
                    self.places[self._renamed(name)] = file, name
                    self.dtypes[self._renamed(name)] = found.get_slice(name).get_dtype()
        blocks = {name.removesuffix("_blocks") for name in self.places if name.endswith("_blocks")}
        self.packed = {name for name in blocks if f"{name}_scales" in self.places}
        parts = {f"{name}_{part}" for name in self.packed for part in ("blocks", "scales")}
        self.names = self.packed | self.places.keys() - parts

    def read(self, name: str) -> Tensor:
        """The tensor, if it is not packed still on disk: its numbers come as they are used.

        Its file is opened for it alone, so that memory does not fill with what was read before.
        """
        if name in self.packed:
            blocks, scales = self._read(f"{name}_blocks"), self._read(f"{name}_scales")
            return decode_mxfp4(blocks, scales).mT  # packed along the other axis
        return self._read(name)

    def itemsize(self, name: str) -> int:
        """How many bytes a number of the tensor takes when it is read; nothing is read for it."""
        return 2 if name in self.packed else ITEMSIZES.get(self.dtypes[name], 4)

    def _read(self, name: str) -> Tensor:
        file, name_there = self.places[name]
        with opened(file) as found:
            return found.get_tensor(name_there)

    def _renamed(self, name: str) -> str:
        for start, ours in self.family.renamed.items():
            if name.startswith(start):
                return ours + name.removeprefix(start)
        return name


def _files(path: Path) -> list[Path]:
    """The safetensors files: the one given, the folder's only one, or all that its index names."""
    folder = path if path.is_dir() else path.parent
    only, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    only = only if path.is_dir() else path
    parts = _parts(index) if index.is_file() else set()
    if only.is_file() and only.name not in parts:
        return [only]
    gone = sorted(name for name in parts if not (folder / name).is_file())
    if gone:
        raise FileNotFoundError(f"{index} names {gone[0]}, which is not there: fetch it again")
    if parts:
        return sorted(folder / name for name in parts)
    pickles = sorted(f.name for kind in ("*.bin", "*.pt", "*.pth") for f in folder.glob(kind))
    if pickles:
        raise ValueError(
            f"{folder} holds a pickle ({pickles[0]}), and nothing is unpickled here: "
            "save the weights as safetensors with transformers' save_pretrained"
        )
    raise FileNotFoundError(f"there is no {only.name} in {folder}, and no index of several")


def _parts(index: Path) -> set[str]:
    """The names of the files that the index speaks of."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files: fetch it again")
    return {*named.values()}


# ---------------------------------------------------------------- a GGUF file


class GgufShelf:
    """The tensors of a GGUF file by their names there, unpacked one at a time."""

    config = "metadata"

    def __init__(self, file: str | Path):
        self.path = file
        self.metadata, self.packed = gguf.read(file)
        self.names = set(self.packed)
        try:
            self.family, cfg = read_metadata(self.metadata, self.names)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        self.cfg = replace(cfg, name=Path(file).stem)

    def itemsize(self, name: str) -> int:
        """How many bytes a number of any tensor takes when it is read."""
        return 4

    def read(self, name: str) -> Tensor:
        """The tensor in 32 bits."""
        return torch.from_numpy(self.packed[name].unpack())
