"""A tokenizer of bytes, a small model, and what an evaluation is given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmpipe.core.distributed import Runtime
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special
from llmpipe.training.evaluations.base import EvaluationContext


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Bytes, and three merges that make ` a` and ` ab` tokens of their own, and `ab`."""
    ranks = {bytes([i]): i for i in range(256)}
    ranks |= {b" a": 256, b" ab": 257, b"ab": 258}
    return Tokenizer(ranks, PATTERNS["gpt2"], place_special(259))


@pytest.fixture
def model(tokenizer: Tokenizer) -> Transformer:
    """A model whose predictions are far from even."""
    model = Transformer(ModelConfig("qwen3", 32, 2, 2, 2, 16, 48, tokenizer.vocab_size, 64))
    generator = torch.Generator().manual_seed(1)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def make_context(model: Transformer, tokenizer: Tokenizer) -> Callable[..., EvaluationContext]:
    """Build what an evaluation is given, on one process."""

    def make(row_tokens: int = 64, batch_tokens: int = 256) -> EvaluationContext:
        runtime = Runtime(Ranks(), torch.device("cpu"))
        return EvaluationContext(
            model, tokenizer, runtime, torch.float32, 7, row_tokens, batch_tokens
        )

    return make
