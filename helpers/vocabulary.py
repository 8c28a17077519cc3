"""Published tokenizers as our Tokenizer: what a tokenizer.json says, done step by step.

The text becomes the very ids that the model was trained on. The steps are in `steps`, chats are
filled in by `chats`, and `translation` makes a tokenizer.json of others. Lesson 08 is the first to
use it.
"""

from collections.abc import Container, Iterable, Mapping
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

from helpers import chats
from helpers.shelves import read_json
from helpers.steps import (
    STRIP,
    Finder,
    NotKnown,
    changes,
    cuts,
    id_reader,
    joined,
    known_token,
    start_ids,
    vocab_and_joins,
)
from helpers.tokenizer import Pair, Tokenizer, role_and_content, well_formed

NO_LETTERS = range(0xFDD0, 0xFDF0)  # which Unicode keeps free for good

# ---------------------------------------------------------------- the tokenizer


class Published(Tokenizer):
    """A published tokenizer: the ids of Hugging Face's library, and chats by its own template.

    `start` are the ids that the model expects before a text, [] or one: `encode` adds none. Of a
    byte that is no token, no trace is left.
    """

    def __init__(self, said: Mapping, config: Mapping):
        """From what tokenizer.json says, and tokenizer_config.json."""
        self.said, self.config = said, config
        self.names = _names(config)
        self.vocab, self.joins = vocab_and_joins(said["model"])
        self.changes, self.cuts = changes(said.get("normalizer")), cuts(said.get("pre_tokenizer"))
        added = [known_token(token) for token in said.get("added_tokens") or []]
        self.added = {token["content"]: token["id"] for token in added}
        self.special_ids = {t["content"]: t["id"] for t in added if t["special"]}
        self.finders = self._finders(added)
        in_bytes = id_reader(said.get("decoder"))
        self.strips = STRIP in said["decoder"].get("decoders", [])
        self._tokens = {n: in_bytes(token) for token, n in self.vocab.items()}
        self._tokens |= {n: content.encode() for content, n in self.added.items()}
        self._tokens |= {n: in_bytes(changed) for changed, n in self.finders[1].ids.items()}
        _require_ids(self._tokens)
        self.vocab_size = max(self._tokens) + 1
        self.start = start_ids(said.get("post_processor"), self._id_of("bos_token"), config)
        self.whole = bool(said["model"].get("ignore_merges"))
        self.fallback = bool(said["model"].get("byte_fallback"))
        self._piece = lru_cache(2**16)(self._encode_piece)

    def _finders(self, added: list[Mapping]) -> list[Finder]:
        """Of the tokens that are found before the text is changed, and of those found after."""
        early = {token["content"]: token["id"] for token in added if not token["normalized"]}
        late = {self._changed(t["content"]): t["id"] for t in added if t["normalized"]}
        reaching = {token["content"] for token in added if token["rstrip"]}
        return [Finder(early, reaching), Finder(late, map(self._changed, reaching))]

    @property
    def merges(self) -> list[Pair]:
        """The merges (left id, right id) in order."""
        return list(self.joins)

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        """{bytes: id} of all tokens; of those that read alike, the last."""
        return {token: token_id for token_id, token in self._tokens.items()}

    # Text to ids and back

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of the text; a special token in it stays text unless `allow_special`."""
        return self._encode(well_formed(text), set() if allow_special else self._special_set)

    def encode_plainly(self, text: str) -> list[int]:
        """The same: this encoder is a plain one."""
        return self.encode(text)

    @cached_property
    def _special_set(self) -> set[int]:
        return {*self.special_ids.values()}

    def _encode(self, text: str, as_text: Container[int], guard: str = "") -> list[int]:
        """The ids; special tokens `as_text` are no tokens, nor is one with a guard in it."""
        early, late = self.finders
        ids: list[int] = []
        for place, part, token_id in early.parts(text, as_text):
            if token_id is not None:
                ids.append(token_id)
                continue
            for inner_place, inner, token_id in late.parts(self._changed(part), as_text):
                plain = inner.replace(guard, "") if guard else inner
                first = place == inner_place == 0
                ids += self._encode_plain(plain, first) if token_id is None else [token_id]
        return ids

    def _changed(self, text: str) -> str:
        for change in self.changes:
            text = change(text)
        return text

    def _encode_plain(self, text: str, first: bool) -> list[int]:
        pieces = [text]
        for cut in self.cuts:
            pieces = [part for piece in pieces for part in cut(piece, first)]
        return [token_id for piece in pieces for token_id in self._piece(piece)]

    def _encode_piece(self, piece: str) -> list[int]:
        if self.whole and piece in self.vocab:
            return [self.vocab[piece]]
        letters = (self._letter(letter) for letter in piece)
        return joined([token_id for ids in letters for token_id in ids], self.joins)

    def _letter(self, letter: str) -> list[int]:
        if letter in self.vocab:
            return [self.vocab[letter]]
        return [self.vocab[f"<0x{byte:02X}>"] for byte in letter.encode()] if self.fallback else []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 (half a character) become U+FFFD."""
        text = super().decode(ids)
        return text.removeprefix(" ") if self.strips else text

    # Chat

    def _id_of(self, name: str) -> int | None:
        token = self.names.get(name)
        return self.added.get(token, self.vocab.get(token))

    @property
    def eot(self) -> int:
        """The id that ends a text: <|endoftext|>, or what the file names for it."""
        if self._eot is None:
            raise ValueError(
                "there is no <|endoftext|>, and its tokenizer_config.json names no eos_token"
            )
        return self._eot

    @property
    def _eot(self) -> int | None:
        return self.special_ids.get("<|endoftext|>", self._id_of("eos_token"))

    @property
    def end(self) -> int:
        """The id with which a turn of the assistant ends, and so its answer."""
        return self._ends[0]

    @property
    def stops(self) -> list[int]:
        """The ids at which generation stops: the ends of a turn, and of a text."""
        ends = self._ends if self.config.get("chat_template") else []
        return sorted({*ends, *([] if self._eot is None else [self._eot])})

    @cached_property
    def _ends(self) -> list[int]:
        """The ids that end a turn of the assistant: where it is the last, and where it is not."""
        ask, answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": "273.15"}
        ends = []
        for messages in ([ask, answer], [ask, answer, ask]):
            after = self._rendered(messages).rpartition(answer["content"])[2]
            ends += [i for i in self._encode(after, ()) if i in self._special_set][:1]
        if not ends:
            raise ValueError("its chat template has no token that ends the assistant's turn")
        return ends

    def render_chat(self, messages: Iterable[Mapping[str, str]]) -> tuple[list[int], list[int]]:
        """(ids, mask) of a chat as the model's own template writes it, but for one thing:
        special strings inside a message stay text, so that nobody forges a turn.

        The mask is 1 on what the assistant adds to a prompt, to the end of its turn. ValueError if
        there is no template, or if it refuses, or writes a turn otherwise once it is answered.
        """
        messages, guard = self._guarded(messages)
        text = self._rendered(messages) if messages else ""
        ids = self._encode(text, (), guard)
        mask = [0] * len(ids)
        for n in (n for n, message in enumerate(messages) if message["role"] == "assistant"):
            prompt = self._rendered(messages[:n], answer_next=True)
            if not text.startswith(prompt):
                raise ValueError(f"its chat template does not lead up to message {n} as to a reply")
            first = _n_alike(self._encode(prompt, (), guard), ids)
            last = next((i for i in range(first, len(ids)) if ids[i] in self._ends), None)
            if last is None:
                raise ValueError(f"its chat template does not end message {n}, an answer")
            mask[first : last + 1] = [1] * (last + 1 - first)
        return ids, mask

    def chat_prompt(self, messages: Iterable[Mapping[str, str]]) -> list[int]:
        """The ids of a chat that waits for the assistant: what a model goes on from, to `end`.

        ValueError if there is no template, or no message, or if the last is not the user's.
        """
        messages, guard = self._guarded(messages)
        if not messages or messages[-1]["role"] != "user":
            raise ValueError("nobody waits for an answer: the last message must be the user's")
        return self._encode(self._rendered(messages, answer_next=True), (), guard)

    def _rendered(self, messages: chats.Messages, answer_next: bool = False) -> str:
        if not self.config.get("chat_template"):
            raise ValueError(
                "this tokenizer has no chat template: its model goes on with a text, so give it "
                "tokenizer.start + tokenizer.encode(text)"
            )
        return chats.rendered(self.config["chat_template"], messages, self.names, answer_next)

    def _guarded(self, messages: Iterable[Mapping[str, str]]) -> tuple[list[dict], str]:
        """The messages, a guard inside each special token in them, and that guard: a letter that
        no message has, and that no text should have."""
        pairs = [role_and_content(n, message) for n, message in enumerate(messages)]
        guard = next(c for c in map(chr, NO_LETTERS) if not any(c in text for _, text in pairs))
        for special in self.special_ids:
            part = special[0] + guard + special[1:]
            pairs = [(role, text.replace(special, part)) for role, text in pairs]
        return [{"role": role, "content": text} for role, text in pairs], guard

    # To files: there are steps in it that those of our own format cannot say

    def save(self, path: str | Path) -> NoReturn:
        """ValueError: weights.export writes it as a tokenizer.json."""
        raise ValueError("a published tokenizer is written as it came: use weights.export")

    def to_tiktoken(self, name: str) -> NoReturn:
        """ValueError: tiktoken knows no steps, only one pattern."""
        raise ValueError("a published tokenizer may have steps that tiktoken does not know")


def _names(config: Mapping) -> dict[str, str]:
    """The special tokens by what they are for; some files say more of one than its text."""
    names = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        token = token["content"] if isinstance(token, Mapping) else token
        if not isinstance(token, str | None):
            raise TypeError(f"its {name} is {token!r}")
        names |= {name: token} if token else {}
    return names


def _require_ids(ids: Iterable) -> None:
    for token_id in ids:
        if type(token_id) is not int or token_id < 0:
            raise ValueError(f"the id of a token is {token_id!r}")


def _n_alike(a: list[int], b: list[int]) -> int:
    """How many ids the two begin with alike."""
    return len([*takewhile(lambda pair: pair[0] == pair[1], zip(a, b))])


# ---------------------------------------------------------------- out of a folder

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
OTHERS = ("tokenizer.model", "vocab.json", "tekken.json", "spiece.model")  # older kinds


def from_folder(folder: str | Path) -> Published | None:
    """The tokenizer in a published folder, or None if it has none.

    NotKnown for a kind that is not read here, ValueError for a file that is not whole.
    """
    tables, config, template = (Path(folder) / name for name in FILES)
    if not tables.is_file():
        others = [name for name in OTHERS if (tables.parent / name).is_file()]
        if others:
            raise NotKnown(f"its tokenizer is in {others[0]}, and only tokenizer.json is read here")
        return None
    said = read_json(config) if config.is_file() else {}
    if template.is_file():
        said |= {"chat_template": template.read_text(encoding="utf-8")}
    try:
        return Published(read_json(tables), said | {"chat_template": _default(said)})
    except NotKnown as error:
        raise NotKnown(f"{tables}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{tables} was changed, or is no tokenizer ({error!r})") from None


def _default(config: Mapping) -> str | None:
    """The chat template; where there are several, the one by that name."""
    template = config.get("chat_template")
    if not isinstance(template, list):
        return template
    return next((one["template"] for one in template if one["name"] == "default"), None)
