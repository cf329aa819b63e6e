"""Token artifacts for the tests of stages: sentences of twelve words, byte by byte."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.shards import ShardWriter, write_index
from llmpipe.tokenizer.special import place_special

WORDS = ["the", "old", "mill", "stood", "by", "a", "river", "and", "turned", "all", "day", "long"]


@pytest.fixture(scope="session")
def write_tokens() -> Callable[..., Path]:
    """Write a byte-level tokenizer and two shards: `write_tokens(folder, seed, n_documents)`."""

    def write(folder: Path, seed: int, n_documents: int) -> Path:
        folder.mkdir(exist_ok=True)
        ranks = {bytes([i]): i for i in range(256)}
        tokenizer = Tokenizer(ranks, PATTERNS["gpt2"], place_special(256))
        tokenizer.save(folder)
        draw = random.Random(seed)
        shards = []
        for split, n in (("train", n_documents), ("val", 10)):
            name = f"{split}-00000"
            with ShardWriter(folder, name, tokenizer.vocab_size, tokenizer.bos_id) as writer:
                for _ in range(n):
                    text = " ".join(draw.choices(WORDS, k=draw.randint(2, 30)))
                    writer.add(np.array(tokenizer.encode(text), dtype=np.uint32), len(text))
                shards.append(writer.finish(split))  # type: ignore[arg-type]
        write_index(folder, shards, tokenizer.digest, vocab_size=tokenizer.vocab_size)
        return folder

    return write


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, write_tokens: Callable[..., Path]) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"), seed=1, n_documents=120)
