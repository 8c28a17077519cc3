"""python -m pytest tests/test_lora.py -p no:nbval -o addopts="" """

from copy import deepcopy

import pytest
import torch
from torch import nn

from helpers import lora, weights
from helpers.config import ModelConfig
from helpers.model import Decoder
from helpers.recipe import Recipe, learning
from helpers.train import train
from tests.reference import FAMILIES, T, V, randomised

pytestmark = pytest.mark.usefixtures("one_thread")
CFG = ModelConfig(
    vocab_size=V, context_length=64, n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, head_dim=4,
    d_ff=24,
)  # fmt: skip
TOKENS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(3))


def small(seed=0):
    torch.manual_seed(seed)
    return Decoder(CFG)


def with_random_adapters(model, rank=3, **where):
    """The model, and adapters that change it."""
    lora.add_lora(model, rank, **where)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in lora.lora_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class SameBatch:
    def next(self):
        return TOKENS[:, :-1], TOKENS[:, 1:]

    def state_dict(self):
        return {}


# ---------------------------------------------------------------- any family


@pytest.mark.parametrize("family", FAMILIES)
def test_of_any_family_new_adapters_change_nothing_and_merged_equals_unmerged(family):
    _, cfg = FAMILIES[family](0.05)
    model = randomised(Decoder(cfg).double(), 0.2)
    before = model(TOKENS)
    assert torch.equal(lora.add_lora(deepcopy(model), rank=3)(TOKENS), before)
    apart = with_random_adapters(model)(TOKENS)
    assert (apart - before).abs().max() > 0.01
    torch.testing.assert_close(lora.merge(model)(TOKENS), apart)
    assert not lora.adapters(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_merging_a_model_has_its_own_names_back_and_learns_what_it_learnt(family):
    _, cfg = FAMILIES[family](0.05)
    model = Decoder(cfg)
    names, learnt = [*weights_of(model)], [*learning(model)]
    lora.merge(lora.add_lora(model, rank=3))
    assert [*weights_of(model)] == names
    assert [*learning(model)] == learnt


# ---------------------------------------------------------------- by hand


def test_an_adapter_worked_by_hand():
    """W = [[1, 2]], A = [[1, 1]], B = [[3]], alpha 4, rank 1: 1·5 + 2·7 + 4·3·(5 + 7) = 163."""
    linear = nn.Linear(2, 1, bias=False)
    adapter = lora.Adapted(linear, rank=1, alpha=4.0)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0]]))
        adapter.A.fill_(1.0)
        adapter.B.fill_(3.0)
    assert adapter(torch.tensor([5.0, 7.0])).item() == 163
    assert adapter.merged().weight.tolist() == [[13.0, 14.0]]


def test_alpha_is_divided_by_the_rank():
    one, four = (lora.Adapted(nn.Linear(8, 8), rank, alpha=8.0) for rank in (1, 4))
    with torch.no_grad():
        for adapter in (one, four):
            adapter.linear.weight.zero_()
            adapter.linear.bias.zero_()
            adapter.A.fill_(1.0)
            adapter.B.fill_(1.0)
    x = torch.ones(8)  # A x is 8 in each of the rank's places, B sums them
    assert one(x)[0] == 8.0 / 1 * 8
    assert four(x)[0] == 8.0 / 4 * (4 * 8)


def test_the_number_of_parameters_counted_by_hand():
    """Rank times inputs plus outputs: wq 16+16, wk and wv 16+8, wo 16+16; three of 16+24; twice."""
    found = lora.lora_parameters(lora.add_lora(small(), rank=2))
    assert sum(p.numel() for p in found.values()) == 2 * 2 * (32 + 24 + 24 + 32 + 3 * 40)
    found = lora.lora_parameters(lora.add_lora(small(), rank=3, where=("wq", "wv")))
    assert sum(p.numel() for p in found.values()) == 2 * 3 * (32 + 24)


def test_routers_are_adapted_only_by_name():
    _, cfg = FAMILIES["mixtral"](0.05)
    names = {lora.last(name) for name in lora.adapters(lora.add_lora(Decoder(cfg), rank=2))}
    assert "router" not in names and {"wq", "up", "gate", "down"} <= names
    assert lora.adapters(lora.add_lora(Decoder(cfg), rank=2, where=["router"]))


# ---------------------------------------------------------------- training


def test_only_adapters_learn_and_all_of_them():
    model = lora.add_lora(small(), rank=2)
    assert [*learning(model)] == [*lora.lora_parameters(model)]
    before = weights_of(model)
    records = train(model, SameBatch(), Recipe(steps=8, lr=0.05))
    assert records[-1].loss < records[0].loss
    for name, value in weights_of(model).items():
        assert torch.equal(value, before[name]) != name.endswith((".A", ".B")), name


def test_a_merged_model_goes_on_with_all_its_weights():
    model = lora.merge(with_random_adapters(small()))
    before = weights_of(model)
    train(model, SameBatch(), Recipe(steps=1, warmup=0.0))
    assert not any(torch.equal(value, before[name]) for name, value in weights_of(model).items())


def test_adapters_have_the_precision_of_what_they_adapt():
    model = lora.add_lora(small().double(), rank=2)
    assert {p.dtype for p in lora.lora_parameters(model).values()} == {torch.float64}
    assert model(TOKENS).dtype == torch.float64


def test_a_copy_of_an_adapted_model_is_merged_alone():
    model = with_random_adapters(small())
    copy = deepcopy(model)
    assert all(p.requires_grad for p in lora.merge(copy).parameters())
    assert lora.adapters(model) and not model.tok_emb.weight.requires_grad


# ---------------------------------------------------------------- files


def test_adapters_are_saved_alone_and_loaded_onto_the_same_base(tmp_path):
    model, file = with_random_adapters(small(), where=("wq", "wv")), tmp_path / "adapters"
    lora.save(model, file)
    n_bytes = 4 * sum(p.numel() for p in lora.lora_parameters(model).values())
    assert n_bytes < file.stat().st_size < n_bytes + 2000
    assert torch.equal(lora.load(small(), file)(TOKENS), model(TOKENS))
    other = lora.add_lora(small(), rank=3, where=("wq", "wv"))
    assert torch.equal(lora.load(other, file)(TOKENS), model(TOKENS))


def test_a_base_that_was_stored_in_16_bits_is_still_the_same(tmp_path):
    lora.save(with_random_adapters(small()), tmp_path / "adapters")
    lora.load(small().half().float(), tmp_path / "adapters")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (lambda: lora.add_lora(small(), 4), "of rank 3 and alpha 16 on 14 layers, the model has "),
        (lambda: lora.add_lora(small(), 3, alpha=8.0), "some of rank 3 and alpha 8 on 14 layers"),
        (lambda: lora.add_lora(small(), 3, where=["wq"]), "rank 3 and alpha 16 on 2 layers"),
        (lambda: small(seed=1), "holds adapters of another model: load that one first"),
        (lambda: Decoder(weights.replace(CFG, n_layers=3)), "adapters of another model"),
        (lambda: Decoder(weights.replace(CFG, d_model=20)), "adapters of another model"),
        (lambda: Decoder(weights.replace(CFG, mlp="gelu")), "adapters of another model"),
    ],
)
def test_adapters_that_do_not_belong_are_refused_and_the_model_left_alone(
    tmp_path, model, sentence
):
    lora.save(with_random_adapters(small()), tmp_path / "adapters")
    model = model()
    before, learnt = weights_of(model), [*learning(model)]
    with pytest.raises(ValueError, match=sentence):
        lora.load(model, tmp_path / "adapters")
    assert [*learning(model)] == learnt
    after = weights_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_file_without_adapters_is_refused(tmp_path):
    weights.save(small(), tmp_path / "model")
    with pytest.raises(ValueError, match="holds no adapters: was it written by"):
        lora.load(small(), tmp_path / "model")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"rank": 0}, r"rank is 0: for blocks\.0\.attn\.wq, 16 x 16, take 1 to 16"),
        ({"rank": 9}, r"rank is 9: for blocks\.0\.attn\.wk, 8 x 16, take 1 to 8"),
        ({"rank": 2, "where": ["query"]}, "no linear layer is named 'query': choose of .*'wq'"),
        ({"rank": 2, "where": ["lm_head"]}, "no linear layer is named 'lm_head'"),
    ],
)
def test_what_cannot_be_adapted_is_refused_before_anything_changes(wanted, sentence):
    model = small()
    with pytest.raises(ValueError, match=sentence):
        lora.add_lora(model, **wanted)
    assert not lora.adapters(model) and len(learning(model)) == len([*model.parameters()])


def test_adapters_are_not_added_twice_nor_saved_where_there_are_none(tmp_path):
    with pytest.raises(ValueError, match="has adapters already: merge them first"):
        lora.add_lora(lora.add_lora(small(), rank=2), rank=2)
    with pytest.raises(ValueError, match="has no adapters: add_lora first"):
        lora.save(small(), tmp_path / "adapters")
    assert not [*tmp_path.iterdir()]
