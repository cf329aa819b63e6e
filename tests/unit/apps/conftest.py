"""A model folder with arbitrary weights, and a console whose two streams are strings."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from llmpipe.core.console import Console
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer(ranks, PATTERNS["qwen2"], place_special(256))
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32,
        vocab_size=tokenizer.vocab_size, max_seq_len=128,
    )  # fmt: skip
    save_model(Transformer(config), folder)
    tokenizer.save(folder)
    return folder


@dataclass
class Screen:
    """A console and what was written to it."""

    console: Console
    stdout: io.StringIO
    stderr: io.StringIO


@pytest.fixture
def screen() -> Screen:
    return make_screen()


@pytest.fixture
def json_screen() -> Screen:
    return make_screen(json_output=True)


def make_screen(json_output: bool = False) -> Screen:
    stdout, stderr = io.StringIO(), io.StringIO()
    return Screen(Console(json_output=json_output, stdout=stdout, stderr=stderr), stdout, stderr)
