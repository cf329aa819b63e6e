from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import InputError
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.training.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    find_checkpoint,
    load_checkpoint,
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


def save_checkpoint(
    folder: Path, step: int, model: Transformer, optimizer: Optimizer, state: dict[str, Any]
) -> None:
    with CheckpointWriter(folder, ALONE, keep=2) as writer:
        writer.save(step, model, optimizer, state)
        writer.finish()


def find(folder: Path) -> Checkpoint:
    checkpoint = find_checkpoint(folder, ALONE)
    assert checkpoint is not None
    return checkpoint


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
    checkpoint = find(tmp_path)
    assert checkpoint.step == 5
    load_checkpoint(checkpoint, second, second_optimizer, ALONE)
    steps(second, second_optimizer, 5, 8)

    for (name, expected), resumed in zip(
        model.named_parameters(), second.parameters(), strict=True
    ):
        assert torch.equal(resumed, expected), name
    for name, value in optimizer.state().items():
        assert torch.equal(second_optimizer.state()[name], value), name


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, step, model, optimizer, {"note": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000010"]
    assert find(tmp_path).state == {"note": 10}


@pytest.mark.parametrize("damage", ["bit", "torn record", "no weights", "no optimizer"])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    model, optimizer = make(Muon())
    for step in (1, 2):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    folder = tmp_path / "step-00000002"
    weights, record = folder / "model.safetensors", folder / "checkpoint.json"
    if damage == "bit":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "torn record":
        record.write_text(record.read_text()[:20])
    elif damage == "no weights":
        weights.unlink()
    else:
        next((folder / "optimizer").iterdir()).unlink()
    assert find(tmp_path).step == 1


def test_a_damaged_newer_one_does_not_take_the_place_of_a_good_one(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    for step in (1, 3):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    (tmp_path / "step-00000003" / "model.safetensors").write_bytes(b"torn")
    save_checkpoint(tmp_path, 2, model, optimizer, {})  # as a run that went on from step 1 does
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_what_a_killed_write_leaves_is_no_checkpoint_and_goes_with_the_next(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    (tmp_path / "step-00000001").rename(tmp_path / ".step-00000002.partial")
    assert find_checkpoint(tmp_path, ALONE) is None
    (tmp_path / ".step-00000002.partial" / "rest").write_bytes(b"half")
    save_checkpoint(tmp_path, 3, model, optimizer, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert not (tmp_path / "step-00000003" / "rest").exists()


def test_every_checkpoint_opens_as_a_model(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    steps(model, optimizer, 0, 2)
    save_checkpoint(tmp_path, 2, model, optimizer, {})
    opened = transformers.AutoModelForCausalLM.from_pretrained(find(tmp_path).path)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(opened(ids).logits, model(ids), atol=1e-5, rtol=0)


def test_nothing_in_it_is_pickled(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "state", ALONE) is None


def test_full_disk_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.HuggingFaceStorageWriter.write_data", fail)
    with pytest.raises(OSError, match="No space left") as problem:
        save_checkpoint(tmp_path, 1, *make(Muon()), {})
    assert problem.value.errno == errno.ENOSPC
    assert find_checkpoint(tmp_path, ALONE) is None


def test_model_of_another_depth_is_refused(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    for n_layers, problem in (
        (1, "unexpected tensor `model.layers.1."),
        (3, "tensors are missing"),
    ):
        other = Transformer(replace(CONFIG, n_layers=n_layers))
        with pytest.raises(InputError, match=problem):
            load_checkpoint(find(tmp_path), other, build_optimizer(other, Muon()), ALONE)


def test_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    model, optimizer = make(AdamW())
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    with pytest.raises(InputError, match=r"optimizer does not fit the model: .*momentum"):
        load_checkpoint(find(tmp_path), model, build_optimizer(model, Muon()), ALONE)


def test_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000001" / "checkpoint.json").write_text('{"format": 99, "sha256": {}}')
    with pytest.raises(InputError, match="has format 99, expected 2"):
        find_checkpoint(tmp_path, ALONE)


def test_written_beside_the_training_it_holds_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    before = model.norm.weight.detach().clone()
    with CheckpointWriter(tmp_path, ALONE) as writer:
        state = {"samples": ["one"]}
        writer.save(3, model, optimizer, state)
        with torch.no_grad():
            model.norm.weight += 1
        state["samples"].append("two")
        writer.finish()
    checkpoint = find(tmp_path)
    assert checkpoint.state == {"samples": ["one"]}
    load_checkpoint(checkpoint, model, optimizer, ALONE)
    assert torch.equal(model.norm.weight, before)


def test_error_while_writing_is_raised_and_not_lost(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    (tmp_path / "file").touch()
    with CheckpointWriter(tmp_path / "file" / "state", ALONE) as writer:
        writer.save(1, model, optimizer, {})
        with pytest.raises(OSError, match="Not a directory"):
            writer.finish()


def test_checkpoint_of_another_shape_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    model, optimizer = make(Muon())
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    other = Transformer(replace(CONFIG, d_ff=2 * CONFIG.d_ff))
    problem = r"down_proj.weight` has shape \[32, 48\], expected \[32, 96\]"
    with pytest.raises(InputError, match=problem):
        load_checkpoint(find(tmp_path), other, build_optimizer(other, Muon()), ALONE)
