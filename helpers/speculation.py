"""More tokens for each reading of a large model, and no text read twice.

A cheap draft guesses a few tokens, the model reads them all in one step, and a rule keeps as many
as the model would have said itself: the same tokens, or the same probabilities, in fewer steps.
What makes it possible is a cache that can be cut back, and so prompts can share their beginning,
too. Lesson 09 measures what both are worth.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generate import GREEDY, Sampling, draw, next_token_probs, require_room
from helpers.model import Decoder

# ---------------------------------------------------------------- what was read is kept


class PromptCache:
    """A model with the last text it read, prompt and answer: of the next, only the rest is read.

    Every text has to start with `prefix`, which is read at once and may be empty. A text may have
    up to `length` tokens, or as many as the model can read; n_reused of the last came for free.
    """

    def __init__(self, model: Decoder, prefix: Sequence[int] = (), length: int = 1024):
        self.model, self.prefix, self.tokens, self.n_reused = model, list(prefix), [], 0
        self.cache = model.new_cache(1, min(length, model.cfg.context_length), whole=True)
        if self.prefix:
            self.logits(self.prefix)

    @property
    def n_bytes(self) -> int:
        """Bytes set aside, for `length` tokens: here a layer with a window keeps them all, too."""
        return self.cache.n_bytes

    @torch.no_grad()
    def logits(self, tokens: Sequence[int], n: int = 1) -> Tensor:
        """Logits (n, V) of what follows each of the last n of these tokens."""
        tokens = list(tokens)
        if tokens[: len(self.prefix)] != self.prefix:
            raise ValueError(
                f"the text does not start with the prefix of {len(self.prefix)} tokens that this "
                "cache was made for: make another one"
            )
        self.n_reused = min(n_shared(tokens, self.tokens), max(len(tokens) - n, 0))
        self.cache.cut_back(self.n_reused)
        self.tokens = tokens[: self.n_reused]  # all that is sure, should the reading be interrupted
        new = torch.tensor([tokens[self.n_reused :]], device=self.model.tok_emb.weight.device)
        hidden = self.model.hidden(new, self.cache)  # (1, T, C)
        self.tokens = tokens
        return self.model.logits(hidden[0, -n:])

    def probs(self, tokens: Sequence[int], n: int, sampling: Sampling) -> Tensor:
        """Probabilities (n, V) of what follows each of the last n of these tokens."""
        logits = self.logits(tokens, n)
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for i, row in enumerate(seen):
            row[list(tokens[: len(tokens) - n + 1 + i])] = True
        return next_token_probs(logits, sampling, seen)

    def stream(
        self,
        prompt: Sequence[int],
        max_new: int,
        sampling: Sampling = GREEDY,
        stop: Iterable[int] = (),
        seed: int = 0,
    ) -> Iterator[int]:
        """The tokens of `generate.stream`, but of the prompt only what is new is read.

        In 16 bits, or with weights in 4, the two may part at a near tie, as in `speculate`.
        """
        require_room(self.model, [prompt], max_new)
        if len(prompt) + max_new - 1 > self.cache.length:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and {max_new} new ones need a cache of a larger "
                f"length than {self.cache.length}"
            )
        tokens, stop, chance = list(prompt), set(stop), torch.Generator().manual_seed(seed)
        for _ in range(max_new):
            probs = self.probs(tokens, 1, sampling)  # (1, V)
            tokens.append(drawn(probs[0], torch.rand(1, generator=chance)))
            if tokens[-1] in stop:
                return
            yield tokens[-1]


def n_shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    differing = (i for i, (x, y) in enumerate(zip(a, b)) if x != y)
    return next(differing, min(len(a), len(b)))


def drawn(weights: Tensor, chance: Tensor) -> int:
    """A token, each as likely as its share of weights (V,); chance (1,) in [0, 1) decides."""
    return draw(weights[None], chance.to(weights.device)).item()


# ---------------------------------------------------------------- who guesses

Draft = Callable[[list[int], int], list[int]]  # (tokens so far, k) -> at most k guesses


def prompt_lookup(n: int = 3) -> Draft:
    """A draft without a model: what followed the last n tokens when they last occurred before."""
    if n < 1:
        raise ValueError(f"n is {n}: look up the last token at least")

    def guess(tokens: list[int], k: int) -> list[int]:
        for start in range(len(tokens) - n - 1, -1, -1):
            if tokens[start : start + n] == tokens[-n:]:
                return tokens[start + n : start + n + k]
        return []

    return guess


def guesses_of(draft, tokens: list[int], k: int, sampling, chance) -> tuple[list, Tensor | None]:
    """At most k guesses, and the rows q (n, V) they came from: None where it was certain."""
    if not isinstance(draft, PromptCache):
        return list(draft(tokens[:], k))[:k], None
    guesses, rows = [], []
    for _ in range(k):
        rows += draft.probs(tokens + guesses, 1, sampling)
        guesses.append(drawn(rows[-1], torch.rand(1, generator=chance)))
    return guesses, torch.stack(rows) if rows else None


# ---------------------------------------------------------------- what is kept


def accept(guesses: Sequence[int], p: Tensor, q: Tensor, chances: Tensor) -> tuple[int, int]:
    """How many of n guesses are kept, and the token after them (arXiv:2211.17192, algorithm 1).

    p (n + 1, V): what the model expects at each place; q (n, V): what the draft drew its guesses
    from; chances (n + 1,) in [0, 1). What comes out is distributed as p, whatever q is.
    """
    for i, guess in enumerate(guesses):
        if chances[i] * q[i, guess] >= p[i, guess]:  # else it is kept: with probability p/q, or 1
            missing = (p[i] - q[i]).clamp(min=0)  # (V,), what the draft says too rarely
            return i, drawn(missing if missing.any() else p[i], chances[-1:])
    return len(guesses), drawn(p[-1], chances[-1:])


@dataclass
class Counts:
    """What happened in a speculation."""

    proposed: int = 0  # guesses of the draft
    accepted: int = 0  # of these, kept
    rejected: int = 0  # the first bad one of a step: those after it are not judged
    steps: int = 0  # readings of the model; each gives one token more than was accepted

    def add(self, proposed: int, accepted: int) -> None:
        """Counts one step."""
        self.proposed, self.accepted = self.proposed + proposed, self.accepted + accepted
        self.rejected, self.steps = self.rejected + (accepted < proposed), self.steps + 1

    @property
    def alpha(self) -> float:
        """The share of the judged guesses that was kept; nan where there were none."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else float("nan")


def speculate(
    model: Decoder,
    draft: Decoder | Draft,
    prompt: Sequence[int],
    max_new: int,
    k: int = 4,
    sampling: Sampling = GREEDY,
    stop: Iterable[int] = (),
    seed: int = 0,
) -> tuple[list[int], Counts]:
    """(tokens, Counts): what follows the prompt, as from `generate`, k guesses at a time.

    The draft is another model with the same tokens, or a function as `prompt_lookup` makes one.
    Greedy: the very tokens of `generate`; sampling: others, from the same probabilities. In 16
    bits, or with weights in 4, rounding hangs on how many tokens are read at once: there the texts
    may part at a near tie.
    """
    require_pair(model, draft, prompt, max_new, k)
    end, stop, chance = len(prompt) + max_new, set(stop), torch.Generator().manual_seed(seed)
    reader, counts, tokens = PromptCache(model, length=end), Counts(), list(prompt)
    draft = PromptCache(draft, length=end) if isinstance(draft, Decoder) else draft
    while len(tokens) < end and stop.isdisjoint(tokens[len(prompt) :]):
        guesses, q = guesses_of(draft, tokens, min(k, end - len(tokens) - 1), sampling, chance)
        p = reader.probs(tokens + guesses, len(guesses) + 1, sampling)  # (n + 1, V)
        if q is None:
            q = F.one_hot(torch.tensor(guesses, dtype=torch.long), p.shape[-1])  # (n, V)
        chances = torch.rand(len(guesses) + 1, generator=chance)
        kept, next_token = accept(guesses, p, q.to(p), chances)
        tokens += [*guesses[:kept], next_token]
        counts.add(len(guesses), kept)
    return list(takewhile(lambda token: token not in stop, tokens[len(prompt) :])), counts


def require_pair(model: Decoder, draft: Decoder | Draft, prompt, max_new: int, k: int) -> None:
    """ValueError if these cannot speculate together, or on this prompt."""
    if k < 1:
        raise ValueError(f"k is {k}: let the draft guess at least one token at a time")
    for reader in (model, draft) if isinstance(draft, Decoder) else (model,):
        require_room(reader, [prompt], max_new)
        if reader.cfg.vocab_size != model.cfg.vocab_size:
            raise ValueError(
                f"the model knows {model.cfg.vocab_size} tokens and its draft "
                f"{reader.cfg.vocab_size}: they must share a tokenizer"
            )


# ---------------------------------------------------------------- what it is worth


def expected_tokens(alpha: float, k: int) -> float:
    """Tokens for each reading, if alpha of the guesses are good (arXiv:2211.17192, equation 1)."""
    return sum(alpha**i for i in range(k + 1))


def expected_gain(alpha: float, k: int, c: float, reading: float = 1.0) -> float:
    """Times as fast as without a draft, whose step costs c of the model's.

    arXiv:2211.17192, theorem 3.8, where k + 1 tokens are read at the cost of one: `reading` is 1.
    """
    return expected_tokens(alpha, k) / (k * c + reading)
