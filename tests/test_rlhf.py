"""The loops of RLHF on a tiny random decoder: what is learnt from, and where it leads.

python -m pytest tests/test_rlhf.py -p no:nbval -o addopts=""
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from helpers import align, rlhf
from helpers.config import ModelConfig
from helpers.generate import Sampling, generate
from helpers.model import Decoder
from helpers.preferences import Pair
from helpers.rlhf import Plan, roll_out
from helpers.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ["aa", "b", "cab"]
MAX_NEW = 8
TINY = Plan(iterations=2, n_prompts=2, group=4, max_new=MAX_NEW, epochs=1, B=8, lr=0.01, beta=0.0)


@pytest.fixture
def tokenizer():
    return Tokenizer([])  # bytes and specials


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return Decoder(
        ModelConfig(
            vocab_size=tokenizer.vocab_size,
            context_length=32,
            n_layers=1,
            d_model=16,
            n_heads=2,
            n_kv_heads=2,
            head_dim=8,
            d_ff=32,
            init_std=0.2,
        )
    )


@pytest.fixture
def answers(model, tokenizer):
    model.lm_head.weight.data[tokenizer.special_ids["<|end|>"]] *= 4  # some answers end early
    return roll_out(model, tokenizer, PROMPTS * 4, MAX_NEW, range(12))


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def share_of(letter):
    """The reward: how much of an answer is this letter."""
    return rlhf.by_rule(lambda prompt, answer: answer.count(letter) / max(1, len(answer)))


def chance_of(model, tokenizer, letter):
    """The mean probability of a letter as the first of an answer."""
    ids = torch.tensor([rlhf.prompt_ids(tokenizer, "b")])
    return model(ids)[0, -1].softmax(-1)[ord(letter)].item()


# ---------------------------------------------------------------- answers


def test_a_rollout_s_logps_are_those_of_a_fresh_forward_pass(model, answers):
    logps = model(answers.inputs).double().log_softmax(-1)
    for i, row in enumerate(answers.targets):
        for t, target in enumerate(row.tolist()):
            expected = 0.0 if target == -100 else logps[i, t, target].item()
            assert answers.old_logps[i, t].item() == pytest.approx(expected, abs=1e-5)


def test_the_targets_are_exactly_what_was_generated_and_its_end(model, tokenizer, answers):
    end = tokenizer.special_ids["<|end|>"]
    asked = [rlhf.prompt_ids(tokenizer, prompt) for prompt in PROMPTS * 4]
    said = generate(model, asked, MAX_NEW, Sampling(), [end], list(range(12)))
    lengths = {len(ids) for ids in said}
    assert MAX_NEW in lengths and len(lengths) > 2  # some were cut off, others ended
    for i, (prompt, ids) in enumerate(zip(asked, said)):
        ended = ids + [end] * (len(ids) < MAX_NEW)
        assert answers.targets[i][answers.mask[i]].tolist() == ended
        assert answers.inputs[i][: len(prompt) + len(ended) - 1].tolist() == (prompt + ended)[:-1]
        assert answers.mask[i].nonzero()[0] == len(prompt) - 1
        assert answers.texts[i] == tokenizer.decode(ids)


def test_what_stands_behind_an_answer_changes_no_logp(model, answers):
    places = torch.arange(answers.inputs.shape[1])
    last = rlhf.row_lengths(answers.targets)[:, None]
    spoilt = torch.where(places < last, answers.inputs, 7)
    assert not torch.equal(spoilt, answers.inputs)
    assert_close(rlhf.answer_logps(model, spoilt, answers.targets), answers.old_logps)


def test_a_part_holds_the_rows_asked_for(answers):
    part = answers.part(torch.tensor([5, 2]))
    assert part.texts == [answers.texts[5], answers.texts[2]]
    assert part.prompts == [answers.prompts[5], answers.prompts[2]]
    assert torch.equal(part.targets, answers.targets[[5, 2]])
    assert torch.equal(part.old_logps, answers.old_logps[[5, 2]])


def test_an_answer_depends_on_its_own_seed_alone(model, tokenizer):
    def texts(prompts, seeds):
        return roll_out(model, tokenizer, prompts, MAX_NEW, seeds).texts

    together = texts(["aa", "b", "aa"], [3, 4, 5])
    assert together == [
        *texts(["aa"], [3]),
        *texts(["b"], [4]),
        *texts(["aa"], [5]),
    ]
    assert together[0] != together[2]


def test_a_prompt_longer_than_the_context_is_one_sentence(model, tokenizer):
    with pytest.raises(ValueError, match="do not fit into context_length = 32: shorten one"):
        roll_out(model, tokenizer, ["a" * 40], MAX_NEW, [0])


# ---------------------------------------------------------------- from pairs


PAIRS = [Pair(prompt, f"good{i}", f"bad {i}") for i in range(4) for prompt in PROMPTS]


def test_rows_of_pairs_hold_the_chosen_answers_then_the_rejected(tokenizer):
    inputs, targets = rlhf.pair_rows(tokenizer, PAIRS)
    end = tokenizer.special_ids["<|end|>"]
    wanted = [pair.chosen for pair in PAIRS] + [pair.rejected for pair in PAIRS]
    for row, text in zip(targets, wanted, strict=True):
        assert row[row != -100].tolist() == [*text.encode(), end]
    prompt = rlhf.prompt_ids(tokenizer, PAIRS[1].prompt)
    assert inputs[1, : len(prompt)].tolist() == inputs[13, : len(prompt)].tolist() == prompt


def test_a_reward_model_learns_to_put_first_what_was_chosen(model, tokenizer):
    judge = align.RewardModel(model)
    fits = rlhf.fit_reward_model(judge, tokenizer, PAIRS, epochs=6, B=2, lr=0.01)
    assert fits[0].loss == pytest.approx(math.log(2)) and fits[0].chosen == 0
    assert fits[-1].accuracy == 1 and fits[-1].chosen > fits[-1].rejected
    assert [fit.step for fit in fits] == list(range(1, 13))


def test_padding_has_no_say_in_a_score(model, tokenizer, answers):
    judge = align.RewardModel(model)
    torch.nn.init.normal_(judge.head.weight)
    together = rlhf.scores(judge, answers.inputs, answers.targets)
    for i, n in enumerate(rlhf.row_lengths(answers.targets).tolist()):
        alone = judge(answers.inputs[i : i + 1, :n], torch.tensor([n]))
        assert_close(together[i : i + 1], alone)
    assert_close(rlhf.by_model(judge)(answers), together.detach())
    assert not rlhf.by_model(judge)(answers).requires_grad


def test_dpo_starts_at_log_2_and_widens_the_gap(model, tokenizer):
    fits = rlhf.tune_by_dpo(model, tokenizer, PAIRS, epochs=4, B=4, lr=0.003)
    assert fits[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert fits[0].chosen == pytest.approx(0, abs=1e-5)
    assert fits[-1].chosen - fits[-1].rejected > 1 and fits[-1].accuracy == 1


def test_dpo_measures_against_the_model_that_it_started_from(model, tokenizer, monkeypatch):
    """With one pair, the record of a step is the change since the start, before that step."""
    pair, before, step = PAIRS[:1], [], rlhf.take_step
    monkeypatch.setattr(
        rlhf, "take_step", lambda *a, **k: before.append(rlhf.frozen(model)) or step(*a, **k)
    )
    *_, last = rlhf.tune_by_dpo(model, tokenizer, pair, epochs=3, lr=0.003)
    rows = rlhf.pair_rows(tokenizer, pair)
    first, third = (rlhf.answer_logps(m, *rows).sum(dim=1) for m in (before[0], before[2]))
    assert_close(torch.tensor([last.chosen, last.rejected]), third - first)


def test_the_learning_rate_falls_evenly_to_nothing(model, tokenizer, monkeypatch):
    left, step = [], rlhf.take_step
    monkeypatch.setattr(rlhf, "take_step", lambda *a, **k: left.append(k["left"]) or step(*a, **k))
    rlhf.tune_by_dpo(model, tokenizer, PAIRS, epochs=2, B=6)
    assert left == [1, 0.75, 0.5, 0.25]
    left.clear()
    rlhf.tune_by_grpo(model, tokenizer, PROMPTS, share_of("e"), replace(TINY, epochs=2))
    assert left == [1, 1, 0.5, 0.5]


def test_no_pairs_are_one_sentence(model, tokenizer):
    for learn in (rlhf.tune_by_dpo, rlhf.fit_reward_model):
        with pytest.raises(ValueError, match="there is no pair to learn from"):
            learn(model, tokenizer, [])


# ---------------------------------------------------------------- from answers


def by_grpo(model, tokenizer, reward, plan, hook=None):
    return rlhf.tune_by_grpo(model, tokenizer, PROMPTS, reward, plan, hook)


def by_ppo(model, tokenizer, reward, plan, hook=None):
    critic = align.RewardModel(model)
    return rlhf.tune_by_ppo(model, tokenizer, PROMPTS, reward, critic, plan, hook)


LOOPS = pytest.mark.parametrize("tune", [by_grpo, by_ppo])


@LOOPS
def test_a_reward_for_one_letter_makes_it_likelier(model, tokenizer, tune):
    letter = max("abcdefghijklmnopqrstuvwxyz", key=lambda x: chance_of(model, tokenizer, x))
    before = chance_of(model, tokenizer, letter)
    plan = replace(TINY, iterations=12, group=16, B=32, lr=0.02)
    iterations = tune(model, tokenizer, share_of(letter), plan)
    assert chance_of(model, tokenizer, letter) > 3 * before
    assert iterations[-1].reward > iterations[0].reward


@LOOPS
def test_the_kl_is_0_before_the_first_step_and_not_after(model, tokenizer, tune):
    first, second = tune(model, tokenizer, share_of("e"), TINY)
    assert first.kl == pytest.approx(0, abs=1e-5)
    assert abs(second.kl) > 1e-3


@LOOPS
def test_the_reference_never_changes(model, tokenizer, tune, monkeypatch):
    kept, before = [], weights_of(model)
    frozen = rlhf.frozen
    monkeypatch.setattr(rlhf, "frozen", lambda m: kept.append(frozen(m)) or kept[-1])
    tune(model, tokenizer, share_of("e"), TINY)
    assert_close(weights_of(kept[0]), before, rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(weights_of(model), before))


def test_equal_rewards_teach_grpo_nothing(model, tokenizer):
    before = weights_of(model)
    by_grpo(model, tokenizer, rlhf.by_rule(lambda prompt, answer: 0.7), TINY)
    assert_close(weights_of(model), before, rtol=0, atol=0)


@LOOPS
def test_a_high_price_of_kl_holds_the_model_back(model, tokenizer, tune):
    plan = replace(TINY, iterations=10, group=16, B=32)
    cheap, dear = (
        tune(rlhf.frozen(model).requires_grad_(True), tokenizer, share_of("e"), each)[-1].kl
        for each in (plan, replace(plan, beta=5.0))
    )
    assert dear < 0.7 * cheap


@LOOPS
def test_the_same_seed_gives_the_same_run(model, tokenizer, tune):
    plans = TINY, TINY, replace(TINY, seed=1)
    runs = [
        tune(rlhf.frozen(model).requires_grad_(True), tokenizer, share_of("e"), plan)
        for plan in plans
    ]
    texts = [run[-1].texts for run in runs]
    assert texts[0] == texts[1] != texts[2]


@LOOPS
def test_a_hook_sees_each_iteration_and_the_model(model, tokenizer, tune):
    seen = []
    iterations = tune(model, tokenizer, share_of("e"), TINY, lambda *both: seen.append(both))
    assert seen == [(iteration, model) for iteration in iterations]
    assert all(min(one.seconds.values()) > 0 for one in iterations)
    assert [one.iteration for one in iterations] == [1, 2]
    assert len(iterations[0].texts) == 8


def test_each_iteration_asks_other_prompts_with_other_seeds():
    asked = [rlhf.drawn([*"abcdefgh"], replace(TINY, seed=s), i) for s in (0, 1) for i in (0, 1)]
    assert len({tuple(prompts) for prompts, _, _ in asked}) == 4
    assert len({seed for _, _, seeds in asked for seed in seeds}) == 4 * 8
    prompts = asked[0][0]
    assert prompts[:4] == [prompts[0]] * 4 and prompts[4:] == [prompts[4]] * 4 != prompts[:4]


def test_too_few_prompts_are_one_sentence(model, tokenizer):
    with pytest.raises(ValueError, match="there are 3 prompts and n_prompts is 5: give more"):
        by_grpo(model, tokenizer, share_of("e"), replace(TINY, n_prompts=5))


def test_the_first_step_of_grpo_is_the_policy_gradient(model, tokenizer):
    """One step of plain descent moves along A · grad log p, averaged as `per` says."""
    start = rlhf.frozen(model).requires_grad_(True)
    moved = []
    plan = replace(TINY, iterations=1, per="token")
    by_grpo(model, tokenizer, share_of("e"), plan)
    answers = roll_out(start, tokenizer, *rlhf.drawn(PROMPTS, plan, 0))
    groups = share_of("e")(answers).view(2, 4)
    advantages = align.group_advantages(groups).flatten()
    logps = rlhf.answer_logps(start, answers.inputs, answers.targets)
    loss = -(advantages[:, None] * logps).sum() / answers.mask.sum()
    rlhf.take_step(rlhf.adamw((start, plan.lr)), loss, left=1.0)
    moved = zip(weights_of(model), weights_of(start))
    for theirs, ours in moved:
        assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_standardised_numbers_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
    wanted = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert_close(rlhf.standardised(x, mask), wanted)


# ---------------------------------------------------------------- without learning


def test_best_of_n_is_the_best_of_n_answers(model, tokenizer):
    reward = share_of("e")
    best = rlhf.best_of_n(model, tokenizer, ["aa", "b"], reward, 6, MAX_NEW, seed=2)
    answers = roll_out(model, tokenizer, ["aa"] * 6 + ["b"] * 6, MAX_NEW, range(24, 36))
    rewards = reward(answers).tolist()
    for i, text in enumerate(best):
        share = text.count("e") / max(1, len(text))
        assert text in answers.texts[6 * i : 6 * i + 6]
        assert share == pytest.approx(max(rewards[6 * i : 6 * i + 6]))


def test_the_kl_of_best_of_n_bounds_that_of_a_small_table():
    """Six answers, all equally likely: best of n by one's number, worked out exactly."""
    for n in (1, 2, 4, 16):
        best = [(k / 6) ** n - ((k - 1) / 6) ** n for k in range(1, 7)]
        kl = sum(p * math.log(6 * p) for p in best if p)
        assert 0 <= kl <= rlhf.kl_of_best(n) + 1e-12
    assert rlhf.kl_of_best(16) == pytest.approx(1.835, abs=1e-3)


def test_a_tie_is_half_a_win():
    assert rlhf.win_rate([1, 2, 3, 4], [0, 2, 5, 4]) == 0.5
    with pytest.raises(ValueError):
        rlhf.win_rate([1], [1, 2])
