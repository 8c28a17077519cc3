"""From token ids to training examples: windows over one long row, batches, rows of documents.

What comes out has shape (B, T), with every target one place to the right of its input. Reading text
is in `sources`, making ids in `tokenizer`, training in `train`. Lesson 02 builds all of it by hand.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IGNORED = -100  # a target with this value costs nothing: torch's cross_entropy skips it
NO_DOCUMENT = -1  # the document number of padding


# ---------------------------------------------------------------- one long row of tokens


def count_windows(n_tokens: int, T: int, stride: int) -> int:
    """How many windows fit: each needs T inputs and one more token, the last target."""
    return max(0, (n_tokens - T - 1) // stride + 1)


def windows(tokens: Tensor, T: int, stride: int | None = None) -> tuple[Tensor, Tensor]:
    """(inputs, targets), (N, T) each: views of `tokens`, nothing is copied. `stride` None means T.

    Tokens after the last whole window are left out. ValueError if not one window fits.
    """
    stride = T if stride is None else stride
    tokens = torch.as_tensor(tokens)
    _require_a_window(tokens, T, stride)
    both = tokens.unfold(0, T + 1, stride)  # (N, T+1)
    return both[:, :-1], both[:, 1:]


class Endless:
    """Batches without an end, whose state is a count.

    Batch k depends only on the seed and on k. So no random generator has to be saved: plain
    numbers, which any file format can hold. A subclass says what comes `next`, what its `_shape` is
    that a saved state must fit, and how an epoch is `_shuffled`.
    """

    seed: int
    n_given = 0  # batches so far
    _epoch = _order = None  # what was shuffled last: (seed, epoch), and the order that came out

    def __iter__(self):
        while True:
            yield self.next()

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on with exactly the batch that would come next."""
        return {"n_given": self.n_given, "seed": self.seed, **self._shape()}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from `state`, its seed included. ValueError if it comes from other batches."""
        for name, here in self._shape().items():
            if state.get(name) != here:
                raise ValueError(
                    f"the saved batches had {name} = {state.get(name)}, these have {here}: "
                    f"make {type(self).__name__} with the saved values to go on"
                )
        self.n_given, self.seed = state["n_given"], state["seed"]

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._epoch != (self.seed, epoch):
            self._epoch = self.seed, epoch
            self._order = self._shuffled(np.random.default_rng(self._epoch))
        return self._order


class Batches(Endless):
    """Endless batches (inputs, targets), (B, T) int64, from one row of tokens (tensor or memmap).

    Without a stride every window starts at a random place. With one, every window of that stride
    comes once per epoch, in a new order each time; a batch may end one epoch and begin the next.
    """

    def __init__(self, tokens, B: int, T: int, seed: int = 0, stride: int | None = None):
        self.tokens = np.asarray(tokens)  # the same memory; a memmap stays on disk
        step = 1 if stride is None else stride  # a random place is any window of stride 1
        _require_a_window(self.tokens, T, step)
        if B < 1:
            raise ValueError(f"B is {B}: a batch needs at least one sequence")
        self.B, self.T, self.seed, self.stride = B, T, seed, stride
        self.n_windows = count_windows(len(self.tokens), T, step)

    def next(self) -> tuple[Tensor, Tensor]:
        """The next (inputs, targets), each (B, T) int64."""
        starts = self._random_starts() if self.stride is None else self._shuffled_starts()  # (B,)
        self.n_given += 1
        places = starts[:, None] + np.arange(self.T + 1)  # (B, T+1)
        both = torch.from_numpy(self.tokens[places].astype(np.int64))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def _random_starts(self) -> np.ndarray:
        rng = np.random.default_rng((self.seed, self.n_given))
        return rng.integers(self.n_windows, size=self.B)

    def _shuffled_starts(self) -> np.ndarray:
        places = np.arange(self.n_given * self.B, (self.n_given + 1) * self.B)
        epochs, places = np.divmod(places, self.n_windows)
        parts = [self._order_of(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts) * self.stride

    def _shuffled(self, rng) -> np.ndarray:
        return rng.permutation(self.n_windows)

    def _shape(self) -> dict:
        return {"n_tokens": len(self.tokens), "B": self.B, "T": self.T, "stride": self.stride}


def _require_a_window(tokens, T: int, stride: int) -> None:
    if tokens.ndim != 1:
        shape = tuple(tokens.shape)
        raise ValueError(f"tokens have shape {shape}: give one row of ids, for example flattened")
    if "float" in str(tokens.dtype):
        raise ValueError(f"tokens are {tokens.dtype}: ids are whole numbers, convert them first")
    if T < 1:
        raise ValueError(f"T is {T}: a window needs at least one position")
    if stride < 1:
        raise ValueError(f"stride is {stride}: each window must start at least one token further")
    if len(tokens) < T + 1:
        raise ValueError(
            f"the text has {len(tokens)} tokens, one window needs {T + 1}: T = {T} inputs and one "
            "more token for the last target; take a longer text or a smaller T"
        )


# ---------------------------------------------------------------- token files


def write_tokens(file: str | Path, documents: Iterable[str], tokenizer) -> int:
    """Writes the documents' ids, each document ended, as one row into a .npy file; how many.

    16 bits per id where the vocabulary allows it, else 32. The file is written whole or not at all.
    """
    file, eot = Path(file), tokenizer.eot
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    parts = [np.array([*tokenizer.encode(text), eot], dtype) for text in documents if text]
    if not parts:
        raise ValueError("there are no documents: give at least one text")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {file.parent}: make it, then write again")
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as opened:
            np.save(opened, np.concatenate(parts))
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return sum(map(len, parts))


def read_tokens(file: str | Path) -> np.ndarray:
    """The row of ids in a .npy file, still on disk: `Batches` reads the windows that it draws."""
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: make it with write_tokens")
    try:
        tokens = np.lib.format.open_memmap(file, mode="r")
    except ValueError as error:
        raise ValueError(f"{file} is cut short or no .npy file ({error})") from None
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"{file} holds {tokens.dtype} {tokens.shape}, not one row of whole numbers"
        )
    return tokens


# ---------------------------------------------------------------- documents


def split(documents: list[str], val_fraction: float = 0.1, seed: int = 0) -> tuple[list, list]:
    """(train, val): whole documents, about `val_fraction` of them in val, at least one in each.

    Always the same for the same documents and seed, in whatever order they come. A document that
    occurs twice goes to one side with all its copies, so nothing in val was ever trained on.
    """
    _require_documents(documents)
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}: it must lie between 0 and 1")
    different = sorted(set(documents), key=lambda document: _lot(seed, document))
    if len(different) < 2:
        raise ValueError("all documents are the same one: a split needs at least two different")
    n_val = min(max(1, round(val_fraction * len(different))), len(different) - 1)
    held_out = set(different[:n_val])
    train = [document for document in documents if document not in held_out]
    val = [document for document in documents if document in held_out]
    return train, val


def _lot(seed: int, document: str) -> bytes:
    """A number drawn for this text alone: the same on every machine, and for every copy of it."""
    return sha256(f"{seed} {document}".encode(errors="surrogatepass")).digest()


def encode(documents: list[str], tokenizer) -> Tensor:
    """One row of ids, 1-D int64: the documents joined, each ended with <|endoftext|>."""
    _require_documents(documents)
    ids = [id for document in documents for id in [*tokenizer.encode(document), tokenizer.eot]]
    return torch.tensor(ids)


# In rows and packs a document *begins* after an <|endoftext|>, so that its first token is predicted
# too, and its end is the last thing predicted: n tokens make n + 1 targets.


def rows(documents: list[str], tokenizer, T: int) -> tuple[Tensor, Tensor]:
    """(inputs, targets), (N, T) int64: one document per row, padded; targets are -100 on padding.

    A document of T tokens or more is cut; `count_cut(targets, tokenizer)` says how many were.
    """
    _require_documents(documents)
    _require_positions(T)
    inputs = torch.full((len(documents), T), tokenizer.eot)
    targets = torch.full((len(documents), T), IGNORED)
    for i, document in enumerate(documents):
        ids = tokenizer.encode(document)
        _fill(inputs[i], [tokenizer.eot, *ids])
        _fill(targets[i], [*ids, tokenizer.eot])
    return inputs, targets


def count_cut(targets: Tensor, tokenizer) -> int:
    """How many rows were cut: those in which the document's end is never a target."""
    return int((targets != tokenizer.eot).all(dim=1).sum())


POOL = 16  # batches of rows are made of so many batches' rows at a time, sorted by length


class RowBatches(Endless):
    """Endless batches (inputs, targets), (B, longest) int64, from rows (N, T) as `rows` makes them.

    Rows of similar length come together, and a batch is cut after its last target: so little is
    computed for padding. A row comes once per epoch; N % B of them, drawn anew, are left out.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, B: int, seed: int = 0):
        _require_rows(inputs, targets)
        if not 0 < B <= len(inputs):
            raise ValueError(f"B is {B}, and there are {len(inputs)} rows: take B from 1 to N")
        self.inputs, self.targets, self.B, self.seed = inputs, targets, B, seed
        self.lengths = row_lengths(targets)  # (N,)
        self.n_batches = len(inputs) // B  # in an epoch

    def next(self) -> tuple[Tensor, Tensor]:
        """The next (inputs, targets), each (B, the longest of these rows) int64."""
        epoch, place = divmod(self.n_given, self.n_batches)
        self.n_given += 1
        chosen = torch.from_numpy(self._order_of(epoch)[place])  # (B,)
        longest = int(self.lengths[chosen].max())
        return self.inputs[chosen, :longest].long(), self.targets[chosen, :longest].long()

    def _shuffled(self, rng) -> np.ndarray:
        """The rows of each batch, (n_batches, B)."""
        order = rng.permutation(len(self.inputs))[: self.n_batches * self.B]
        lengths, pool = self.lengths.numpy(), POOL * self.B
        for start in range(0, len(order), pool):
            drawn = order[start : start + pool]
            order[start : start + pool] = drawn[np.argsort(lengths[drawn], kind="stable")]
        return rng.permutation(order.reshape(self.n_batches, self.B))

    def _shape(self) -> dict:
        return {"n_rows": len(self.inputs), "T": self.inputs.shape[1], "B": self.B}


def row_lengths(targets: Tensor) -> Tensor:
    """How many positions of each row (N, T) are needed: up to its last target. (N,) int64."""
    places = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    return torch.where(targets != IGNORED, places, 0).max(dim=1).values


def pack(documents: list[str], tokenizer, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs, targets, doc_ids), (N, T) int64: documents end to end, only the last row padded.

    doc_ids number the documents from 0; padding has -1, and targets -100 there. A document that
    does not fit goes on in the next row, where it cannot see how it began.
    """
    _require_documents(documents)
    _require_positions(T)
    inputs, targets, doc_ids = [], [], []
    for number, document in enumerate(documents):
        ids = tokenizer.encode(document)
        inputs += [tokenizer.eot, *ids]
        targets += [*ids, tokenizer.eot]
        doc_ids += [number] * (len(ids) + 1)
    return (
        _in_rows(inputs, T, padding=tokenizer.eot),
        _in_rows(targets, T, padding=IGNORED),
        _in_rows(doc_ids, T, padding=NO_DOCUMENT),
    )


def document_mask(doc_ids: Tensor) -> Tensor:
    """Who may look at whom, (B, T, T) bool, query then key: backwards, in the same document."""
    same = doc_ids[..., :, None] == doc_ids[..., None, :]  # (B, T, T)
    return same.tril()


def positions(doc_ids: Tensor) -> Tensor:
    """Each token's place in its document's piece of the row, (B, T): 0 where a document begins."""
    places = torch.arange(doc_ids.shape[-1], device=doc_ids.device).expand_as(doc_ids)  # (B, T)
    begins = torch.ones_like(doc_ids, dtype=torch.bool)
    begins[..., 1:] = doc_ids[..., 1:] != doc_ids[..., :-1]
    latest_begin = torch.where(begins, places, 0).cummax(dim=-1).values
    return places - latest_begin


# ---------------------------------------------------------------- chats


def chat_rows(
    conversations: Sequence[Sequence[Mapping[str, str]]],
    tokenizer,
    T: int,
    learn: str = "answers",
) -> tuple[Tensor, Tensor]:
    """(inputs, targets), (N, T) int64: one chat per row, padded; targets are -100 on padding.

    Learnt are the assistant's answers, each with its <|end|>; with learn="everything" the prompts,
    too. An answer that does not fit into T is cut. ValueError, which names the chat, for one that
    has an empty answer or none, that the assistant starts, or whose first prompt fills the row.
    """
    _require_positions(T)
    if learn not in ("answers", "everything"):
        raise ValueError(f"learn is {learn!r}: choose 'answers' or 'everything'")
    if isinstance(conversations, Mapping) or not len(conversations):
        raise ValueError("there are no conversations: give a list of lists of messages")
    inputs = torch.full((len(conversations), T), tokenizer.eot)
    targets = torch.full((len(conversations), T), IGNORED)
    for i, conversation in enumerate(conversations):
        _require_messages(i, conversation)
        ids, mask = tokenizer.render_chat(conversation)
        _require_answers(i, conversation)
        _require_fitting_prompt(i, mask, T)
        _fill(inputs[i], ids[:-1])
        learnt = [learn == "everything" or part for part in mask]
        _fill(targets[i], [id if part else IGNORED for id, part in zip(ids, learnt)][1:])
    return inputs, targets


def _require_messages(i: int, conversation) -> None:
    if isinstance(conversation, (str, Mapping)):
        raise ValueError(f"conversation {i} is not a list of messages: put it in a list")


def _require_answers(i: int, conversation: Sequence[Mapping[str, str]]) -> None:
    said = [(message["role"], message["content"]) for message in conversation]
    roles = [role for role, _ in said if role != "system"]
    if "assistant" not in roles:
        raise ValueError(f"conversation {i} has no answer: add a message of the assistant's")
    if roles[0] == "assistant":
        raise ValueError(f"conversation {i} starts with the assistant: let the user speak first")
    if any(role == "assistant" and not content.strip() for role, content in said):
        raise ValueError(f"conversation {i} has an empty answer: leave the conversation out")


def _require_fitting_prompt(i: int, mask: list[int], T: int) -> None:
    n_prompt = mask.index(1)
    if n_prompt > T:
        raise ValueError(
            f"the prompt of conversation {i} has {n_prompt} tokens and T is {T}: no room is left "
            "for an answer; shorten the prompt, or take a larger T"
        )


def _fill(row: Tensor, ids: list[int]) -> None:
    ids = ids[: len(row)]
    row[: len(ids)] = torch.tensor(ids)


def _in_rows(ids: list[int], T: int, padding: int) -> Tensor:
    missing = -len(ids) % T
    return torch.tensor(ids + [padding] * missing).view(-1, T)


def _require_positions(T: int) -> None:
    if T < 1:
        raise ValueError(f"T is {T}: a row needs at least one position")


def _require_rows(inputs: Tensor, targets: Tensor) -> None:
    if inputs.dim() != 2 or inputs.shape != targets.shape or not len(inputs):
        shapes = f"{tuple(inputs.shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"inputs have shape {shapes}: give rows, (N, T) each, with N above 0")
    blank = (targets == IGNORED).all(dim=1).nonzero()
    if len(blank):
        raise ValueError(f"row {int(blank[0])} has no target: leave it out, nothing can be learnt")


def _require_documents(documents: list[str]) -> None:
    if isinstance(documents, str):
        raise ValueError("documents is one text: put it in a list, [text]")
    if not isinstance(documents, Sequence):
        raise ValueError(f"documents is a {type(documents).__name__}: make it a list, list(…)")
    if not documents:
        raise ValueError("there are no documents: give a list with at least one text")
    for i, document in enumerate(documents):
        if not document:
            raise ValueError(f"document {i} is empty: leave empty documents out")
