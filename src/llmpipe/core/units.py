"""Work in units: plan -> run one -> commit record, whatever runs them and however often it is killed.

    units/3f2a…/segment-00000.parquet   files a job writes for one unit, each atomically
    units/3f2a…/aside.json              records that ended a worker twice, with the reason
    units/3f2a…/done.json               written last: the unit's files with their hashes

A unit is done if and only if its commit record is there and its files are what the record says. A unit's id
comes from the content of its input, so an interrupted run finds its own work again, in any order and with any
number of workers. An executor (see `executors.py`) only says where units run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmpipe.core.artifact import hash_file, write_atomic

DONE = "done.json"
ASIDE = "aside.json"


@dataclass(frozen=True)
class Unit:
    """One piece of work."""

    id: str
    """Names its folder; made from the content of its input."""
    name: str
    """How messages call it."""
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
    """What a job tells about the record in hand, so that a worker can be ended with nothing else lost."""

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


class InPlace:
    """Runs units in this process, one after the other, without limits: for small work and for tests."""

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        """Run all units; see `Executor`."""
        run_unit = job.open()
        for unit in units:
            place = unit_folder(folder, unit)
            place.mkdir(parents=True, exist_ok=True)
            write_commit(place, run_unit(unit, place, _NoWatch()))


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


def write_commit(folder: Path, record: Mapping[str, Any]) -> None:
    """Declare the unit in `folder` done, with the hashes of its files."""
    names = sorted(path.name for path in folder.iterdir() if _is_content(path))
    files = {name: hash_file(folder / name) for name in names}
    write_atomic(folder / DONE, json.dumps({"files": files, "record": record}, sort_keys=True))


def read_commit(folder: Path, unit: Unit) -> Commit | None:
    """Return the commit record of a unit; None if it is not done or a file differs from the record."""
    place = unit_folder(folder, unit)
    try:
        done = json.loads((place / DONE).read_text(encoding="utf-8"))
        intact = all(hash_file(place / name) == sha for name, sha in done["files"].items())
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
        # What the record calls done and is not as it says has been damaged: no file of it is to be trusted.
        if (unit_folder(folder, unit) / DONE).exists():
            shutil.rmtree(unit_folder(folder, unit))
    if pending:
        executor.run(job, pending, folder)
        commits |= {unit.id: read_commit(folder, unit) for unit in pending}
    done = [commit for commit in commits.values() if commit is not None]
    assert len(done) == len(wanted), "an executor returned before all units were done"
    return done
