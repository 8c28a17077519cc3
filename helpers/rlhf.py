"""The loops of RLHF: a model answers, its answers are scored, and it learns from the scores.

Each reads like the algorithm in its paper: the reward model's, DPO's, GRPO's, PPO's, best of n. A
prompt here is what a user says, in plain text; an answer is what the model says until it ends its
turn. The losses are in `align`, preferences in `preferences`. Lesson 07 builds the loops by hand.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import align
from helpers.align import RewardModel
from helpers.data import IGNORED, row_lengths
from helpers.generate import Sampling, generate
from helpers.model import Decoder
from helpers.preferences import Pair, require_pairs
from helpers.recipe import require
from helpers.tokenizer import Tokenizer

# ---------------------------------------------------------------- answers


@dataclass(frozen=True)
class Rollout:
    """What a model answered, as texts and as rows to learn from: N answers, T positions."""

    prompts: list[str]
    texts: list[str]  # the answers
    inputs: Tensor  # (N, T): prompt and answer, padded
    targets: Tensor  # (N, T): the answer and its end; -100 on the prompt and on padding
    old_logps: Tensor  # (N, T): of the targets, under the model that answered; 0 elsewhere

    @property
    def mask(self) -> Tensor:
        """True where there is a target, (N, T)."""
        return self.targets != IGNORED

    def part(self, some: Tensor) -> "Rollout":
        """The answers with these numbers."""
        texts = ([them[i] for i in some.tolist()] for them in (self.prompts, self.texts))
        return Rollout(*texts, *(x[some] for x in (self.inputs, self.targets, self.old_logps)))


def roll_out(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], max_new: int, seeds: Sequence[int]
) -> Rollout:
    """One answer to each prompt, drawn at temperature 1, each from its own seed.

    One of max_new tokens was cut off, and has no end. ValueError if a prompt leaves it no room.
    """
    asked, end = [prompt_ids(tokenizer, prompt) for prompt in prompts], tokenizer.end
    said = generate(model, asked, max_new, Sampling(), [end], list(seeds))
    ended = [[*ids, end] if len(ids) < max_new else ids for ids in said]
    inputs, targets = rows(asked, ended)
    with torch.no_grad():
        old_logps = answer_logps(model, inputs, targets)
    return Rollout([*prompts], [*map(tokenizer.decode, said)], inputs, targets, old_logps)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The tokens of what a user says, ready to be answered."""
    return tokenizer.chat_prompt([{"role": "user", "content": prompt}])


def rows(prompts: list[list[int]], answers: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(inputs, targets), (N, T) int64 each: only the answers are targets, all else is -100."""
    T = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers)) - 1
    inputs = torch.zeros(len(prompts), T, dtype=torch.int64)
    targets = torch.full((len(prompts), T), IGNORED)
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        ids, start = torch.tensor([*prompt, *answer]), len(prompt) - 1
        inputs[i, : len(ids) - 1] = ids[:-1]
        targets[i, start : len(ids) - 1] = ids[start + 1 :]
    return inputs, targets


def answer_logps(model: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (N, T) of the targets, in nats; 0 where there is none."""
    return in_parts(lambda x, y: align.token_logps(model(x), y), inputs, targets)


def in_parts(compute, inputs: Tensor, targets: Tensor, B: int = 16) -> Tensor:
    """compute(inputs, targets), (N, T): B rows of like length at a time, without their padding."""
    lengths, T = row_lengths(targets), targets.shape[1]
    order, parts = lengths.argsort(), []
    for some in order.split(B):
        n = int(lengths[some].max())
        parts.append(F.pad(compute(inputs[some, :n], targets[some, :n]), (0, T - n)))
    return torch.cat(parts)[order.argsort()]


def kl_from(reference: Decoder, answers: Rollout) -> float:
    """The KL of the model that answered from the reference: nats per answer, the mean of k1."""
    with torch.no_grad():
        ref_logps = answer_logps(reference, answers.inputs, answers.targets)
    return align.kl_k1(answers.old_logps, ref_logps).sum(dim=1).mean().item()


# ---------------------------------------------------------------- rewards

Reward = Callable[[Rollout], Tensor]  # a number for each answer, (N,)


def by_rule(rule: Callable[[str, str], float]) -> Reward:
    """The reward rule(prompt, answer)."""
    return lambda answers: torch.tensor([*map(rule, answers.prompts, answers.texts)]).float()


def by_model(reward_model: RewardModel) -> Reward:
    """The reward that a reward model gives."""
    return torch.no_grad()(lambda answers: scores(reward_model, answers.inputs, answers.targets))


def scores(reward_model: RewardModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """What the reward model thinks of each row, read up to its last target: (N,)."""
    last = row_lengths(targets)[:, None] - 1  # (N, 1)
    return values(reward_model, inputs, targets).gather(1, last).squeeze(1)


def values(critic: RewardModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """What it thinks after each token so far, (N, T)."""
    return in_parts(lambda x, y: critic.values(x), inputs, targets)


# ---------------------------------------------------------------- what the loops share


def adamw(*parts: tuple[nn.Module, float]) -> torch.optim.Optimizer:
    """AdamW of parts, each with its learning rate; no decay, for what they know should not fade."""
    groups = [{"params": [*part.parameters()], "lr": lr} for part, lr in parts]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, left: float = 1.0) -> None:
    """One step down the gradient, clipped to norm 1 in each part.

    `left` is the share of the learning rate: in every loop it falls evenly, from 1 to nothing.
    """
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = left * group.setdefault("initial_lr", group["lr"])
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


def batches(n: int, B: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """The numbers 0 to n - 1 in batches of B, in a new order each epoch."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(n, generator=draw).split(B)


def n_batches(n: int, B: int, epochs: int) -> int:
    """How many batches that makes."""
    return epochs * math.ceil(n / B)


def frozen(model: Decoder) -> Decoder:
    """A copy that never learns."""
    return deepcopy(model).requires_grad_(False)


class Clock:
    """Where the time goes: `with clock("updates"): ...` adds to `clock.seconds["updates"]`."""

    def __init__(self):
        self.seconds = dict.fromkeys(("generation", "scoring", "updates"), 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[part] += perf_counter() - start


# ---------------------------------------------------------------- learning from pairs


@dataclass(frozen=True)
class Fit:
    """One step of learning from pairs, before the weights change."""

    step: int  # from 1
    loss: float  # nats per pair
    accuracy: float  # the share of the step's pairs that the model orders as they were labelled
    chosen: float  # of the chosen answers: the mean score, or with DPO log p - log p_ref, in nats
    rejected: float  # of the rejected ones
    seconds: float  # of this step


def fit_reward_model(
    model: RewardModel, tokenizer, pairs: Sequence[Pair], epochs=2, B=4, lr=1e-3, seed=0
) -> list[Fit]:
    """Teaches the model which answer of each pair was chosen (arXiv:2203.02155, section 3.5).

    A step takes all pairs of B prompts, each pair with the same weight. The head, which starts at
    0, learns ten times as fast as the rest.
    """
    groups, fits = by_prompt(pairs), []
    optimizer = adamw((model.decoder, lr), (model.head, 10 * lr))
    n_steps = n_batches(len(groups), B, epochs)
    for some in batches(len(groups), B, epochs, seed):
        start = perf_counter()
        chosen, rejected = scores_of(model, tokenizer, [pair for i in some for pair in groups[i]])
        loss = align.reward_loss(chosen, rejected)
        take_step(optimizer, loss, left=1 - len(fits) / n_steps)
        fits.append(Fit(len(fits) + 1, *as_numbers(loss, chosen, rejected), perf_counter() - start))
    return fits


def by_prompt(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs of each prompt."""
    require_pairs(pairs)
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt, []).append(pair)
    return [*groups.values()]


def scores_of(model: RewardModel, tokenizer, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """The scores of chosen and of rejected answers, (N,) each; no answer is read twice."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [(pair.prompt, pair.rejected) for pair in pairs]
    number = {said: i for i, said in enumerate(dict.fromkeys(chosen + rejected))}
    found = scores(model, *text_rows(tokenizer, *zip(*number)))  # one for each that differs
    return tuple(found[[number[said] for said in side]] for side in (chosen, rejected))


def tune_by_dpo(
    model: Decoder, tokenizer, pairs: Sequence[Pair], epochs=2, B=8, lr=8e-4, beta=0.1, seed=0
) -> list[Fit]:
    """Direct preference optimisation (arXiv:2305.18290, equation 7): nothing new is sampled."""
    inputs, targets = pair_rows(tokenizer, pairs)
    with torch.no_grad():
        ref_logps = answer_logps(model, inputs, targets).sum(dim=1)  # (2 N,)
    optimizer, n_steps, fits = adamw((model, lr)), n_batches(len(pairs), B, epochs), []
    for some in batches(len(pairs), B, epochs, seed):
        start, both = perf_counter(), torch.cat([some, some + len(pairs)])
        logps = answer_logps(model, inputs[both], targets[both]).sum(dim=1)  # (2 B,)
        (chosen, rejected), refs = logps.chunk(2), ref_logps[both].chunk(2)
        loss = align.dpo_loss(chosen, rejected, *refs, beta)
        take_step(optimizer, loss, left=1 - len(fits) / n_steps)
        numbers = as_numbers(loss, chosen - refs[0], rejected - refs[1])
        fits.append(Fit(len(fits) + 1, *numbers, perf_counter() - start))
    return fits


def pair_rows(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """(inputs, targets), (2 N, T): the chosen answers of N pairs, then the rejected ones."""
    require_pairs(pairs)
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    return text_rows(tokenizer, [pair.prompt for pair in pairs] * 2, answers)


def text_rows(tokenizer: Tokenizer, prompts, answers) -> tuple[Tensor, Tensor]:
    """(inputs, targets), (N, T), of prompts and answers in plain text, each answer with its end."""
    asked, end = [prompt_ids(tokenizer, prompt) for prompt in prompts], tokenizer.end
    return rows(asked, [[*tokenizer.encode(answer), end] for answer in answers])


def as_numbers(loss: Tensor, chosen: Tensor, rejected: Tensor) -> list[float]:
    """The loss, the share of pairs in order, and the means."""
    in_order = (chosen > rejected).float()
    return [x.detach().mean().item() for x in (loss, in_order, chosen, rejected)]


# ---------------------------------------------------------------- learning from answers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How PPO or GRPO goes: in each iteration the model answers, then takes a few steps."""

    iterations: int = 12
    n_prompts: int = 8  # in an iteration
    group: int = 8  # answers to each of them
    max_new: int = 110  # tokens of an answer
    epochs: int = 2  # how often an iteration's answers are learnt from
    B: int = 32  # answers in a step
    lr: float = 1e-3  # at first; it falls evenly to nothing
    beta: float = 0.3  # the price of a nat of KL
    clip: tuple[float, float] = (0.2, 0.2)  # how far below and above 1 a ratio counts
    per: str = "answer"  # what has equal say in GRPO; or "token", or "constant"
    scale: bool = True  # does GRPO divide by the group's standard deviation?
    lam: float = 0.95  # PPO: how far to trust what came, against what the critic says
    seed: int = 0


@dataclass(frozen=True)
class Iteration:
    """The answers of one iteration, before the model learns from them."""

    iteration: int  # from 1
    reward: float  # mean
    kl: float  # nats per answer from the reference: the mean of k1
    length: float  # tokens per answer, its end included
    texts: list[str]  # the answers
    seconds: dict[str, float]  # in "generation", "scoring" and "updates"


Hook = Callable[[Iteration, Decoder], None]


def tune_by_grpo(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    reward: Reward,
    plan: Plan,
    hook: Hook | None = None,
) -> list[Iteration]:
    """Group relative policy optimisation (arXiv:2402.03300, algorithm 1, its reward model fixed).

    An answer is as good as it is better than the other answers to the same prompt.
    """
    reference, optimizer, iterations = frozen(model), adamw((model, plan.lr)), []
    for i in range(plan.iterations):
        clock = Clock()
        with clock("generation"):
            answers = roll_out(model, tokenizer, *drawn(prompts, plan, i))
        with clock("scoring"), torch.no_grad():
            rewards = reward(answers)  # (N,)
            ref_logps = answer_logps(reference, answers.inputs, answers.targets)  # (N, T)
            groups = rewards.view(plan.n_prompts, plan.group)
            advantages = align.group_advantages(groups, plan.scale).flatten()  # (N,)
        with clock("updates"):
            for some in batches(len(rewards), plan.B, plan.epochs, plan.seed + i):
                part, how = answers.part(some), (plan.clip, plan.per, ref_logps[some], plan.beta)
                logps = answer_logps(model, part.inputs, part.targets)
                loss = align.grpo_loss(logps, part.old_logps, advantages[some], part.mask, *how)
                take_step(optimizer, loss, left=1 - i / plan.iterations)
        iterations.append(noted(i + 1, answers, rewards, ref_logps, clock))
        if hook:
            hook(iterations[-1], model)
    return iterations


def tune_by_ppo(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    reward: Reward,
    critic: RewardModel,
    plan: Plan,
    hook: Hook | None = None,
) -> list[Iteration]:
    """Proximal policy optimisation (arXiv:1707.06347, algorithm 1), the KL taken off the reward.

    The critic, which learns along, says after each token what is still to come; a token is as good
    as things turned out better than that. As in InstructGPT, it may start as the reward model.
    """
    reference, optimizer, iterations = frozen(model), adamw((model, plan.lr), (critic, plan.lr)), []
    for i in range(plan.iterations):
        clock = Clock()
        with clock("generation"):
            answers = roll_out(model, tokenizer, *drawn(prompts, plan, i))
        with clock("scoring"), torch.no_grad():
            rewards, mask = reward(answers), answers.mask  # (N,), (N, T)
            ref_logps = answer_logps(reference, answers.inputs, answers.targets)  # (N, T)
            kl = align.kl_k1(answers.old_logps, ref_logps)
            gains = align.rewards_per_token(rewards, kl, mask, plan.beta)
            expected = values(critic, answers.inputs, answers.targets)  # (N, T), like what follows
            advantages, returns = align.gae(gains, expected, mask, lam=plan.lam)
            advantages = standardised(advantages, mask)
        with clock("updates"):
            for some in batches(len(rewards), plan.B, plan.epochs, plan.seed + i):
                part = answers.part(some)
                logps = answer_logps(model, part.inputs, part.targets)
                how = part.old_logps, advantages[some], part.mask, plan.clip[0]
                loss = align.ppo_loss(logps, *how)
                expected = values(critic, part.inputs, part.targets)
                missed = align.value_loss(expected, returns[some], part.mask)
                take_step(optimizer, loss + missed, left=1 - i / plan.iterations)
        iterations.append(noted(i + 1, answers, rewards, ref_logps, clock))
        if hook:
            hook(iterations[-1], model)
    return iterations


def drawn(prompts: Sequence[str], plan: Plan, i: int) -> tuple[list[str], int, range]:
    """What `roll_out` needs in iteration i: prompts, each for a group; max_new; seeds."""
    n, wanted = len(prompts), plan.n_prompts
    require(n >= wanted, f"there are {n} prompts and n_prompts is {wanted}: give more prompts")
    number = 10_007 * plan.seed + i  # of this iteration, among those of all seeds
    order = torch.randperm(n, generator=torch.Generator().manual_seed(number))
    asked = [prompts[j] for j in order[:wanted].tolist() for _ in range(plan.group)]
    return asked, plan.max_new, range(number * len(asked), (number + 1) * len(asked))


def standardised(x: Tensor, mask: Tensor) -> Tensor:
    """x (N, T) with mean 0 and standard deviation 1 over the mask; 0 elsewhere."""
    chosen = x[mask]
    return (x - chosen.mean()) / (chosen.std() + 1e-8) * mask


def noted(i: int, answers: Rollout, rewards: Tensor, ref_logps: Tensor, clock: Clock) -> Iteration:
    """The record of an iteration."""
    kl = align.kl_k1(answers.old_logps, ref_logps).sum(dim=1).mean().item()
    length = answers.mask.sum(dim=1).double().mean().item()
    return Iteration(i, rewards.mean().item(), kl, length, answers.texts, clock.seconds)


# ---------------------------------------------------------------- without learning


def best_of_n(
    model: Decoder, tokenizer, prompts: Sequence[str], reward: Reward, n: int, max_new=110, seed=0
) -> list[str]:
    """To each prompt the answer, of n, that the reward puts first."""
    asked = [prompt for prompt in prompts for _ in range(n)]
    seeds = range(seed * len(asked), (seed + 1) * len(asked))
    answers = roll_out(model, tokenizer, asked, max_new, seeds)
    best = reward(answers).view(len(prompts), n).argmax(dim=1).tolist()
    return [answers.texts[i * n + j] for i, j in enumerate(best)]


def kl_of_best(n: int) -> float:
    """No best of n is farther than this from its model, in nats per answer: log n - (n - 1)/n."""
    return math.log(n) - (n - 1) / n


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How often ours is above theirs, one by one; a tie is half a win."""
    wins = [(a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True)]
    return sum(wins) / len(wins)
