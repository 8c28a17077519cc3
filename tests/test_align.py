"""python -m pytest tests/test_align.py -p no:nbval -o addopts="" """

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from helpers.align import (
    RewardModel,
    dpo_loss,
    gae,
    group_advantages,
    grpo_loss,
    ipo_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    mean_logps,
    ppo_loss,
    reward_loss,
    rewards_per_token,
    sft_loss,
    simpo_loss,
    sum_logps,
    token_logps,
    value_loss,
)
from helpers.config import ModelConfig
from helpers.data import IGNORED
from helpers.model import Decoder

B, T, V = 4, 6, 7
# Answers of different lengths, after prompts of different lengths: (first place, one past the last)
SPANS = [(0, 6), (2, 3), (1, 5), (3, 6)]
MASK = torch.tensor([[start <= t < end for t in range(T)] for start, end in SPANS])


def drawn(*shape, seed=0, scale=1.0):
    """Numbers in 64 bits, the same for the same seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def some_targets():
    ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))
    return ids.masked_fill(~MASK, IGNORED)


def four(seed=0):
    """Summed log-probabilities (B,) of chosen, rejected, and both under the reference."""
    return [-drawn(B, seed=seed + i, scale=5).abs() for i in range(4)]


def spoilt(x, value):
    """x with `value` outside the mask."""
    return x.masked_fill(~MASK, value)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def same(ours, theirs, rtol=1e-10):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=rtol, atol=1e-12)


def small_decoder(seed=0):
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "d_ff": 24}
    return Decoder(ModelConfig(vocab_size=V, context_length=16, **sizes)).double()


# ---------------------------------------------------------------- log-probabilities


def test_log_probabilities_are_those_of_a_softmax_written_out():
    logits, targets = drawn(B, T, V).numpy(), some_targets().numpy()
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [
        [math.log(probs[b, t, targets[b, t]]) if MASK[b, t] else 0.0 for t in range(T)]
        for b in range(B)
    ]
    found = torch.from_numpy(logits), torch.from_numpy(targets)
    lengths = MASK.sum(1).numpy()
    same(token_logps(*found), expected)
    same(sum_logps(*found), np.sum(expected, 1))
    same(mean_logps(*found), np.sum(expected, 1) / lengths)
    same(sft_loss(*found), -np.sum(expected) / lengths.sum())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_log_probabilities_keep_32_bits_where_logits_have_16(half):
    logits = drawn(B, T, V).to(half)
    logps = token_logps(logits, some_targets())
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, token_logps(logits.float(), some_targets()))


def test_the_loss_of_finetuning_is_cross_entropy_which_skips_what_is_ignored():
    logits, targets = drawn(B, T, V), some_targets()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(sft_loss(logits, targets), expected)


def test_logits_where_nothing_is_asked_change_nothing():
    logits, targets = drawn(B, T, V), some_targets()
    other = torch.where(MASK[..., None], logits, drawn(B, T, V, seed=9, scale=50))
    for measure in (token_logps, sum_logps, mean_logps, sft_loss):
        assert torch.equal(measure(logits, targets), measure(other, targets))


@pytest.mark.parametrize("measure", [sum_logps, mean_logps])
def test_an_empty_answer_is_named(measure):
    targets = some_targets()
    targets[2] = IGNORED
    with pytest.raises(ValueError, match="row 2 has an empty answer"):
        measure(drawn(B, T, V), targets)


def test_no_target_at_all_is_said():
    with pytest.raises(ValueError, match="every target is -100"):
        sft_loss(drawn(B, T, V), torch.full((B, T), IGNORED))


# ---------------------------------------------------------------- a reward model


def right_padded(lengths, filler):
    ids = torch.randint(V, (len(lengths), T), generator=torch.Generator().manual_seed(3))
    places = torch.arange(T) < torch.tensor(lengths)[:, None]
    return ids.where(places, filler), torch.tensor(lengths)


def reward_model(seed=0):
    """One whose head says something."""
    model = RewardModel(small_decoder(seed))
    with torch.no_grad():
        model.head.weight.copy_(drawn(1, 16, seed=5))
    return model


def test_a_score_is_the_head_on_the_last_real_token_of_the_text_alone():
    model = reward_model()
    tokens, lengths = right_padded([6, 1, 4], filler=0)
    for row, length, score in zip(tokens, lengths, model(tokens, lengths)):
        alone = model.decoder.hidden(row[None, :length])[0, -1]
        torch.testing.assert_close(score, model.head.weight[0] @ alone)


def test_padding_changes_no_score():
    model = reward_model()
    scores = [model(*right_padded([6, 1, 4], filler)) for filler in (0, V - 1)]
    assert torch.equal(*scores)


def test_values_are_the_scores_of_every_beginning():
    model = reward_model()
    tokens, _ = right_padded([6, 6], filler=0)
    for t in range(T):
        scores = model(tokens[:, : t + 1], torch.tensor([t + 1, t + 1]))
        torch.testing.assert_close(model.values(tokens)[:, t], scores)


def test_a_new_reward_model_scores_all_0_and_leaves_its_decoder_alone():
    decoder = small_decoder().requires_grad_(False)
    before = {name: p.clone() for name, p in decoder.named_parameters()}
    model = RewardModel(decoder)
    tokens, lengths = right_padded([6, 1, 4, 2], filler=0)
    chosen, rejected = model(tokens, lengths).chunk(2)
    assert reward_loss(chosen, rejected).item() == pytest.approx(math.log(2), rel=1e-12)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):  # the trunk's gradient comes through the head, which is 0 at first
        optimizer.zero_grad()
        reward_loss(*model(tokens, lengths).chunk(2)).backward()
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in decoder.named_parameters())
    assert any(not torch.equal(p, before[n]) for n, p in model.decoder.named_parameters())


def test_every_parameter_of_a_reward_model_learns():
    model = reward_model()
    reward_loss(*model(*right_padded([6, 1, 4, 2], filler=0)).chunk(2)).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == []


def test_a_reward_model_in_16_bits_scores_in_32():
    model = reward_model().bfloat16()
    tokens, lengths = right_padded([6, 1], filler=0)
    assert model(tokens, lengths).dtype == model.values(tokens).dtype == torch.float32


@pytest.mark.parametrize("lengths", [[6, 0], [7, 1], [3], [1, 1, 1]])
def test_lengths_that_fit_no_row_are_refused(lengths):
    tokens, _ = right_padded([6, 1], filler=0)
    with pytest.raises(ValueError, match="2 numbers from 1 to 6, one for each row"):
        reward_model()(tokens, torch.tensor(lengths))


def test_the_reward_loss_is_that_of_its_paper():
    chosen, rejected, margin = drawn(B), drawn(B, seed=1), drawn(B, seed=2).abs()
    a, b, m = chosen.numpy(), rejected.numpy(), margin.numpy()
    same(reward_loss(chosen, rejected), -np.log(sigmoid(a - b)).mean())
    same(reward_loss(chosen, rejected, margin), -np.log(sigmoid(a - b - m)).mean())


def test_the_reward_loss_by_hand():
    """A lead of log 3 is a chance of 3/4."""
    loss = reward_loss(torch.tensor([math.log(3)]), torch.tensor([0.0]))
    assert loss.item() == pytest.approx(math.log(4 / 3), rel=1e-6)


def test_a_lead_of_thousands_costs_nothing_and_one_behind_is_finite():
    far = torch.tensor([5000.0])
    assert reward_loss(far, -far) == 0 and reward_loss(-far, far) == 10000


def test_a_number_added_to_all_rewards_changes_no_loss():
    chosen, rejected = drawn(B), drawn(B, seed=1)
    moved = reward_loss(chosen + 5, rejected + 5)
    torch.testing.assert_close(moved, reward_loss(chosen, rejected), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("loss", "n"), [(reward_loss, 2), (simpo_loss, 2), (dpo_loss, 4), (ipo_loss, 4)]
)
def test_pairs_that_do_not_match_and_no_pairs_are_refused(loss, n):
    with pytest.raises(ValueError, match=r"do not match: chosen \(3,\), rejected \(2,\)"):
        loss(drawn(3), *[drawn(2)] * (n - 1))
    with pytest.raises(ValueError, match=r"rejected \(0,\)"):  # one label only
        loss(drawn(3), *[drawn(0)] * (n - 1))
    with pytest.raises(ValueError, match=r"chosen is empty, \(0,\): there is nothing to learn"):
        loss(*[drawn(0)] * n)


# ---------------------------------------------------------------- how far from the reference?


def two_distributions():
    """log p and log q over V tokens, far from equal."""
    return drawn(V, seed=1).log_softmax(0), drawn(V, seed=2).log_softmax(0)


def test_k1_and_k3_are_the_divergence_in_the_mean_exactly():
    p, q = two_distributions()
    kl = sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist()))
    assert (p.exp() @ kl_k1(p, q)).item() == pytest.approx(kl, rel=1e-12)
    assert (p.exp() @ kl_k3(p, q)).item() == pytest.approx(kl, rel=1e-12)
    assert (p.exp() @ kl_k2(p, q)).item() != pytest.approx(kl, rel=1e-2)


def test_k2_is_half_the_square_and_nearly_the_divergence_where_the_two_are_near():
    p, _ = two_distributions()
    q = (p + 0.01 * drawn(V, seed=3)).log_softmax(0)
    same(kl_k2(p, q), 0.5 * (p - q).numpy() ** 2)
    kl = (p.exp() @ (p - q)).item()
    assert (p.exp() @ kl_k2(p, q)).item() == pytest.approx(kl, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k2_and_k3_are_never_negative_and_0_only_for_equals(dtype):
    gaps = torch.cat([torch.linspace(-20, 5, 1001), torch.logspace(-30, 0, 200)]).to(dtype)
    gaps = torch.cat([gaps, -gaps])
    p = torch.zeros_like(gaps)
    assert (kl_k2(p, gaps) >= 0).all() and (kl_k3(p, gaps) >= 0).all()
    assert (kl_k3(p, gaps)[gaps.abs() > 1e-3] > 0).all()
    assert kl_k1(p, p).abs().sum() + kl_k2(p, p).sum() + kl_k3(p, p).sum() == 0
    assert (kl_k1(p, gaps) < 0).any()


def test_k3_is_the_formula_of_deepseekmath():
    p, q = two_distributions()
    ratio = np.exp(q.numpy()) / np.exp(p.numpy())
    same(kl_k3(p, q), ratio - np.log(ratio) - 1)


# ---------------------------------------------------------------- PPO


def test_the_score_comes_with_the_last_token_and_the_divergence_with_each():
    scores, kl = torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), drawn(B, T)
    found = rewards_per_token(scores, spoilt(kl, math.nan), MASK, beta=0.5)
    for row, score, price, (start, end) in zip(found, scores, kl, SPANS):
        expected = np.zeros(T)
        expected[start:end] = -0.5 * price[start:end].numpy()
        expected[end - 1] += score
        same(row, expected)


def test_advantages_and_returns_by_hand():
    """Rewards 0 0 1 where 0.5 0.25 0.75 was expected; gamma 1/2, lam 1/2.

    Surprises: 0 + 0.125 - 0.5, 0 + 0.375 - 0.25, 1 - 0.75.
    """
    rewards, values = torch.tensor([[0, 0, 1.0]]), torch.tensor([[0.5, 0.25, 0.75]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3).bool(), gamma=0.5, lam=0.5)
    same(advantages[0].double(), [-0.375 + 0.1875 / 4, 0.125 + 0.25 / 4, 0.25], rtol=1e-6)
    same(returns[0].double(), [0.171875, 0.4375, 1.0], rtol=1e-6)


def test_with_lam_1_an_advantage_is_the_return_minus_the_value():
    rewards, values = drawn(B, T), drawn(B, T, seed=1)
    advantages, returns = gae(rewards, values, MASK, gamma=0.9, lam=1.0)
    for b, (start, end) in enumerate(SPANS):
        for t in range(start, end):
            to_come = sum(0.9 ** (k - t) * rewards[b, k].item() for k in range(t, end))
            assert returns[b, t].item() == pytest.approx(to_come, rel=1e-9)
            assert advantages[b, t].item() == pytest.approx(to_come - values[b, t].item(), rel=1e-9)


def test_with_lam_0_an_advantage_is_the_surprise_of_one_step():
    rewards, values = drawn(B, T), drawn(B, T, seed=1)
    advantages, _ = gae(rewards, values, MASK, gamma=0.9, lam=0.0)
    for b, (start, end) in enumerate(SPANS):
        for t in range(start, end):
            after = 0.9 * values[b, t + 1].item() if t + 1 < end else 0.0
            surprise = rewards[b, t].item() + after - values[b, t].item()
            assert advantages[b, t].item() == pytest.approx(surprise, rel=1e-9)


def test_advantages_are_the_sum_of_all_later_surprises():
    rewards, values = drawn(1, T), drawn(1, T, seed=1)
    advantages, _ = gae(rewards, values, torch.ones(1, T).bool(), gamma=0.97, lam=0.8)
    r, v = rewards[0].numpy(), np.append(values[0].numpy(), 0)
    deltas = r + 0.97 * v[1:] - v[:-1]
    same(
        advantages[0],
        [sum((0.97 * 0.8) ** k * d for k, d in enumerate(deltas[t:])) for t in range(T)],
    )


def test_what_stands_outside_of_an_answer_changes_no_advantage():
    rewards, values = drawn(B, T), drawn(B, T, seed=1)
    clean = gae(rewards, values, MASK)
    for found, expected in zip(
        gae(spoilt(rewards, math.nan), spoilt(values, math.inf), MASK), clean
    ):
        assert torch.equal(found, expected) and not found[~MASK].any()


def test_advantages_pass_no_gradient_to_the_critic():
    values = drawn(B, T).requires_grad_()
    advantages, returns = gae(drawn(B, T, seed=1), values, MASK)
    assert not advantages.requires_grad and not returns.requires_grad


def said(seed=0, scale=0.3):
    """logps now, logps then, advantages: (B, T) each, some ratios beyond the clip, some within."""
    old = -drawn(B, T, seed=seed).abs()
    return old + drawn(B, T, seed=seed + 1, scale=scale), old, drawn(B, T, seed=seed + 2)


def test_the_loss_of_ppo_is_that_of_its_paper():
    logps, old_logps, advantages = said()
    terms = []
    for b, t in product(range(B), range(T)):
        if MASK[b, t]:
            ratio, A = math.exp(logps[b, t] - old_logps[b, t]), advantages[b, t].item()
            terms.append(min(ratio * A, min(max(ratio, 0.8), 1.2) * A))
    same(ppo_loss(logps, old_logps, advantages, MASK), -np.mean(terms))
    outside = [abs(math.exp(d) - 1) > 0.2 for d in (logps - old_logps)[MASK]]
    assert any(outside) and not all(outside)


def test_the_first_step_of_ppo_is_the_policy_gradient():
    logps, _, advantages = said()
    logps.requires_grad_()
    ppo_loss(logps, logps.detach(), advantages, MASK).backward()
    same(logps.grad, -(advantages * MASK / MASK.sum()).numpy())


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.3, 1, False), (1.3, -1, True), (0.7, -1, False), (0.7, 1, True), (1.1, 1, True)],
)
def test_ppo_stops_where_nothing_more_is_to_be_won(ratio, advantage, moves):
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    ppo_loss(logps, 0 * one, advantage * one, one.bool()).backward()
    assert bool(logps.grad.abs() > 0) == moves


def test_the_loss_of_the_critic_is_the_mean_square_over_answers():
    values, returns = drawn(B, T), drawn(B, T, seed=1)
    gaps = (values - returns)[MASK].numpy()
    same(value_loss(spoilt(values, math.nan), returns, MASK), (gaps**2).mean())


# ---------------------------------------------------------------- DPO and its kin


def test_the_losses_on_pairs_are_those_of_their_papers():
    chosen, rejected, ref_chosen, ref_rejected = (x.numpy() for x in four())
    ratios = np.exp(chosen - ref_chosen), np.exp(rejected - ref_rejected)
    lead = np.log(ratios[0] / ratios[1])
    same(dpo_loss(*four(), beta=0.3), -np.log(sigmoid(0.3 * lead)).mean())
    same(ipo_loss(*four(), beta=0.3), ((lead - 1 / 0.6) ** 2).mean())
    same(
        simpo_loss(*four()[:2], beta=2.5, gamma=0.7),
        -np.log(sigmoid(2.5 * chosen - 2.5 * rejected - 0.7)).mean(),
    )


def test_the_loss_of_dpo_is_log_2_where_policy_and_reference_are_one():
    chosen, rejected, *_ = four()
    loss = dpo_loss(chosen, rejected, chosen, rejected, beta=0.7)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-12)


def test_the_gradient_of_dpo_is_that_of_its_paper():
    """Section 4: beta sigmoid(reward(rejected) - reward(chosen)) pushes one up, the other down."""
    chosen, rejected, ref_chosen, ref_rejected = (x.requires_grad_() for x in four())
    dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.3).backward()
    rewards = 0.3 * (chosen - ref_chosen), 0.3 * (rejected - ref_rejected)
    weight = 0.3 * sigmoid((rewards[1] - rewards[0]).detach().numpy()) / B
    same(chosen.grad, -weight)
    same(rejected.grad, weight)


def test_ipo_is_content_with_its_lead_where_dpo_wants_more():
    ref, ahead = torch.zeros(1), torch.full((1,), 5.0, requires_grad=True)  # 1 / (2 · 0.1) = 5
    assert ipo_loss(ahead, ref, ref, ref, beta=0.1) == 0
    dpo_loss(ahead, ref, ref, ref, beta=0.1).backward()
    assert ahead.grad < 0


def test_dpo_finds_the_closed_form_on_a_small_table():
    """For choices made by rewards r it is p_ref e^(r / beta) / Z, and r is what is implied."""
    beta, rewards, ref = 0.5, torch.tensor([0.0, 1.0, 2.0, -1.0]).double(), drawn(4).log_softmax(0)
    scores = ref.clone().requires_grad_()
    a, b = torch.tensor([*product(range(4), range(4))]).T  # every pair, both ways round
    chance = torch.sigmoid(rewards[a] - rewards[b])  # that a is chosen
    optimizer = torch.optim.LBFGS([scores], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        logps = scores.log_softmax(0)
        each = [
            dpo_loss(logps[i, None], logps[j, None], ref[i, None], ref[j, None], beta)
            for i, j in zip(a, b)
        ]
        total = (chance * torch.stack(each)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    logps = scores.detach().log_softmax(0)
    torch.testing.assert_close(logps, (ref + rewards / beta).log_softmax(0), rtol=0, atol=1e-5)
    implied = beta * (logps - ref)  # equation 5
    torch.testing.assert_close(implied - implied[0], rewards - rewards[0], rtol=0, atol=1e-5)


# ---------------------------------------------------------------- GRPO and its corrections


def test_group_advantages_by_hand():
    """2 and 4 are one from their mean, and std over n - 1 is sqrt 2."""
    rewards = torch.tensor([[2.0, 4.0], [0.0, 0.0]])
    unit = 1 / (math.sqrt(2) + 1e-4)
    same(group_advantages(rewards).double(), [[-unit, unit], [0, 0]], rtol=1e-6)
    same(group_advantages(rewards, scale=False).double(), [[-1, 1], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("scale", [True, False])
def test_group_advantages_sum_to_0_and_know_no_zero_point(scale):
    rewards = drawn(5, 8, scale=3)
    advantages = group_advantages(rewards, scale)
    assert advantages.sum(dim=1).abs().max() < 1e-12
    moved = group_advantages(rewards + drawn(5, 1, seed=1, scale=100), scale)
    torch.testing.assert_close(moved, advantages, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e8, 0, 1, True])
def test_equal_rewards_give_exact_zeros(value, scale):
    """0.1 three times has a mean that is not 0.1, in 32 bits."""
    assert not group_advantages(torch.tensor([[value] * 7]), scale).any()


def test_scaled_advantages_have_spread_1_whatever_the_rewards_unit():
    rewards = drawn(5, 8)
    same(group_advantages(1000 * rewards).std(dim=1), np.ones(5), rtol=1e-6)


@pytest.mark.parametrize("rewards", [torch.zeros(4), torch.zeros(4, 1), torch.zeros(4, 0)])
def test_a_group_of_fewer_than_two_is_refused(rewards):
    with pytest.raises(ValueError, match="G at least 2 answers"):
        group_advantages(rewards)


def written_out(logps, old_logps, advantages, ref_logps, beta, low, high):
    """The losses of GRPO's tokens, a list for each answer, as its paper writes them."""
    answers = []
    for b, (start, end) in enumerate(SPANS):
        tokens = []
        for t in range(start, end):
            ratio = math.exp(logps[b, t] - old_logps[b, t])
            A = advantages[b].item()
            apart = math.exp(ref_logps[b, t] - logps[b, t])
            gain = min(ratio * A, min(max(ratio, 1 - low), 1 + high) * A)
            tokens.append(-(gain - beta * (apart - math.log(apart) - 1)))
        answers.append(tokens)
    return answers


AVERAGES = {
    "answer": lambda answers: np.mean([np.mean(tokens) for tokens in answers]),
    "token": lambda answers: np.mean(np.concatenate(answers)),
    "constant": lambda answers: sum(map(sum, answers)) / (B * T),
}


@pytest.mark.parametrize("per", AVERAGES)
@pytest.mark.parametrize("clip", [(0.2, 0.2), (0.2, 0.28)])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_losses_of_grpo_dapo_and_dr_grpo_are_those_of_their_papers(per, clip, beta):
    logps, old_logps, _ = said()
    advantages, ref_logps = drawn(B, seed=7), -drawn(B, T, seed=8).abs()
    answers = written_out(logps, old_logps, advantages, ref_logps, beta, *clip)
    loss = grpo_loss(logps, old_logps, advantages, MASK, clip, per, ref_logps, beta)
    same(loss, AVERAGES[per](answers))


def test_the_upper_clip_alone_lets_a_rare_token_rise_further():
    logps = torch.full((1, 1), math.log(1.25), requires_grad=True)
    given = logps, torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1).bool()
    assert torch.autograd.grad(grpo_loss(*given, clip=(0.2, 0.2)), logps)[0] == 0
    assert torch.autograd.grad(grpo_loss(*given, clip=(0.2, 0.28)), logps)[0] < 0


def test_grpo_on_one_token_is_reinforce_with_the_mean_as_its_baseline():
    logps, rewards = (-drawn(B, 1).abs()).requires_grad_(), drawn(1, B, seed=1)
    advantages, mask = group_advantages(rewards, scale=False)[0], torch.ones(B, 1).bool()
    grpo_loss(logps, logps.detach(), advantages, mask, per="constant").backward()
    same(logps.grad[:, 0], -(rewards[0] - rewards.mean()).numpy() / B)


def test_a_token_of_a_long_answer_counts_less_per_answer_and_as_much_otherwise():
    """Why GRPO lets wrong answers grow: the longer, the less each token is blamed."""
    logps, blame = torch.zeros(B, T, requires_grad=True), -torch.ones(B)
    pulls = {}
    for per in AVERAGES:
        loss = grpo_loss(logps, torch.zeros(B, T), blame, MASK, per=per)
        (gradient,) = torch.autograd.grad(loss, logps)
        pulls[per] = gradient.amax(dim=1)
    lengths = MASK.sum(dim=1)
    torch.testing.assert_close(pulls["answer"] * lengths, torch.full((B,), 1 / B))
    assert len({*pulls["token"].tolist()}) == len({*pulls["constant"].tolist()}) == 1


@pytest.mark.parametrize("per", AVERAGES)
def test_equal_rewards_leave_the_policy_alone(per):
    logps = said()[0].requires_grad_()
    advantages = group_advantages(torch.full((2, 2), 0.1)).flatten().double()
    grpo_loss(logps, said()[1], advantages, MASK, per=per).backward()
    assert not logps.grad.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
@pytest.mark.parametrize("per", AVERAGES)
def test_what_stands_outside_of_an_answer_changes_no_loss_and_gets_no_gradient(per, value):
    logps, old_logps, advantages = said()
    ref_logps, a = -drawn(B, T, seed=8).abs(), drawn(B, seed=7)
    dirty = spoilt(logps, value).requires_grad_()
    ours = grpo_loss(
        dirty,
        spoilt(old_logps, value),
        a,
        MASK,
        per=per,
        ref_logps=spoilt(ref_logps, value),
        beta=0.1,
    )
    assert torch.equal(
        ours, grpo_loss(logps, old_logps, a, MASK, per=per, ref_logps=ref_logps, beta=0.1)
    )
    theirs = ppo_loss(dirty, spoilt(old_logps, value), spoilt(advantages, value), MASK)
    assert torch.equal(theirs, ppo_loss(logps, old_logps, advantages, MASK))
    (ours + theirs).backward()
    assert not dirty.grad[~MASK].any() and dirty.grad[MASK].isfinite().all()


def test_an_unknown_average_is_refused_with_those_there_are():
    one = torch.ones(1, 1)
    with pytest.raises(
        ValueError, match="per is 'sequence': choose one of answer, token, constant"
    ):
        grpo_loss(one, one, one[0], one.bool(), per="sequence")


@pytest.mark.parametrize("loss", [ppo_loss, lambda *a: grpo_loss(*a[:2], a[2][:, 0], a[3])])
def test_answers_that_are_empty_or_do_not_match_are_refused(loss):
    logps, old_logps, advantages = said()
    empty = MASK.clone()
    empty[1] = False
    with pytest.raises(ValueError, match="row 1 has an empty answer"):
        loss(logps, old_logps, advantages, empty)
    with pytest.raises(ValueError, match=r"do not match: logps \(4, 6\), old_logps \(4, 5\)"):
        loss(logps, old_logps[:, 1:], advantages, MASK)


def test_a_reference_is_asked_for_where_its_distance_has_a_price():
    logps, old_logps, _ = said()
    with pytest.raises(ValueError, match="ref_logps are missing"):
        grpo_loss(logps, old_logps, drawn(B), MASK, beta=0.1)


# ---------------------------------------------------------------- gradients


LOSSES = {
    "sft": (lambda logits: sft_loss(logits, some_targets()), [drawn(B, T, V)]),
    "sums": (lambda logits: sum_logps(logits, some_targets()), [drawn(B, T, V)]),
    "means": (lambda logits: mean_logps(logits, some_targets()), [drawn(B, T, V)]),
    "reward": (lambda a, b: reward_loss(a, b, margin=0.5), four()[:2]),
    "dpo": (dpo_loss, four()),
    "ipo": (ipo_loss, four()),
    "simpo": (simpo_loss, four()[:2]),
    "k1": (kl_k1, four()[:2]),
    "k2": (kl_k2, four()[:2]),
    "k3": (kl_k3, [x / 5 for x in four()[:2]]),
    "ppo": (lambda logps: ppo_loss(logps, *said()[1:], MASK), [said()[0]]),
    "value": (lambda values: value_loss(values, drawn(B, T), MASK), [drawn(B, T, seed=1)]),
    **{
        f"grpo {per}": (
            lambda logps, per=per: grpo_loss(
                logps, said()[1], drawn(B), MASK, (0.2, 0.28), per, said()[1] - 0.1, 0.2
            ),
            [said()[0]],
        )
        for per in AVERAGES
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_small_differences(name):
    loss, inputs = LOSSES[name]
    assert gradcheck(loss, [x.clone().requires_grad_() for x in inputs])
