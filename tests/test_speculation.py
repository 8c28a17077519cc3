"""Speculative decoding says what the model alone would say; a kept prompt changes no token.

python -m pytest tests/test_speculation.py
"""

import math
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
import torch

from helpers.generate import GREEDY, Sampling, generate, next_token_probs, stream
from helpers.model import Decoder
from helpers.speculation import (
    Counts,
    PromptCache,
    accept,
    expected_gain,
    expected_tokens,
    n_shared,
    prompt_lookup,
    speculate,
)
from tests.test_generate import KINDS, TINY, V

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = [5, 9, 1, 30, 2, 2, 8]
DRAWN = Sampling(temperature=0.8, top_k=12, repetition_penalty=1.3)


def decoder(cfg=TINY, seed=0):
    torch.manual_seed(seed)
    return Decoder(cfg).double()


def nearly(model, noise=0.02):
    """A copy of the model that often, but not always, says the same."""
    torch.manual_seed(1)
    other = Decoder(model.cfg).double()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for weight in other.parameters():
            weight += noise * torch.randn_like(weight)
    return other


@pytest.fixture(params=KINDS)
def model(request):
    return decoder(KINDS[request.param])


@pytest.fixture(scope="module")
def tiny():
    return decoder()


def nothing(tokens, k):
    return []


def sevens(tokens, k):
    return [7] * (k + 3)  # more than was asked for


DRAFTS = {"lookup": prompt_lookup(1), "nothing": nothing, "sevens": sevens}


# ---------------------------------------------------------------- greedy: the very same tokens


@pytest.mark.parametrize("k", [1, 3, 8])
def test_with_another_model_as_draft_the_tokens_are_the_models(model, k):
    tokens, counts = speculate(model, nearly(model), PROMPT, 30, k)
    assert tokens == generate(model, [PROMPT], 30)[0]
    assert counts.accepted > 0 and counts.rejected > 0  # else nothing was cut back


@pytest.mark.parametrize("draft", DRAFTS)
def test_with_a_function_as_draft_the_tokens_are_the_models(model, draft):
    tokens, counts = speculate(model, DRAFTS[draft], PROMPT, 30)
    assert tokens == generate(model, [PROMPT], 30)[0]
    assert counts.accepted + counts.steps == 30


def test_to_the_last_token_of_the_context(tiny):
    for max_new in (1, 2, 34):  # 7 + 34 - 1 = 40, the context
        expected = generate(tiny, [PROMPT], max_new)[0]
        assert speculate(tiny, nearly(tiny), PROMPT, max_new, k=5)[0] == expected


def test_it_stops_where_generate_stops(tiny):
    said = generate(tiny, [PROMPT], 30)[0]
    for stop in set(said):
        expected = generate(tiny, [PROMPT], 30, stop=[stop, 36])[0]
        tokens, counts = speculate(tiny, tiny, PROMPT, 30, k=6, stop=[stop, 36])
        assert tokens == expected and counts.steps == len(expected) // 7 + 1


def test_a_penalty_sees_the_guesses_before_each_place(tiny):
    sampling = replace(DRAWN, temperature=0.0)
    expected = generate(tiny, [PROMPT], 30, sampling)[0]
    assert expected != generate(tiny, [PROMPT], 30)[0]
    assert speculate(tiny, nearly(tiny), PROMPT, 30, sampling=sampling)[0] == expected


def test_the_model_as_its_own_draft_is_always_right(tiny):
    for sampling in (GREEDY, DRAWN):
        _, counts = speculate(tiny, tiny, PROMPT, 20, k=4, sampling=sampling)
        assert counts == Counts(proposed=16, accepted=16, rejected=0, steps=4)
        assert counts.alpha == 1


def test_counts_by_hand():
    """The model counts 0 1 2 …; the draft knows it up to 4, so of 5 6 it gets none."""
    counting = decoder(replace(TINY, n_layers=1))
    counting.hidden = lambda tokens, cache: torch.nn.functional.one_hot(tokens + 1, V).double()
    counting.logits = lambda hidden: hidden
    tokens, counts = speculate(
        counting, lambda t, k: [min(t[-1] + 1 + i, 4) for i in range(k)], [0], 7, 3
    )
    assert tokens == [1, 2, 3, 4, 5, 6, 7]
    # read 1 2 3: all kept, 4 follows; 4: not 5; 4: not 6; at the last no guess is needed
    assert counts == Counts(proposed=3 + 2 + 1, accepted=3, rejected=2, steps=4)
    assert counts.alpha == 3 / 5 and math.isnan(Counts().alpha)


# ---------------------------------------------------------------- sampling: equal probabilities


def midpoints(n):
    """The chances by which n equal cases are counted exactly."""
    return (torch.arange(n, dtype=torch.double) + 0.5) / n


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([0.1, 0.4, 0.5], [0.5, 0.25, 0.25]),  # missing: 0, 0.15 and 0.25 of 0.4
        ([0.5, 0.25, 0.25], [0.0, 0.5, 0.5]),  # the draft never says the likeliest
        ([0.0, 0.5, 0.5], [0.5, 0.0, 0.5]),  # and says what cannot be
        ([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]),
    ],
)
def test_the_rule_gives_each_token_its_probability(p, q):
    """Every guess, every chance of keeping it, every chance of what replaces it: 3 × 40 × 40."""
    p, q, found = torch.tensor([p, [1.0, 0, 0]]).double(), torch.tensor([q]).double(), Counter()
    for guess, first, second in product(range(3), midpoints(40), midpoints(40)):
        kept, follower = accept([guess], p, q, torch.stack([first, second]))
        found[guess if kept else follower] += q[0, guess].item() / 1600
    assert [found[token] for token in range(3)] == pytest.approx(p[0].tolist())


def test_the_rule_by_hand():
    p = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.25, 0.75]])
    q = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    assert accept([1, 0], p, q, torch.tensor([0.99, 0.99, 0.2])) == (2, 0)  # then p[2]: 0.2 < 0.25
    assert accept([1, 0], p, q, torch.tensor([0.99, 0.99, 0.3])) == (2, 1)
    assert accept([0, 1], p, q, torch.tensor([0.24, 0.0, 0.9])) == (2, 1)  # 0.2 / 0.8 = 0.25
    assert accept([0, 1], p, q, torch.tensor([0.26, 0.0, 0.0])) == (0, 1)  # only 1 is missing
    assert accept([], p[2:], q[:0], torch.tensor([0.2])) == (0, 0)
    impossible, sure = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert accept([0], impossible, sure, torch.tensor([0.0, 0.0])) == (0, 1)


def test_rounding_alone_never_makes_a_token_up():
    p = torch.tensor([[0.0, 0.6, 0.3999], [1.0, 0.0, 0.0]])  # smaller than q, everywhere
    assert accept([1], p, torch.tensor([[0.0, 0.6001, 0.4]]), torch.tensor([0.9999, 0.0])) == (0, 1)


def chi_square(found, expected):
    """How far counts are from what is expected; about as much as there are cases, if by chance."""
    return sum((found[case] - n) ** 2 / n for case, n in expected.items())


def sequences(model, prompt, n, temperature):
    """Every continuation of n tokens, with its probability."""
    texts = list(product(range(model.cfg.vocab_size), repeat=n))
    tokens = torch.tensor([[*prompt, *text] for text in texts])
    with torch.no_grad():
        logps = (model(tokens) / temperature).log_softmax(dim=-1)[:, len(prompt) - 1 : -1]
    chosen = logps.gather(-1, tokens[:, len(prompt) :, None])[..., 0].sum(dim=1).exp()
    return dict(zip(texts, chosen.tolist()))


@pytest.mark.parametrize("draft", ["another model", "a function"])
def test_sampled_texts_are_as_frequent_as_the_model_makes_them(draft):
    """Three tokens of three kinds, 800 times: 27 texts, so by chance chi-square is 26 ± 7."""
    cfg = replace(TINY, vocab_size=3, n_layers=1, init_std=0.25)
    model, other, n = decoder(cfg, 5), decoder(cfg, 0), 800
    said = {"another model": other, "a function": lambda tokens, k: [0, 1][:k]}[draft]
    drawn = Sampling(temperature=1.5)
    texts = [speculate(model, said, [1, 2], 3, 2, drawn, seed=seed)[0] for seed in range(n)]
    expected = {text: n * p for text, p in sequences(model, [1, 2], 3, 1.5).items()}
    assert sum(expected.values()) == pytest.approx(n) and min(expected.values()) > 3
    assert chi_square(Counter(map(tuple, texts)), expected) < 26 + 3 * 7.2


# ---------------------------------------------------------------- drafts and what they are worth


@pytest.mark.parametrize(
    ("text", "k", "guesses"),
    [
        ("abcdefabc", 3, "def"),
        ("abcdefabc", 9, "defabc"),
        ("abcXabcYabc", 2, "Ya"),  # the last time counts
        ("aaaaa", 3, "a"),  # what overlaps is found, too
        ("abcdef", 3, ""),
        ("abc", 3, ""),
        ("ab", 3, ""),
    ],
)
def test_what_followed_last_time(text, k, guesses):
    assert prompt_lookup(3)(list(text), k) == list(guesses)


def test_expected_gains_by_hand():
    assert expected_tokens(0.5, 2) == 1.75
    assert expected_tokens(1, 4) == 5 and expected_tokens(0, 4) == 1
    assert expected_gain(0.5, 2, 0.25) == pytest.approx(1.75 / 1.5)
    assert expected_gain(0.5, 2, 0.25, reading=2.0) == pytest.approx(1.75 / 2.5)
    closed = (1 - 0.8**6) / ((1 - 0.8) * (5 * 0.1 + 1))  # as the theorem has it
    assert expected_gain(0.8, 5, 0.1) == pytest.approx(closed)


def test_alpha_is_what_two_distributions_share():
    """Corollary 3.6: the sum of min(p, q); here of the first token alone."""
    p, q = (next_token_probs(torch.tensor([row]), Sampling()) for row in ([0.0, 1, 2], [2.0, 1, 0]))
    kept = sum(
        accept([guess], p.repeat(2, 1), q, torch.tensor([chance, 0.5]))[0] * q[0, guess].item()
        for guess in range(3)
        for chance in midpoints(1000)
    )
    assert kept / 1000 == pytest.approx(torch.minimum(p, q).sum().item(), abs=2e-3)


# ---------------------------------------------------------------- what was read is kept


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_kept_beginning_changes_no_token(model, sampling):
    cache = PromptCache(model, PROMPT)
    for ending in ([], [4, 4], [4, 4, 9, 1], [3]):
        prompt = [*PROMPT, *ending]
        expected = list(stream(model, prompt, 20, sampling, [36], seed=5))
        assert list(cache.stream(prompt, 20, sampling, [36], seed=5)) == expected


def test_it_says_what_it_did_not_read_again_and_its_bytes(tiny):
    cache = PromptCache(tiny, PROMPT, length=20)
    assert cache.n_reused == 0
    cache.logits([*PROMPT, 1, 2, 3])
    assert cache.n_reused == 7
    cache.logits([*PROMPT, 1, 5])
    assert cache.n_reused == 8
    cache.logits([*PROMPT, 1, 5])
    assert cache.n_reused == 8  # the last is read again: its logits were not kept
    assert cache.logits([*PROMPT, 1, 5], n=4).shape == (4, V) and cache.n_reused == 5
    assert cache.n_bytes == 2 * 2 * 20 * (2 * 4) * 8  # layers, k and v, slots, heads, float64


def test_each_turn_of_a_chat_reads_only_what_is_new(tiny):
    cache, said = PromptCache(tiny), []
    for turn in ([5, 9, 1], [4, 4], [8]):
        said += turn
        answer = list(cache.stream(said, 5))
        assert answer == generate(tiny, [said], 5)[0]
        said += answer
        assert cache.tokens == said[:-1]  # the last new token is never read


def test_an_interrupted_reading_is_read_again(tiny):
    cache = PromptCache(tiny, PROMPT)
    with pytest.raises(ValueError, match="go from 2 to 99"):
        cache.logits([*PROMPT, 2, 99])
    expected = tiny(torch.tensor([[*PROMPT, 2, 3]]))[0, -1:]
    torch.testing.assert_close(cache.logits([*PROMPT, 2, 3]), expected)


def test_how_much_two_texts_share():
    assert n_shared([1, 2, 3], [1, 2, 4]) == 2 and n_shared([1, 2], [1, 2, 3]) == 2
    assert n_shared([], [1]) == 0 and n_shared([2], [1]) == 0


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": 0}, "k is 0: let the draft guess at least one"),
        ({"prompt": []}, "an empty one"),
        ({"max_new": 35}, "7 tokens and 35 new ones do not fit into context_length = 40"),
        ({"max_new": 0}, "max_new is 0"),
        ({"draft": decoder(replace(TINY, vocab_size=38))}, "37 tokens and its draft 38"),
        ({"draft": decoder(replace(TINY, context_length=10))}, "context_length = 10"),
        ({"draft": lambda tokens, k: [99]}, "go from 1 to 99, but vocab_size is 37"),
    ],
)
def test_what_cannot_speculate_is_refused_in_one_sentence(tiny, changes, sentence):
    wanted = {"model": tiny, "draft": nothing, "prompt": PROMPT, "max_new": 5} | changes
    with pytest.raises(ValueError, match=sentence):
        speculate(**wanted)


def test_what_cannot_be_looked_up_or_kept_is_refused_in_one_sentence(tiny):
    with pytest.raises(ValueError, match="n is 0: look up the last token"):
        prompt_lookup(0)
    cache = PromptCache(tiny, PROMPT, length=10)
    with pytest.raises(ValueError, match="does not start with the prefix of 7 tokens"):
        cache.logits([5, 9, 1])
    with pytest.raises(ValueError, match="7 tokens and 5 new ones need a cache of a larger length"):
        next(cache.stream(PROMPT, 5))
    with pytest.raises(ValueError, match="an empty one"):
        next(PromptCache(tiny).stream([], 5))
    with pytest.raises(ValueError, match="tokens have shape"):
        PromptCache(tiny).logits([])
