"""The recorded runs of lesson 07: what cannot be aligned while a class is waiting.

`python assets/alignment.py NAME` makes every run of the sweep NAME that is not recorded yet and
appends a row for each to sweeps/NAME.csv beside this file: all its settings, and what came out.
Without a name it lists the sweeps. All start from the chat model, asked in English for stories.

The methods never see the taste of the crowd; `likes` and `win` are measured by it, on prompts and
seeds that no run has learnt from. A curve has a number for each iteration, or piece of a run.
"""

import random
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice

import torch
from recording import command_line

from helpers import weights
from helpers.align import RewardModel
from helpers.generate import Sampling, reply
from helpers.model import Decoder
from helpers.preferences import NO_STORY, Crowd, Pair, likes, utility
from helpers.rlhf import (
    Fit,
    Iteration,
    Plan,
    Rollout,
    by_model,
    fit_reward_model,
    kl_from,
    kl_of_best,
    roll_out,
    scores_of,
    tune_by_dpo,
    tune_by_grpo,
    tune_by_ppo,
    win_rate,
)
from helpers.tasks import is_held_out, write_request
from helpers.world import World, the_grammar

SEEDS = (0, 1, 2)
MAX_NEW = 110  # tokens; the longest stories of this world are shorter
N_TESTED = 200  # answers by which a model is measured
K = 4  # answers in a ranking
N_RANKED, N_HELD_OUT = 330, 100  # rankings to learn from, and to test a reward model on
POINTS = 30  # of the curves of learning from pairs


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that decides a run. The arm is its name in the lesson."""

    arm: str
    seed: int = 0
    method: str = ""  # "dpo", "grpo" or "ppo"; without one, the chat model itself
    n_ranked: int = N_RANKED  # rankings that the reward model, or DPO, learns from
    iterations: int = 15
    n_prompts: int = 8
    group: int = 8
    epochs: int = 2
    B: int = 32
    lr: float = 1e-3
    beta: float = 0.3
    per: str = "answer"


# ---------------------------------------------------------------- prompts, pairs, a reward model


@lru_cache
def prompts(held_out: bool) -> list[str]:
    """Every hero with every trait, asked for in one way; those held out are kept for measuring."""
    slots = the_grammar().slots
    asked = [
        write_request(trait.en, hero.en)
        for trait in slots["trait"].options
        for hero in slots["hero"].options
    ]
    found = [one.instruction for one in asked if is_held_out(one.cast) == held_out]
    random.Random(0).shuffle(found)
    return found


@lru_cache
def chat() -> tuple[Decoder, object]:
    """The model that all start from, and its tokenizer."""
    return weights.chat_model()


def stories(asked: Sequence[str], first_seed: int) -> list[str]:
    """The chat model's answers, one to each prompt."""
    told = []
    for i in range(0, len(asked), 200):
        some = [[{"role": "user", "content": prompt}] for prompt in asked[i : i + 200]]
        seeds = range(first_seed + i, first_seed + i + len(some))
        told += reply(*chat(), some, MAX_NEW, Sampling(), list(seeds))
    return told


@lru_cache
def rankings(n: int, seed: int, held_out: bool = False) -> list[list[Pair]]:
    """n times K answers of the chat model to a prompt, ranked by one of a crowd: all pairs of each.

    What is no story is left out before anybody sees it.
    """
    asked = list(islice(cycle(prompts(held_out)), n))
    told = stories(
        [prompt for prompt in asked for _ in range(K)], 10**7 * (1 + held_out + 2 * seed)
    )
    crowd, found = Crowd(seed=seed), []
    for i, prompt in enumerate(asked):
        shown = [*dict.fromkeys(filter(is_story, told[K * i : K * i + K]))]
        found.append(crowd.rank(prompt, shown))
    return found


def all_pairs(ranked: Sequence[list[Pair]]) -> list[Pair]:
    """K(K - 1)/2 pairs of each ranking."""
    return [pair for pairs in ranked for pair in pairs]


def separate_pairs(ranked: Sequence[list[Pair]]) -> list[Pair]:
    """Of each ranking of four the first and third, the second and fourth: each answer once."""
    return [pairs[i] for pairs in ranked if len(pairs) == 6 for i in (1, 4)]


@lru_cache
def judge(n: int, seed: int) -> tuple[RewardModel, list[Fit], float]:
    """A reward model taught by n rankings, the records of its steps, CPU seconds."""
    model, tokenizer = chat()
    learnt_from, start = all_pairs(rankings(N_RANKED, seed)[:n]), time.process_time()
    reward_model = RewardModel(model)
    fits = fit_reward_model(reward_model, tokenizer, learnt_from, B=4, seed=seed)
    return reward_model, fits, round(time.process_time() - start, 1)


# ---------------------------------------------------------------- what came out


@lru_cache
def answers_at_first() -> Rollout:
    """The chat model's answers to the prompts that are kept for measuring."""
    return tested(chat()[0], first_seed=4 * 10**7)


def tested(model: Decoder, first_seed: int) -> Rollout:
    """A model's answers to the prompts that are kept for measuring."""
    asked = list(islice(cycle(prompts(held_out=True)), N_TESTED))
    return roll_out(model, chat()[1], asked, MAX_NEW, range(first_seed, first_seed + N_TESTED))


def share(kept, texts: Sequence[str]) -> float:
    """The share of texts for which `kept` is true."""
    return round(sum(map(kept, texts)) / len(texts), 4)


def is_story(text: str) -> bool:
    """Whether a text is a grammatical story."""
    return utility(text) > NO_STORY


def measured_texts(texts: Sequence[str]) -> dict:
    """How good the answers to the prompts kept for measuring are, beside those of the start."""
    at_first = map(utility, answers_at_first().texts)
    return {
        "likes": share(likes, texts),
        "win": round(win_rate([*map(utility, texts)], [*at_first]), 4),
        "utility": round(sum(map(utility, texts)) / len(texts), 3),
        "parses": share(is_story, texts),
        "consistent": share(World("en").tells, texts),
        "different": round(len(set(texts)) / len(texts), 4),
    }


def measured_model(model: Decoder, seed: int) -> dict:
    """The same, and how far the model has gone, in nats per answer."""
    answers = tested(model, first_seed=3 * 10**7 + 1_000 * seed)
    length = answers.mask.sum(dim=1).double().mean().item()
    kl = kl_from(chat()[0], answers)
    return measured_texts(answers.texts) | {"kl": round(kl, 3), "length": round(length, 1)}


def measured(run: Run) -> dict:
    """Tunes the chat model, and returns the row of the table."""
    model = deepcopy(chat()[0])
    judge_seconds = judge(run.n_ranked, run.seed)[2] if run.method in ("grpo", "ppo") else 0.0
    ranked = rankings(N_RANKED, run.seed) if run.method else []  # made before the clock starts
    start = time.process_time()
    steps = TUNED_BY[run.method](model, run, ranked)
    times = {"cpu_seconds": round(time.process_time() - start, 1), "judge_seconds": judge_seconds}
    fits = [step for step in steps if isinstance(step, Fit)]
    iterations = [step for step in steps if isinstance(step, Iteration)]
    curves = curves_of_iterations(iterations) | curves_of_pairs(fits)
    return measured_model(model, run.seed) | times | curves


def by_dpo(model: Decoder, run: Run, ranked: Sequence[list[Pair]]) -> list[Fit]:
    """Tunes the model by the crowd's choices themselves."""
    how = {"epochs": run.epochs, "B": run.B, "lr": run.lr, "beta": run.beta, "seed": run.seed}
    return tune_by_dpo(model, chat()[1], separate_pairs(ranked[: run.n_ranked]), **how)


def by_reward(model: Decoder, run: Run, _) -> list[Iteration]:
    """Tunes the model by what a reward model makes of these choices."""
    names = ("iterations", "n_prompts", "group", "epochs", "B", "lr", "beta", "per", "seed")
    plan = Plan(max_new=MAX_NEW, **{name: getattr(run, name) for name in names})
    reward_model = judge(run.n_ranked, run.seed)[0]
    asked = model, chat()[1], prompts(held_out=False), by_model(reward_model)
    if run.method == "ppo":
        return tune_by_ppo(*asked, deepcopy(reward_model), plan)
    return tune_by_grpo(*asked, plan)


TUNED_BY = {"": lambda *_: [], "dpo": by_dpo, "grpo": by_reward, "ppo": by_reward}


def curves_of_iterations(iterations: Sequence[Iteration]) -> dict:
    """A number for each iteration, and the seconds of each part, all together."""
    texts = [one.texts for one in iterations]
    parts = ("generation", "scoring", "updates")
    return {
        "reward_curve": curve(one.reward for one in iterations),
        "likes_curve": curve(share(likes, some) for some in texts),
        "parses_curve": curve(share(is_story, some) for some in texts),
        "kl_curve": curve(one.kl for one in iterations),
        "length_curve": curve(one.length for one in iterations),
    } | {part: round(sum(one.seconds[part] for one in iterations), 1) for part in parts}


def curves_of_pairs(fits: Sequence[Fit]) -> dict:
    """At most POINTS numbers each: the means of equal pieces of the run."""
    names = ("loss", "accuracy", "chosen", "rejected")
    return {f"{name}_curve": curve(pieces([getattr(f, name) for f in fits])) for name in names}


def pieces(values: list[float]) -> list[float]:
    """The means of POINTS equal pieces."""
    parts = torch.tensor(values).tensor_split(min(POINTS, len(values))) if values else []
    return [part.mean().item() for part in parts]


def curve(values) -> str:
    """Numbers as a cell of the table holds them."""
    return " ".join(f"{value:.4g}" for value in values)


# ---------------------------------------------------------------- reward models, best of n


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A reward model that learns from so many rankings."""

    n_ranked: int
    seed: int = 0


def measured_judge(run: Judge) -> dict:
    """How often it foresees what the crowd says of pairs that are new, and how often anyone can.

    `foreseen` counts each pair by the crowd's chance to agree, so that one crowd's luck has no say;
    the ceiling is the best that is possible. The curves calibrate it: by its own word, and in fact.
    """
    model, fits, seconds = judge(run.n_ranked, run.seed)
    kept, crowd = all_pairs(rankings(N_HELD_OUT, 0, held_out=True)), Crowd()
    with torch.no_grad():
        chosen, rejected = scores_of(model, chat()[1], kept)
    chance = torch.tensor([crowd.chance(pair.chosen, pair.rejected) for pair in kept])
    right = chosen > rejected
    sure = torch.sigmoid((chosen - rejected).abs())  # that its favourite is chosen
    order = sure.argsort().tensor_split(5)
    return {
        "pairs": len(all_pairs(rankings(N_RANKED, run.seed)[: run.n_ranked])),
        "agrees": round(right.float().mean().item(), 4),
        "foreseen": round(torch.where(right, chance, 1 - chance).mean().item(), 4),
        "ceiling": round(crowd.ceiling(kept), 4),
        "said_curve": curve(sure[some].mean().item() for some in order),
        "true_curve": curve(right[some].float().mean().item() for some in order),
        "cpu_seconds": seconds,
    } | curves_of_pairs(fits)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best of n answers, by the reward model."""

    n: int
    seed: int = 0


def measured_best(run: Best) -> dict:
    """The answers to the prompts that are kept for measuring, each the best of n."""
    reward_model, _, _ = judge(N_RANKED, run.seed)
    groups = [many(k, run.seed) for k in range(run.n)]
    rewards = torch.stack([by_model(reward_model)(group) for group in groups])  # (n, N)
    best = [groups[k].texts[i] for i, k in enumerate(rewards.argmax(dim=0).tolist())]
    reward = round(rewards.max(dim=0).values.mean().item(), 3)
    return measured_texts(best) | {"reward": reward, "kl_bound": round(kl_of_best(run.n), 3)}


@lru_cache
def many(k: int, seed: int) -> Rollout:
    """Answer k of the chat model to each of the prompts that are kept for measuring."""
    return tested(chat()[0], first_seed=5 * 10**7 + 10**5 * seed + 1_000 * k)


# ---------------------------------------------------------------- the sweeps


# Each method as it does best here; GRPO without a critic has time for more iterations.
DPO = {"method": "dpo", "lr": 8e-4, "B": 8, "beta": 0.1}
GRPO = {"method": "grpo", "lr": 1e-3, "beta": 0.2, "iterations": 25, "B": 64}
PPO = {"method": "ppo", "lr": 1.5e-3, "beta": 0.15}


def seeded(kind, runs: list[dict]) -> list:
    """Each of the runs with every seed: all with the first, then the next."""
    return [kind(seed=seed, **run) for seed in SEEDS for run in runs]


def alignment() -> list[Run]:
    """The methods side by side."""
    methods = {"start": {}, "DPO": DPO, "GRPO": GRPO, "PPO": PPO}
    return seeded(Run, [{"arm": arm, **how} for arm, how in methods.items()])


def kl_prices() -> list[Run]:
    """PPO, the KL at every price."""
    return [Run(arm=f"beta {beta}", **PPO | {"beta": beta}) for beta in (0.0, 0.03, 0.3, 1.0)]


def overdone() -> list[Run]:
    """DPO from few pairs, read again and again, held by a low beta and by a high one."""
    few = DPO | {"n_ranked": 40}
    return seeded(
        Run,
        [
            {"arm": f"beta {beta}", **few | {"beta": beta, "epochs": epochs}}
            for beta in (0.1, 1.0)
            for epochs in (2, 4, 8, 16, 32)
        ],
    )


def judges() -> list[Judge]:
    """Reward models that learn from few pairs and from many."""
    return seeded(Judge, [{"n_ranked": n} for n in (N_RANKED, 100, 30)])


def best() -> list[Best]:
    """Best of n by the reward model."""
    return [Best(n=n) for n in (1, 2, 4, 8, 16)]


SWEEPS = {
    "alignment": (alignment, measured),
    "judges": (judges, measured_judge),
    "kl_prices": (kl_prices, measured),
    "overdone": (overdone, measured),
    "best_of_n": (best, measured_best),
}


if __name__ == "__main__":
    command_line(SWEEPS, sys.argv[1:])
