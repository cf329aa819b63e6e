"""Reordered weights: the same model up to rounding."""

import copy

import pytest
import torch

from llmpipe.inference.engine import Engine
from llmpipe.inference.packed import PackedLinear, pack
from llmpipe.inference.sampling import Sampling
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_packed_model_writes_what_the_plain_one_writes(family: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        family=family, d_model=64, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16, d_ff=128,
        vocab_size=96, max_seq_len=64, tied_embeddings=True,
    )  # fmt: skip
    model = Transformer(config).eval()
    packed = copy.deepcopy(model)
    if not pack(packed):
        pytest.skip("torch was built without oneDNN")
    assert isinstance(packed.head, PackedLinear)
    ids = torch.randint(96, (3, 20))
    with torch.inference_mode():
        # float32 sums in another order
        assert torch.allclose(model(ids), packed(ids), atol=1e-3)
    prompts, greedy = [[1, 2], [3] * 17, [4]], Sampling(temperature=0.0, max_tokens=12)
    expected = Engine(model, max_batch=3).generate(prompts, greedy)
    assert Engine(packed, max_batch=3).generate(prompts, greedy) == expected


def test_models_that_cannot_be_packed_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Transformer(ModelConfig(d_model=16, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=16, d_ff=16, vocab_size=8))  # fmt: skip
    assert not pack(model.to(torch.bfloat16))
    monkeypatch.setattr("llmpipe.inference.packed._works", lambda: False)
    assert not pack(model.to(torch.float32))
    assert isinstance(model.head, torch.nn.Linear)
