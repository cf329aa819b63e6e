"""A small real tokenizer, and a model that writes what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from llmpipe.assistant.render import Message, render
from llmpipe.inference.engine import Engine
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    merges = ["th", "the", "an", "in", "us", "er", "user", " t", "\n\n", "ss", "<|", "|>"]
    tokens = [bytes([i]) for i in range(256)] + [merge.encode() for merge in merges]
    ranks = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(ranks, PATTERNS["qwen2"], place_special(len(ranks)))


class ScriptedModel(Transformer):
    """Predicts `script[i]` after the i-th token that follows a prompt of `n_prompt` tokens."""

    def __init__(self, vocab_size: int, max_len: int, n_prompt: int, script: Sequence[int]) -> None:
        super().__init__(
            ModelConfig(
                d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8, d_ff=8,
                vocab_size=vocab_size, max_seq_len=max_len,
            )
        )  # fmt: skip
        self.head = torch.nn.Linear(vocab_size, vocab_size, bias=False)
        self.head.weight.data = torch.eye(vocab_size)
        self._next = torch.zeros(max_len, dtype=torch.long)
        written = torch.tensor(script)[: max_len - n_prompt + 1]
        self._next[n_prompt - 1 : n_prompt - 1 + len(written)] = written

    def hidden(self, ids: torch.Tensor, *, positions: Any, mask: Any, cache: Any) -> torch.Tensor:
        return torch.nn.functional.one_hot(self._next[positions], self.config.vocab_size).float()


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., Engine]:
    """Build an engine that answers `messages` with the ids of `script` (forced ids included)."""

    def build(
        messages: Sequence[Message], script: Sequence[int], max_len: int = 400, max_batch: int = 1
    ) -> Engine:
        n_prompt = len(render(messages, tokenizer, add_generation_prompt=True).ids)
        model = ScriptedModel(tokenizer.vocab_size, max_len, n_prompt, script)
        return Engine(model.eval(), max_batch=max_batch)

    return build
