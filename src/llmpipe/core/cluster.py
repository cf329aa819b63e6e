"""Units on other machines: an existing Ray cluster, or arrays of Slurm jobs.

Both only decide where a unit runs. There it runs as on one machine: by `LocalProcesses`, under its limits, with a commit at the end. So the
bytes are the same everywhere, a unit that runs twice does no harm, and nothing depends on the engine's storage, order or lineage. The
folder of the units must lie on storage that all machines share.

    python -m llmpipe.core.cluster FOLDER I     what the Ith task of a Slurm array runs
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import write_atomic
from llmpipe.core.config import digest
from llmpipe.core.errors import LlmpipeError, UserError
from llmpipe.core.executors import Limits, LocalProcesses, UnitProgress
from llmpipe.core.stage import Context
from llmpipe.core.units import Executor, Job, Stoppable, Unit, is_done

_POLL_S = 0.5
_MAX_TRIES = 5
"""Times that a unit is handed out again after its machine was lost."""
_TASK = "array.pickle"


def make_executor(
    name: str,
    n_workers: int,
    limits: Limits,
    on_progress: Callable[[UnitProgress], None],
    should_stop: Callable[[], bool],
) -> Executor:
    """Return the executor of a name: `local`, `ray`, `ray:ADDRESS` or `slurm`.

    Raises:
        UserError: no such executor, or what it needs is not here.
    """
    kind, _, address = name.partition(":")
    if kind == "local":
        return LocalProcesses(n_workers, limits, on_progress, should_stop)
    if kind == "ray":
        return RayCluster(address or "auto", limits, on_progress, should_stop)
    if kind == "slurm":
        return SlurmArray(n_workers, limits, on_progress, should_stop)
    raise UserError(f"there is no executor `{name}`", "known: local, ray, ray:ADDRESS, slurm")


def executor_of(
    ctx: Context, limits: Limits, on_progress: Callable[[UnitProgress], None]
) -> Executor:
    """Return the executor that the command line names; it stops when the stage is asked to."""
    stop = ctx.stop
    chosen = make_executor(ctx.executor, ctx.workers, limits, on_progress, lambda: stop.requested)
    return Stoppable(chosen, stop.check)


def run_here(job: Job, unit: Unit, folder: str, limits: Limits, current: str) -> None:
    """Run one unit in a killable process on this machine, unless it is done.

    Args:
        current: the working folder of the run. Ray's processes have one of their own, where relative paths would mean other files.
    """
    with contextlib.chdir(current):
        if not is_done(Path(folder), unit):
            alone = LocalProcesses(1, limits, lambda _: None, lambda: False)
            alone.run(job, [unit], Path(folder))


# ------------------------------------------------------------------------------------------------------------- Ray


@dataclass(frozen=True)
class RayCluster:
    """Run units as tasks of Ray Core, one CPU each."""

    address: str
    """Of a running cluster; `auto` finds the one this machine belongs to."""
    limits: Limits
    on_progress: Callable[[UnitProgress], None]
    should_stop: Callable[[], bool]

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        """Run all units; see `Executor`."""
        try:
            import ray
        except ImportError:
            raise UserError("the executor `ray` needs Ray", "pip install 'llmpipe[ray]'") from None
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except ConnectionError as error:
                raise UserError(
                    f"no Ray cluster answers at `{self.address}`: {error}", "ray start --head"
                ) from None
        folder.mkdir(parents=True, exist_ok=True)
        remote: Any = ray.remote(num_cpus=1, max_retries=_MAX_TRIES)(run_here)
        here = str(Path.cwd())
        pending = [remote.remote(job, unit, str(folder), self.limits, here) for unit in units]
        try:
            while pending:
                done, pending = ray.wait(pending, timeout=_POLL_S)
                ray.get(done)  # raises what a unit raised
                self.on_progress(UnitProgress(len(units) - len(pending), 0))
                if self.should_stop():
                    return
        finally:
            for task in pending:
                ray.cancel(task, force=True)


# ----------------------------------------------------------------------------------------------------------- Slurm


@dataclass(frozen=True)
class SlurmArray:
    """Run units as the tasks of one Slurm array, and wait for it.

    The array is submitted again with what is left when tasks were lost; settings of the site (partition, account, time) come
    from Slurm's own environment variables, such as SBATCH_PARTITION.
    """

    n_parallel: int
    """Tasks that Slurm may run at a time."""
    limits: Limits
    on_progress: Callable[[UnitProgress], None]
    should_stop: Callable[[], bool]

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        """Run all units; see `Executor`."""
        if shutil.which("sbatch") is None:
            raise UserError("the executor `slurm` needs `sbatch`, and this machine has none")
        folder.mkdir(parents=True, exist_ok=True)
        left = list(units)
        for _ in range(_MAX_TRIES):
            self._submit(job, left, folder)
            left = [unit for unit in left if not is_done(folder, unit)]
            if not left or self.should_stop():
                return
        raise LlmpipeError(
            f"{len(left)} units are not done after {_MAX_TRIES} arrays, the first is `{left[0].name}`",
            f"their logs are in {folder / 'logs'}",
        )

    def _submit(self, job: Job, units: list[Unit], folder: Path) -> None:
        (folder / "logs").mkdir(exist_ok=True)
        write_atomic(folder / _TASK, pickle.dumps((job, units, self.limits)))
        script = folder / "array.sh"
        command = (
            f'exec "{sys.executable}" -m llmpipe.core.cluster "{folder}" "$SLURM_ARRAY_TASK_ID"'
        )
        write_atomic(script, f"#!/bin/sh\n{command}\n")
        array = f"--array=0-{len(units) - 1}%{self.n_parallel}"
        logs = f"--output={folder / 'logs'}/%A-%a.txt"
        name = f"llmpipe-{digest(str(folder))[:12]}"  # of this run alone: a stop cancels by name
        options = ["--parsable", "--wait", "--requeue", f"--job-name={name}", array, logs]
        process = subprocess.Popen(
            ["sbatch", *options, str(script)], stdout=subprocess.PIPE, text=True
        )
        while process.poll() is None:
            time.sleep(_POLL_S)
            n_done = sum(is_done(folder, unit) for unit in units)
            self.on_progress(UnitProgress(n_done, 0))
            if self.should_stop():
                process.terminate()
                subprocess.run(["scancel", f"--name={name}", "--me"], check=False)
        with contextlib.suppress(ValueError):
            process.communicate(timeout=1)


if __name__ == "__main__":
    _job, _units, _limits = pickle.loads((Path(sys.argv[1]) / _TASK).read_bytes())
    run_here(_job, _units[int(sys.argv[2])], sys.argv[1], _limits, ".")
