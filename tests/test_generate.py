"""Choosing the next token, and the loop over the cache.

python -m pytest tests/test_generate.py
"""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from helpers import weights
from helpers.config import Latent, ModelConfig, Rope
from helpers.generate import (
    GREEDY,
    Sampling,
    draw,
    generate,
    laid_out,
    left_padded,
    next_token_probs,
    next_tokens,
    reply,
    stream,
)
from helpers.model import Decoder
from helpers.tokenizer import Tokenizer

V = 37
TINY = ModelConfig(
    vocab_size=V,
    context_length=40,
    n_layers=2,
    d_model=16,
    n_heads=4,
    n_kv_heads=2,
    head_dim=4,
    d_ff=32,
    init_std=0.4,  # strong enough that the likeliest token depends on all that came before
)
KINDS = {
    "global": TINY,
    "windows": replace(TINY, pattern="WG", window=5),
    "chunks": replace(TINY, pattern="CN", window=4),
    "learned positions": replace(TINY, rope=None, learned_positions=True),
    "latent": replace(
        TINY, n_kv_heads=4, latent=Latent(kv_rank=6, nope_dim=4, rope_dim=2, v_dim=4)
    ),
    "stretched": replace(TINY, rope=Rope(scaling="yarn", factor=4.0, original_context=10)),
}
PROMPTS = [[5, 9, 1, 30, 2, 2, 8], [3], [7, 7, 12, 20]]


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    return Decoder(KINDS[request.param]).double()


@pytest.fixture
def tiny():
    torch.manual_seed(1)
    return Decoder(TINY).double()


def read_again(model, prompt, max_new):
    """Greedy decoding written out: read everything, take the likeliest, append, repeat."""
    tokens = list(prompt)
    for _ in range(max_new):
        with torch.no_grad():
            tokens.append(model(torch.tensor([tokens]))[0, -1].argmax().item())
    return tokens[len(prompt) :]


def test_greedy_over_the_cache_equals_reading_everything_again(model):
    for prompt in PROMPTS:
        assert generate(model, [prompt], 20) == [read_again(model, prompt, 20)]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_p=0.8, temperature=0.7)])
@pytest.mark.parametrize("cached", [True, False])
def test_a_prompt_gets_the_same_tokens_alone_and_in_a_batch(model, sampling, cached):
    together = generate(model, PROMPTS, 12, sampling, seed=3, cached=cached)
    alone = [generate(model, [p], 12, sampling, seed=3, cached=cached)[0] for p in PROMPTS]
    assert together == alone


def test_cached_and_uncached_sampling_agree(model):
    runs = [generate(model, PROMPTS, 12, Sampling(), seed=4, cached=c) for c in (True, False)]
    assert runs[0] == runs[1]


def test_a_stream_gives_the_same_tokens_one_by_one(tiny):
    arriving = stream(tiny, PROMPTS[0], 9, Sampling(), seed=5)
    first = next(arriving)
    assert [[first, *arriving]] == generate(tiny, [PROMPTS[0]], 9, Sampling(), seed=5)


def test_generation_ends_before_a_stop_token_each_sequence_for_itself(tiny):
    free = generate(tiny, PROMPTS, 15, Sampling(), seed=6)
    stop = free[0][4]
    expected = [new[: new.index(stop)] if stop in new else new for new in free]
    assert len(expected[0]) <= 4 and max(map(len, expected)) == 15
    assert generate(tiny, PROMPTS, 15, Sampling(), stop=[stop], seed=6) == expected
    assert list(stream(tiny, PROMPTS[0], 15, Sampling(), stop=[stop], seed=6)) == expected[0]


def test_the_seed_decides_what_is_drawn(tiny):
    runs = [generate(tiny, [PROMPTS[0]], 15, Sampling(), seed=seed)[0] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_each_prompt_may_have_a_seed_of_its_own(tiny):
    prompts, drawn = [[5, 6]] * 3, Sampling()
    together = generate(tiny, prompts, 8, drawn, seed=[1, 2, 1])
    assert together == [generate(tiny, [[5, 6]], 8, drawn, seed=seed)[0] for seed in (1, 2, 1)]
    assert together[0] == together[2] != together[1]


def test_what_is_drawn_follows_the_probabilities():
    """10,000 evenly spaced chances fall on each token in proportion."""
    probs = torch.tensor([[0.1, 0.0, 0.6, 0.3]])
    chances = (torch.arange(10_000) + 0.5) / 10_000
    drawn = draw(probs.expand(10_000, 4), chances).bincount(minlength=4)
    assert drawn.tolist() == [1000, 0, 6000, 3000]


def test_a_chance_of_zero_never_draws_an_impossible_token():
    assert draw(torch.tensor([[0.0, 0.5, 0.5]]), torch.zeros(1)).item() == 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(top_k=5),
        Sampling(top_k=1000),
        Sampling(top_p=0.7),
        Sampling(top_p=1e-6),
        Sampling(min_p=0.2),
        Sampling(repetition_penalty=1.7),
        Sampling(temperature=1.5, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.2),
    ],
)
def test_probabilities_equal_the_reference_s(sampling):
    logits = 3 * torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (8, 12), generator=torch.Generator().manual_seed(1))
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(min(sampling.top_k, 50)))
    if sampling.top_p:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    seen = torch.zeros(8, 50, dtype=torch.bool).scatter(1, tokens, True)
    ours = next_token_probs(logits, sampling, seen)
    assert_close(ours, steps(tokens, logits.clone()).softmax(dim=-1))


def test_probabilities_worked_by_hand():
    """p = 0.5, 0.3, 0.2: the nucleus of 0.6 is the first two, and min_p 0.5 keeps 0.3 >= 0.25."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    kept = torch.tensor([[0.625, 0.375, 0.0]])
    for sampling in (Sampling(top_p=0.6), Sampling(min_p=0.5), Sampling(top_k=2)):
        assert_close(next_token_probs(logits, sampling), kept)
    assert next_token_probs(torch.zeros(1, 4), Sampling(min_p=1.0)).tolist() == [[0.25] * 4]
    greedy = next_token_probs(logits, GREEDY)
    assert greedy.tolist() == [[1.0, 0.0, 0.0]]


def test_a_penalty_keeps_a_greedy_model_from_repeating_itself(tiny):
    [new] = generate(tiny, [[3]], 20, Sampling(temperature=0, repetition_penalty=1e9))
    assert len({3, *new}) == 21


def test_prompts_end_together_and_padding_stands_before_0():
    tokens, positions = left_padded([[5, 6, 7], [8]])
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert positions.tolist() == [[0, 1, 2], [-2, -1, 0]]


def test_greedy_tokens_are_the_likeliest_whatever_the_chance():
    logits = 3 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    seen = torch.rand(6, 50, generator=torch.Generator().manual_seed(1)) < 0.5
    for greedy in (GREEDY, Sampling(temperature=0, repetition_penalty=3.0)):
        for chance in (torch.zeros(6), torch.full((6,), 0.999)):
            drawn = draw(next_token_probs(logits, greedy, seen), chance)
            assert torch.equal(next_tokens(logits, greedy, seen, chance), drawn)
    assert not torch.equal(drawn, logits.argmax(dim=-1))


def test_a_model_that_has_generated_can_still_learn(model):
    generate(model, [PROMPTS[0]], 12)
    model(torch.tensor([PROMPTS[0]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    # A compiled model would refuse to learn with tables that were made for decoding alone.
    assert not any(table.cos.is_inference() for table in model.rope_tables.values())


# ---------------------------------------------------------------- weights in memory


@pytest.mark.parametrize("tied", [False, True])
def test_a_laid_out_model_is_the_same_model(tied):
    torch.manual_seed(2)
    model = Decoder(replace(TINY, tie_embeddings=tied)).double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = generate(model, PROMPTS, 12)
    assert laid_out(model) is model
    assert {name: p.shape for name, p in before.items()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert generate(model, PROMPTS, 12) == expected
    assert (model.lm_head.weight is model.tok_emb.weight) == tied


def test_a_laid_out_matrix_lies_along_its_longer_side(tiny):
    mlp = laid_out(tiny).blocks[0].mlp
    assert mlp.up.weight.shape == (32, 16) and mlp.up.weight.stride() == (1, 32)
    assert mlp.down.weight.shape == (16, 32) and mlp.down.weight.stride() == (32, 1)


def test_a_laid_out_model_trains_and_is_saved_like_any_other(tmp_path):
    models = []
    for lay in (lambda model: model, laid_out):
        torch.manual_seed(3)
        model = lay(Decoder(replace(TINY, tie_embeddings=True)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        for _ in range(3):
            model(torch.tensor([PROMPTS[0]])).logsumexp(-1).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.save(model, tmp_path / "model.safetensors")
        models.append(weights.load(tmp_path / "model.safetensors"))
    for one, other in zip(*(model.parameters() for model in models)):
        assert_close(one, other)


# ---------------------------------------------------------------- answers in a chat

WIDE = replace(TINY, vocab_size=261, context_length=24)
CHATS = [[{"role": "user", "content": text}] for text in ("Hi", "Who is it?")]


def test_a_reply_is_what_follows_the_prompt_up_to_its_end():
    tokenizer, model = Tokenizer([]), Decoder(WIDE).double()
    prompts = [tokenizer.chat_prompt(chat) for chat in CHATS]
    stop = [tokenizer.special_ids["<|end|>"]]
    new = generate(model, prompts, 5, Sampling(), stop, [3, 4])
    replies = reply(model, tokenizer, CHATS, 5, Sampling(), [3, 4])
    assert replies == [tokenizer.decode(ids) for ids in new]


def test_a_reply_ends_before_the_end_of_the_turn():
    tokenizer, model = Tokenizer([]), Decoder(replace(WIDE, tie_embeddings=False))
    prompt = torch.tensor([tokenizer.chat_prompt(CHATS[0])])
    with torch.no_grad():  # after this prompt, <|end|> is by far the likeliest token
        model.lm_head.weight[tokenizer.special_ids["<|end|>"]] = 100 * model.hidden(prompt)[0, -1]
    assert reply(model, tokenizer, CHATS[:1]) == [""]


def test_a_reply_may_fill_the_context_and_a_chat_that_does_is_refused():
    tokenizer, model = Tokenizer([]), Decoder(WIDE)
    prompts = [tokenizer.chat_prompt(chat) for chat in CHATS]  # the longer has 13 tokens
    new = generate(model, prompts, 12, stop=[tokenizer.special_ids["<|end|>"]])
    assert reply(model, tokenizer, CHATS) == [tokenizer.decode(ids) for ids in new]
    full = [{"role": "user", "content": "x" * 22}]
    with pytest.raises(ValueError, match="do not fit into context_length = 24"):
        reply(model, tokenizer, [full])


def test_the_context_can_be_filled_to_its_last_place(tiny):
    assert len(generate(tiny, [[1] * 30], 11)[0]) == 11  # 30 + 11 - 1 = 40 are read
    with pytest.raises(ValueError, match="30 tokens and 12 new ones do not fit"):
        generate(tiny, [[1] * 30], 12)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Sampling(temperature=-1), "temperature is -1"),
        (lambda: Sampling(top_k=0), "top_k is 0"),
        (lambda: Sampling(top_p=0.0), "top_p is 0.0"),
        (lambda: Sampling(min_p=1.5), "min_p is 1.5"),
        (lambda: Sampling(repetition_penalty=0), "repetition_penalty is 0"),
        (lambda: generate(Decoder(TINY), [], 3), "there is no prompt"),
        (lambda: generate(Decoder(TINY), [[1], []], 3), "or an empty one"),
        (lambda: generate(Decoder(TINY), [[1]], 0), "max_new is 0"),
        (lambda: generate(Decoder(TINY), [[1]], 3, seed=[1, 2]), "number of seeds is 2"),
        (lambda: list(stream(Decoder(TINY), [], 3)), "or an empty one"),
    ],
)
def test_bad_input_gets_one_clear_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()
