"""A process that loads what a job needs once, and forks the workers, which share it.

    parent ── spawn ──> fork server: opens the job ── fork ──> worker, worker, …

Forking the parent would be simpler, but it may have threads. Workers that each start by themselves import and load the same things
again: for the data stage 0.45 CPU seconds and 60 MB per worker, and the same once more after every page that ends one.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NoReturn

from llmpipe.core.units import Job, RunUnit

_REPLY_S = 5.0
"""A fork server that does not answer for so long is ended."""
_POLL_S = 0.005

Work = Callable[[RunUnit, int, Connection, Connection, Any], None]
"""What a worker does: with the opened job, the fork server's process id, the pipes of tasks and results, and arguments."""


class ForkServer:
    """The parent's side. Workers are named by a number of the caller's choice."""

    def __init__(self, job: Job, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(job, work, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def is_alive(self) -> bool:
        """Whether workers can be had from it."""
        return self._process.is_alive()

    def fork(self, worker: int, tasks: Connection, results: Connection, arguments: object) -> None:
        """Ask for a worker; it gets the two pipes, whose ends here may be closed afterwards."""
        with contextlib.suppress(OSError):  # it is dead: then the pipe of results will end
            self._control.send(("fork", worker, arguments))
            for pipe in (tasks, results):
                send_handle(self._control, pipe.fileno(), self._process.pid)

    def kill(self, worker: int) -> None:
        """Kill a worker; `reap` it later."""
        with contextlib.suppress(OSError):
            self._control.send(("kill", worker, None))

    def reap(self, worker: int, patience_s: float) -> int | None:
        """Wait for a worker to leave, kill it when patience ends, and return its exit code.

        If the fork server itself is dead, the exit code is the fork server's.
        """
        with contextlib.suppress(OSError, EOFError):
            self._control.send(("reap", worker, patience_s))
            if self._control.poll(_REPLY_S + patience_s):
                code: int = self._control.recv()
                return code
            self._process.kill()
        self._process.join()
        return self._process.exitcode

    def end(self) -> None:
        """Let it leave. Its workers have been reaped."""
        self._control.close()
        self._process.join(_REPLY_S)
        self.kill_itself()

    def kill_itself(self) -> None:
        """End a fork server that hangs while it opens the job."""
        self._process.kill()
        self._process.join()


def _serve(job: Job, work: Work, control: Connection) -> None:
    """Open the job, then fork, kill and reap workers as asked, until the parent is gone."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_unit = _open(job)
    gc.collect()
    gc.freeze()  # the collector of a worker would touch, and so copy, every page it shares
    fork_server, pids = os.getpid(), dict[int, int]()
    with contextlib.suppress(EOFError, OSError):
        while True:
            request, worker, argument = control.recv()
            if request == "fork":
                tasks, results = Connection(recv_handle(control)), Connection(recv_handle(control))
                pids[worker] = _fork()
                if pids[worker] == 0:
                    control.close()
                    _be_worker(work, run_unit, fork_server, tasks, results, argument)
                tasks.close()
                results.close()
            elif request == "kill":
                os.kill(
                    pids[worker], signal.SIGKILL
                )  # not reaped yet, so the number is still its own
            else:
                control.send(_reap(pids.pop(worker), argument))
    os._exit(0)  # workers see that their parent has changed, and leave


def _open(job: Job) -> RunUnit:
    try:
        return job.open()
    except Exception:
        said = traceback.format_exc()

        def fail(*_: object) -> dict[str, Any]:
            raise RuntimeError(f"the job could not be opened:\n{said}")

        return fail


def _fork() -> int:
    with warnings.catch_warnings():
        # Newer Pythons warn if there are threads: those of OpenBLAS and Arrow, which both prepare for a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_worker(
    work: Work,
    run_unit: RunUnit,
    fork_server: int,
    tasks: Connection,
    results: Connection,
    arguments: object,
) -> NoReturn:
    code = 1
    try:
        work(run_unit, fork_server, tasks, results, arguments)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def _reap(pid: int, patience_s: float) -> int:
    patience_ends = time.monotonic() + patience_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= patience_ends:
            os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
