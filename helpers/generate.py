"""From a model to tokens: the next token's probabilities, a choice among them, and the loop.

The loop runs over the cache and takes prompts of unequal length together. A prompt's tokens are the
same whether it stands alone or in a batch: each has its own stream of random numbers. Turning text
into tokens and back is in `tokenizer`. Lesson 04 makes a laboratory of the choices.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.model import Decoder, precise

PADDING = 0  # any id will do: padding stands at negative positions, where nobody looks


def _require(true: bool, name: str, value, wanted: str) -> None:
    if not true:
        raise ValueError(f"{name} is {value}: it must be {wanted}")


# ---------------------------------------------------------------- probabilities


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose the next token; the default is to draw from the model's own probabilities."""

    temperature: float = 1.0  # below 1 the likely become likelier; 0 takes the likeliest: greedy
    top_k: int | None = None  # only the k likeliest
    top_p: float | None = None  # only the likeliest that together make up this probability
    min_p: float | None = None  # only those at least this share as likely as the likeliest
    repetition_penalty: float = 1.0  # above 1, tokens that have occurred become less likely

    def __post_init__(self):
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or above")
        _require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "> 0")
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "1 or above")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            _require(value is None or 0 < value <= 1, name, value, "above 0 and at most 1")


GREEDY = Sampling(temperature=0.0)


def next_token_probs(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Probabilities (B, V) of the next token, from its logits (B, V), after all of `sampling`.

    seen (B, V) is True at the tokens that have occurred in each sequence.
    """
    logits = repeating_less(precise(logits), sampling, seen)
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits.softmax(dim=-1)


def repeating_less(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    """Logits (B, V), penalised at the tokens seen, if `sampling` says so."""
    if sampling.repetition_penalty == 1 or seen is None:
        return logits
    return torch.where(seen, penalised(logits, sampling.repetition_penalty), logits)


def penalised(logits: Tensor, penalty: float) -> Tensor:
    """Smaller logits, whatever their sign (CTRL, arXiv:1909.05858, section 4.1)."""
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest of each row, the others at -inf; equals of the k-th stay, too."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The nucleus: from the likeliest down, until p is reached (arXiv:1904.09751, section 3.1)."""
    probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    outside = probs.cumsum(dim=-1) - probs >= p  # what comes before it is enough; never the first
    return logits.masked_fill(outside.gather(-1, order.argsort(dim=-1)), -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Those at least p times as likely as the likeliest (arXiv:2407.01082, section 3)."""
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), -torch.inf)


def draw(probs: Tensor, chance: Tensor) -> Tensor:
    """The token (B,) at which the running sum of probs (B, V) passes chance (B,), in [0, 1)."""
    sums = probs.double().cumsum(dim=-1)  # (B, V)
    passed = sums > (chance.to(sums) * sums[:, -1])[:, None]
    return passed.to(torch.uint8).argmax(dim=-1)


def next_tokens(logits: Tensor, sampling: Sampling, seen: Tensor | None, chance: Tensor) -> Tensor:
    """What `draw` takes from `next_token_probs`, (B,); the likeliest is found without either."""
    if sampling.temperature == 0:
        return repeating_less(precise(logits), sampling, seen).argmax(dim=-1)
    return draw(next_token_probs(logits, sampling, seen), chance.to(logits.device))


# ---------------------------------------------------------------- weights in memory


@torch.no_grad()
def laid_out(model: Decoder) -> Decoder:
    """The same model, each of its matrices now stored along its longer side: it decodes faster.

    A token reads every weight once, and long runs of memory are read fastest. Numbers, shapes and
    names stay; so does all that can be done with the model. A copy of one matrix is made at a time.
    """
    for part in model.modules():
        if isinstance(part, nn.Linear) and part.out_features >= part.in_features:
            part.weight.data = part.weight.T.contiguous().T
    return model


# ---------------------------------------------------------------- the loop


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    sampling: Sampling = GREEDY,
    stop: Iterable[int] = (),
    seed: int | Sequence[int] = 0,
    cached: bool = True,
) -> list[list[int]]:
    """For each prompt the tokens that follow it: at most max_new, and none from the first `stop`.

    One seed serves every prompt, so that equal prompts get equal answers; or give one for each.
    Without `cached`, every step reads all tokens again: slower, equal, and easier to follow.
    ValueError for an empty prompt, or one that leaves no room for max_new tokens.
    """
    stop, new = set(stop), [[] for _ in prompts]
    finished = [False] * len(prompts)
    for step in _steps(model, prompts, max_new, sampling, seed, cached):
        for i, token in enumerate(step.tolist()):
            finished[i] = finished[i] or token in stop
            if not finished[i]:
                new[i].append(token)
        if all(finished):
            break
    return new


def stream(
    model: Decoder,
    prompt: Sequence[int],
    max_new: int,
    sampling: Sampling = GREEDY,
    stop: Iterable[int] = (),
    seed: int = 0,
) -> Iterator[int]:
    """The tokens that follow one prompt, each as soon as it is chosen."""
    stop = set(stop)
    for step in _steps(model, [prompt], max_new, sampling, seed, cached=True):
        if step.item() in stop:
            return
        yield step.item()


def reply(
    model: Decoder,
    tokenizer,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    max_new: int = 120,
    sampling: Sampling = GREEDY,
    seed: int | Sequence[int] = 0,
) -> list[str]:
    """The assistant's next turn in each chat, as text, up to `tokenizer.end` or max_new tokens.

    Fewer where the longest chat leaves less room. ValueError if a chat fills the context.
    """
    prompts = [tokenizer.chat_prompt(messages) for messages in conversations]
    room = model.cfg.context_length + 1 - max(map(len, prompts), default=0)
    max_new = max(1, min(max_new, room))
    new = generate(model, prompts, max_new, sampling, [tokenizer.end], seed)
    return [tokenizer.decode(ids) for ids in new]


@torch.inference_mode()
def _steps(model, prompts, max_new, sampling, seed, cached) -> Iterator[Tensor]:
    """The chosen tokens (B,), step by step."""
    require_room(model, prompts, max_new)
    tokens, positions = left_padded(prompts, model.tok_emb.weight.device)  # (B, T) each
    seen = None if sampling.repetition_penalty == 1 else _seen(model, prompts, tokens.device)
    chances = [torch.Generator().manual_seed(one) for one in _seeds(seed, len(prompts))]
    cache = model.new_cache(len(prompts), tokens.shape[1] + max_new - 1) if cached else None
    read = tokens, positions
    even = bool((positions[:, 0] == 0).all())  # no padding: the model can count by itself
    for _ in range(max_new):
        hidden = model.hidden(read[0], cache, None if even else read[1])[:, -1]  # (B, C)
        chance = torch.cat([torch.rand(1, generator=one) for one in chances])  # (B,)
        chosen = next_tokens(model.logits(hidden), sampling, seen, chance)  # (B,)
        yield chosen
        if seen is not None:
            seen[torch.arange(len(chosen)), chosen] = True
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)  # (B, T + 1)
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
        read = (tokens[:, -1:], positions[:, -1:]) if cached else (tokens, positions)


def _seen(model: Decoder, prompts: Sequence[Sequence[int]], device) -> Tensor:
    """True at the tokens that occur in each prompt, (B, V)."""
    seen = torch.zeros(len(prompts), model.cfg.vocab_size, dtype=torch.bool, device=device)
    for row, prompt in zip(seen, prompts):
        row[list(prompt)] = True
    return seen


def _seeds(seed: int | Sequence[int], n: int) -> Sequence[int]:
    seeds = [seed] * n if isinstance(seed, int) else seed
    _require(len(seeds) == n, "the number of seeds", len(seeds), f"{n}, one for each prompt")
    return seeds


def left_padded(prompts: Sequence[Sequence[int]], device=None) -> tuple[Tensor, Tensor]:
    """Tokens and positions, (B, T) each: prompts end together, padding stands before position 0."""
    T = max(map(len, prompts))
    rows = [[PADDING] * (T - len(prompt)) + [*prompt] for prompt in prompts]
    starts = torch.tensor([len(prompt) - T for prompt in prompts], device=device)
    return torch.tensor(rows, device=device), starts[:, None] + torch.arange(T, device=device)


def require_room(model: Decoder, prompts: Sequence[Sequence[int]], max_new: int) -> None:
    """ValueError for an empty prompt, or one that leaves no room for max_new tokens."""
    if not prompts or not all(map(len, prompts)):
        raise ValueError("there is no prompt, or an empty one: give each at least one token")
    _require(max_new >= 1, "max_new", max_new, "1 or above")
    longest, room = max(map(len, prompts)), model.cfg.context_length
    if longest + max_new - 1 > room:  # the last new token is never read
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new} new ones do not fit into "
            f"context_length = {room}: shorten one of them"
        )
