"""Tokenizers as a tokenizer.json says them: out of a GGUF file, and our own.

So there is one way to make ids of a published tokenizer, in `vocabulary`, and one way to hand a
tokenizer on: `weights.export` writes what stands here. Lesson 08 opens a GGUF file and leaves the
course with its own model.
"""

from collections.abc import Mapping

from helpers import chats
from helpers.steps import SPLITS, NotKnown, in_letters, spelt
from helpers.tokenizer import GPT2_PATTERN, GPT4_PATTERN, Tokenizer
from helpers.vocabulary import Published

# ---------------------------------------------------------------- the tables


def by_bytes(use_regex: bool) -> dict:
    """The step that cuts as GPT-2 does, if so, and writes bytes as letters."""
    names = {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel"} | names


def split(name: str) -> dict:
    """The step of this name in SPLITS."""
    pattern = {"Regex": SPLITS[name]}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def in_turn(*steps: dict) -> dict:
    """The steps one after the other."""
    return {"type": "Sequence", "pretokenizers": [*steps]}


DIGITS = {"type": "Digits", "individual_digits": True}


def tables(
    vocab: Mapping[str, int], merges: list, added: list[dict], cut: dict, whole: bool = False
) -> dict:
    """A tokenizer.json of bytes: tokens and merges in GPT-2's letters, and how a text is cut.

    With `whole`, a piece that is a token is taken as it is, whatever its merges would make of it.
    The added tokens join the vocabulary: where they do not, Hugging Face counts their ids anew.
    """
    model = {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}
    ids = {**vocab, **{token["content"]: token["id"] for token in added}}
    model |= {"ignore_merges": whole, "vocab": ids, "merges": merges}
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    steps = {"normalizer": None, "pre_tokenizer": cut, "post_processor": None}
    return head | steps | {"decoder": by_bytes(True), "model": model}


def added_token(token_id: int, content: str, special: bool) -> dict:
    """A row of added_tokens."""
    how = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": special} | how


# ---------------------------------------------------------------- out of a GGUF file

CUTS = {  # by the name that llama.cpp gives the first tokenizer that cut so
    "gpt-2": by_bytes(True),
    "smollm": in_turn(DIGITS, by_bytes(True)),
    "llama-bpe": in_turn(split("Llama 3"), by_bytes(False)),
}
USUAL, CONTROL, USER_DEFINED = 1, 3, 4  # ggml's types of tokens


def from_metadata(metadata: Mapping) -> Published:
    """The tokenizer that a GGUF file's metadata describe; NotKnown for a kind not known here."""
    kind, cut = (metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or cut not in CUTS:
        raise NotKnown(
            f"its tokenizer is {kind!r} with the pre-tokenizer {cut!r}, and known "
            f"here is 'gpt2' with {' or '.join(map(repr, CUTS))}"
        )
    tokens, types = _lists(metadata, tokens=str, token_type=int)
    vocab, added = _tokens(tokens, types)
    merges = _merges(*_lists(metadata, merges=str), vocab)
    said = tables(vocab, merges, added, CUTS[cut], whole=cut == "llama-bpe")
    return Published(said, _config(metadata, tokens))


def _config(metadata: Mapping, tokens: list[str]) -> dict:
    """What tokenizer_config.json would say."""
    config = {"chat_template": metadata.get("tokenizer.chat_template")}
    for kind in ("bos", "eos"):
        token_id = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if token_id is not None:
            if type(token_id) is not int or not 0 <= token_id < len(tokens):
                raise ValueError(f"it says {kind}_token_id = {token_id!r}: that is no token")
            config[f"{kind}_token"] = tokens[token_id]
    usual = metadata.get("tokenizer.ggml.pre") == "llama-bpe"  # llama.cpp implies it
    return config | {"add_bos_token": metadata.get("tokenizer.ggml.add_bos_token", usual)}


def _lists(metadata: Mapping, **kinds: type) -> list[list]:
    lists = []
    for name, kind in kinds.items():
        values = metadata.get(f"tokenizer.ggml.{name}")
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise ValueError(f"it lacks a list of {name}, each of them {kind.__name__}")
        lists.append(values)
    if len({*map(len, lists)}) > 1:
        raise ValueError(f"it has not as many {' as '.join(kinds)}")
    return lists


def _tokens(tokens: list[str], types: list[int]) -> tuple[dict[str, int], list[dict]]:
    """({token: id} of the usual ones, the rows of the others)."""
    unknown = {*types} - {USUAL, CONTROL, USER_DEFINED}
    if unknown:
        raise NotKnown(f"it has tokens of the type {min(unknown)}, which is not known here")
    both = list(enumerate(zip(tokens, types)))
    vocab = {token: token_id for token_id, (token, kind) in both if kind == USUAL}
    others = [(n, token, kind == CONTROL) for n, (token, kind) in both if kind != USUAL]
    for token in vocab:
        spelt(token)
    return vocab, [added_token(*row) for row in others]


def _merges(merges: list[str], vocab: Mapping[str, int]) -> list[str]:
    """The same; ValueError unless each joins two tokens into a third."""
    for merge in merges:
        parts = merge.split(" ")
        if len(parts) != 2 or not vocab.keys() >= {*parts, "".join(parts)}:
            raise ValueError(f"its merge {merge!r} does not join two tokens into a third")
    return merges


# ---------------------------------------------------------------- our own

OUR_CUTS = {
    GPT2_PATTERN: by_bytes(True),
    GPT4_PATTERN: in_turn(split("this course"), by_bytes(False)),
}


def published(tokenizer: Tokenizer) -> Published:
    """The tokenizer as a published one; ValueError for a pattern that no tokenizer.json says here.

    A published one is the same. Ours brings its chats along as a template.
    """
    if isinstance(tokenizer, Published):
        return tokenizer
    if tokenizer.pattern not in OUR_CUTS:
        raise ValueError(
            "only a tokenizer that cuts by GPT2_PATTERN or GPT4_PATTERN is written as a "
            f"tokenizer.json, and this one cuts by {tokenizer.pattern!r}"
        )
    vocab = {in_letters(token): token_id for token, token_id in tokenizer.ranks.items()}
    letters = {token_id: token for token, token_id in vocab.items()}
    merges = [[letters[left], letters[right]] for left, right in tokenizer.merges]
    added = [added_token(n, content, True) for content, n in tokenizer.special_ids.items()]
    said = tables(vocab, merges, added, OUR_CUTS[tokenizer.pattern], whole=True)
    return Published(said, _our_config(tokenizer.special_ids))


def _our_config(special_ids: Mapping[str, int]) -> dict:
    turns = {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"} <= special_ids.keys()
    names = ("eos_token", "pad_token") if "<|endoftext|>" in special_ids else ()
    config = {"chat_template": chats.OURS} if turns else {}
    return config | dict.fromkeys(names, "<|endoftext|>")


def files(tokenizer: Tokenizer, context_length: int) -> dict[str, dict]:
    """{name: table} of the files that transformers reads: tokenizer, its config, where to stop."""
    same = published(tokenizer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length}
    config |= {"clean_up_tokenization_spaces": False} | dict(same.config)
    return {
        "tokenizer.json": same.said,
        "tokenizer_config.json": {name: said for name, said in config.items() if said is not None},
        "generation_config.json": {"eos_token_id": same.stops} if same.stops else {},
    }
