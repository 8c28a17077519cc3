"""Published vocabularies as our Tokenizer: tokens in printing letters, merges, chats in ChatML.

The text of a chat becomes the very ids that the model was trained on, so what a published tokenizer
does with a byte it has never met, or with the digits of a number, is done here, too. Lesson 08 is
the first to use it.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise, takewhile

import regex

from helpers.tokenizer import (
    BYTE_ORDER,
    GPT2_PATTERN,
    PRINTING,
    Pair,
    Tokenizer,
    bpe,
    pre_tokenize,
    well_formed,
)

# ---------------------------------------------------------------- letters and patterns

# GPT-2 writes a byte as a letter: those that print as themselves, the rest from chr(256) on.
LETTERS = [chr(byte) for byte in PRINTING] + [chr(256 + n) for n in range(256 - len(PRINTING))]
BYTE_OF = dict(zip(LETTERS, BYTE_ORDER))


def spelt(token: str) -> bytes:
    """The bytes of a token in GPT-2's letters: "Ġa" -> b" a"; ValueError for another letter."""
    try:
        return bytes([BYTE_OF[letter] for letter in token])
    except KeyError as error:
        raise ValueError(f"the token {token!r} has {error.args[0]!r}, which is no byte") from None


# SmolLM first cuts every digit out, then GPT-2's pattern cuts the pieces. In one pattern: a digit
# stands alone, and white space before one is not parted, since there its piece ends.
SMOLLM_PATTERN = GPT2_PATTERN.replace(r" ?\p{N}++", r"\p{N}")
SMOLLM_PATTERN = SMOLLM_PATTERN.replace(r"\s+(?!\S)", r"\s+(?![^\s\p{N}])")
PATTERNS = {"gpt-2": GPT2_PATTERN, "smollm": SMOLLM_PATTERN}

# ---------------------------------------------------------------- the tokenizer


class ChatML(Tokenizer):
    """A published tokenizer whose chats are `<|im_start|>user\\n...<|im_end|>\\n`.

    `system` is what stands first in a chat that has no system message of its own, or None. Bytes
    that are no token leave no trace in the ids, as with Hugging Face's library.
    """

    system: str | None = None

    def _hold(self, ranks: dict[bytes, int], special_ids: dict[str, int], pattern: str) -> None:
        self.gaps = bytes(byte for byte in range(256) if bytes([byte]) not in ranks)
        n = max([*ranks.values(), *special_ids.values()], default=-1) + 1
        stand_ins = {bytes([byte]): n + i for i, byte in enumerate(self.gaps)}  # for tiktoken
        super()._hold(ranks | stand_ins, special_ids, pattern)
        self.vocab_size = n

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of the text; `<|im_end|>` in it stays text unless `allow_special`."""
        if allow_special:
            return self._encode_with_specials(well_formed(text))
        ids = super().encode(text)
        return ids if max(ids, default=0) < self.vocab_size else self.encode_plainly(text)

    def _encode_with_specials(self, text: str) -> list[int]:
        specials = "|".join(map(regex.escape, self.special_ids))
        ids: list[int] = []
        for n, part in enumerate(regex.split(f"({specials})", text)):
            ids += [self.special_ids[part]] if n % 2 else self.encode(part)
        return ids

    def encode_plainly(self, text: str) -> list[int]:
        """The ids that `encode` gives; what stands around a byte that is no token may merge."""
        pieces = [piece.encode() for piece in pre_tokenize(text, self.pattern)]
        known = (piece.translate(None, self.gaps) for piece in pieces)
        return [self.ranks[token] for piece in known for token in bpe(piece, self.ranks)]

    # Chat

    @property
    def end(self) -> int:
        """The id of <|im_end|>, which ends a turn."""
        return self._special("<|im_end|>")

    def render_chat(self, messages: Iterable[Mapping[str, str]]) -> tuple[list[int], list[int]]:
        """(ids, mask) of a chat as the model's own template writes it, but for one thing:
        special strings inside a message stay text, so that nobody forges a turn.

        The mask is 1 on the assistant's content and its `<|im_end|>`.
        """
        messages = list(messages)
        ids, mask = super().render_chat(messages)
        if not messages or messages[0]["role"] == "system" or self.system is None:
            return ids, mask
        opening, learnt = self._turn("system", self.system)
        return opening + ids, learnt + mask

    def _turn(self, role: str, content: str) -> tuple[list[int], list[int]]:
        said = self.encode(f"{role}\n{content}")
        head = self.encode(f"{role}\n")
        n_head = len([*takewhile(lambda pair: pair[0] == pair[1], zip(said, head))])
        line_end = self.encode("\n")
        learnt = [int(role == "assistant")] * (len(said) - n_head + 1)
        ids = [self._special("<|im_start|>"), *said, self.end, *line_end]
        return ids, [0, *[0] * n_head, *learnt, *[0] * len(line_end)]

    def _invitation(self) -> list[int]:
        return [self._special("<|im_start|>"), *self.encode("assistant\n")]


# ---------------------------------------------------------------- out of a GGUF file

NORMAL, SPECIAL = 1, (3, 4)  # ggml's types of tokens: a usual one; one for control, one added
DEFAULT_SYSTEM = regex.compile(r"<\|im_start\|>system\n(.*?)<\|im_end\|>")


def from_metadata(metadata: Mapping) -> ChatML:
    """The tokenizer that a GGUF file's metadata describe; ValueError for what is not known here."""
    said = {name: metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre")}
    if said["model"] != "gpt2" or said["pre"] not in PATTERNS:
        raise ValueError(
            f"its tokenizer is {said['model']!r} with the pre-tokenizer {said['pre']!r}, and known "
            f"here is 'gpt2' with {' or '.join(map(repr, PATTERNS))}"
        )
    template = metadata.get("tokenizer.chat_template") or ""
    ranks, special_ids = _tokens(*_lists(metadata, tokens=str, token_type=int))
    if not all(mark in template and mark in special_ids for mark in ("<|im_start|>", "<|im_end|>")):
        raise ValueError("its chats are not in ChatML, and no other template is known here")
    tokenizer = ChatML._from_ranks(ranks, special_ids, PATTERNS[said["pre"]])
    tokenizer.merges = _merges(*_lists(metadata, merges=str), ranks)
    found = DEFAULT_SYSTEM.search(template)
    tokenizer.system = found and found[1]
    return tokenizer


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


def _tokens(tokens: list[str], types: list[int]) -> tuple[dict[bytes, int], dict[str, int]]:
    """({bytes: id} of the usual tokens, {text: id} of the special ones)."""
    unknown = {*types} - {NORMAL, *SPECIAL}
    if unknown:
        raise ValueError(f"it has tokens of the type {min(unknown)}, which is not known here")
    both = list(enumerate(zip(tokens, types)))
    ranks = {spelt(token): token_id for token_id, (token, kind) in both if kind == NORMAL}
    return ranks, {token: token_id for token_id, (token, kind) in both if kind in SPECIAL}


def _merges(merges: list[str], ranks: dict[bytes, int]) -> list[Pair]:
    """The merges as pairs of ids; ValueError unless they come in the order of what they make.

    tiktoken joins what makes the token of the lowest id, so ids must be numbered merge by merge.
    """
    pairs = [tuple(map(spelt, merge.split(" "))) for merge in merges]
    made = [ranks.get(b"".join(pair), -1) for pair in pairs]
    in_order = all(earlier < later for earlier, later in pairwise([-1, *made]))
    if not in_order or not all(len(pair) == 2 and ranks.keys() >= {*pair} for pair in pairs):
        raise ValueError("its merges are not two tokens each, in the order of what they make")
    return [(ranks[left], ranks[right]) for left, right in pairs]
