"""Checkpoints: everything a run needs to go on as if it had never stopped.

One checkpoint is two files: the tensors (safetensors: model, optimizer, random generators) and,
written after them, a small JSON record with the step, the loop's other state, and the SHA-256 of
the tensors. A checkpoint without its record, or whose tensors do not match it, does not count,
and the one before it is used. Nothing is unpickled, so a checkpoint cannot run code.

    state/step-00000200.safetensors
    state/step-00000200.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmpipe.core.artifact import atomic_file, hash_file, write_atomic
from llmpipe.core.errors import InputError
from llmpipe.training.optim import Optimizer

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    step: int
    """Updates done."""
    state: dict[str, Any]
    """What the loop gave to `save_checkpoint`, besides tensors."""
    tensors: Path


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    state: dict[str, Any],
    keep: int = 2,
) -> None:
    """Write a checkpoint after `step` updates, and delete all but the newest `keep`.

    Args:
        folder: Of this run's checkpoints; made if missing.
        step: Updates done.
        model: Its parameters are saved.
        optimizer: Its state is saved.
        state: Other state of the loop, as JSON values.
        keep: Checkpoints that stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
    tensors |= {f"random.{name}": value for name, value in _random_state()}
    name = f"step-{step:08d}"
    record = folder / f"{name}.json"
    record.unlink(missing_ok=True)  # first, or a crash would leave an old record beside new tensors
    with atomic_file(folder / f"{name}.safetensors") as path:
        save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, path)
        digest = hash_file(path)
    values = {"format": FORMAT, "step": step, "sha256": digest, "state": state}
    write_atomic(record, json.dumps(values, indent=1))
    for old in sorted(folder.glob("step-*.json"))[:-keep]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def find_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose tensors are as they were written, or None.

    Raises:
        InputError: if the newest was written by another version of this format.
    """
    for record in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            values = json.loads(record.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise InputError(
                    f"{record} has format {values['format']}, expected {FORMAT}",
                    hint="resume with the version that wrote it, or start anew with --fresh",
                )
            tensors = record.with_suffix(".safetensors")
            if hash_file(tensors) == values["sha256"]:
                return Checkpoint(values["step"], values["state"], tensors)
        except (OSError, ValueError, KeyError):
            continue  # torn or damaged: the one before it is as good
    return None


def load_checkpoint(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's tensors where they were.

    Raises:
        InputError: if the model has other parameters, or other shapes.
    """
    tensors = load_file(checkpoint.tensors)
    named = dict(model.named_parameters())
    saved = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    shapes = {name: list(value.shape) for name, value in saved.items()}
    if shapes != {name: list(p.shape) for name, p in named.items()}:
        raise InputError(f"{checkpoint.tensors} is of a model of another shape")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(saved[name])
    prefix = "optimizer."
    optimizer.load_state(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])


def _random_state() -> Iterator[tuple[str, Tensor]]:
    yield "cpu", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "cuda", torch.cuda.get_rng_state()
