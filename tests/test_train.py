"""python -m pytest tests/test_train.py -p no:nbval -o addopts="" """

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import weights
from helpers.data import IGNORED, Batches, encode, read_tokens, windows
from helpers.families import LLAMA3_8B, tiny
from helpers.model import Decoder
from helpers.recipe import Recipe, learning_rate
from helpers.tokenizer import Tokenizer
from helpers.train import (
    LossBlewUp,
    Record,
    config_of,
    evaluate,
    loss_of,
    main,
    spikes,
    train,
    training_options,
)
from helpers.world import World

V, T = 23, 12
TEXT = torch.arange(400) ** 2 % V  # repeats itself: easy to learn
ROWS = (
    torch.stack([TEXT[i : i + T] for i in range(20)]),
    torch.stack([TEXT[i + 1 : i + T + 1] for i in range(20)]),
)


def small(family=LLAMA3_8B, seed=0, dtype=torch.float64, **changes):
    """A decoder of two blocks, the same for the same seed."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "context_length": 16, "n_layers": 2, "d_model": 16, "d_ff": 24}
    cfg = replace(tiny(family), **sizes | {"n_heads": 2, "n_kv_heads": 1, "head_dim": 8} | changes)
    return Decoder(cfg).to(dtype)


def batches(B=4):
    return Batches(TEXT, B=B, T=T)


class Given:
    """Batches that were made by hand, one after the other."""

    def __init__(self, *given):
        self.given, self.n_given = given, 0

    def next(self):
        self.n_given += 1
        return self.given[(self.n_given - 1) % len(self.given)]

    def state_dict(self):
        return {"n_given": self.n_given}

    def load_state_dict(self, state):
        self.n_given = state["n_given"]


def ragged(B, seed=0):
    """A batch in which each row has its own number of targets."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randint(V, (B, T), generator=draw)
    targets = torch.randint(V, (B, T), generator=draw)
    lengths = torch.randint(1, T, (B, 1), generator=draw)
    return inputs, targets.where(torch.arange(T) < lengths, IGNORED)


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


# ---------------------------------------------------------------- the loss


def test_the_loss_worked_by_hand():
    """Scores 0 and log 3 are chances 1/4 and 3/4; the third target is not counted."""
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)], [9.0, 0.0]]])
    targets = torch.tensor([[0, 1, IGNORED]])
    loss = loss_of(lambda inputs: logits, torch.zeros(1, 3), targets)
    assert loss.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, rel=1e-6)


def test_the_loss_is_the_mean_cross_entropy_of_torch():
    model, (inputs, targets) = small(), ragged(B=5)
    expected = cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss_of(model, inputs, targets), expected)


@pytest.mark.parametrize("B", [1, 3, 64])
def test_evaluation_is_the_loss_over_all_rows_however_they_are_batched(B):
    model, (inputs, targets) = small(), ragged(B=10)
    targets[4] = IGNORED  # a row with nothing to measure
    expected = loss_of(model, inputs, targets).item()
    assert evaluate(model, inputs, targets, B) == pytest.approx(expected, rel=1e-12)


def test_evaluation_computes_no_padding_no_gradient_and_no_dropout():
    seen = []
    model = small().train()
    model.register_forward_pre_hook(
        lambda model, inputs: seen.append(
            (inputs[0].shape, model.training, torch.is_grad_enabled())
        )
    )
    inputs, targets = torch.zeros(4, T, dtype=torch.long), torch.full((4, T), IGNORED)
    for row, length in enumerate([2, 9, 3, 8]):
        targets[row, :length] = 1
    evaluate(model, inputs, targets, B=2)
    assert seen == [((2, 3), False, False), ((2, 9), False, False)]
    assert model.training


# ---------------------------------------------------------------- the loop


def test_frozen_parameters_stay_as_they_are():
    model = small()
    model.tok_emb.weight.requires_grad_(False)
    before = model.tok_emb.weight.clone()
    train(model, batches(), Recipe(steps=2))
    assert torch.equal(model.tok_emb.weight, before)


def adamw_by_hand(model, recipe, drawn):
    """The same training in plain arithmetic: arXiv:1711.05101, algorithm 2."""
    m, v = ({name: torch.zeros_like(p) for name, p in model.named_parameters()} for _ in "mv")
    (beta1, beta2), losses = recipe.betas, []
    for t, (inputs, targets) in enumerate(drawn, start=1):
        model.zero_grad()
        loss = cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
        lr = learning_rate(t, recipe)
        for name, p in model.named_parameters():
            grad = p.grad * min(1, recipe.clip / (norm + 1e-6))
            m[name] = beta1 * m[name] + (1 - beta1) * grad
            v[name] = beta2 * v[name] + (1 - beta2) * grad**2
            step = (m[name] / (1 - beta1**t)) / ((v[name] / (1 - beta2**t)).sqrt() + 1e-8)
            decay = recipe.weight_decay if p.dim() == 2 else 0
            p.data = p.data - lr * decay * p.data - lr * step
        losses.append((loss.item(), norm))
    return losses


def test_training_is_adamw_by_hand():
    recipe = Recipe(steps=6, lr=0.02, clip=0.4)
    one, two = small(), small()
    records = train(one, batches(), recipe)
    drawn = batches()
    expected = adamw_by_hand(two, recipe, [drawn.next() for _ in range(6)])
    assert [(r.loss, r.grad_norm) for r in records] == [
        pytest.approx(x, rel=1e-9) for x in expected
    ]
    for p, q in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_learns(optimizer):
    recipe = Recipe(steps=80, lr=0.01, optimizer=optimizer, schedule="wsd")
    records = train(small(dtype=torch.float32), batches(8), recipe)
    assert records[0].loss == pytest.approx(math.log(V), abs=0.1)
    assert records[-1].loss < 0.5


def test_four_batches_together_are_one_large_one_even_with_unequal_numbers_of_targets():
    parts = [ragged(B=3, seed=seed) for seed in range(4)]
    whole = tuple(torch.cat(tensors) for tensors in zip(*parts))
    one, four = small(), small()
    a = train(one, Given(whole), Recipe(steps=3))
    b = train(four, Given(*parts), Recipe(steps=3, accumulate=4))
    assert [r.loss for r in a] == pytest.approx([r.loss for r in b], rel=1e-10)
    assert [r.tokens for r in a] == [r.tokens for r in b]
    for p, q in zip(one.parameters(), four.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_gradients_left_by_others_are_not_learnt_from():
    clean, dirty = small(), small()
    dirty(ROWS[0]).sum().backward()
    train(clean, batches(), Recipe(steps=2))
    train(dirty, batches(), Recipe(steps=2))
    assert same(weights_of(clean), weights_of(dirty))


def test_a_gradient_above_clip_is_scaled_down_to_it_and_recorded_as_it_was():
    kept = []

    def hook(record, model):
        squares = sum(float((p.grad**2).sum()) for p in model.parameters())
        kept.append((math.sqrt(squares), record.grad_norm))

    train(small(), batches(), Recipe(steps=1, clip=0.01), hook=hook)
    train(small(), batches(), Recipe(steps=1, clip=None), hook=hook)
    (clipped, before), (free, same_as_before) = kept
    assert clipped == pytest.approx(0.01, rel=1e-4)
    assert free == pytest.approx(before) == pytest.approx(same_as_before)
    assert before > 0.1


def test_records_say_what_happened():
    batch = ragged(B=6)
    recipe = Recipe(steps=5, eval_every=2, lr=0.01)
    model = small()
    records = train(model, Given(batch), recipe, validation=ROWS)
    n = int((batch[1] != IGNORED).sum())
    assert [r.step for r in records] == [1, 2, 3, 4, 5]
    assert [r.tokens for r in records] == [n, 2 * n, 3 * n, 4 * n, 5 * n]
    assert [r.lr for r in records] == [learning_rate(step, recipe) for step in range(1, 6)]
    assert [r.val_loss is None for r in records] == [True, False, True, False, False]
    assert records[-1].val_loss == pytest.approx(evaluate(model, *ROWS), rel=1e-12)
    assert 0 < records[0].seconds < records[4].seconds
    assert all(r.tokens_per_second > n / r.seconds for r in records[:1])


def test_the_hook_sees_each_record_and_the_model_after_that_step():
    seen, model = [], small()
    records = train(model, batches(), Recipe(steps=3), hook=lambda *both: seen.append(both))
    assert [record for record, _ in seen] == records
    assert all(given is model for _, given in seen)


def test_evaluating_and_looking_do_not_change_the_training():
    plain, watched = small(), small()
    train(plain, batches(), Recipe(steps=4))
    train(
        watched, batches(), Recipe(steps=4, eval_every=1), validation=ROWS, hook=lambda r, model: r
    )
    assert same(weights_of(plain), weights_of(watched))


def test_a_loss_that_is_no_number_is_named_before_it_reaches_the_weights():
    model, before = small(), []

    def poison(record, model):
        before.append(weights_of(model))
        if record.step == 2:
            model.norm.weight.data[0] = math.inf

    recipe = Recipe(steps=9, warmup=0.0, schedule="constant")
    with pytest.raises(LossBlewUp, match=r"in step 3 the loss is nan and .* rate of 0\.003: "):
        train(model, Given(ROWS), recipe, hook=poison)
    model.norm.weight.data[0] = before[-1]["norm.weight"][0]
    assert same(weights_of(model), before[-1])


def test_sixteen_bit_products_leave_the_weights_in_thirty_two():
    one, two = small(dtype=torch.float32), small(dtype=torch.float32)
    a = train(one, batches(), Recipe(steps=3))
    b = train(two, batches(), Recipe(steps=3, precision="bfloat16"))
    assert {p.dtype for p in two.parameters()} == {torch.float32}
    assert 0 < abs(a[0].loss - b[0].loss) < 0.02


class Compiled(nn.Module):
    """In place of torch.compile, which takes half a minute: counts its calls."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, inputs):
        self.calls += 1
        return self.model(inputs)


def test_a_compiled_model_is_what_training_calls_and_learns_the_same(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda model: made.append(Compiled(model)) or made[0])
    plain, compiled = small(), small()
    train(plain, batches(), Recipe(steps=3))
    train(compiled, batches(), Recipe(steps=3, compile=True))
    assert made[0].calls == 3 and same(weights_of(plain), weights_of(compiled))


def records_with(losses):
    return [Record(i, i, loss, None, 1.0, 1.0, 1.0, 1.0) for i, loss in enumerate(losses, start=1)]


def test_spikes_worked_by_hand():
    """About 1.05, at a median distance of 0.05: six times 1.4826 · 0.05 above it is 1.49."""
    losses = [1.0, 1.05, 1.1] * 8
    losses[12], losses[16] = 1.48, 1.51
    assert spikes(records_with(losses)) == [17]
    assert spikes(records_with(losses), deviations=5) == [13, 17]


def test_a_loss_that_falls_has_no_spikes():
    assert spikes(records_with([7 / k for k in range(1, 100)])) == []


# ---------------------------------------------------------------- the command line


def prepared(folder, *more):
    """A folder with a tokenizer and a token file of stories."""
    words, out = str(folder / "words.json"), str(folder / "train.npy")
    main(["prepare", "--tokenizer", words, "--out", out, "--vocab", "300", *more])
    return Tokenizer.load(words), read_tokens(out)


def test_prepare_writes_the_ids_of_stories_by_a_tokenizer_learnt_from_them(tmp_path, capsys):
    tokenizer, tokens = prepared(tmp_path, "--world", "pt", "--documents", "9", "--seed", "3")
    stories = World("pt").stories(9, seed=3)
    assert tokenizer.merges == Tokenizer.train(stories, 300).merges
    assert tokens.tolist() == encode(stories, tokenizer).tolist()
    said = f"train.npy: {len(tokens):,} tokens of a vocabulary of {tokenizer.vocab_size}\n"
    assert capsys.readouterr().out.endswith(said)


def test_prepare_uses_a_tokenizer_that_is_there_and_parts_a_text_into_documents(tmp_path):
    Tokenizer.train("the cat sat on the mat", 270).save(tmp_path / "words.json")
    (tmp_path / "cat.txt").write_text("the cat<|endoftext|>the mat")
    tokenizer, tokens = prepared(tmp_path, "--text", str(tmp_path / "cat.txt"))
    assert tokenizer.vocab_size <= 270
    assert tokens.tolist() == encode(["the cat", "the mat"], tokenizer).tolist()


@pytest.fixture
def command(tmp_path):
    """A small run on the command line: call it with more options."""
    np.save(tmp_path / "tokens.npy", TEXT.numpy().astype(np.uint16))
    files = ["--tokens", str(tmp_path / "tokens.npy"), "--out", str(tmp_path / "run")]
    sizes = ["--tiny", "--context", "12", "--batch", "4", "--steps", "3"]
    return lambda *more: main([*files, *sizes, *more])


def test_the_command_line_trains_as_the_function_does(tmp_path, command, capsys):
    command("--lr", "0.01", "--seed", "5", "--family", "Llama 3 8B")
    torch.manual_seed(5)
    model = Decoder(replace(tiny(LLAMA3_8B, int(TEXT.max()) + 1), context_length=12))
    records = train(model, Batches(TEXT, B=4, T=12, seed=5), Recipe(steps=3, lr=0.01))
    trained = weights.load(tmp_path / "run" / "model.safetensors")
    assert same(weights_of(trained), weights_of(model))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1 of 3", "step 3 of 3"]
    assert f"loss {records[-1].loss:.4f}  lr" in lines[-1] and lines[-1].endswith("0.0 min left")


def test_the_same_command_goes_on_and_another_is_refused(command, capsys):
    command()
    capsys.readouterr()
    command()
    assert capsys.readouterr().out == ""  # there was nothing left to do
    with pytest.raises(SystemExit, match=r"was trained with lr = 0\.003, and now it is 0\.1: go"):
        command("--lr", "0.1")


def test_a_validation_file_is_measured(tmp_path, command, capsys):
    command("--val", str(tmp_path / "tokens.npy"), "--eval-every", "1")
    model = weights.load(tmp_path / "run" / "model.safetensors")
    expected = evaluate(model, *windows(TEXT, 12))
    assert f"val {expected:.4f}" in capsys.readouterr().out.splitlines()[-1]


def test_a_stopped_command_says_so(command, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Batches, "next", stop)
    with pytest.raises(SystemExit, match="stopped: the same command goes on from here"):
        command()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--family", "GPT-5"], "family is 'GPT-5': choose one of GPT-2 124M"),
        (["--tokens", "none.npy"], "there is no file none.npy"),
        (["--schedule", "step"], "schedule is 'step': choose one of"),
        (["--context", "1000"], "the text has 400 tokens, one window needs 1001"),
        (
            ["--family", "Llama 3 8B", "--width", "33", "--heads", "3"],
            "head_dim is 11.*must be even",
        ),
    ],
)
def test_what_goes_wrong_on_the_command_line_is_one_sentence(command, more, sentence):
    with pytest.raises(SystemExit, match=sentence) as caught:
        command(*more)
    assert "\n" not in str(caught.value)


def test_every_field_of_the_recipe_is_an_option_with_its_default():
    options = training_options().parse_args(["--tokens", "x", "--steps", "7"])
    assert Recipe(**{f.name: getattr(options, f.name) for f in fields(Recipe)}) == Recipe(steps=7)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], {"n_layers": 32, "d_model": 4096, "vocab_size": 128256, "context_length": 256}),
        (["--layers", "2", "--context", "64"], {"n_layers": 2, "d_model": 4096, "head_dim": 128}),
        (
            ["--width", "512", "--heads", "8"],
            {"d_model": 512, "head_dim": 64, "n_kv_heads": 2, "d_ff": 1792, "vocab_size": 500},
        ),
        (["--tiny"], {"d_model": 32, "vocab_size": 500, "context_length": 256}),
    ],
)
def test_the_family_comes_in_the_sizes_asked_for(more, expected):
    arguments = ["--tokens", "x", "--steps", "1", "--family", "Llama 3 8B", *more]
    cfg = config_of(training_options().parse_args(arguments), n_ids=500)
    assert {name: getattr(cfg, name) for name in expected} == expected
