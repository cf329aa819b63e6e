"""Checksums of token shards, with several processes: one per machine reads, and all hear of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import InputError, Stopped
from llmpipe.core.ranks import Ranks
from llmpipe.core.stage import Context
from llmpipe.stages.pretrain.verify import verify_shards
from llmpipe.tokenizer.shards import ShardWriter, TokenShards, open_shards, write_index

ALONE = Runtime(Ranks(), torch.device("cpu"))


class SecondOfTwo(Runtime):
    """The other process of a machine; the first one says `heard` of every file."""

    heard: InputError | None = None

    def __init__(self, heard: InputError | None, is_stopping: bool = False) -> None:
        super().__init__(Ranks(1, 2, 1, 2), torch.device("cpu"))
        object.__setattr__(self, "heard", heard)
        object.__setattr__(self, "from_first", [heard is not None, is_stopping])

    def sum(self, values: list[float]) -> list[float]:
        return [a + b for a, b in zip(values, self.from_first, strict=True)]  # type: ignore[attr-defined]

    def gather(self, value: Any) -> list[Any]:
        return [self.heard, value]


@pytest.fixture
def shards(tmp_path: Path) -> list[TokenShards]:
    written = []
    for split in ("train", "val"):
        with ShardWriter(tmp_path, f"{split}-00000", 300, bos_id=0) as writer:
            writer.add(np.arange(1, 200, dtype=np.uint32), 400)
            written.append(writer.finish(split))  # type: ignore[arg-type]
    write_index(tmp_path, written, "d", vocab_size=300)
    return [open_shards(tmp_path, split, verify=False) for split in ("train", "val")]


def damage(folder: Path) -> None:
    path = folder / "val-00000.tok.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_every_file_of_every_split_is_compared(
    shards: list[TokenShards], tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    ctx = make_context(tmp_path / "out")
    verify_shards(shards, ALONE, ctx)
    damage(tmp_path)
    with pytest.raises(InputError, match=r"val-00000\.tok\.npy is damaged"):
        verify_shards(shards, ALONE, ctx)


def test_other_processes_of_a_machine_read_nothing_and_raise_what_the_first_found(
    shards: list[TokenShards], tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    ctx = make_context(tmp_path / "out")
    damage(tmp_path)  # would be noticed
    verify_shards(shards, SecondOfTwo(None), ctx)
    with pytest.raises(InputError, match="x is damaged") as caught:
        verify_shards(shards, SecondOfTwo(InputError("x is damaged", "copy it")), ctx)
    assert caught.value.hint == "copy it"


def test_a_stop_that_another_process_was_asked_for_ends_the_check(
    shards: list[TokenShards], tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(Stopped):
        verify_shards(shards, SecondOfTwo(None, is_stopping=True), make_context(tmp_path / "out"))
