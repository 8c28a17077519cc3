"""Byte-pair encoding: text becomes bytes, pre-tokens, pairs, merges, ids; and a chat becomes ids.

Lesson 01 builds it. Training keeps its pair counts up to date instead of counting again; encoding
goes through tiktoken, with a plain readable encoder beside it that gives the same ids. Turning
documents into tensors is not here but in `helpers.data`.
"""

from __future__ import annotations

import heapq
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from math import inf
from operator import index
from pathlib import Path

import regex
import tiktoken

Pair = tuple[int, int]

SPECIALS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
ROLES = ("system", "user", "assistant")
FORMAT, VERSION = "text-to-assistant tokenizer", 1

# Bytes: text as numbers from 0 to 255

BYTES = [bytes([byte]) for byte in range(256)]

# The order in which GPT-2 numbers the bytes: the 188 that print as themselves, then the rest.
PRINTING = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = [*PRINTING, *sorted(set(range(256)) - set(PRINTING))]
PLACE = bytes(BYTE_ORDER.index(byte) for byte in range(256))


def well_formed(text: str) -> str:
    """The text, lone surrogates replaced by U+FFFD as tiktoken does; TypeError if it is no text."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}: decode or join it first")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def printable(token: bytes) -> str:
    r"""The token for a reader: its text, with `\xc3` for half a character, `\n` for a new line."""
    text = token.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# Pre-tokens: the pieces that no merge crosses

GPT2_PATTERN = "|".join(
    (
        r"'(?:[sdmt]|ll|ve|re)",  # the ends of English contractions
        r" ?\p{L}++",  # a word, with the space before it
        r" ?\p{N}++",  # a number, however long
        r" ?[^\s\p{L}\p{N}]++",  # punctuation
        r"\s++$",  # the white space that ends the text
        r"\s+(?!\S)",  # white space but for its last character, which may go with the next word
        r"\s",
    )
)

GPT4_PATTERN = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)",
        r"[^\r\n\p{L}\p{N}]?+\p{L}++",  # a word, with the space or the sign before it
        r"\p{N}{1,3}+",  # at most three digits
        r" ?[^\s\p{L}\p{N}]++[\r\n]*+",  # punctuation, with the line ends after it
        r"\s++$",
        r"\s*[\r\n]",  # white space up to the end of a line
        r"\s+(?!\S)",
        r"\s",
    )
)


def pre_tokenize(text: str, pattern: str = GPT4_PATTERN) -> list[str]:
    """The pre-tokens of the text, in order; the course's patterns leave nothing out."""
    return [match.group() for match in regex.finditer(pattern, well_formed(text))]


# Pairs: what to merge, and merging it


def pair_counts(words: Iterable[Sequence[int]]) -> Counter[Pair]:
    """How often any two ids stand side by side: [[1, 1, 1], [1, 2]] -> {(1, 1): 2, (1, 2): 1}."""
    return Counter(pair for word in words for pair in pairwise(word))


def seniority(token_id: int) -> int:
    """How early a token came: bytes in GPT-2's order, then merges as they were learnt."""
    return PLACE[token_id] if token_id < 256 else token_id


def best_pair(counts: Mapping[Pair, int]) -> Pair:
    """The commonest pair; among equals the one whose left token came first, then the right.

    Hugging Face's trainer breaks ties like this too, so both learn the same merges.
    """
    return min(counts, key=lambda pair: (-counts[pair], *map(seniority, pair)))


def merge_pair(ids: Iterable[int], pair: Pair, new_id: int) -> list[int]:
    """The ids with each `pair`, from the left, replaced by `new_id`: 1 1 1 -> 9 1."""
    left, right = pair
    merged: list[int] = []
    for token_id in ids:
        if token_id == right and merged and merged[-1] == left:
            merged[-1] = new_id
        else:
            merged.append(token_id)
    return merged


# Merges, the slow way: count all pairs anew for each


def _room(vocab_size: int, n_specials: int = 0) -> int:
    least = 256 + n_specials
    if vocab_size < least:
        raise ValueError(f"vocab_size {vocab_size} is too small: bytes and specials need {least}")
    return vocab_size - least


def _naive_steps(text: str, pattern: str) -> Iterator[tuple[Pair, int, list[list[int]]]]:
    """Yield (pair, its count, the words after it is merged), merge by merge."""
    words = [list(piece.encode()) for piece in pre_tokenize(text, pattern)]
    new_id = 256
    while counts := pair_counts(words):
        pair = best_pair(counts)
        words = [merge_pair(word, pair, new_id) for word in words]
        yield pair, counts[pair], words
        new_id += 1


def train_naively(text: str, vocab_size: int, pattern: str = GPT4_PATTERN) -> list[Pair]:
    """The merges from 256 bytes to `vocab_size` tokens, in order; fewer if no pair is left."""
    return [pair for pair, *_ in islice(_naive_steps(text, pattern), _room(vocab_size))]


def merge_steps(text: str, n: int, pattern: str = GPT4_PATTERN) -> list[tuple]:
    """The first n merges as ((left, right), its count, the text's tokens after), all printable."""
    tokens, steps = [*BYTES], []
    for (left, right), count, words in islice(_naive_steps(text, pattern), n):
        tokens.append(tokens[left] + tokens[right])
        after = [printable(tokens[token_id]) for word in words for token_id in word]
        steps.append(((printable(tokens[left]), printable(tokens[right])), count, after))
    return steps


# Merges, the fast way: each different word once, and after a merge only its words are recounted


class PairLedger:
    """The pair counts of words, kept true while pairs are merged, and a heap to find the best.

    Its ids are seniorities (`BYTE_ORDER[id]` is the byte), so (-count, pair) sorts by the tie rule.
    """

    def __init__(self, pieces: Mapping[str, int]):
        self.words = [list(piece.encode().translate(PLACE)) for piece in pieces]
        self.repeats = list(pieces.values())
        self.counts: dict[Pair, int] = defaultdict(int)
        self.homes: dict[Pair, set[int]] = defaultdict(set)  # the words a pair stands, or stood, in
        for home, (word, repeats) in enumerate(zip(self.words, self.repeats)):
            for pair in pairwise(word):
                self.counts[pair] += repeats
                self.homes[pair].add(home)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def pop_best(self) -> Pair | None:
        """The best pair, or None when every word is one token."""
        while self.heap:
            negative, pair = heapq.heappop(self.heap)
            if self.counts[pair] == -negative:
                return pair
            if self.counts[pair] > 0:  # its count has fallen since it was put here
                heapq.heappush(self.heap, (-self.counts[pair], pair))
        return None

    def merge(self, pair: Pair, new_id: int) -> None:
        """Make each `pair` one `new_id`; only pairs with it can have become commoner."""
        grown = set()
        for home in self.homes.pop(pair):
            old, repeats = self.words[home], self.repeats[home]
            new = self.words[home] = merge_pair(old, pair, new_id)
            if len(new) == len(old):  # an earlier merge had broken the pair up
                continue
            for gone in pairwise(old):
                self.counts[gone] -= repeats
            for here in pairwise(new):
                self.counts[here] += repeats
                if new_id in here:
                    self.homes[here].add(home)
                    grown.add(here)
        for here in grown:
            heapq.heappush(self.heap, (-self.counts[here], here))


def learn_merges(pieces: Mapping[str, int], n_merges: int) -> list[Pair]:
    """The merges of pre-tokens with their counts, equal to `train_naively` on the whole text.

    No two of them spell the same token: wherever its bytes stand, they have been merged alike.
    """
    ledger, merges = PairLedger(pieces), []
    while len(merges) < n_merges and (pair := ledger.pop_best()):
        ledger.merge(pair, 256 + len(merges))
        merges.append(pair)
    ids = [*BYTE_ORDER, *range(256, 256 + len(merges))]
    return [(ids[left], ids[right]) for left, right in merges]


# Encoding by hand, and back from a vocabulary to its merges


def _join(parts: list[bytes], token: bytes) -> list[bytes]:
    """The parts with every two neighbours that spell `token`, from the left, made one."""
    joined: list[bytes] = []
    for part in parts:
        if joined and joined[-1] + part == token:
            joined[-1] = token
        else:
            joined.append(part)
    return joined


def bpe(piece: bytes, ranks: Mapping[bytes, int], limit: float = inf) -> list[bytes]:
    """The tokens of one pre-token, using only those ranked below `limit`.

    Again and again, the neighbours that spell the lowest-ranked token are joined. Time: bytes x
    different joins; a run of 100,000 spaces is quick, 100,000 letters without a space are slow.
    """
    if ranks.get(piece, limit) < limit:
        return [piece]
    parts = [BYTES[byte] for byte in piece]
    while True:
        spelt = (left + right for left, right in pairwise(parts))
        first = min(spelt, key=lambda token: ranks.get(token, inf), default=b"")
        if ranks.get(first, inf) >= limit:
            return parts
        parts = _join(parts, first)


def merges_of(ranks: Mapping[bytes, int]) -> list[Pair]:
    """The pairs behind a vocabulary, in order of rank; ValueError if a token has no pair."""
    merges = []
    for rank, token in sorted((rank, token) for token, rank in ranks.items() if len(token) > 1):
        parts = bpe(token, ranks, limit=rank)
        if len(parts) != 2:
            raise ValueError(f"token {rank}, {token!r}, is not two earlier tokens joined")
        merges.append((ranks[parts[0]], ranks[parts[1]]))
    return merges


# What callers and files hand in, checked


def _documents(texts: str | Iterable[str]) -> Iterable[str]:
    many = isinstance(texts, Iterable) and not isinstance(texts, (str, bytes))
    return texts if many else [texts]


def role_and_content(n: int, message: Mapping[str, str]) -> tuple[str, str]:
    """Those of message n; ValueError for a role that is not in ROLES, or no content."""
    if not isinstance(message, Mapping):
        raise ValueError(f"message {n} is {message!r}: it must be a dict with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"message {n} has the role {role!r}: use one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"message {n}, the {role}'s, has no text under content: give it a str")
    return role, content


def _reads(token: bytes) -> str:
    """How a token reads in a file: unlike `printable`, the same in every version of Python."""
    return token.decode("utf-8", "backslashreplace")


def _read_file(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer at {path}: train one and save it there")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not whole (cut short?): save the tokenizer again") from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{path} holds no tokenizer: give a file that Tokenizer.save wrote")
    if saved.get("version") != VERSION:
        raise ValueError(f"{path} has version {saved.get('version')}, not {VERSION}: save it again")
    return saved


def _read_ranks(saved: dict) -> dict[bytes, int]:
    """The ranks in a saved file, each merge checked against how it says it reads."""
    tokens = dict(zip(saved["byte_ids"], BYTES))
    for token_id, left, right, reads in saved["merges"]:
        tokens[token_id] = tokens[left] + tokens[right]
        if _reads(tokens[token_id]) != reads:
            raise ValueError(f"merge {token_id} does not read {reads!r}")
    ranks = {token: token_id for token_id, token in tokens.items()}
    if len(ranks) != 256 + saved["n_merges"]:
        raise ValueError(f"it has {len(ranks)} tokens, not {256 + saved['n_merges']}")
    return ranks


# The tokenizer


class Tokenizer:
    """Text to ids and back: ids 0 to 255 are the bytes, then one per merge, then the specials.

    `ranks` (bytes -> id) is the core; `special_ids` (str -> id); `vocab_size`, the highest id + 1.
    """

    def __init__(
        self,
        merges: Iterable[Pair],
        pattern: str = GPT4_PATTERN,
        specials: Sequence[str] = SPECIALS,
    ):
        tokens = [*BYTES]
        self.merges = [(left, right) for left, right in merges]
        for left, right in self.merges:
            if not 0 <= min(left, right) <= max(left, right) < len(tokens):
                raise ValueError(f"merge {left, right} joins an id that no earlier merge has made")
            tokens.append(tokens[left] + tokens[right])
        if len(set(tokens)) < len(tokens):
            raise ValueError("two merges spell the same token: leave the second out")
        if len(set(specials)) < len(specials) or "" in specials:
            raise ValueError(f"specials must be different and not empty: not {specials}")
        special_ids = {special: len(tokens) + n for n, special in enumerate(specials)}
        ranks = {token: token_id for token_id, token in enumerate(tokens)}
        self._hold(ranks, special_ids, pattern)

    def _hold(self, ranks: dict[bytes, int], special_ids: dict[str, int], pattern: str) -> None:
        self.ranks, self.special_ids, self.pattern = ranks, special_ids, pattern
        self._tokens = {token_id: token for token, token_id in ranks.items()}
        self._tokens |= {token_id: special.encode() for special, token_id in special_ids.items()}
        self.vocab_size = max(self._tokens) + 1
        ids = {*ranks.values()}
        if len(ids) < len(ranks) or ids & {*special_ids.values()}:  # specials may have two names
            raise ValueError("two tokens have the same id: give each its own")
        if missing := set(BYTES) - set(ranks):
            raise ValueError(f"no token is the byte {min(missing)!r} alone: all 256 are needed")

    @classmethod
    def _from_ranks(cls, ranks, special_ids, pattern) -> Tokenizer:
        tokenizer = cls.__new__(cls)
        tokenizer._hold(dict(ranks), dict(special_ids), pattern)
        return tokenizer

    @classmethod
    def train(
        cls,
        text_or_documents: str | Iterable[str],
        vocab_size: int,
        pattern: str = GPT4_PATTERN,
        specials: Sequence[str] = SPECIALS,
    ) -> Tokenizer:
        """A tokenizer learnt from a text, or from documents, which no token crosses.

        `vocab_size` counts bytes, merges and specials; where the text runs out of pairs first, the
        tokenizer is smaller, as its own `vocab_size` says. ValueError if that is too small for
        bytes and specials, or if there is no text.
        """
        n_merges = _room(vocab_size, len(specials))
        pieces: Counter[str] = Counter()
        for text in _documents(text_or_documents):
            pieces.update(pre_tokenize(text, pattern))
        if not pieces:
            raise ValueError("the corpus is empty: give at least one document with text in it")
        return cls(learn_merges(pieces, n_merges), pattern, specials)

    def __repr__(self) -> str:
        return f"<Tokenizer of {self.vocab_size} ids, {len(self.special_ids)} of them special>"

    @cached_property
    def merges(self) -> list[Pair]:
        """The merges (left id, right id) in order; of a foreign vocabulary, worked out from it."""
        return merges_of(self.ranks)

    @property
    def eot(self) -> int:
        """The id of <|endoftext|>."""
        return self._special("<|endoftext|>")

    @property
    def end(self) -> int:
        """The id of <|end|>, with which a turn of a chat ends."""
        return self._special("<|end|>")

    def _special(self, name: str) -> int:
        if name not in self.special_ids:
            raise ValueError(f"this tokenizer has no {name}: train it with specials=SPECIALS")
        return self.special_ids[name]

    # Text to ids and back

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return self.to_tiktoken("ours")

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of the text; `<|end|>` in it stays text unless `allow_special`.

        A lone surrogate is read as U+FFFD. Where tiktoken's search gives up, on a million spaces in
        a row, the plain encoder steps in; it knows no specials, so with them it is a ValueError.
        """
        text, encoding = well_formed(text), self._encoding
        allowed = "all" if allow_special else set()
        try:
            return encoding.encode(text, allowed_special=allowed, disallowed_special=())
        except ValueError:
            if allow_special:
                raise ValueError(
                    "the text has too long a run of one character: cut it up"
                ) from None
            return self.encode_plainly(text)

    def encode_plainly(self, text: str) -> list[int]:
        """The ids that `encode` gives, by the rule written out in `bpe`.

        What a letter is, `encode` asks tiktoken and this the regex module: they may differ on
        characters that have come to Unicode since one of the two was made.
        """
        pieces = pre_tokenize(text, self.pattern)
        return [self.ranks[token] for piece in pieces for token in bpe(piece.encode(), self.ranks)]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in _documents(texts)]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; ValueError for an id that is not in the vocabulary."""
        try:
            return self._tokens[index(token_id)]
        except (KeyError, TypeError):
            last = self.vocab_size - 1
            raise ValueError(f"{token_id!r} is no id of this vocabulary (0 to {last})") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 (half a character) become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def tokens(self, text: str) -> list[str]:
        """The text's tokens as printable pieces."""
        return [printable(self.token_bytes(token_id)) for token_id in self.encode(text)]

    # Chat

    def render_chat(self, messages: Iterable[Mapping[str, str]]) -> tuple[list[int], list[int]]:
        """(ids, mask) of a chat, `<|user|>...<|end|><|assistant|>...<|end|>`.

        The mask is 1 on what is learnt: the assistant's content and its `<|end|>`. Special strings
        inside a message stay text, so that nobody forges a turn. ValueError for a message whose
        role is not in ROLES, or that has no content.
        """
        ids: list[int] = []
        mask: list[int] = []
        for n, message in enumerate(messages):
            turn, learnt = self._turn(*role_and_content(n, message))
            ids += turn
            mask += learnt
        return ids, mask

    def _turn(self, role: str, content: str) -> tuple[list[int], list[int]]:
        said = [*self.encode(content), self.end]
        return [self._special(f"<|{role}|>"), *said], [0, *[int(role == "assistant")] * len(said)]

    def _invitation(self) -> list[int]:
        return [self._special("<|assistant|>")]

    def chat_prompt(self, messages: Iterable[Mapping[str, str]]) -> list[int]:
        """The ids of a chat that waits for the assistant: what a model goes on from, to `<|end|>`.

        ValueError if there is no message, or if the last one is not the user's.
        """
        messages = list(messages)
        ids, _ = self.render_chat(messages)
        if not messages or messages[-1]["role"] != "user":
            raise ValueError("nobody waits for an answer: the last message must be the user's")
        return [*ids, *self._invitation()]

    # To and from tiktoken and files

    def to_tiktoken(self, name: str) -> tiktoken.Encoding:
        """The same vocabulary, pattern and specials as a tiktoken Encoding."""
        return tiktoken.Encoding(
            name,
            pat_str=self.pattern,
            mergeable_ranks=self.ranks,
            special_tokens=self.special_ids,
        )

    @classmethod
    def from_tiktoken(cls, encoding: tiktoken.Encoding) -> Tokenizer:
        """The same vocabulary as a Tokenizer, all ids as they are there (in GPT-2 "!" is id 0)."""
        ranks, special_ids = encoding._mergeable_ranks, encoding._special_tokens
        return cls._from_ranks(ranks, special_ids, encoding._pat_str)

    def save(self, path: str | Path) -> None:
        """Write one JSON file, with a line for each merge: its id, left, right and how it reads.

        It is written under a temporary name and renamed: there is never half a file at `path`.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent}: make it, then save again")
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            temporary.write_text(self._as_json(), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _as_json(self) -> str:
        head = {
            "format": FORMAT,
            "version": VERSION,
            "pattern": self.pattern,
            "special_ids": self.special_ids,
            "byte_ids": [self.ranks[byte] for byte in BYTES],
            "n_merges": len(self.merges),
        }
        lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
        rows = [json.dumps(self._row(pair), ensure_ascii=False) for pair in self.merges]
        return "{\n" + ",\n".join(lines) + ',\n"merges": [\n' + ",\n".join(rows) + "\n]}\n"

    def _row(self, pair: Pair) -> tuple[int, int, int, str]:
        token = self._tokens[pair[0]] + self._tokens[pair[1]]
        return self.ranks[token], *pair, _reads(token)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer that `save` wrote; ValueError if it is cut short or contradicts itself."""
        saved = _read_file(Path(path))
        try:
            tokenizer = cls._from_ranks(_read_ranks(saved), saved["special_ids"], saved["pattern"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} was changed ({error}): save the tokenizer again") from None
        tokenizer.merges = [(left, right) for _, left, right, _ in saved["merges"]]
        return tokenizer
