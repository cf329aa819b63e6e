"""Checkpoints: everything a run needs to go on as if it had never stopped.

One checkpoint is a folder, written by all processes together:

    state/step-00000200/
        model.safetensors, config.json, tokenizer.json, ...   a Hugging Face folder: opens as it is
        optimizer/*.safetensors                               each process's part of the optimizer state
        checkpoint.json                                       step, the loop's state, SHA-256 of all files

The optimizer's part is written and read by torch's distributed checkpoint (DCP): each process writes
what it holds, and one of another number of processes reads the rows that it needs, wherever they are.
Everything is safetensors or JSON. Nothing is unpickled, so a checkpoint cannot run code.

A folder gets its name when all of it is on disk. One whose files do not match its record does not
count, and the one before it is used.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from llmpipe.core.artifact import fsync_file, fsync_folder, hash_file, write_atomic
from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import InputError
from llmpipe.model.sharded import is_sharded
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import Weights, collect_weights, load_weights, write_weights
from llmpipe.training.optim import Optimizer

FORMAT = 2
RECORD = "checkpoint.json"
OPTIMIZER = "optimizer"

MAX_FILE_BYTES = 1_000_000_000
"""Of one file of weights: less than in a finished model, so that many processes get even shares."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    """Updates done."""
    state: dict[str, Any]
    """What the loop gave to `save`, besides tensors."""


class CheckpointWriter:
    """Writes checkpoints beside the training: a step waits for the copy, not for the disk.

    One is written at a time. An error of the last one is raised at the next `save` or `finish`, as
    a failed disk must not go unnoticed for long. All processes must call everything together.

    Args:
        folder: Of this run's checkpoints; made if missing. All processes must see the same one.
        runtime: The processes.
        keep: Checkpoints that stay, the newest ones.
        complete: Writes into a checkpoint's folder what else it takes to open as a model, such as the
            tokenizer; called on the main process.
        bos_token_id: Goes into config.json, as what begins and ends a document.
    """

    def __init__(
        self,
        folder: Path,
        runtime: Runtime,
        keep: int = 2,
        complete: Callable[[Path], None] = lambda folder: None,
        bos_token_id: int | None = None,
    ) -> None:
        self.folder = folder
        self.runtime = runtime
        self.ranks = runtime.ranks
        self.keep = keep
        self.complete = complete
        self.bos_token_id = bos_token_id
        # What is written speaks to the other processes while training does, so it needs a line of its own.
        wait = timedelta(seconds=runtime.timeout_s)
        self._group = None if self.ranks.is_alone else dist.new_group(backend="gloo", timeout=wait)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True)

    def save(
        self, step: int, model: Transformer, optimizer: Optimizer, state: dict[str, Any]
    ) -> None:
        """Copy everything and begin to write.

        Args:
            step: Updates done.
            model: Its parameters are saved.
            optimizer: Its state is saved.
            state: Other state of the loop, as JSON values.
        """
        self.finish()
        weights = collect_weights(model, self.ranks, MAX_FILE_BYTES, is_copied=True)
        # Copies also on the CPU: training goes on while they are written.
        mine = _my_part(optimizer.state(), self.runtime)
        optimizer_state = {
            name: value.detach().to("cpu", copy=True) for name, value in mine.items()
        }
        record = {"format": FORMAT, "step": step, "state": json.loads(json.dumps(state))}
        self._pending = self._thread.submit(self._write, step, weights, optimizer_state, record)

    def finish(self) -> None:
        """Wait until all is durable.

        Raises:
            OSError: if it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(
        self,
        step: int,
        weights: Weights,
        optimizer_state: dict[str, Tensor],
        record: dict[str, Any],
    ) -> None:
        """Make a checkpoint durable: all files, then the record that vouches for them, then its name."""
        name = f"step-{step:08d}"
        partial = self.folder / f".{name}.partial"

        def begin() -> list[Path]:
            if not self.ranks.is_main:
                return []
            for left in self.folder.glob(".step-*.partial"):  # of a run that was killed here
                shutil.rmtree(left, ignore_errors=True)
            partial.mkdir(parents=True)
            self.complete(partial)
            return [path for path in partial.iterdir() if path.is_file()]

        def write() -> dict[str, str]:
            bos = self.bos_token_id
            files = write_weights(weights, partial, bos_token_id=bos, eos_token_id=bos)
            own = f"shard-{self.ranks.rank + 1:05d}-*"  # as DCP names what this process writes
            shards = list((partial / OPTIMIZER).glob(own))
            for path in shards:
                fsync_file(path)  # torch does so before it has written the last bytes
            files += [*shards, *beside]  # not what else is in the folder: others are writing there
            return {path.relative_to(partial).as_posix(): hash_file(path) for path in files}

        beside = self._together(begin)[self.ranks.rank]
        _write_optimizer(optimizer_state, partial / OPTIMIZER, self._group)
        digests = {k: v for mine in self._together(write) for k, v in mine.items()}

        def end() -> None:
            if not self.ranks.is_main:
                return
            values = record | {"sha256": dict(sorted(digests.items()))}
            write_atomic(partial / RECORD, json.dumps(values, indent=1))
            _name(partial, self.folder / name)
            found = _folders(self.folder)
            at = found.index(self.folder / name) + 1
            # Later ones are damaged, or the run would have gone on from them.
            for old in (*found[: max(0, at - self.keep)], *found[at:]):
                shutil.rmtree(old, ignore_errors=True)

        self._together(end)

    def _together(self, work: Callable[[], Any]) -> list[Any]:
        """Do something on every process and give each all results; an error of one is one of all."""
        if self._group is None:
            return [work()]
        result: Any = None
        problem: Exception | None = None
        try:
            result = work()
        except Exception as error:
            problem = error
        everyone: list[Any] = [None] * self.ranks.world_size
        said = None if problem is None else f"{type(problem).__name__}: {problem}"
        dist.all_gather_object(everyone, (result, said), group=self._group)
        if problem is not None:
            raise problem
        for rank, (_, reason) in enumerate(everyone):
            if reason is not None:
                raise OSError(f"process {rank} could not write its part: {reason}")
        return [value for value, _ in everyone]


def find_checkpoint(folder: Path, runtime: Runtime) -> Checkpoint | None:
    """Return the newest checkpoint whose files are as they were written, or None.

    All processes must call this together; each looks at its share of the files.

    Raises:
        InputError: if the newest was written by another version of this format.
    """
    for name in runtime.share([path.name for path in reversed(_folders(folder))]):
        path = folder / name
        try:
            record = json.loads((path / RECORD).read_text(encoding="utf-8"))
            is_ours = record["format"] == FORMAT
            mine = sorted(record["sha256"].items())[runtime.ranks.rank :: runtime.ranks.world_size]
            is_good = not is_ours or all(hash_file(path / file) == hash_ for file, hash_ in mine)
        except (OSError, ValueError, KeyError):
            is_good = False  # torn or damaged: the one before it is as good
        if runtime.any(not is_good):
            continue
        if not is_ours:
            raise InputError(
                f"{path} has format {record['format']}, expected {FORMAT}",
                hint="resume with the version that wrote it, or start anew with --fresh",
            )
        return Checkpoint(path, record["step"], record["state"])
    return None


def load_checkpoint(
    checkpoint: Checkpoint, model: Transformer, optimizer: Optimizer, runtime: Runtime
) -> None:
    """Put a checkpoint's tensors where they were, on any number of processes.

    Raises:
        InputError: if the model has other parameters, or the optimizer another state.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    load_weights(model, checkpoint.path)
    _expect_one_process()
    reader = HuggingFaceStorageReader(str(checkpoint.path / OPTIMIZER))
    try:
        load(optimizer.state(), storage_reader=reader, no_dist=runtime.ranks.is_alone)
    except CheckpointException as error:
        reasons = "; ".join(str(reason[0]) for reason in error.failures.values())
        raise InputError(
            f"{checkpoint.path / OPTIMIZER} does not fit the model: {reasons}"
        ) from None


def _my_part(state: dict[str, Tensor], runtime: Runtime) -> dict[str, Tensor]:
    """Leave out what another process writes: what several hold alike is dealt out, by size."""
    everyone = runtime.gather({k: v.nbytes for k, v in state.items() if not is_sharded(v)})
    load, of_others = [0] * len(everyone), set[str]()
    for name in sorted({name for held in everyone for name in held}):
        holders = [rank for rank, held in enumerate(everyone) if name in held]
        owner = min(holders, key=load.__getitem__)
        load[owner] += everyone[owner][name]
        if owner != runtime.ranks.rank:
            of_others.add(name)
    return {name: value for name, value in state.items() if name not in of_others}


def _write_optimizer(
    state: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None
) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    _expect_one_process()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    writer.per_thread_copy_ahead = 0  # all is on the CPU: otherwise DCP waits for a stream of GPU 0
    try:
        save(state, storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:  # which is no `Exception`, and hides what happened
        rank, (reason, _) = next(iter(error.failures.items()))
        if isinstance(reason, OSError):
            raise reason from None
        raise OSError(f"process {rank} could not write its part: {reason}") from None


def _expect_one_process() -> None:
    """Keep DCP from warning that there is only one process, which is nothing to be warned of."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


def _folders(folder: Path) -> list[Path]:
    """List the checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _name(partial: Path, final: Path) -> None:
    """Rename a finished folder, durably; a damaged one of the same step makes room."""
    shutil.rmtree(final, ignore_errors=True)
    for folder in (partial, partial / OPTIMIZER):
        fsync_folder(folder)
    partial.replace(final)
    fsync_folder(final.parent)
