"""Where units run: worker processes on this machine, each of which may be killed at any time.

HTML parsers hang and crash on hostile pages, and nothing inside a process can stop them (an alarm set at
0.5 s fired after 5.6 s inside lxml). So every record runs under a CPU timer whose signal ends the worker, an
address-space limit, and a wall limit that the parent watches through a shared journal of the record in hand.
A record that ends its worker is tried once more; the second time it is set aside with the reason, and the
unit goes on behind it. Workers are forked by a process that has loaded the job (see `fork_server.py`).

Work on input that is clean already (`CLEAN_INPUT`) needs none of this: there a worker that ends twice in one unit ends the run, which says where.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import resource
import signal
import struct
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from llmpipe.core.errors import LlmpipeError
from llmpipe.core.fork_server import EXIT_ORPHAN, ForkServer, is_orphan
from llmpipe.core.units import (
    InPlace,
    Job,
    RunUnit,
    Unit,
    read_aside,
    run_one,
    set_aside,
    unit_folder,
)

_MAX_TRIES = 2
_MAX_STARTS = 3
"""Workers that may end before their first record, one after the other, before the run is given up."""
_START_S = 300.0
"""A worker that has not begun by then (a hung network folder, a model that never loads) is killed and counts as dead."""
_EXIT_MEMORY = 83
_OPENING = -1
"""In the journal: the worker has not begun its unit."""
_POLL_S = 0.2
_LEAVE_S = 2.0


@dataclass(frozen=True)
class Limits:
    """What one record may cost, and what becomes of one that costs more. None is no limit."""

    cpu_s: float | None
    wall_s: float
    memory_bytes: int | None
    """Address space beyond what the worker has when its job is open."""
    sets_aside: bool = True
    """Whether a record that ends its worker twice is set aside; otherwise it ends the run."""


CLEAN_INPUT = Limits(cpu_s=None, wall_s=600.0, memory_bytes=None, sets_aside=False)
"""For input that this package wrote or a person answers for, of which nothing may be missing."""


@dataclass(frozen=True)
class UnitProgress:
    """How much of this run is done."""

    n_units: int
    n_records: int


class RecordJournal:
    """The record in hand, in memory shared by a worker and its parent through a file."""

    _FORMAT = struct.Struct("<qdq")
    """Record, monotonic start (0: between records), records finished."""

    def __init__(self, file: int) -> None:
        os.ftruncate(file, self._FORMAT.size)
        self._map = mmap.mmap(file, self._FORMAT.size)

    def write(self, i_record: int, started: float, n_finished: int) -> None:
        """Note the state."""
        self._FORMAT.pack_into(self._map, 0, i_record, started, n_finished)

    def read(self) -> tuple[int, float, int]:
        """Return (record, start or 0, records finished)."""
        return self._FORMAT.unpack_from(self._map)


class RecordWatch:
    """A worker's side of the limits."""

    def __init__(
        self, journal: RecordJournal, limits: Limits, parent: int, aside: dict[int, str]
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._parent = parent
        self._aside = aside
        # The reason under -1 - i says that even reading record i ends the worker.
        ends = [(-1 - i, reason) for i, reason in aside.items() if i < 0]
        self.gives_up_at = min(ends) if ends else None
        self._i_record = 0
        self._n_finished = 0

    def start(self, i_record: int) -> str | None:
        """Begin a record: its CPU timer runs from here."""
        if is_orphan(self._parent):
            os._exit(EXIT_ORPHAN)
        self._i_record = i_record
        self._journal.write(i_record, time.monotonic(), self._n_finished)
        if i_record in self._aside:
            return self._aside[i_record]
        if self._limits.cpu_s is not None:
            # It counts this process's CPU time alone, so what else the machine does sets no page aside.
            signal.setitimer(signal.ITIMER_PROF, self._limits.cpu_s)
        return None

    def finish(self) -> None:
        """End the record. The journal then stands at the next one, which is being read."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._n_finished += 1
        self._journal.write(self._i_record + 1, 0.0, self._n_finished)


# ---------------------------------------------------------------------------------------------------------------------
# In the worker


def _work(
    run_unit: RunUnit, parent: int, files: Sequence[int], folder: Path, limits: Limits
) -> None:
    """Run units until the pipe of tasks is closed."""
    tasks, results, journal = Connection(files[0]), Connection(files[1]), RecordJournal(files[2])
    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def make_watch(place: Path) -> RecordWatch:
        return RecordWatch(journal, limits, parent, read_aside(place))

    try:
        if limits.memory_bytes is not None:
            _limit_memory(limits.memory_bytes)
        while True:
            try:
                unit: Unit = tasks.recv()
            except EOFError:
                return
            journal.write(0, 0.0, 0)
            run_one(run_unit, unit, folder, make_watch)
            results.send(None)
    except MemoryError:
        os._exit(_EXIT_MEMORY)
    except LlmpipeError as error:
        results.send(error)
    except OSError as error:
        # The number tells the parent of a full disk, after which a run is not lost.
        results.send(OSError(error.errno, traceback.format_exc()))
    except BaseException:
        results.send(traceback.format_exc())
    raise SystemExit(1)


def _limit_memory(n_bytes: int) -> None:
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere RLIMIT_AS is not enforced anyway
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + n_bytes
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ---------------------------------------------------------------------------------------------------------------------
# In the parent


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, fork_server: ForkServer, slot: int, folder: Path, limits: Limits) -> None:
        their_tasks, self.tasks = multiprocessing.Pipe(duplex=False)
        self.results, their_results = multiprocessing.Pipe(duplex=False)
        self.unit: Unit | None = None
        self.was_too_slow = False
        self.started = time.monotonic()
        self.fork_server = fork_server
        self._slot = slot
        with tempfile.TemporaryFile() as file, their_tasks, their_results:
            # A file without a name: no process but these two can reach it, of this run or of another.
            self.journal = RecordJournal(file.fileno())
            self.journal.write(_OPENING, 0.0, 0)
            files = (their_tasks.fileno(), their_results.fileno(), file.fileno())
            fork_server.fork(slot, files, folder, limits)

    def give(self, unit: Unit) -> None:
        self.unit = unit
        with contextlib.suppress(BrokenPipeError):  # it is dead: its results pipe will say so
            self.tasks.send(unit)

    def kill(self) -> None:
        """Kill it for being too slow; if it has not even begun, it is the fork server that hangs."""
        self.was_too_slow = True
        if self.journal.read()[0] == _OPENING:
            self.fork_server.kill_itself()
        else:
            self.fork_server.kill(self._slot)

    def end(self) -> int | None:
        """Let an idle or dead process leave by itself, kill a busy one; returns the exit code."""
        self.tasks.close()
        is_busy = self.unit is not None and not self.results.poll()
        code = self.fork_server.reap(self._slot, 0.0 if is_busy else _LEAVE_S)
        self.results.close()
        return code

    def cause_of_death(self, code: int | None) -> str:
        if self.was_too_slow:
            return "wall_limit"
        if code == -signal.SIGPROF:
            return "cpu_limit"
        if code == _EXIT_MEMORY:
            return "memory_limit"
        return "killed" if code == -signal.SIGKILL else "crashed"


@dataclass
class LocalProcesses:
    """Run units in worker processes on this machine, whose number has no influence on what they write."""

    n_workers: int
    limits: Limits
    on_progress: Callable[[UnitProgress], None]
    """Called several times a second."""
    should_stop: Callable[[], bool]
    """When true, workers are killed and `run` returns early; commits and segments stay."""
    _n_failed_starts: int = field(default=0, init=False)

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        """Run all units; see `Executor`.

        Raises:
            LlmpipeError: what a unit raised, or a worker ended and no record may be set aside for it.
            RuntimeError: the job has a bug, or its workers do not start.
        """
        slots = range(min(self.n_workers, len(units)))
        if len(slots) == 1 and not self.limits.sets_aside:
            # Nothing to do side by side and nothing to guard against: a process of its own would only cost its start.
            here = InPlace(lambda n: self.on_progress(UnitProgress(n, 0)), self.should_stop)
            here.run(job, units, folder)
            return
        queue = deque(units)
        deaths: Counter[tuple[str, int]] = Counter()
        self._n_failed_starts = 0
        n_units = n_records = 0
        fork_server = ForkServer(job, _work)
        workers = {i: _Worker(fork_server, i, folder, self.limits) for i in slots}
        try:
            while queue or any(worker.unit for worker in workers.values()):
                for worker in workers.values():
                    if worker.unit is None and queue:
                        worker.give(queue.popleft())
                busy = {worker.results: i for i, worker in workers.items() if worker.unit}
                for connection in wait(list(busy), timeout=_POLL_S):
                    i = busy[connection]  # type: ignore[index]
                    worker = workers[i]
                    finished = worker.journal.read()[2]
                    if _finished(worker):
                        n_units += 1
                        n_records += finished
                        continue
                    unit = worker.unit
                    assert unit is not None
                    n_records += finished
                    del workers[i]
                    self._note_death(worker, unit, folder, deaths)
                    if not fork_server.is_alive:
                        fork_server.end()
                        fork_server = ForkServer(job, _work)
                    workers[i] = _Worker(fork_server, i, folder, self.limits)
                    workers[i].give(unit)
                self._kill_slow(workers.values())
                running = sum(w.journal.read()[2] for w in workers.values() if w.unit)
                self.on_progress(UnitProgress(n_units, n_records + running))
                if self.should_stop():
                    return
        finally:
            for worker in workers.values():
                worker.end()
            fork_server.end()

    def _kill_slow(self, workers: Iterable[_Worker]) -> None:
        for worker in workers:
            i_record, started, _ = worker.journal.read()
            if i_record == _OPENING:
                is_late = time.monotonic() - worker.started > _START_S
            else:
                is_late = bool(started) and time.monotonic() - started > self.limits.wall_s
            if worker.unit and is_late:
                worker.kill()

    def _note_death(
        self, worker: _Worker, unit: Unit, folder: Path, deaths: Counter[tuple[str, int]]
    ) -> None:
        code = worker.end()
        i_record, started, _ = worker.journal.read()
        cause = worker.cause_of_death(code)
        if i_record == _OPENING:
            self._n_failed_starts += 1
            if self._n_failed_starts >= _MAX_STARTS:
                raise RuntimeError(
                    f"{_MAX_STARTS} workers ended ({cause}, exit code {code}) before their first "
                    "record; what they said is above. A script that runs this needs `if __name__ == '__main__':`, because "
                    "workers import it again"
                )
            return
        self._n_failed_starts = 0
        # Between records the worker was reading the next one: setting that aside needs a mark of its own.
        mark = i_record if started else -1 - i_record
        if not self.limits.sets_aside:
            mark = 0  # wherever in the unit it was
        deaths[unit.id, mark] += 1
        if deaths[unit.id, mark] < _MAX_TRIES:
            return
        if not self.limits.sets_aside or mark in read_aside(unit_folder(folder, unit)):
            raise _worker_ended(unit, cause, code, i_record, self.limits)
        set_aside(unit_folder(folder, unit), mark, cause)


def _worker_ended(
    unit: Unit, cause: str, code: int | None, i_record: int, limits: Limits
) -> LlmpipeError:
    what = {
        "wall_limit": f"it did not get any further for {limits.wall_s:g} s",
        "killed": "something killed it: most likely the system, for lack of memory",
        "memory_limit": "there was no memory left",
    }.get(cause, f"{cause}, exit code {code}")
    hint = "run the same command again; finished units are kept"
    if cause in ("killed", "memory_limit"):
        hint = "run the same command again with fewer `--workers`; finished units are kept"
    return LlmpipeError(
        f"a worker process ended twice in `{unit.name}`, near record {i_record:,}: {what}", hint
    )


def _finished(worker: _Worker) -> bool:
    """Take a worker's message: True if the unit is done, False if the worker died.

    Raises:
        LlmpipeError, OSError: what the unit raised.
        RuntimeError: the job has a bug; the message is the worker's traceback.
    """
    try:
        message = worker.results.recv()
    except (EOFError, OSError):
        return False
    if isinstance(message, Exception):
        raise message
    if message is not None:
        raise RuntimeError(
            f"a worker failed on `{worker.unit.name if worker.unit else '?'}`:\n{message}"
        )
    worker.unit = None
    return True
