"""A process that loads what a job needs once, and forks the workers, which share it.

    parent ── spawn ──> fork server: opens the job ── fork ──> worker, worker, …

`fork` is how Unix makes a process: a copy of the one that asks, with the same memory, of which a page is really copied only when one
of the two writes to it. So a worker is there in milliseconds, and a language model or a vocabulary that was loaded before the fork
is in memory once, however many workers there are. Forking the parent would be simpler, but it may have threads, and a fork copies the locks
they hold without the threads that would release them; so the parent starts a fresh process ("spawn"), which has none. Workers that each
start by themselves import and load the same things again: for the data stage 0.45 CPU seconds and 60 MB per worker, and the same
once more after every page that ends one.

None of them outlives its parent: Linux kills each as soon as its parent dies, however that comes about, and elsewhere a worker looks for its parent at
every record. Until it is gone it holds the lock of its unit (see `units.run_one`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NoReturn

from llmpipe.core.units import Job, RunUnit

_REPLY_S = 5.0
"""A fork server that does not answer for so long is ended."""
_POLL_S = 0.005

EXIT_ORPHAN = 84
_PR_SET_PDEATHSIG = 1
"""Of `prctl`; from linux/prctl.h."""

Work = Callable[..., None]
"""What a worker does: with the opened job, the fork server's process id, the files it was given, and more arguments."""


class ForkServer:
    """The parent's side. Workers are named by a number of the caller's choice."""

    def __init__(self, job: Job, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(job, work, os.getpid(), theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def is_alive(self) -> bool:
        """Whether it can still fork workers."""
        return self._process.is_alive()

    def fork(self, worker: int, files: Sequence[int], *arguments: object) -> None:
        """Ask for a worker; it gets the open files, whose descriptors here may be closed afterwards."""
        with contextlib.suppress(OSError):  # it is dead: then the worker's pipes will end
            self._control.send(("fork", worker, (len(files), arguments)))
            for file in files:
                send_handle(self._control, file, self._process.pid)

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


def _serve(job: Job, work: Work, parent: int, control: Connection) -> None:
    """Open the job, then fork, kill and reap workers as asked, until the parent is gone."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    run_unit = _open(job)
    gc.collect()
    gc.freeze()  # the collector of a worker would touch, and so copy, every page it shares
    fork_server, pids = os.getpid(), dict[int, int]()
    with contextlib.suppress(EOFError, OSError):
        while True:
            request, worker, argument = control.recv()
            if request == "fork":
                n_files, arguments = argument
                files = [recv_handle(control) for _ in range(n_files)]
                with warnings.catch_warnings():
                    # Newer Pythons warn if there are threads: those of OpenBLAS and Arrow, which both prepare for a fork.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pids[worker] = os.fork()
                if pids[worker] == 0:
                    control.close()
                    _be_worker(work, run_unit, fork_server, files, arguments)
                for file in files:
                    os.close(file)
            elif request == "kill":
                # Not reaped yet, so the number is still its own.
                os.kill(pids[worker], signal.SIGKILL)
            else:
                control.send(_reap(pids.pop(worker), argument))
    os._exit(0)  # workers end with it


def end_with(parent: int) -> None:
    """Have this process killed when its parent dies.

    The signal is SIGKILL, which also ends a process that is stopped, and which no library can catch. Where there is no `prctl`
    (macOS), a process that asks `is_orphan` now and then has to do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if is_orphan(parent):  # it died before the kernel was told
        os._exit(EXIT_ORPHAN)


def is_orphan(parent: int) -> bool:
    """Tell whether the parent is dead: the system has given this process another one then."""
    return os.getppid() != parent


def _open(job: Job) -> RunUnit:
    try:
        return job.open()
    except Exception:
        said = traceback.format_exc()

        def fail(*_: object) -> dict[str, Any]:
            raise RuntimeError(f"the job could not be opened:\n{said}")

        return fail


def _be_worker(
    work: Work, run_unit: RunUnit, fork_server: int, files: Sequence[int], arguments: Sequence[Any]
) -> NoReturn:
    code = 1
    try:
        end_with(fork_server)
        work(run_unit, fork_server, files, *arguments)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)  # without a traceback: whoever is to hear of an error has been told by pipe


def _reap(pid: int, patience_s: float) -> int:
    patience_ends = time.monotonic() + patience_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= patience_ends:
            os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
