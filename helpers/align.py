"""The losses of alignment: each a pure function of a few tensors, to be read beside its paper.

B sequences, T positions, V vocabulary. `logps` are log-probabilities, in nats, of the tokens that
were said; `mask` (B, T) is True where they belong to an answer. Losses are means, to be minimised.
The loops that call them are in `rlhf`. Lesson 06 meets the first of them, lesson 07 the others.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data import IGNORED
from helpers.model import Decoder, precise

# ---------------------------------------------------------------- what all of them ask


def require_alike(**tensors: Tensor) -> None:
    """ValueError, with the names, unless all have the same shape and there is something in them."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"the shapes do not match: {said}")
    name, shape = next(iter(shapes.items()))
    if 0 in shape:
        raise ValueError(f"{name} is empty, {shape}: there is nothing to learn from")


def require_answers(mask: Tensor) -> None:
    """ValueError, with the row, where a row of mask (B, T) has no token of an answer."""
    empty = (~mask.any(dim=1)).nonzero()
    if len(empty):
        raise ValueError(f"row {int(empty[0])} has an empty answer: no token of it is a target")


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x (B, T) where mask is True; what stands elsewhere, even inf, has no say."""
    return x.masked_fill(~mask, 0).sum() / mask.sum()


# ---------------------------------------------------------------- log-probabilities


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log p of each target, (B, T), from logits (B, T, V); 0 where the target is -100.

    In at least 32 bits: a ratio of two probabilities needs the digits that half precision drops.
    """
    require_alike(logits=logits[..., 0], targets=targets)
    flat = precise(logits).flatten(0, 1)  # (B·T, V)
    nats = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return -nats.view_as(targets)


def sum_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log p of each whole answer, (B,): what DPO compares. Longer answers have less."""
    require_answers(targets != IGNORED)
    return token_logps(logits, targets).sum(dim=1)


def mean_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log p of each answer per token, (B,): what SimPO compares, so that length counts less."""
    return sum_logps(logits, targets) / (targets != IGNORED).sum(dim=1)


def sft_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Supervised finetuning: -mean over targets of log p(target | all before it).

    The loss of pretraining, word for word; only which targets are -100 has changed. Each token
    weighs the same, so that long answers have more say than short ones.
    """
    logps, mask = token_logps(logits, targets), targets != IGNORED
    if not mask.any():
        raise ValueError("every target is -100: no answer is left to learn from")
    return -masked_mean(logps, mask)


# ---------------------------------------------------------------- a reward model


class RewardModel(nn.Module):
    """A decoder that ends in one number instead of V logits: how good is this answer?

    It starts as a copy of `decoder`, and its head at 0: every score is 0, and the first loss log 2.
    There is no bias, because only differences of scores are ever learnt.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = deepcopy(decoder).requires_grad_(True)
        self.decoder.lm_head = nn.Identity()
        self.head = nn.Linear(decoder.cfg.d_model, 1, bias=False).to(decoder.tok_emb.weight)
        nn.init.zeros_(self.head.weight)

    def values(self, tokens: Tensor) -> Tensor:
        """The score after each of the tokens, (B, T): what PPO's critic says."""
        return precise(self.head(self.decoder.hidden(tokens))).squeeze(-1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The score (B,) of each row after its first `lengths` (B,) tokens; the rest is padding."""
        B, T = tokens.shape
        if lengths.shape != (B,) or lengths.min() < 1 or lengths.max() > T:
            raise ValueError(f"lengths must be {B} numbers from 1 to {T}, one for each row")
        hidden = self.decoder.hidden(tokens)[torch.arange(B, device=tokens.device), lengths - 1]
        return precise(self.head(hidden)).squeeze(-1)


def reward_loss(chosen: Tensor, rejected: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """-mean log sigmoid(r(chosen) - r(rejected) - margin), of scores (B,).

    Bradley and Terry's model of choices, as in InstructGPT (arXiv:2203.02155, equation 1), whose
    mean is over the K(K - 1)/2 pairs of each prompt first. margin: how much better the chosen
    answer was said to be (Llama 2, arXiv:2307.09288, equation 2); Llama 3 has none.
    """
    require_alike(chosen=chosen, rejected=rejected)
    return -F.logsigmoid(chosen - rejected - margin).mean()


# ---------------------------------------------------------------- how far from the reference?

# Three estimates of KL(policy || reference), in nats, from tokens that the policy said.
# John Schulman, "Approximating KL divergence" (2020), joschu.net/blog/kl-approx.html.


def kl_k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """log p/q. Its mean is the divergence; a single one is often negative."""
    return logps - ref_logps


def kl_k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """(log p/q)² / 2. Never negative and steady, and a little off in the mean."""
    return (logps - ref_logps) ** 2 / 2


def kl_k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """q/p - 1 - log q/p. Never negative, and right in the mean; 0 only where p = q."""
    return torch.expm1(ref_logps - logps) - (ref_logps - logps)


# ---------------------------------------------------------------- PPO


def rewards_per_token(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """(B, T): -beta · kl at each token of an answer, and its score (B,) on top of the last.

    InstructGPT's reward (arXiv:2203.02155, equation 2) with its KL spread over the tokens, and
    without the part of the loss that goes on pretraining.
    """
    require_alike(kl=kl, mask=mask)
    require_alike(scores=scores, answers=mask[:, 0])
    require_answers(mask)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)  # (B, T)
    last = places == places.masked_fill(~mask, -1).amax(dim=1, keepdim=True)
    return (-beta * kl).masked_fill(~mask, 0) + scores[:, None] * last


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), (B, T) each, 0 outside of the answers.

    delta_t = r_t + gamma V_t+1 - V_t, and A_t = delta_t + gamma lam A_t+1 (arXiv:1506.02438,
    equation 16; 1707.06347, equations 11 and 12). Nothing comes after an answer, even after one
    that was cut off. lam = 1: what came minus what was expected; lam = 0: one step's surprise.
    """
    require_alike(rewards=rewards, values=values, mask=mask)
    rewards, values = rewards.masked_fill(~mask, 0), values.detach().masked_fill(~mask, 0)
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)  # V_t+1
    surprises = rewards + gamma * after - values  # delta
    advantages = torch.zeros_like(surprises)
    running = torch.zeros_like(surprises[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        running = (surprises[:, t] + gamma * lam * running).masked_fill(~mask[:, t], 0)
        advantages[:, t] = running
    return advantages, advantages + values


def clipped(logps, old_logps, advantages, mask, clip: tuple[float, float]) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) of each token, (B, T).

    ratio = p / p_old: how much likelier a token is now than when it was said. Beyond the clip,
    nothing more is won by moving on, and the gradient is 0.
    """
    require_alike(logps=logps, old_logps=old_logps, advantages=advantages, mask=mask)
    require_answers(mask)
    low, high = clip
    ratio = (logps - old_logps).masked_fill(~mask, 0).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def ppo_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """-mean over tokens of min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), all (B, T).

    arXiv:1707.06347, equation 7, without the entropy bonus of equation 9.
    """
    return masked_mean(clipped(logps, old_logps, advantages, mask, (clip, clip)), mask)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens of (V - return)², all (B, T) (arXiv:1707.06347, in equation 9).

    Many programs clip how far a value moves, too; the paper does not.
    """
    require_alike(values=values, returns=returns, mask=mask)
    require_answers(mask)
    return masked_mean((values - returns) ** 2, mask)


# ---------------------------------------------------------------- DPO and its kin


def lead(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """log p/p_ref(chosen) - log p/p_ref(rejected), (B,): how far learning has parted the two.

    All are `sum_logps`, (B,), those of the reference without gradient.
    """
    here = {"chosen": chosen, "rejected": rejected}
    require_alike(**here, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    """-mean log sigmoid(beta (log p/p_ref(chosen) - log p/p_ref(rejected))), of `sum_logps` (B,).

    arXiv:2305.18290, equation 7: a reward model's loss, whose rewards are the policy's own.
    """
    return -F.logsigmoid(beta * lead(chosen, rejected, ref_chosen, ref_rejected)).mean()


def ipo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    """Mean (log p/p_ref(chosen) - log p/p_ref(rejected) - 1/(2 beta))², of `sum_logps` (B,).

    arXiv:2310.12036, equation 17, with beta for tau; TRL takes `mean_logps`. A lead that is wide
    enough is left as it is, where DPO, as long as nobody contradicts, goes on to widen it.
    """
    return ((lead(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * beta)) ** 2).mean()


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """-mean log sigmoid(beta log p(chosen) - beta log p(rejected) - gamma), of `mean_logps` (B,).

    arXiv:2405.14734, equation 6: no reference model, so nothing holds the policy where it was.
    """
    return reward_loss(beta * chosen, beta * rejected, margin=gamma)


# ---------------------------------------------------------------- GRPO and its corrections


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """How much better than the others of its group each answer is: (P, G), of P prompts, G answers.

    (r - mean) / std of the group (arXiv:2402.03300, section 4.1.2), with 1e-4 added to std, as in
    TRL; equal rewards give exact zeros. scale=False leaves out std, which makes more of questions
    that are nearly always, or never, answered well (Dr. GRPO, arXiv:2503.20783, section 3.2).
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards are {tuple(rewards.shape)}: give (P, G), G at least 2 answers")
    rewards = precise(rewards)
    rewards = rewards - rewards[:, :1]  # nothing changes, but those of equals are now exactly 0
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    return advantages / (rewards.std(dim=1, keepdim=True) + 1e-4) if scale else advantages


def average(x: Tensor, mask: Tensor, per: str) -> Tensor:
    """The losses of tokens x (B, T) as one number: who gets how much say?

    "answer": each answer the same, so that a token of a long one counts less (GRPO). "token": each
    token the same (DAPO). "constant": the sum over B·T whatever the lengths (Dr. GRPO).
    """
    x, lengths = x.masked_fill(~mask, 0), mask.sum(dim=1)  # (B, T), (B,)
    ways = {
        "answer": lambda: (x.sum(dim=1) / lengths).mean(),
        "token": lambda: x.sum() / lengths.sum(),
        "constant": lambda: x.sum() / x.numel(),
    }
    if per not in ways:
        raise ValueError(f"per is {per!r}: choose one of {', '.join(ways)}")
    return ways[per]()


def distances(logps: Tensor, ref_logps: Tensor | None, mask: Tensor) -> Tensor:
    """k3 of each token of an answer, (B, T), 0 elsewhere."""
    if ref_logps is None:
        raise ValueError("beta is not 0, but ref_logps are missing: give the reference's")
    require_alike(logps=logps, ref_logps=ref_logps)
    return kl_k3(logps.masked_fill(~mask, 0), ref_logps.masked_fill(~mask, 0))


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: tuple[float, float] = (0.2, 0.2),
    per: str = "answer",
    ref_logps: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """PPO's loss with the advantage (B,) of an answer at each of its tokens, + beta · k3.

    GRPO: arXiv:2402.03300, equations 3 and 4. DAPO, arXiv:2503.14476, equation 8: per="token",
    clip=(0.2, 0.28), no KL. Dr. GRPO, arXiv:2503.20783, section 3.2: per="constant", where T, the
    most tokens an answer may have, must be the same for all batches.
    """
    require_alike(advantages=advantages, answers=mask[:, 0])
    losses = clipped(logps, old_logps, advantages[:, None].expand_as(logps), mask, clip)
    if beta:
        losses = losses + beta * distances(logps, ref_logps, mask)
    return average(losses, mask, per)
