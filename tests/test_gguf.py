"""python -m pytest tests/test_gguf.py -p no:nbval -o addopts="" """

import struct

import gguf as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.gguf import KINDS, Packed, read
from helpers.weights import from_gguf
from tests.gguf_files import (
    gguf_bytes,
    in_32_bits,
    llama_metadata,
    llama_tensors,
    packed,
    padded,
    table_row,
    text,
    value,
)
from tests.reference import FAMILIES, T, V

pytestmark = pytest.mark.usefixtures("one_thread")

steady = settings(deadline=None, derandomize=True, database=None)
METADATA = {
    "general.architecture": "llama",
    "size": 8,
    "eps": 0.5,
    "yes": True,
    "letters": ["Ġa", "", "é"],
    "types": [1, 3, 1],
    "nothing": [],
}
TENSORS = {"a.weight": in_32_bits([[1, 2, 3], [4, 5, 6]]), "b.weight": packed((2, 64), 3, 20)}
N_BYTES = {2: 18, 3: 20, 8: 34}  # of a block, by its kind


@pytest.fixture
def file(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(METADATA, TENSORS))
    return tmp_path / "m.gguf"


def refused(tmp_path, content):
    """The sentence with which a file of this content is refused."""
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "m.gguf")
    said = str(caught.value)
    assert said.startswith(str(tmp_path / "m.gguf")) and "\n" not in said
    return said


# ---------------------------------------------------------------- what a file says


def test_metadata_and_tensors_come_by_name(file):
    metadata, tensors = read(file)
    assert metadata == METADATA
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "a.weight": (2, 3),
        "b.weight": (2, 64),
    }
    assert tensors["a.weight"].unpack().tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_file_of_the_reference_is_read(tmp_path):
    writer = reference.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_int64("large", -(2**40))
    writer.add_float64("third", 1 / 3)
    writer.add_array("texts", ["a", "ção"])
    writer.add_custom_alignment(64)
    numbers = np.arange(256, dtype=np.float32).reshape(4, 64)
    writer.add_tensor("plain", numbers)
    kind = reference.GGMLQuantizationType.Q8_0
    writer.add_tensor("packed", reference.quants.quantize(numbers, kind), raw_dtype=kind)
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    metadata, tensors = read(tmp_path / "m.gguf")
    assert (metadata["large"], metadata["third"], metadata["texts"]) == (
        -(2**40),
        1 / 3,
        ["a", "ção"],
    )
    assert np.array_equal(tensors["plain"].unpack(), numbers)
    assert np.abs(tensors["packed"].unpack() - numbers).max() <= 255 / 127 / 2


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path, version):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(METADATA, TENSORS, version))
    assert read(tmp_path / "m.gguf")[0] == METADATA


def test_tensors_stand_at_multiples_of_the_alignment(tmp_path):
    metadata = {"general.alignment": 128}
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(metadata, TENSORS))
    _, tensors = read(tmp_path / "m.gguf")
    assert bytes(tensors["b.weight"].content) == TENSORS["b.weight"][2]


def test_what_was_unpacked_does_not_change_with_the_file(file):
    numbers = read(file)[1]["a.weight"].unpack()
    with open(file, "rb+") as opened:
        opened.write(b"\1" * file.stat().st_size)
    assert numbers.tolist() == [[1, 2, 3], [4, 5, 6]]


# ---------------------------------------------------------------- blocks


def unpacked(kind, shape, content):
    """The numbers of one tensor, unpacked here."""
    return Packed(shape, KINDS[kind], np.frombuffer(content, np.uint8)).unpack()


def test_a_block_of_q4_1_by_hand():
    """0.5 times the number, plus 1; the low halves of the bytes first."""
    block = struct.pack("<ee", 0.5, 1.0) + bytes([0xF0, 0x21, *[0] * 14])
    expected = [1.0, 1.5, *[1.0] * 14, 8.5, 2.0, *[1.0] * 14]
    assert unpacked(3, (32,), block).tolist() == expected


def test_a_block_of_q4_0_by_hand():
    """0.5 times the number less 8."""
    block = struct.pack("<e", 0.5) + bytes([0xF8, *[0x88] * 15])
    assert unpacked(2, (32,), block).tolist() == [*[0.0] * 16, 3.5, *[0.0] * 15]


def test_a_block_of_q8_0_by_hand():
    block = struct.pack("<e32b", 0.25, -128, 127, *[4] * 30)
    assert unpacked(8, (32,), block).tolist() == [-32.0, 31.75, *[1.0] * 30]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: KINDS[kind].name)
@given(seed=st.integers(0, 2**32 - 1))
@steady
def test_any_bytes_unpack_as_in_the_reference(kind, seed):
    n_bytes = 3 * 64 // KINDS[kind].n * KINDS[kind].block.itemsize
    content = np.random.default_rng(seed).integers(0, 256, n_bytes, dtype=np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        ours = unpacked(kind, (3, 64), content.tobytes())
        theirs = reference.quants.dequantize(content.reshape(3, -1), kind_of(kind))
    assert ours.dtype == np.float32 and np.array_equal(ours, theirs, equal_nan=True)


def kind_of(number):
    """The reference's name for a kind."""
    return reference.GGMLQuantizationType(number)


# ---------------------------------------------------------------- what is refused


def with_rows(*rows, data=b"\0" * 256, metadata=None):
    """A file with these rows in its table, true or not."""
    said = metadata or {}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(said))
    head += b"".join(text(name) + value(one) for name, one in said.items()) + b"".join(rows)
    return padded(head, 32) + data


HEAD = b"GGUF" + struct.pack("<I", 3)
HUGE = 2**63  # read as signed, it is below 0
BROKEN = {
    "empty": (b"", r"is no GGUF file: it begins with b''"),
    "magic": (b"PK\3\4" + bytes(40), r"is no GGUF file: it begins with b'PK\x03\x04'"),
    "only magic": (b"GGUF", "is cut short"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "has version 1, and known here are 2"),
    "big end first": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "has version 50331648"),
    "tensors": (HEAD + struct.pack("<QQ", HUGE, 0), "is cut short, or says a size that cannot be"),
    "values": (HEAD + struct.pack("<QQ", 0, HUGE), "is cut short, or says a size that cannot be"),
    "name": (HEAD + struct.pack("<QQQ", 0, 1, HUGE), "is cut short, or says a size that cannot"),
    "array": (
        HEAD + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 4, HUGE),
        "is cut short, or says a size that cannot be",
    ),
    "texts": (
        HEAD + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, HUGE),
        "is cut short, or says a size that cannot be",
    ),
    "arrays in an array": (
        HEAD + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(16),
        "holds a value of type 9, which is not known here",
    ),
    "type": (
        HEAD + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<II", 13, 0),
        "holds a value of type 13, which is not known here",
    ),
    "not UTF-8": (HEAD + struct.pack("<QQQ", 0, 1, 1) + b"\xff" + value(1), "that is not UTF-8"),
    "a name twice": (
        HEAD + struct.pack("<QQ", 0, 2) + 2 * (text("a") + value(1)),
        "says a twice",
    ),
    "a tensor twice": (
        with_rows(table_row("a", (4,), 0, 0), table_row("a", (4,), 0, 32)),
        "says a twice",
    ),
    "no axes": (with_rows(table_row("a", (), 0, 0)), "gives a 0 axes, not 1 to 4"),
    "many axes": (with_rows(table_row("a", (1,) * 5, 0, 0)), "gives a 5 axes, not 1 to 4"),
    "axes without end": (
        with_rows(text("a") + struct.pack("<I", 2**32 - 1)),
        "gives a 4294967295 axes",
    ),
    "an axis of 0": (with_rows(table_row("a", (0, 4), 0, 0)), r"gives a the shape (0, 4)"),
    "kind": (
        with_rows(table_row("a", (256,), 12, 0)),
        "packs a as ggml's type 12, and known here are F32, F16, Q4_0, Q4_1, Q8_0",
    ),
    "part of a block": (with_rows(table_row("a", (2, 48), 3, 0)), "has rows of 48 in a, no multip"),
    "odd place": (with_rows(table_row("a", (4,), 0, 8)), "has a at no multiple of 32"),
    "outside": (with_rows(table_row("a", (65,), 0, 0)), "is cut short: a ends outside it"),
    "far outside": (with_rows(table_row("a", (4,), 0, 2**63)), "is cut short: a ends outside it"),
    "larger than memory": (with_rows(table_row("a", (2**62, 2**62), 0, 0)), "a ends outside it"),
    "one place": (
        with_rows(table_row("a", (16,), 0, 0), table_row("b", (4,), 0, 32)),
        "has a and b in one place",
    ),
    "alignment 0": (with_rows(metadata={"general.alignment": 0}), "has the alignment 0"),
    "alignment in words": (with_rows(metadata={"general.alignment": "a"}), "has the alignment 'a'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(name, tmp_path):
    content, sentence = BROKEN[name]
    assert sentence in refused(tmp_path, content)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for name in ("gone.gguf", "."):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read(tmp_path / name)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = gguf_bytes(METADATA, TENSORS)
    for n in range(len(whole) - 16):  # the last tensor has 80 bytes, and 16 of padding after it
        refused(tmp_path, whole[:n])


def survives(tmp_path, content):
    """The file is read, or refused in one sentence; then its tensors are what the table says."""
    (tmp_path / "m.gguf").write_bytes(content)
    try:
        _, tensors = read(tmp_path / "m.gguf")
    except ValueError as error:
        return str(error).startswith(str(tmp_path / "m.gguf"))
    with np.errstate(all="ignore"):
        return all(tensor.unpack().shape == tensor.shape for tensor in tensors.values())


@settings(steady, max_examples=300)
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 400), st.sampled_from([0, 1, 9, 127, 128, 255]) | st.integers(0, 255)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path_factory, changes):
    content = bytearray(gguf_bytes(METADATA, TENSORS))
    for at, byte in changes:
        content[at % len(content)] = byte
    assert survives(tmp_path_factory.getbasetemp(), bytes(content))


@settings(steady, max_examples=200)
@given(counts=st.tuples(*[st.integers(0, 3) | st.integers(0, 2**64 - 1)] * 2), rest=st.binary())
def test_any_bytes_after_the_magic_are_read_or_refused(tmp_path_factory, counts, rest):
    content = HEAD + struct.pack("<QQ", *counts) + rest
    assert survives(tmp_path_factory.getbasetemp(), content)


# ---------------------------------------------------------------- the decoder in a file

TOKENS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def llama():
    """A tiny random Llama of transformers."""
    return FAMILIES["llama3"](0.1)[0]


def write_llama(folder, llama, metadata=None, tensors=None):
    """A GGUF file of the model, but for these changes; None takes something out."""
    said = llama_metadata(llama.config) | (metadata or {})
    kept = llama_tensors(llama) | (tensors or {})
    said, kept = ({n: v for n, v in d.items() if v is not None} for d in (said, kept))
    (folder / "m.gguf").write_bytes(gguf_bytes(said, kept))
    return folder / "m.gguf"


@torch.no_grad()
def difference(ours, theirs):
    """The largest difference of their logits on TOKENS."""
    return (ours(TOKENS) - theirs(input_ids=TOKENS).logits).abs().max()


def test_a_llama_answers_as_in_transformers(tmp_path, llama):
    model = from_gguf(write_llama(tmp_path, llama))
    assert difference(model, llama) < 1e-5
    assert (model.cfg.name, model.cfg.norm_eps) == ("m", llama.config.rms_norm_eps)
    assert not model.cfg.tie_embeddings


def test_without_a_head_the_embeddings_are_the_head(tmp_path, llama):
    model = from_gguf(write_llama(tmp_path, llama, tensors={"output.weight": None}))
    assert model.cfg.tie_embeddings and model.lm_head.weight is model.tok_emb.weight


def test_what_a_file_leaves_unsaid_is_worked_out(tmp_path, llama):
    unsaid = ["vocab_size", "rope.dimension_count", "rope.freq_base"]
    said = {f"llama.{name}": None for name in unsaid}
    cfg = from_gguf(write_llama(tmp_path, llama, said | {"tokenizer.ggml.tokens": ["a"] * V})).cfg
    assert (cfg.vocab_size, cfg.head_dim, cfg.rope.theta) == (V, 16, 10_000.0)


def test_a_packed_llama_answers_as_one_of_its_unpacked_weights(tmp_path, llama):
    """Gates and ups in 8 bits; the rows of downs have 48 numbers, no multiple of a block."""
    kind, tensors = reference.GGMLQuantizationType.Q8_0, llama_tensors(llama)
    plain, packed = {}, {}
    for name in (name for name in tensors if "gate" in name or "up" in name):
        numbers = np.frombuffer(tensors[name][2], "<f4").reshape(tensors[name][0])
        quants = reference.quants.quantize(numbers, kind)
        packed[name] = (numbers.shape, 8, quants.tobytes())
        plain[name] = in_32_bits(reference.quants.dequantize(quants, kind))
    ours = from_gguf(write_llama(tmp_path, llama, tensors=packed))(TOKENS)
    theirs = from_gguf(write_llama(tmp_path, llama, tensors=plain))(TOKENS)
    assert len(packed) == 6 and torch.equal(ours, theirs)


def test_a_llama_in_16_bits_has_the_rounded_weights(tmp_path, llama):
    file = write_llama(tmp_path, llama)
    model, whole = from_gguf(file, torch.bfloat16), from_gguf(file)
    for half, full in zip(model.parameters(), whole.parameters()):
        assert half.dtype == torch.bfloat16 and torch.equal(half, full.bfloat16())


SIZES_SAID = {
    "llama.vocab_size": "vocab_size",
    "llama.context_length": "context_length",
    "llama.embedding_length": "d_model",
    "llama.block_count": "n_layers",
    "llama.feed_forward_length": "d_ff",
    "llama.attention.head_count": "n_heads",
    "llama.attention.head_count_kv": "n_kv_heads",
    "llama.attention.key_length": "head_dim",
}
Q, WRONG = "blk.0.attn_q.weight", in_32_bits(np.zeros((7, 32)))


@pytest.mark.parametrize(
    ("metadata", "tensors", "sentence"),
    [
        (
            {"general.architecture": "mamba"},
            {},
            "general.architecture = 'mamba', and known here is",
        ),
        ({"general.architecture": None}, {}, "general.architecture = None, and known here is 'lla"),
        ({"llama.block_count": None}, {}, "llama.block_count = None: that is no size of a model"),
        ({"llama.block_count": 4}, {}, "lacks the tensor blk.3.attn_norm.weight, of which its met"),
        ({"llama.block_count": 2}, {}, "holds blk.2.attn_k.weight, a tensor for which its metadat"),
        ({"llama.block_count": 10**6}, {}, "speaks of 1000000 blocks, and holds 30 tensors"),
        ({"llama.embedding_length": 2**30}, {}, "embedding_length = 1073741824: that is no size"),
        ({"llama.embedding_length": "32"}, {}, "embedding_length = '32': that is no size of a mod"),
        ({"llama.embedding_length": 0}, {}, "embedding_length = 0: that is no size of a model"),
        (
            {"llama.embedding_length": 64},
            {},
            "token_embd.weight has shape (97, 32), which does not",
        ),
        ({"llama.attention.head_count_kv": 3}, {}, "n_heads is 4, n_kv_heads 3"),
        ({"llama.attention.head_count": 2**20}, {}, "has shape"),
        ({"llama.rope.dimension_count": 8}, {}, "rope.dimension_count = 8, and known here is 16"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "scaling.type = 'yarn', and known here is 'non"),
        ({"llama.rope.freq_base": "a"}, {}, "rope.freq_base = 'a': it must be a number above 0"),
        ({"llama.vocab_size": None}, {}, "llama.vocab_size = None: that is no size of a model"),
        ({}, {Q: None}, f"lacks the tensor {Q}, of which its metadata speaks"),
        ({}, {Q: WRONG}, f"{Q} has shape (7, 32), which does not make the (64, 32)"),
        ({}, {"rope_freqs.weight": in_32_bits([1.0])}, "holds rope_freqs.weight, a tensor for whi"),
    ],
)
def test_a_llama_that_contradicts_itself_is_refused(tmp_path, llama, metadata, tensors, sentence):
    file = write_llama(tmp_path, llama, metadata, tensors)
    with pytest.raises(ValueError) as caught:
        from_gguf(file)
    assert str(caught.value).startswith(str(file)) and sentence in str(caught.value)


@settings(steady, max_examples=100)
@given(name=st.sampled_from(sorted(SIZES_SAID)), number=st.integers(0, 2**32 - 1))
def test_any_size_in_the_metadata_is_read_or_refused(tmp_path_factory, llama, name, number):
    file = write_llama(tmp_path_factory.getbasetemp(), llama, {name: number})
    try:
        assert getattr(from_gguf(file).cfg, SIZES_SAID[name]) == number
    except ValueError as error:
        assert str(error).startswith(str(file))
