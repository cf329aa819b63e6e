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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmpipe.core.artifact import atomic_file, hash_file, write_atomic
from llmpipe.core.errors import InputError
from llmpipe.training.optim import Optimizer
from llmpipe.training.parallel import local_part, part_like, whole

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
    is_main: bool = True,
) -> None:
    """Write a checkpoint after `step` updates, and delete all but the newest `keep`.

    Args:
        folder: Of this run's checkpoints; made if missing.
        step: Updates done.
        model: Its parameters are saved.
        optimizer: Its state is saved.
        state: Other state of the loop, as JSON values.
        keep: Checkpoints that stay.
        is_main: Whether this process writes. All processes must call this together, because each
            may hold a part.
    """
    tensors = collect_tensors(model, optimizer, is_main)
    if is_main:
        write_checkpoint(folder, step, tensors, state, keep)


def collect_tensors(model: nn.Module, optimizer: Optimizer, is_main: bool) -> dict[str, Tensor]:
    """Copy what a checkpoint holds to the CPU, from all processes to the main one."""
    tensors = {f"model.{name}": whole(p.detach()) for name, p in model.named_parameters()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
    tensors |= {f"random.{name}": value for name, value in _random_state()}
    if not is_main:
        return {}
    # A copy also on the CPU: training goes on while this is written.
    return {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}


def write_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int
) -> None:
    """Make a checkpoint durable: tensors first, the record that vouches for them last."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:08d}"
    record = folder / f"{name}.json"
    record.unlink(missing_ok=True)  # first, or a crash would leave an old record beside new tensors
    with atomic_file(folder / f"{name}.safetensors") as path:
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        digest = hash_file(path)
    values = {"format": FORMAT, "step": step, "sha256": digest, "state": state}
    write_atomic(record, json.dumps(values, indent=1))
    for old in sorted(folder.glob("step-*.json"))[:-keep]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


class CheckpointWriter:
    """Writes checkpoints beside the training: a step waits for the copy, not for the disk.

    One is written at a time. An error of the last one is raised at the next `save` or `finish`, as
    a failed disk must not go unnoticed for long.
    """

    def __init__(self, folder: Path, keep: int, is_main: bool) -> None:
        self.folder = folder
        self.keep = keep
        self.is_main = is_main
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True)

    def save(
        self, step: int, model: nn.Module, optimizer: Optimizer, state: dict[str, Any]
    ) -> None:
        """Copy everything and begin to write; all processes must call this together."""
        self.finish()
        tensors = collect_tensors(model, optimizer, self.is_main)
        if self.is_main:
            state = json.loads(json.dumps(state))  # the loop goes on changing its own
            self._pending = self._thread.submit(
                write_checkpoint, self.folder, step, tensors, state, self.keep
            )

    def finish(self) -> None:
        """Wait until all is durable.

        Raises:
            OSError: if it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()


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
        raise InputError(f"{checkpoint.tensors} is of {_first_difference(shapes, named)}")
    with torch.no_grad():
        for name, parameter in named.items():
            value = saved[name].to(parameter.device)
            local_part(parameter.data).copy_(part_like(value, parameter))
    prefix = "optimizer."
    optimizer.load_state(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])


def _first_difference(saved: dict[str, list[int]], named: dict[str, nn.Parameter]) -> str:
    """Say where a saved model differs from the one at hand."""
    for name, parameter in named.items():
        if saved.get(name) != list(parameter.shape):
            found = saved.get(name, "missing")
            return (
                f"a model of another shape: `{name}` is {found}, expected {list(parameter.shape)}"
            )
    extra = next(name for name in saved if name not in named)
    return f"a model of another shape: `{extra}` is not expected"


def _random_state() -> Iterator[tuple[str, Tensor]]:
    yield "cpu", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "cuda", torch.cuda.get_rng_state()
