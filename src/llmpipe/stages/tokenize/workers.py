"""Runs units in processes, with a record of each finished one, so that nothing is done twice.

    parent -- spawn --> foreman: loads what the work needs -- fork --> worker, worker, ...

So modules and the vocabulary are loaded once, and the workers share their memory.

A unit's record is written last and atomically: after a kill at any moment the units with a record
are whole, and the others are done again with the same result.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
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
        work: does one unit; must be picklable, and its result must be JSON. If it has a method
            `prepare`, that is called before workers are forked.
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
    by_index = {unit.index: unit for unit in todo}
    # Not forked from here, which is unsafe with the threads that Rust and Arrow start.
    context = multiprocessing.get_context("spawn")
    answers, theirs = context.Pipe(duplex=False)
    foreman = context.Process(target=_foreman, args=(work, todo, n_workers, theirs))
    foreman.start()
    theirs.close()
    try:
        while by_index:
            if answers.poll(_POLL_S):
                index, result = answers.recv()
                if isinstance(result, Exception):
                    raise result
                yield by_index.pop(index), result
            stop.check()
    except (BrokenProcessPool, EOFError) as error:
        raise InputError(
            "a worker process died, most likely for lack of memory",
            "run the same command again with fewer `--workers`; finished units are kept",
        ) from error
    finally:
        if by_index:
            foreman.kill()  # its workers see that and leave
        foreman.join()


def _foreman(
    work: Callable[[Any], Record], todo: Sequence[Indexed], n_workers: int, answers: Connection
) -> None:
    """Load what the work needs, then do it in forks of this process, which share what is loaded."""
    _end_with_parent()
    prepare = getattr(work, "prepare", None)
    if prepare is not None:
        prepare()
    gc.collect()
    gc.freeze()  # or each worker's collector would touch, and so copy, every shared page
    # Newer Pythons warn of forks beside threads; OpenBLAS and Arrow prepare theirs for it.
    warnings.simplefilter("ignore", DeprecationWarning)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(n_workers, fork, _end_with_parent) as pool:
        futures = {pool.submit(work, unit): unit.index for unit in todo}
        for future in as_completed(futures):
            error = future.exception()
            answers.send((futures[future], error or future.result()))
            if error is not None:
                pool.shutdown(cancel_futures=True)
                return


def give_back_memory() -> None:
    """Return to the system what was freed, where C's library keeps it for itself (glibc does)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the first process, and end when the parent is gone (killed, it says nothing)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
