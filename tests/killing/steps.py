"""Kills at a chosen step of a run: the same moments on a fast machine and on a slow one.

A step is a call that changes the file system: a rename, a deletion, a new folder, a flush to the disk. Whatever must survive
a kill is made durable by such calls, so the moments between them are those at which kills differ. They are counted over all processes
of a run, and the one that is about to take the chosen step ends the run's first process with SIGKILL instead.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAMES = ("rename", "replace", "unlink", "rmdir", "mkdir", "link", "fsync")
_SLACK = 8
"""Steps that a kill may spare the next run: those after a commit that is in place already."""


def arm(counter: str, at: int, act: Callable[[], None]) -> None:
    """From now on count this process's steps in the file `counter`, and call `act` before step `at` of all."""

    def counted(call: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            fd = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                os.write(fd, b"x")
                n = os.fstat(fd).st_size
            finally:
                os.close(fd)
            if n == at:
                act()
            return call(*arguments, **options)

        return step

    for name in _NAMES:
        call = getattr(os, name)
        step = counted(call)
        setattr(os, name, step)
        for table in (os.supports_dir_fd, os.supports_follow_symlinks):  # which shutil looks into
            if call in table:
                table.add(step)


def end_run() -> None:
    """End the run's first process; with KILL_LEAVES in the environment, a worker that does so is left behind, stopped."""
    first = int(os.environ["KILL_PID"])
    if "KILL_LEAVES" in os.environ and os.getpid() != first:
        Path(os.environ["KILL_LEAVES"]).write_text(str(os.getpid()))
        os.kill(first, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there, running or stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Steps:
    """Counts the steps of runs, and has runs killed at chosen ones."""

    def __init__(self, counter: Path) -> None:
        self.counter = counter

    def environment(self, at: int = 0, leaves: Path | None = None) -> dict[str, str]:
        """Return the environment for a Python command that ends before step `at`; 0 lets it end by itself.

        If a worker takes that step, it is stopped in the middle of its work, and `leaves` holds its process id.
        """
        self.counter.unlink(missing_ok=True)
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        return {
            **os.environ,
            "PYTHONPATH": path.rstrip(os.pathsep),
            "KILL_COUNTER": str(self.counter),
            "KILL_AT": str(at),
            "PYTHONFAULTHANDLER": "1",  # says where a library ended the process
            **({"KILL_LEAVES": str(leaves)} if leaves else {}),
        }

    def fork(self, work: Callable[[], object], act: Callable[[], None], at: int = 0) -> int:
        """Do `work` in a copy of this process, which calls `act` before step `at`; return its id.

        Nothing is imported there, so kills hit the work.
        """
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                arm(str(self.counter), at, act)
                work()
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        return pid

    def run_forked(self, work: Callable[[], object], at: int = 0) -> int:
        """Do `work` in a copy of this process, killed before step `at`; return its exit code."""
        self.counter.unlink(missing_ok=True)
        pid = self.fork(work, lambda: os.kill(os.getpid(), signal.SIGKILL), at)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def taken(self) -> int:
        """Return how many steps the last run took."""
        return self.counter.stat().st_size if self.counter.exists() else 0

    def kill_again_and_again(
        self, start: Callable[[int], int], n_steps: int, n_kills: int, seed: int = 1
    ) -> None:
        """Start a run `n_kills` times, each going on where the one before was killed, up to most of its steps.

        Args:
            start: starts the run, to be killed before the step of that number, waits for its end and returns its exit code.
            n_steps: how many steps a run takes that nobody kills.
            n_kills: how often it is killed.
            seed: of the draw of the steps.
        """
        draw, left = random.Random(seed), n_steps
        for n_more in range(n_kills, 0, -1):
            at = draw.randint(1, max(1, 2 * left // (n_more + 1)))
            code = start(at)
            assert code == -signal.SIGKILL, (
                f"it was to be killed at step {at}, and ended with {code}"
            )
            left -= self.taken() + _SLACK
