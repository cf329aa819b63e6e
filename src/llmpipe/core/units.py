"""Work in units: plan -> run one -> commit record, whatever runs them and however often it is killed.

    units/3f2a…/segment-00000.parquet   files a job writes for one unit, each atomically
    units/3f2a…/aside.json              records that ended a worker twice, with the reason
    units/3f2a…/.lock                   held by the process that is at work on the unit
    units/3f2a…/done.json               written last: the unit's files with their hashes

A crawl or a corpus takes hours to days of work, and machines are lost, jobs run into their time limit, people press Ctrl-C.
So the input is cut into *units*: pieces small enough that doing one again costs minutes at most, and independent of each
other, so that any process on any machine may do any of them. How the input is cut depends on the input and the settings
alone, never on the number of workers; that is why the result does not depend on it either.

A *commit* is the moment when a unit counts as done: one rename, which a file system does whole or not at all, puts `done.json`
in place after all the unit's files. A unit is done if and only if that record exists and its files match it;
whatever else lies in the folder is left over from an attempt that was killed. Databases commit a transaction in the same way.

A *job* is what is done to each unit, and an *executor* (see `executors.py` and `cluster.py`) decides where: in this
process, in worker processes, on a cluster. A unit's id comes from what is in it, so an interrupted run finds its own work again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from llmpipe.core.artifact import hash_file, write_atomic
from llmpipe.core.errors import LlmpipeError

DONE = "done.json"
ASIDE = "aside.json"
_LOCK = ".lock"
_PATIENCE_S = 600.0
"""How long to wait for a unit's lock: its holder is alive, and a unit is unlikely to take it longer."""
FILES = "files"
"""Key of a job's record under which it may give the hashes of files it wrote, so that they are not computed twice."""


@dataclass(frozen=True)
class Unit:
    """One piece of work."""

    id: str
    """Names its folder; made from the content of its input."""
    name: str
    """What messages call it."""
    payload: Any
    """What the job needs to know of it; can be pickled."""


@dataclass(frozen=True)
class Commit:
    """The commit record of a unit."""

    unit: Unit
    folder: Path
    record: Mapping[str, Any]
    """What the job returned."""


class Watch(Protocol):
    """Told by a job which record it is working on, so that a worker can be killed at the cost of that record alone."""

    gives_up_at: tuple[int, str] | None
    """The record at which the input cannot be read any further, and why."""

    def start(self, i_record: int) -> str | None:
        """Begin a record under its limits; a string says why it was set aside and must be passed over."""
        ...

    def finish(self) -> None:
        """End the record; what follows is not limited."""
        ...


RunUnit = Callable[[Unit, Path, Watch], dict[str, Any]]


class Job(Protocol):
    """What is done to each unit. Sent to workers by pickle; `open` loads models there, once per worker."""

    def open(self) -> RunUnit:
        """Return the function that runs one unit, writes into its folder and returns its record."""
        ...


class Executor(Protocol):
    """Runs units somewhere."""

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        """Run all units and leave a commit record for each.

        Asked to stop, it returns early; commit records so far stay (see `Stoppable`).
        """
        ...


class _NoWatch:
    gives_up_at: tuple[int, str] | None = None

    def start(self, i_record: int) -> str | None:
        return None

    def finish(self) -> None:
        pass


@dataclass(frozen=True)
class InPlace:
    """Runs units in this process, one after the other, without limits: for small work and for tests."""

    on_progress: Callable[[int], None] | None = None
    """Gets the number of units done, after each."""
    should_stop: Callable[[], bool] = lambda: False

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        """Run all units; see `Executor`."""
        run_unit = job.open()
        for i, unit in enumerate(units, 1):
            run_one(run_unit, unit, folder, lambda place: _NoWatch())
            if self.on_progress is not None:
                self.on_progress(i)
            if self.should_stop():
                return


@dataclass(frozen=True)
class Stoppable:
    """An executor that raises after a stop, so that nobody takes half of the units for all."""

    executor: Executor
    check_stop: Callable[[], None]

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        """Run all units; see `Executor`."""
        self.executor.run(job, units, folder)
        self.check_stop()


def unit_folder(folder: Path, unit: Unit) -> Path:
    """Return where a unit's files lie."""
    return folder / unit.id


def run_one(
    run_unit: RunUnit, unit: Unit, folder: Path, make_watch: Callable[[Path], Watch]
) -> None:
    """Run one unit in this process and commit it: what every executor comes down to.

    The unit is locked meanwhile. A run that was killed may leave a worker that does not die at once (the disk it waits for
    hangs, its machine is cut off, the system knows no parent-death signal), and two processes in one folder would spoil each
    other's files. The kernel frees the lock when its holder ends, however it ends; what the other one has
    committed by then is taken over.

    Raises:
        LlmpipeError: another process holds the unit and does not end.
    """
    place = unit_folder(folder, unit)
    place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / _LOCK, timeout=_PATIENCE_S, mode=0o666):
            if not is_done(folder, unit):
                write_commit(place, run_unit(unit, place, make_watch(place)))
    except Timeout:
        raise LlmpipeError(
            f"another process has been at work on `{unit.name}` for {_PATIENCE_S:.0f} s, most likely one that an earlier run left",
            f"`fuser {place / _LOCK}` names it; end it with `kill -9`, and run the same command again",
        ) from None


def write_commit(folder: Path, record: Mapping[str, Any]) -> None:
    """Declare the unit in `folder` done, with the hashes of its files."""
    known = record.get(FILES, {})
    names = sorted(path.name for path in folder.iterdir() if _is_content(path))
    files = {name: known.get(name) or hash_file(folder / name) for name in names}
    record = {key: value for key, value in record.items() if key != FILES}
    write_atomic(folder / DONE, json.dumps({"files": files, "record": record}, sort_keys=True))


def is_done(folder: Path, unit: Unit) -> bool:
    """Tell whether a unit has a commit record, without a look at its files."""
    return (unit_folder(folder, unit) / DONE).is_file()


def read_commit(folder: Path, unit: Unit, verify: bool = True) -> Commit | None:
    """Return the commit record of a unit; None if it is not done or, with `verify`, a file differs from the record."""
    place = unit_folder(folder, unit)
    try:
        done = json.loads((place / DONE).read_text(encoding="utf-8"))
        hashes = done["files"].items() if verify else ()
        intact = all(hash_file(place / name) == sha for name, sha in hashes)
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return Commit(unit, place, done["record"]) if intact else None


def _is_content(path: Path) -> bool:
    return path.is_file() and path.name not in (DONE, ASIDE) and not path.name.startswith(".")


def read_aside(folder: Path) -> dict[int, str]:
    """Return the records of a unit that were set aside, with the reasons."""
    path = folder / ASIDE
    if not path.is_file():
        return {}
    return {int(i): reason for i, reason in json.loads(path.read_text(encoding="utf-8")).items()}


def set_aside(folder: Path, i_record: int, reason: str) -> None:
    """Note that a record must not be tried again."""
    aside = {**read_aside(folder), i_record: reason}
    write_atomic(folder / ASIDE, json.dumps({str(i): aside[i] for i in sorted(aside)}))


def run_units(job: Job, units: Iterable[Unit], folder: Path, executor: Executor) -> list[Commit]:
    """Run every unit that is not done yet; returns all commit records in the order of `units`."""
    wanted = list(units)
    assert len({unit.id for unit in wanted}) == len(wanted), "two units have one id"
    commits = {unit.id: read_commit(folder, unit) for unit in wanted}
    pending = [unit for unit in wanted if commits[unit.id] is None]
    for unit in pending:
        # Recorded as done, yet its files differ from the record: they were damaged, so none of them is trusted.
        if is_done(folder, unit):
            shutil.rmtree(unit_folder(folder, unit))
    if pending:
        executor.run(job, pending, folder)
        # Hashed a moment ago by whoever wrote them.
        commits |= {unit.id: read_commit(folder, unit, verify=False) for unit in pending}
    done = [commit for commit in commits.values() if commit is not None]
    assert len(done) == len(wanted), "an executor returned before all units were done"
    return done
