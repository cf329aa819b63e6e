from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import InputError
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.training.checkpoint import (
    CheckpointWriter,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from llmpipe.training.config import AdamW, Muon
from llmpipe.training.optim import Optimizer, build_optimizer
from llmpipe.training.step import Batch, SpikeGuard, train_step

ALONE = Runtime(Ranks(), torch.device("cpu"))
CONFIG = ModelConfig("qwen3", 32, 2, 4, 2, 8, 48, 61, 32)


def make(optim: Muon | AdamW) -> tuple[Transformer, Optimizer]:
    model = Transformer(CONFIG)
    initialize(model, torch.Generator().manual_seed(1))
    return model, build_optimizer(model, optim)


def steps(model: Transformer, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        ids = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(step))
        batch = Batch(ids[:, :-1], ids[:, 1:])
        train_step(model, optimizer, [batch], 1.0 - step / 20, SpikeGuard(), ALONE)


@pytest.mark.parametrize("optim", [Muon(), AdamW()], ids=["muon", "adamw"])
def test_resumed_training_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, optim: Muon | AdamW
) -> None:
    model, optimizer = make(optim)
    steps(model, optimizer, 0, 8)

    first, first_optimizer = make(optim)
    steps(first, first_optimizer, 0, 5)
    save_checkpoint(tmp_path, 5, first, first_optimizer, {})
    second, second_optimizer = make(optim)
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 5
    load_checkpoint(checkpoint, second, second_optimizer)
    steps(second, second_optimizer, 5, 8)

    for (name, expected), resumed in zip(
        model.named_parameters(), second.parameters(), strict=True
    ):
        assert torch.equal(resumed, expected), name
    for name, value in optimizer.state().items():
        assert torch.equal(second_optimizer.state()[name], value), name


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    torch.manual_seed(3)
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    expected = torch.rand(4)
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None
    load_checkpoint(checkpoint, model, optimizer)
    assert torch.equal(torch.rand(4), expected)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, step, model, optimizer, {"note": step}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000003.json",
        "step-00000003.safetensors",
        "step-00000010.json",
        "step-00000010.safetensors",
    ]
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.state == {"note": 10}


@pytest.mark.parametrize("damage", ["bit", "torn record", "no tensors"])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    model, optimizer = make(Muon())
    for step in (1, 2):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    tensors, record = tmp_path / "step-00000002.safetensors", tmp_path / "step-00000002.json"
    if damage == "bit":
        content = bytearray(tensors.read_bytes())
        content[-5] ^= 1
        tensors.write_bytes(content)
    elif damage == "torn record":
        record.write_text(record.read_text()[:20])
    else:
        tensors.unlink()
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "state") is None


def test_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None
    other = Transformer(ModelConfig("qwen3", 32, 1, 4, 2, 8, 48, 61, 32))
    with pytest.raises(InputError, match="model of another shape"):
        load_checkpoint(checkpoint, other, build_optimizer(other, Muon()))


def test_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="has format 99, expected 1"):
        find_checkpoint(tmp_path)


def test_written_beside_the_training_it_holds_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    before = model.norm.weight.detach().clone()
    with CheckpointWriter(tmp_path, keep=2, is_main=True) as writer:
        state = {"samples": ["one"]}
        writer.save(3, model, optimizer, state)
        with torch.no_grad():
            model.norm.weight += 1
        state["samples"].append("two")
        writer.finish()
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.state == {"samples": ["one"]}
    load_checkpoint(checkpoint, model, optimizer)
    assert torch.equal(model.norm.weight, before)


def test_error_while_writing_is_raised_and_not_lost(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    (tmp_path / "file").touch()
    with CheckpointWriter(tmp_path / "file" / "state", keep=2, is_main=True) as writer:
        writer.save(1, model, optimizer, {})
        with pytest.raises(OSError, match="Not a directory"):
            writer.finish()


def test_checkpoint_of_another_shape_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None
    other = Transformer(replace(model.config, d_ff=2 * model.config.d_ff))
    with pytest.raises(InputError, match=r"`blocks.0.mlp.gate.weight` is \[.*\], expected \[.*\]"):
        load_checkpoint(checkpoint, other, build_optimizer(other, Muon()))
