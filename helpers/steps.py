"""The steps by which published tokenizers make ids of a text, as their tokenizer.json names them.

A step is read from its table and becomes a small function; one that is not known here is refused by
name, since with a step left out the ids would be wrong and nobody would see it. `vocabulary` puts
the steps together; lesson 08 is the first to use them.
"""

import heapq
import json
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from itertools import takewhile

import regex

from helpers.tokenizer import BYTE_ORDER, BYTES, PRINTING, Pair

Joins = Mapping[Pair, tuple[int, int]]  # (left id, right id): its rank, the id of both together


class NotKnown(ValueError):
    """A whole tokenizer of a kind that is not read here, and what that is, in one sentence."""


def require_known(part: str, value, *known) -> None:
    """NotKnown unless the part of the tokenizer says one of what is known here."""
    if value not in known:
        choices = " or ".join(map(repr, known))
        raise NotKnown(f"its tokenizer has {part} = {value!r}, and known here is {choices}")


# ---------------------------------------------------------------- letters

# GPT-2 writes a byte as a letter: those that print as themselves, the rest from chr(256) on.
LETTERS = [chr(byte) for byte in PRINTING] + [chr(256 + n) for n in range(256 - len(PRINTING))]
BYTE_OF = dict(zip(LETTERS, BYTE_ORDER))
LETTER_OF = dict(zip(BYTE_ORDER, LETTERS))


def in_letters(content: bytes) -> str:
    """b" a" -> "Ġa"."""
    return content.decode("latin-1").translate(LETTER_OF)


def spelt(token: str) -> bytes:
    """The bytes of a token in GPT-2's letters: "Ġa" -> b" a"; ValueError for another letter."""
    try:
        return bytes([BYTE_OF[letter] for letter in token])
    except KeyError as error:
        raise ValueError(f"the token {token!r} has {error.args[0]!r}, which is no byte") from None


SPACE = "▁"  # which SentencePiece (arXiv:1808.06226) writes for a space
BYTE_TOKENS = {f"<0x{byte[0]:02X}>": byte for byte in BYTES}


# ---------------------------------------------------------------- before the pieces

Change = Callable[[str], str]


def changes(said: dict | None) -> list[Change]:
    """What is done to a text before it is cut up, step by step: its "normalizer"."""
    match said:
        case None:
            return []
        case {"type": "Sequence", "normalizers": parts}:
            return [change for part in parts for change in changes(part)]
        case {"type": "NFC"}:
            return [lambda text: unicodedata.normalize("NFC", text)]
        case {"type": "Prepend", "prepend": str(start)}:
            return [lambda text: text and start + text]
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            return [lambda text: text.replace(old, new)]
    raise NotKnown(f"its tokenizer changes the text by {_brief(said)}, which is not known here")


def _brief(said) -> str:
    """What a file says, on one line that is not too long."""
    text = json.dumps(said, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


# ---------------------------------------------------------------- pieces

Cut = Callable[[str, bool], list[str]]  # a text, and whether all begins here -> its pieces

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SPLITS = {  # the patterns of published files, each with the first who used it
    "Llama 3": rf"{ENDINGS}|{WORD}\p{{L}}+|\p{{N}}{{1,3}}|{REST}",
    "Qwen2": rf"{ENDINGS}|{WORD}\p{{L}}+|\p{{N}}|{REST}",
    "GPT-4o": rf"{WORD}{UPPER}*{LOWER}+{ENDINGS}?|{WORD}{UPPER}+{LOWER}*{ENDINGS}?"
    rf"|\p{{N}}{{1,3}}|{REST.replace('n]*', 'n/]*')}",
    "DeepSeek-V3, numbers": r"\p{N}{1,3}",
    "DeepSeek-V3, Chinese and Japanese": "[一-龥぀-ゟ゠-ヿ]+",
    "DeepSeek-V3, the rest": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Our own GPT4_PATTERN. Elsewhere $ may end a line, and {1,3}+ may mean once or more of {1,3}.
    "this course": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s",
}


def cuts(said: dict | None) -> list[Cut]:
    """How a text is cut into pieces, step by step: its "pre_tokenizer"."""
    match said:
        case None:
            return []
        case {"type": "Sequence", "pretokenizers": parts}:
            return [cut for part in parts for cut in cuts(part)]
        case {"type": "Split"}:
            return [_split(said)]
        case {"type": "Digits", "individual_digits": bool(alone)}:
            return [isolated(r"\p{N}" if alone else r"\p{N}+")]
        case {"type": "Metaspace"}:
            return [_metaspace(said)]
        case {"type": "ByteLevel", "add_prefix_space": False}:
            byte_by_byte = [lambda text, first: [in_letters(text.encode())]]
            return [isolated(GPT2), *byte_by_byte] if said.get("use_regex", True) else byte_by_byte
    raise NotKnown(f"its tokenizer cuts the text by {_brief(said)}, which is not known here")


def isolated(pattern: str) -> Cut:
    """Each match is a piece, and so is what stands between two of them."""
    found = regex.compile(f"({pattern})")
    return lambda text, first: [piece for piece in found.split(text) if piece]


def _split(said: dict) -> Cut:
    match said:
        case {"pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
            if pattern in SPLITS.values():
                return isolated(pattern)
        case {"pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}:
            return _split(said | {"behavior": "Isolated", "invert": False})  # nothing is between
        case {"pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}:
            return lambda text, first: regex.findall("[^ ]* |[^ ]+", text)
    raise NotKnown(f"its tokenizer cuts the text by {_brief(said)}, which is not known here")


def _metaspace(said: dict) -> Cut:
    """Spaces become "▁", one more stands before the text, and each may begin a piece."""
    scheme, apart = said.get("prepend_scheme", "always"), said.get("split", True)
    require_known("prepend_scheme", scheme, "always", "first", "never")
    require_known("replacement", said.get("replacement"), SPACE)

    def cut(text: str, first: bool) -> list[str]:
        text = text.replace(" ", SPACE)
        if not text.startswith(SPACE) and (scheme == "always" or (scheme == "first" and first)):
            text = SPACE + text
        return regex.findall(f"{SPACE}[^{SPACE}]*|[^{SPACE}]+", text) if apart else [text]

    return cut


# ---------------------------------------------------------------- joining


def joined(ids: Iterable[int], joins: Joins) -> list[int]:
    """The ids of one piece after all its joins: of those possible the first by rank, then by place.

    As in Hugging Face's library, whatever the order of ranks; time: n log n.
    """
    ids = [*ids]
    end, before, after = len(ids), [*range(-1, len(ids))], [*range(1, len(ids) + 1)]
    queue: list[tuple[int, int, int]] = []

    def put(left: int) -> None:
        if left >= 0 and after[left] < end and (ids[left], ids[after[left]]) in joins:
            rank, both = joins[ids[left], ids[after[left]]]
            heapq.heappush(queue, (rank, left, both))

    for left in range(end):
        put(left)
    while queue:
        _, left, both = heapq.heappop(queue)
        right = after[left]
        if right == end or joins.get((ids[left], ids[right]), (0, None))[1] != both:
            continue  # one of the two has gone into another token
        ids[left], ids[right] = both, None
        after[left], before[after[right]] = after[right], left
        put(before[left])
        put(left)
    return [token_id for token_id in ids if token_id is not None]


# ---------------------------------------------------------------- added tokens


WHITE_SPACE = r"[^\S\x1c-\x1f]*"  # to Python, four letters more are white space


class Finder:
    """Finds the added tokens in a text: of those that begin first, the longest."""

    def __init__(self, ids: Mapping[str, int], reaching: Iterable[str] = ()):
        """`reaching` are those that take the white space after them with them."""
        ends = dict.fromkeys(reaching, WHITE_SPACE)
        longest_first = sorted(ids, key=len, reverse=True)
        self.ids = ids
        self.found = re.compile("|".join(re.escape(t) + ends.get(t, "") for t in longest_first))

    def parts(self, text: str, but_not: Container[int]) -> Iterator[tuple[int, str, int | None]]:
        """(place, part, its id or None if it is text), front to back; tokens `but_not` are text."""
        done = 0
        for match in self.found.finditer(text) if self.ids else ():
            token_id = self.ids.get(match[0], self.ids.get(match[0].rstrip()))
            if token_id not in but_not:
                if done < match.start():
                    yield done, text[done : match.start()], None
                yield match.start(), match[0], token_id
                done = match.end()
        if done < len(text):
            yield done, text[done:], None


def known_token(said: Mapping) -> Mapping:
    """The same, if it is matched as here; ValueError if it has no text."""
    if not isinstance(said["content"], str) or not said["content"]:
        raise ValueError(f"an added token is {said['content']!r}")
    for name in ("lstrip", "single_word"):
        require_known(f"{name} of the token {said['content']!r}", said[name], False)
    return said


# ---------------------------------------------------------------- parts of tokenizer.json


def vocab_and_joins(model: Mapping) -> tuple[dict[str, int], Joins]:
    """The tokens as they are spelt, and what becomes of two neighbours."""
    require_known("model type", model.get("type", "BPE"), "BPE")
    require_known("dropout", model.get("dropout"), None)
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        require_known(name, model.get(name), None, "")
    vocab, joins = dict(model["vocab"]), {}
    if model.get("byte_fallback"):
        _require_tokens(vocab, BYTE_TOKENS, "every byte")
    elif model.get("unk_token") is not None:
        _require_tokens(vocab, LETTERS, "every byte, and so uses unk_token")
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        joins[vocab[left], vocab[right]] = rank, vocab[left + right]
    return vocab, joins


def _require_tokens(vocab: Mapping, tokens: Iterable[str], what: str) -> None:
    if not vocab.keys() >= {*tokens}:
        raise NotKnown(f"its tokenizer has no token for {what}, which is not known here")


STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPACES = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
BY_SPACES = [SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]


def id_reader(said: Mapping | None) -> Callable[[str], bytes]:
    """What gives the bytes of a token: its "decoder"."""
    match said:
        case {"type": "ByteLevel"}:
            return _from_letters
        case {"type": "Sequence", "decoders": parts} if parts in (BY_SPACES, [*BY_SPACES, STRIP]):
            return lambda token: BYTE_TOKENS.get(token) or token.replace(SPACE, " ").encode()
    raise NotKnown(f"its tokenizer decodes by {_brief(said)}, which is not known here")


def _from_letters(token: str) -> bytes:
    try:
        return spelt(token)
    except ValueError:
        return token.encode()


def start_ids(said: Mapping | None, bos: int | None, config: Mapping) -> list[int]:
    """The ids before a text: of its "post_processor", or as tokenizer_config.json says."""
    for part in (said or {}).get("processors", [said]):
        match part:
            case None | {"type": "ByteLevel"}:
                pass
            case {"type": "TemplateProcessing", "single": single, "special_tokens": tokens}:
                before = takewhile(lambda item: "SpecialToken" in item, single)
                names = [item["SpecialToken"]["id"] for item in before]
                return [token_id for name in names for token_id in tokens[name]["ids"]]
            case _:
                raise NotKnown(f"its tokenizer ends with {_brief(part)}, which is not known here")
    return [bos] if config.get("add_bos_token") and bos is not None else []
