"""python -m pytest tests/test_recipe.py -p no:nbval -o addopts="" """

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.families import GEMMA3_270M, GPT2_124M, LLAMA3_8B, tiny
from helpers.model import Decoder
from helpers.recipe import Muon, Recipe, learning_rate, make_optimizer, orthogonal


def small(family=LLAMA3_8B):
    return Decoder(tiny(family))


# ---------------------------------------------------------------- the recipe


def rates(**changes):
    recipe = Recipe(**{"steps": 10, "lr": 1.0, "warmup": 0.2, **changes})
    return [round(learning_rate(step, recipe), 4) for step in range(1, recipe.steps + 1)]


def test_schedules_worked_by_hand():
    """Two steps up; then eight along the schedule, the last of which still has something left."""
    assert rates(schedule="constant") == [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert rates(schedule="wsd", decay=0.4) == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert rates(schedule="wsd", decay=0.4, final=0.2)[6:] == [1, 0.8, 0.6, 0.4]
    cosine = [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates(schedule="cosine") == [0.5, 1, *[round(rate, 4) for rate in cosine]]
    assert rates(schedule="cosine", final=0.5)[-1] == round(0.5 + 0.5 * cosine[-1], 4)


def test_without_a_warm_up_the_first_step_has_the_whole_rate():
    assert rates(warmup=0.0)[0] == 1


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"steps": 0}, "steps is 0: it must be above 0"),
        ({"lr": -1.0}, "lr is -1.0: it must be above 0"),
        ({"clip": 0.0}, "clip is 0.0: it must be above 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"warmup": 1.5}, "warmup is 1.5: it is a share, from 0 to 1"),
        ({"schedule": "wsd", "warmup": 0.6}, "warmup is 0.6 and decay 0.5: together"),
        ({"schedule": "step"}, "schedule is 'step': choose one of cosine, wsd, constant"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd': choose one of adamw, muon"),
        ({"precision": "float16"}, "precision is 'float16': choose one of float32, bfloat16"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_sentence(bad, sentence):
    with pytest.raises(ValueError, match=sentence):
        Recipe(**{"steps": 10, **bad})


# ---------------------------------------------------------------- optimizers


@pytest.mark.parametrize("family", [GPT2_124M, LLAMA3_8B, GEMMA3_270M])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_stepped_once_and_only_matrices_decay(family, optimizer):
    model = small(family)
    groups = make_optimizer(model, Recipe(steps=1, optimizer=optimizer)).param_groups
    stepped = [p for group in groups for p in group["params"]]
    assert sorted(map(id, stepped)) == sorted(map(id, model.parameters()))
    decaying = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert {p.dim() for p in decaying} == {2}
    assert len(decaying) == sum(p.dim() == 2 for p in model.parameters())


def test_muon_steps_the_matrices_of_the_blocks_and_nothing_else():
    model = small(GPT2_124M)
    muon, adamw = make_optimizer(model, Recipe(steps=1, optimizer="muon")).optimizers
    names = {p: name for name, p in model.named_parameters()}
    by_muon = {names[p] for p in muon.param_groups[0]["params"]}
    parts = ("attn.wq", "attn.wk", "attn.wv", "attn.wo", "mlp.up", "mlp.down")
    assert by_muon == {f"blocks.{i}.{part}.weight" for i in (0, 1) for part in parts}
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
def test_orthogonal_sends_each_singular_value_through_the_polynomial_and_turns_nothing(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonal(matrix), u * s @ vh)
    assert 0.68 < s.min() and s.max() < 1.21


def test_singular_values_from_a_five_hundredth_of_the_norm_come_near_one():
    for angle in torch.linspace(0.002, math.pi / 4, 300, dtype=torch.float64):
        values = torch.stack([angle.sin(), angle.cos()])  # their norm is 1
        s = orthogonal(torch.diag(values)).diag()
        assert 0.68 < s.min() and s.max() < 1.21


def test_muon_is_the_muon_of_torch_but_for_its_sixteen_bits():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch is older than its Muon")
    shapes, draw = [(8, 8), (16, 8), (8, 24)], torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in "ab")
    one = Muon(ours, lr=0.02, weight_decay=0.1)
    two = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for _ in range(5):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape, generator=draw)
            q.grad = p.grad.clone()
        one.step(), two.step()
    for p, q in zip(ours, theirs):
        moved = (q - 1).norm()
        assert (p - q).norm() < 0.02 * moved


def test_a_norm_over_all_heads_has_two_dimensions_and_is_no_matrix():
    model = Decoder(replace(tiny(LLAMA3_8B), qk_norm="rms_all_heads"))
    norm = model.blocks[0].attn.q_norm.weight
    muon, adamw = make_optimizer(model, Recipe(steps=1, optimizer="muon")).optimizers
    assert norm.dim() == 2
    assert not any(p is norm for p in muon.param_groups[0]["params"])
    (group,) = [group for group in adamw.param_groups if any(p is norm for p in group["params"])]
    assert group["weight_decay"] == 0


def test_both_optimizers_follow_the_same_schedule_each_below_its_own_rate():
    optimizer = make_optimizer(small(), Recipe(steps=1, optimizer="muon", lr=0.5, muon_lr=0.2))
    optimizer.set_share(0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.125}
