"""Weights in files: our own format, GGUF files, and folders as transformers reads and writes them.

A file is written whole or not at all, and nothing is ever unpickled; what a file holds wrongly, or
what does not fit into memory, is refused in one sentence. `local_model` opens a download with its
tokenizer, `export` writes both. How published names, layouts and configs translate into ours is
said in `published`, how their files are read in `shelves`; lesson 08 opens real weights.
"""

import json
import math
import os
import re
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from helpers import memory, sources, translation, vocabulary
from helpers.config import ModelConfig, as_dict, from_dict
from helpers.model import Decoder
from helpers.published import Rule, read_config, rules, write_config
from helpers.shelves import GgufShelf, Shelf, opened, read_json
from helpers.steps import NotKnown
from helpers.tokenizer import Tokenizer
from helpers.vocabulary import Published

ASSETS = Path(__file__).parents[1] / "assets"
STORIES = {"en": "English", "pt": "Portuguese", "both": "both languages"}

# ---------------------------------------------------------------- one file


def write(file: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes one safetensors file under a temporary name, then renames it: never half a file."""
    file = Path(file)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {file.parent}: make it, then save again")
    temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, file)
    except SafetensorError as error:
        raise OSError(f"{file} could not be written, what was there is whole: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def read(file: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file; ValueError if it is none, or cut short."""
    with opened(file) as found:
        # A copy, since the file may be written anew while its tensors are in use.
        tensors = {name: found.get_tensor(name).clone() for name in found.keys()}
        return tensors, found.metadata() or {}


# ---------------------------------------------------------------- our own format


def save(model: Decoder, file: str | Path) -> None:
    """Writes weights and config into one file, for `load`; tied embeddings once."""
    config = json.dumps(as_dict(model.cfg))
    write(file, {name: p.detach() for name, p in model.named_parameters()}, {"config": config})


def load(file: str | Path, dtype: torch.dtype | None = None) -> Decoder:
    """The decoder that `save` wrote, in the file's dtypes or in this one.

    ValueError names a tensor that is missing, too many, or of another shape than the config says.
    """
    tensors, metadata = read(file)
    if "config" not in metadata:
        raise ValueError(f"{file} holds no config: was it written by weights.save?")
    model = empty_decoder(from_dict(json.loads(metadata["config"])))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    _require_names(set(shapes), set(tensors), file)
    for name, shape in shapes.items():
        _require_shape(name, tuple(tensors[name].shape), shape, file)
    return fill(model, {name: t.to(dtype or t.dtype) for name, t in tensors.items()})


def story_model(language: str = "en") -> tuple[Decoder, Tokenizer]:
    """The course's own trained model of stories, in 32 bits, and its tokenizer.

    It speaks English ("en"), Portuguese ("pt") or both ("both"); one tokenizer serves all three.
    """
    if language not in STORIES:
        known = ", ".join(f'"{key}" ({name})' for key, name in STORIES.items())
        raise ValueError(f"there is no story model for {language!r}: choose {known}")
    model = load(ASSETS / f"story_{language}.safetensors", torch.float32)
    return model.eval(), Tokenizer.load(ASSETS / "story_tokenizer.json")


def chat_model() -> tuple[Decoder, Tokenizer]:
    """The story model of both languages, tuned to answer, in 32 bits, and its tokenizer.

    What it can be asked is in `helpers.tasks`; how it was tuned, in assets/story_chat.py.
    """
    model = load(ASSETS / "story_chat.safetensors", torch.float32)
    return model.eval(), Tokenizer.load(ASSETS / "story_tokenizer.json")


def sums_model() -> tuple[Decoder, Tokenizer]:
    """A small model that adds numbers of three digits, often wrongly, in 32 bits; its tokenizer.

    Its tokens are the bytes and the specials: a digit is a token. assets/arithmetic.py made it.
    """
    return load(ASSETS / "sums.safetensors", torch.float32).eval(), Tokenizer([])


class Unfilled(TorchFunctionMode):
    """Inside, no tensor is filled with random numbers."""

    # Those without memory would not be filled anyway; but the first time, torch would load its
    # compiler for it: seconds, and as much memory as a small model.
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is nn.init.normal_:
            return [*args, *kwargs.values()][0]
        return function(*args, **(kwargs or {}))


def empty_decoder(cfg: ModelConfig) -> Decoder:
    """A decoder that has shapes but no numbers yet, and so takes no memory."""
    with torch.device("meta"), Unfilled():
        return Decoder(cfg)


def fill(model: Decoder, tensors: dict[str, Tensor]) -> Decoder:
    """The empty decoder with these tensors as its weights; they are taken, not copied."""
    if model.cfg.tie_embeddings:
        tensors["lm_head.weight"] = tensors["tok_emb.weight"]
    model.load_state_dict(tensors, assign=True)
    if model.cfg.tie_embeddings:  # one parameter again, not two with the same memory
        model.lm_head.weight = model.tok_emb.weight
    return model


def _require_names(wanted: set[str], found: set[str], where) -> None:
    for names, problem in ((wanted - found, "lacks"), (found - wanted, "should not have")):
        if names:
            first, others = min(names), len(names) - 1
            more = f" and {others} more" if others else ""
            raise ValueError(f"{where} {problem} the tensor {first}{more}: its config says so")


def _require_shape(name: str, found: tuple, wanted: tuple, where) -> None:
    if found != wanted:
        raise ValueError(f"{where}: {name} has shape {found}, but its config makes it {wanted}")


# ---------------------------------------------------------------- a published folder, read


def from_pretrained(path: str | Path, dtype: torch.dtype | None = None) -> Decoder:
    """The decoder in a folder as transformers writes it, in the files' dtypes or in this one.

    A folder with config.json and safetensors, in one file or several; or one safetensors file that
    stands in such a folder. Tensors are read one at a time, so that memory holds the model and one
    tensor more. ValueError and FileNotFoundError say what is wrong, memory.TooLarge what is needed.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    said = _read_config(folder)
    family, cfg = read_config(said)
    return _moved_in(Shelf(path, family), replace(cfg, name=folder.resolve().name), dtype)


def _read_config(folder: Path) -> dict:
    file = folder / "config.json"
    if not file.is_file():
        others = sorted(other.name for other in folder.glob("*.gguf"))
        hint = f"give the file {others[0]} itself" if others else "is it a model's folder?"
        raise FileNotFoundError(f"there is no config.json in {folder}: {hint}")
    said = read_json(file)
    _require_readable(said, folder)
    return said


def _moved_in(shelf: Shelf | GgufShelf, cfg: ModelConfig, dtype: torch.dtype | None) -> Decoder:
    """The decoder with all that lies on the shelf, tensor by tensor."""
    model = empty_decoder(cfg)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = _found(rules(shelf.family, cfg, shapes), shelf, shapes)
    _require_no_others(found, shelf, cfg)
    _require_room(found, shelf, shapes, dtype)
    tensors = {}
    for rule in found:
        tensors |= _ours(rule, shelf, shapes, dtype)
    return fill(model, tensors)


def _require_readable(said: dict, folder: Path) -> None:
    method = (said.get("quantization_config") or {}).get("quant_method", "mxfp4")
    if method != "mxfp4":
        raise ValueError(
            f"the weights in {folder} are quantized as {method}, and only mxfp4 is decoded here: "
            "fetch a version in bfloat16"
        )


def _found(table: list[Rule], shelf: Shelf, shapes: dict[str, tuple]) -> list[Rule]:
    """The rules whose tensor is there; ValueError if they do not give all of ours."""
    found = [rule for rule in table if rule.theirs in shelf.names]
    missing = shapes.keys() - {name for rule in found for name in rule.ours}
    lacking = [rule.theirs for rule in table if not missing.isdisjoint(rule.ours)]
    if lacking:
        raise ValueError(
            f"{shelf.path} lacks the tensor {lacking[0]}, of which its {shelf.config} speaks"
        )
    return found


def _require_no_others(found: list[Rule], shelf: Shelf, cfg: ModelConfig) -> None:
    known = {rule.theirs for rule in found}
    known |= {"lm_head.weight"} if cfg.tie_embeddings else set()
    ignored = re.compile(shelf.family.ignored.replace("{n_layers}", str(cfg.n_layers)))
    others = sorted(name for name in shelf.names - known if not ignored.search(name))
    if others:
        raise ValueError(
            f"{shelf.path} holds {others[0]}, a tensor for which its {shelf.config} has no place"
        )


def _require_room(found: list[Rule], shelf, shapes: dict[str, tuple], dtype) -> None:
    """memory.TooLarge unless the model fits in what is free, and beside it its largest tensor."""
    sizes = [
        (sum(math.prod(shapes[name]) for name in rule.ours), shelf.itemsize(rule.theirs))
        for rule in found
    ]
    beside = max(n * size for n, size in sizes)

    def needed(dtype) -> int:
        return beside + sum(n * (dtype.itemsize if dtype else size) for n, size in sizes)

    here, half = memory.free(), needed(torch.bfloat16)
    advice = "close other programs, or take a smaller model"
    if here is not None and half <= here:
        advice = f"load it in bfloat16 (dtype=torch.bfloat16), {memory.size(half)}"
    memory.require(needed(dtype), str(shelf.path), advice)


def _ours(rule: Rule, shelf: Shelf, shapes: dict[str, tuple], dtype) -> dict[str, Tensor]:
    """Our tensors out of a published one, in memory of their own."""
    theirs, wanted = shelf.read(rule.theirs), [shapes[name] for name in rule.ours]
    try:
        parts = list(rule.layout.apart(theirs))
    except (RuntimeError, ValueError, IndexError):  # it cannot even be taken apart
        parts = []
    if [tuple(part.shape) for part in parts] != wanted:
        raise ValueError(
            f"{shelf.path}: {rule.theirs} has shape {tuple(theirs.shape)}, which does not make "
            f"the {wanted[0]} of {rule.ours[0]} that its {shelf.config} speaks of"
        )
    return {
        name: torch.empty(part.shape, dtype=dtype or part.dtype).copy_(part)
        for name, part in zip(rule.ours, parts)
    }


# ---------------------------------------------------------------- a GGUF file, read


def from_gguf(file: str | Path, dtype: torch.dtype | None = None) -> Decoder:
    """The decoder in a GGUF file of the Llama architecture, in 32 bits or in this dtype.

    Its tensors, in F32, F16, Q8_0, Q4_1 or Q4_0, are unpacked one at a time, so that memory holds
    the file, the model and one tensor more. ValueError and FileNotFoundError say what is wrong.
    """
    shelf = GgufShelf(file)
    return _moved_in(shelf, shelf.cfg, dtype)


def smollm_model(dtype: torch.dtype | None = None) -> tuple[Decoder, Published]:
    """SmolLM2-135M-Instruct (arXiv:2502.02737), in 32 bits or in this dtype, and its tokenizer.

    The model's weights were rounded to 4 bits, most of them. sources.NotHad if it cannot be had.
    """
    shelf = GgufShelf(sources.path("smollm2/instruct"))
    return _moved_in(shelf, shelf.cfg, dtype).eval(), translation.from_metadata(shelf.metadata)


# ---------------------------------------------------------------- what you downloaded


def local_model(
    path: str | Path, dtype: torch.dtype | None = None
) -> tuple[Decoder, Published | None]:
    """The decoder in what you downloaded, in the file's dtypes or in this one, and its tokenizer.

    `path` is a folder with config.json and safetensors, a safetensors file in such a folder, or a
    GGUF file. Its tokenizer is read from tokenizer.json, or from the GGUF file; None where there is
    none, or, with a warning that says why, where its ids would not be exact. ValueError,
    FileNotFoundError and memory.TooLarge say what is wrong.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        shelf = GgufShelf(path)
        tokenizer = _or_none(lambda: _tokenizer_in(shelf))
        return _moved_in(shelf, shelf.cfg, dtype).eval(), tokenizer
    folder = path if path.is_dir() else path.parent
    tokenizer = _or_none(lambda: vocabulary.from_folder(folder))
    return from_pretrained(path, dtype).eval(), tokenizer


def _tokenizer_in(shelf: GgufShelf) -> Published | None:
    if "tokenizer.ggml.model" not in shelf.metadata:
        return None
    try:
        return translation.from_metadata(shelf.metadata)
    except ValueError as error:
        raise type(error)(f"{shelf.path}: {error}") from None


def _or_none(read: Callable[[], Published | None]) -> Published | None:
    try:
        return read()
    except NotKnown as error:
        warnings.warn(f"there is no tokenizer: {error}", stacklevel=3)
        return None


# ---------------------------------------------------------------- a published folder, written


def save_pretrained(
    model: Decoder,
    folder: str | Path,
    model_type: str | None = None,
    max_shard_bytes: float = 5e9,
) -> None:
    """Writes config.json and safetensors, in several files above this size, for transformers.

    As the first architecture that can say all of the config, or as this model_type; ValueError if
    none can. What was in the folder is replaced when all is written, not before.
    """
    with _replacing(Path(folder)) as part:
        _write_model(model, part, model_type, max_shard_bytes)


def export(
    model: Decoder, tokenizer: Tokenizer, folder: str | Path, model_type: str | None = None
) -> None:
    """Writes what transformers' AutoModelForCausalLM and AutoTokenizer read, and so vLLM.

    Beside what `save_pretrained` writes: the tokenizer, its chat template, and where to stop. For
    llama.cpp the folder is made a GGUF file by its own convert_hf_to_gguf.py. Adapters must be
    merged first. ValueError says what such a folder cannot hold.
    """
    files = translation.files(tokenizer, model.cfg.context_length)
    with _replacing(Path(folder)) as part:
        _write_model(model, part, model_type)
        for name, said in files.items():
            _write_json(part / name, said)


def _write_model(
    model: Decoder, part: Path, model_type: str | None = None, max_shard_bytes: float = 5e9
) -> None:
    """Config and weights into this folder."""
    said = write_config(model.cfg, model_type)
    family, cfg = read_config(said)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    chosen = _covering(rules(family, cfg, weights))
    _require_all_written(weights, chosen)
    shards = _shards(chosen, weights, max_shard_bytes)
    said["dtype"] = str(model.tok_emb.weight.dtype).removeprefix("torch.")
    for name, shard in shards.items():
        tensors = {r.theirs: r.layout.together([weights[n] for n in r.ours]) for r in shard}
        write(part / name, tensors, {"format": "pt"})
    if len(shards) > 1:
        _write_json(part / "model.safetensors.index.json", _index(shards, weights))
    _write_json(part / "config.json", said)


def _require_all_written(weights: dict[str, Tensor], chosen: list[Rule]) -> None:
    others = sorted(weights.keys() - {name for rule in chosen for name in rule.ours})
    if others:
        raise ValueError(
            f"the model has {others[0]}, for which no published architecture has a place: "
            "if it is an adapter's, merge it first (lora.merge)"
        )


def _covering(tables: list[Rule]) -> list[Rule]:
    """The first rule for each of our tensors: where there are two ways to write it, one."""
    chosen, covered = [], set()
    for rule in tables:
        if rule.ours[0] not in covered:
            chosen.append(rule)
            covered.update(rule.ours)
    return chosen


def _shards(chosen: list[Rule], weights: dict[str, Tensor], limit: float) -> dict[str, list[Rule]]:
    """The rules by file, each file up to this many bytes, or with one tensor that is larger."""
    groups, room = [[]], limit
    for rule in chosen:
        size = _n_bytes(rule, weights)
        if groups[-1] and size > room:
            groups.append([])
            room = limit
        groups[-1].append(rule)
        room -= size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    n = len(groups)
    return {f"model-{i:05}-of-{n:05}.safetensors": group for i, group in enumerate(groups, 1)}


def _n_bytes(rule: Rule, weights: dict[str, Tensor]) -> int:
    return sum(weights[name].nbytes for name in rule.ours)


def _index(shards: dict[str, list[Rule]], weights: dict[str, Tensor]) -> dict:
    """What model.safetensors.index.json says."""
    size = sum(_n_bytes(rule, weights) for shard in shards.values() for rule in shard)
    where = {rule.theirs: name for name, shard in shards.items() for rule in shard}
    return {"metadata": {"total_size": size}, "weight_map": where}


def _write_json(file: Path, values: dict) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


# What transformers may have written beside a tokenizer: it would speak against the new one.
OF_A_TOKENIZER = ("chat_template.jinja", "special_tokens_map.json", "added_tokens.json")


@contextmanager
def _replacing(folder: Path):
    """A folder to write into; if all went well, what is in it moves to `folder` at the end."""
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.parent}: make it, then save again")
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.", suffix=".part") as part:
        yield Path(part)
        folder.mkdir(exist_ok=True)
        new = sorted(Path(part).iterdir(), key=lambda file: file.suffix)  # tables, then tensors
        for file in reversed(new):
            os.replace(file, folder / file.name)
        stale = {*folder.glob("model*.safetensors*")}  # of other weights, or cut another way
        if any(file.name == "tokenizer.json" for file in new):
            stale |= {folder / name for name in OF_A_TOKENIZER if (folder / name).is_file()}
        for old in stale - {folder / file.name for file in new}:
            old.unlink()
