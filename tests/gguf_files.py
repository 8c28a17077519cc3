"""GGUF files written by hand, byte by byte, for the tests that read them."""

import math
import struct

import numpy as np

TYPES = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}


def text(said):
    """A text after its length."""
    return struct.pack("<Q", len(said.encode())) + said.encode()


def value(said):
    """A value after its type, an array after its type and its length."""
    if isinstance(said, str):
        return struct.pack("<I", 8) + text(said)
    if isinstance(said, list):
        values = [value(one) for one in said]
        kind = values[0][:4] if values else struct.pack("<I", 8)
        return (
            struct.pack("<I", 9)
            + kind
            + struct.pack("<Q", len(said))
            + b"".join(one[4:] for one in values)
        )
    number, letter = TYPES[type(said)]
    return struct.pack(f"<I{letter}", number, said)


def table_row(name, shape, kind, start):
    """What the table says of one tensor."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, start)


def padded(content, alignment):
    """The bytes, and zeros up to a multiple of `alignment`."""
    return content + b"\0" * (-len(content) % alignment)


def gguf_bytes(metadata, tensors, version=3):
    """A whole file: tensors are {name: (shape, ggml's number of the kind, bytes)}."""
    alignment = metadata.get("general.alignment", 32)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(name) + value(said) for name, said in metadata.items())
    data = b""
    for name, (shape, kind, content) in tensors.items():
        head += table_row(name, shape, kind, len(data))
        data += padded(content, alignment)
    return padded(head, alignment) + data


def in_32_bits(numbers):
    """A tensor for `gguf_bytes` in F32."""
    numbers = np.asarray(numbers, "<f4")
    return numbers.shape, 0, numbers.tobytes()


def random_bytes(n, seed=0):
    """n bytes whose pairs are small halves of a float, so that no scale is infinite or none."""
    draw = np.random.default_rng(seed)
    return bytes(draw.integers(0, 256, n, dtype=np.uint8) & 0x3F)


def packed(shape, kind, block_bytes, block=32, seed=0):
    """A tensor for `gguf_bytes` of random blocks."""
    return shape, kind, random_bytes(math.prod(shape) // block * block_bytes, seed)


# ---------------------------------------------------------------- a Llama of transformers


def in_neighbouring_pairs(matrix, n_heads):
    """Rows of queries or keys as llama.cpp's converter turns them round."""
    apart = matrix.reshape(n_heads, 2, matrix.shape[0] // n_heads // 2, *matrix.shape[1:])
    return apart.swapaxes(1, 2).reshape(matrix.shape)


def back_in_halves(matrix, n_heads):
    """The reverse."""
    pairs = matrix.reshape(n_heads, matrix.shape[0] // n_heads // 2, 2, *matrix.shape[1:])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def ggufs_name(name):
    """The name that llama.cpp gives a tensor of transformers' Llama."""
    for theirs, short in NAMES.items():
        name = name.replace(theirs, short)
    return name


def llama_metadata(config):
    """What llama.cpp's converter says of a LlamaConfig."""
    said = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    named = {f"llama.{name}": number for name, number in said.items()}
    return {"general.architecture": "llama", **named}


def llama_tensors(model):
    """The weights of transformers' Llama, as llama.cpp's converter leaves them, in F32."""
    config, tensors = model.config, {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.named_parameters():
        numbers, part = weight.detach().numpy(), name.split(".")[-2]
        if part in heads:
            numbers = in_neighbouring_pairs(numbers, heads[part])
        tensors[ggufs_name(name)] = in_32_bits(numbers)
    return tensors
