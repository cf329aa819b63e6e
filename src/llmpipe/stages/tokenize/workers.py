"""Runs units in processes, with a record of each finished one, so that nothing is done twice.

A unit's record is written last and atomically: after a kill at any moment the units with a record
are whole, and the others are done again with the same result.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from llmpipe.core.artifact import write_atomic
from llmpipe.core.console import Progress
from llmpipe.core.errors import InputError
from llmpipe.core.stop import StopFlag

Record = dict[str, Any]
_POLL_S = 0.5


class Indexed(Protocol):
    """A unit of work with its number."""

    @property
    def index(self) -> int:
        """Place in the list of all units."""
        ...


def run_units(
    work: Callable[[Any], Record],
    units: Sequence[Indexed],
    records: Path,
    n_workers: int,
    stop: StopFlag,
    progress: Progress,
) -> list[Record]:
    """Do the units that have no record yet; return all records in the units' order.

    Args:
        work: does one unit; must be picklable, and its result must be JSON.
        units: all units.
        records: folder of the records, `00000.json` and so on.
        n_workers: processes; with 1 the work is done in this one.
        stop: looked at after each unit.
        progress: gets the number of units done.
    """
    records.mkdir(parents=True, exist_ok=True)
    todo = [unit for unit in units if not _record_path(records, unit.index).exists()]
    done = len(units) - len(todo)
    progress.update(done)
    for unit, record in _results(work, todo, min(n_workers, len(todo)), stop):
        write_atomic(_record_path(records, unit.index), json.dumps(record))
        done += 1
        progress.update(done)
        stop.check()
    return [json.loads(_record_path(records, unit.index).read_bytes()) for unit in units]


def _record_path(records: Path, index: int) -> Path:
    return records / f"{index:05d}.json"


def _results(
    work: Callable[[Any], Record], todo: Sequence[Indexed], n_workers: int, stop: StopFlag
) -> Iterator[tuple[Indexed, Record]]:
    """Yield each unit with its result, as they come."""
    if n_workers <= 1:
        for unit in todo:
            yield unit, work(unit)
        return
    # Not fork, which is unsafe with the threads that Rust and Arrow start.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_workers, spawn, _start_worker, (os.getpid(),))
    try:
        waiting: dict[Future[Record], Indexed] = {pool.submit(work, unit): unit for unit in todo}
        while waiting:
            finished, _ = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in finished:
                yield waiting.pop(future), future.result()
            stop.check()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died, most likely for lack of memory",
            "run the same command again with fewer `--workers`; finished units are kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it is gone (a killed parent cannot say goodbye)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
