"""The file that lesson 08 opens: python -m pytest tests/test_specimens.py"""

from dataclasses import replace

import pytest
import torch

from helpers import gguf, specimens, weights
from helpers.config import ModelConfig, Rope
from helpers.model import Decoder
from tests.test_sources import need

SIZES = {"vocab_size": 50, "context_length": 32, "n_layers": 2, "d_model": 24, "d_ff": 40}
CFG = ModelConfig(**SIZES, n_heads=6, n_kv_heads=2, head_dim=8, rope=Rope(theta=5000.0))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Nothing is in the cache, and nothing can be fetched."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.delenv("COURSE_WHEELHOUSE", raising=False)


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_written_as_gguf_is_read_back(tmp_path, tied):
    model = Decoder(replace(CFG, tie_embeddings=tied))
    specimens.write_gguf(model, tmp_path / "m.gguf")
    back = weights.from_gguf(tmp_path / "m.gguf")
    assert back.cfg == model.cfg
    for name, parameter in model.named_parameters():
        assert torch.equal(back.get_parameter(name), parameter), name


def test_the_rows_of_queries_lie_in_neighbouring_pairs(tmp_path):
    """Row 1 of a head of 8 is our row 4: the second of its first pair."""
    model = Decoder(CFG)
    specimens.write_gguf(model, tmp_path / "m.gguf")
    _, tensors = gguf.read(tmp_path / "m.gguf")
    theirs = torch.from_numpy(tensors["blk.0.attn_q.weight"].unpack())
    assert torch.equal(theirs[1], model.blocks[0].attn.wq.weight[4])


@pytest.mark.parametrize(
    "change",
    [
        {"mlp": "geglu"},
        {"bias": True},
        {"rope": None},
        {"rope": Rope(scaling="linear", factor=2.0)},
    ],
)
def test_another_kind_of_decoder_is_refused(tmp_path, change):
    with pytest.raises(ValueError, match="only a decoder that differs from Llama 2 in its sizes"):
        specimens.write_gguf(Decoder(replace(CFG, **change)), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_without_the_real_file_a_small_one_takes_its_place(tmp_path, offline):
    found = specimens.real_or_small("smollm2/instruct", tmp_path)
    assert found.note.startswith("smollm2 could not be had")
    assert "going on with the course's own chat model" in found.note
    ours, _ = weights.chat_model()
    back = weights.from_gguf(found.file)
    tokens = torch.arange(10)[None]
    assert torch.equal(back(tokens), ours(tokens)) and torch.equal(
        found.model(tokens), ours(tokens)
    )
    assert found.tokenizer.chat_prompt([{"role": "user", "content": "Hi"}])


def test_the_real_one_is_taken_where_it_can_be_had(tmp_path):
    need("smollm2")
    found = specimens.real_or_small("smollm2/instruct", tmp_path)
    assert found.note == "" and found.model.cfg.n_layers == 30 and not list(tmp_path.iterdir())
