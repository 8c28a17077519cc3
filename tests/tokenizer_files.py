"""Small tokenizers, each in the style of a published family: what its tokenizer.json says.

The steps are the published ones, the vocabulary is learnt here. Sources: the tokenizer.json of
openai-community/gpt2, HuggingFaceTB/SmolLM2-135M, meta-llama/Meta-Llama-3-8B, Qwen/Qwen3-0.6B,
openai/gpt-oss-20b, deepseek-ai/DeepSeek-V3, meta-llama/Llama-2-7b-hf (the old way and the new) and
google/gemma-3-1b-it, as quoted in the converters of transformers, llama.cpp and others.
"""

import json
from functools import cache

from tokenizers import Tokenizer as HuggingFace
from tokenizers import models, normalizers, pre_tokenizers, trainers

from helpers.steps import in_letters
from helpers.tokenizer import GPT2_PATTERN, Tokenizer
from helpers.translation import added_token, tables
from tests.test_tokenizer import REAL_TEXT

UNMET = b"\x04\x1d\xf1\xf5#"  # bytes that the small vocabulary below has no token for
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CL100K = (
    ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [  # with the line ends themselves, not \r and \n
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"
    + "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+"
    + r"|\s+(?!\S)|\s+",
]
BYTES_AS_LETTERS = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BYTES_AS_LETTERS = {"type": "ByteLevel"} | BYTES_AS_LETTERS
GPT2_STEP = BYTES_AS_LETTERS | {"use_regex": True}


def isolated(pattern):
    """The step of transformers' TikTokenConverter."""
    how = {"behavior": "Isolated", "invert": False}
    return {"type": "Split", "pattern": {"Regex": pattern}} | how


def steps(*parts):
    """A sequence of steps."""
    return {"type": "Sequence", "pretokenizers": [*parts]}


CUTS = {
    "gpt2": GPT2_STEP,
    "smollm": steps({"type": "Digits", "individual_digits": True}, GPT2_STEP),
    "llama3": steps(isolated(CL100K), BYTES_AS_LETTERS),
    "qwen3": steps(isolated(CL100K.replace("{1,3}", "")), BYTES_AS_LETTERS),
    "gpt_oss": steps(isolated(O200K), BYTES_AS_LETTERS),
    "deepseek": steps(*map(isolated, DEEPSEEK), BYTES_AS_LETTERS),
}
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


WHOLE = in_letters(b" quux")  # a token that no merges make


@cache
def byte_vocabulary(unmet=UNMET):
    """(vocab, merges) learnt from Python's manual, after three special tokens."""
    text = REAL_TEXT.encode().translate(None, unmet).decode()
    learnt = Tokenizer.train(text, 256 + 700, GPT2_PATTERN, specials=())
    written = [in_letters(learnt.token_bytes(n)) for n in range(956)]
    tokens = [written[n] for n in range(256) if n not in unmet] + written[256:] + [WHOLE]
    merges = [(written[left], written[right]) for left, right in learnt.merges]
    return {token: len(MARKS) + n for n, token in enumerate(tokens)}, merges


def bytewise(family, unmet=b"", **changes):
    """A tokenizer.json of bytes, in the style of the family."""
    vocab, merges = byte_vocabulary(unmet)
    added = [added_token(n, mark, True) for n, mark in enumerate(MARKS)]
    n = len(MARKS) + len(vocab)
    added += [added_token(n, "<think>", False), added_token(n + 1, "</think>", False)]
    said = tables(vocab, [*map(list, merges)], added, CUTS[family], whole=family == "llama3")
    return said | changes


SPACE = "▁"
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BACK = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
AFTER_SPACES = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
WITH_SPACES = {  # (normalizer, pre_tokenizer, what the decoder does last)
    "llama2, old": ({"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, None, [STRIP]),
    "llama2, new": (None, METASPACE, [STRIP]),
    "metaspace, split": (None, METASPACE | {"prepend_scheme": "always", "split": True}, [STRIP]),
    "metaspace, never": (None, METASPACE | {"prepend_scheme": "never"}, []),
    "gemma3": (REPLACE, AFTER_SPACES, []),
}


@cache
def space_vocabulary():
    """(vocab, merges) of letters and "▁", and a token for each byte, after three special tokens."""
    made = HuggingFace(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=marks, show_progress=False)
    made.train_from_iterator(REAL_TEXT[:60_000].splitlines(), trainer)
    model = json.loads(made.to_str())["model"]
    return model["vocab"], model["merges"]


def spacewise(style, normalized=False, **changes):
    """A tokenizer.json of letters, spaces among them, in this style."""
    vocab, merges = space_vocabulary()
    change, cut, last = WITH_SPACES[style]
    marks = [("<unk>", True), ("<s>", True), ("</s>", True)]
    marks += [("<start_of_turn>", True), ("<end_of_turn>", True), ("\n\n", False), ("<b>", False)]
    ids = {**vocab, **{mark: len(vocab) + n for n, (mark, _) in enumerate(marks[3:])}}
    added = [added_token(ids[mark], mark, special) for mark, special in marks]
    said = tables(vocab, merges, [row | {"normalized": normalized} for row in added], cut)
    said["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    said |= {"normalizer": change, "decoder": {"type": "Sequence", "decoders": [*BACK, *last]}}
    return said | changes


def before(token_id, token):
    """The post-processor that puts this token before a text, as Llama 3's and Gemma's do."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, text]
    tokens = {token: {"id": token, "ids": [token_id], "tokens": [token]}}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": tokens,
    }


def hugging_faces(said):
    """Hugging Face's tokenizer of the same file."""
    return HuggingFace.from_str(json.dumps(said))
