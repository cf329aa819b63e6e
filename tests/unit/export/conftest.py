"""Small random models of each family with a tokenizer of ours, as folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmpipe.assistant.frames import CHATML
from llmpipe.assistant.template import chat_template
from llmpipe.model.config import ModelConfig, RopeScaling
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_generation_config, save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import IM_END, place_special

MERGES = [b" t", b"he", b" the", b"in", b"er", b"an", b"37", b"qu"]


def tokenizer(pattern: str = "qwen2") -> Tokenizer:
    ranks = {bytes([i]): i for i in range(256)} | {m: 256 + i for i, m in enumerate(MERGES)}
    return Tokenizer(ranks, PATTERNS[pattern], place_special(len(ranks)))


def config(family: str) -> ModelConfig:
    shape = {"d_model": 64, "n_layers": 2, "n_heads": 4, "head_dim": 16, "d_ff": 96}
    sizes = {"vocab_size": 320, "max_seq_len": 160}  # 24 rows more than the tokenizer has ids
    if family == "gpt2":
        return ModelConfig(family="gpt2", n_kv_heads=4, tied_embeddings=True, **shape, **sizes)
    if family == "llama":
        scaling = RopeScaling(factor=8.0, original_max_seq_len=64)
        return ModelConfig(family="llama", n_kv_heads=2, rope_scaling=scaling, **shape, **sizes)
    return ModelConfig(family="qwen3", n_kv_heads=2, **shape, **sizes)


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a model folder: `make_folder("llama", pattern="llama3")`."""

    def make(family: str = "qwen3", pattern: str = "qwen2") -> Path:
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(3)
        model = Transformer(config(family))
        for weights in model.parameters():
            # Far from uniform predictions, and norms and biases that are not 1 and 0.
            weights.data += 0.1 * torch.randn_like(weights)
        save_model(model, folder)
        own = tokenizer(pattern)
        own.save(folder, chat_template(CHATML))
        save_generation_config(folder, own.bos_id, [own.special[IM_END], own.bos_id], own.pad_id)
        return folder

    return make
