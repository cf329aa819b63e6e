"""A tokenizer of bytes and a model of a few thousand weights."""

from __future__ import annotations

import pytest
import torch

from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.special import place_special


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Every byte is a token; then the special ones."""
    ranks = {bytes([i]): i for i in range(256)}
    return Tokenizer(ranks, split_pattern("qwen2"), place_special(256))


@pytest.fixture(params=["qwen3", "gpt2"])
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Transformer:
    """Random weights of a size that makes predictions far from uniform."""
    is_gpt2 = request.param == "gpt2"
    config = ModelConfig(
        family=request.param,
        d_model=32,
        n_layers=2,
        n_heads=2,
        n_kv_heads=2,
        head_dim=16,
        d_ff=64,
        vocab_size=tokenizer.vocab_size,
        max_seq_len=256,
        tied_embeddings=is_gpt2,
    )
    model = Transformer(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model
