"""Workers are forked by a process that has opened the job once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steps import is_alive

from llmpipe.core.executors import Limits, LocalProcesses
from llmpipe.core.units import Unit, read_aside, read_commit, run_units, unit_folder

# Workers find their job by name, so it must stand in a module of its own.
JOB = '''
import os, signal
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Parents:
    """Notes every opening; a unit writes who its process's parent is, or kills it."""
    folder: str

    def open(self):
        with Path(self.folder, "opened").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if Path(self.folder, "fail").exists():
            raise ValueError("no model here")
        return self.run

    def run(self, unit, folder, watch):
        for i, action in enumerate(unit.payload):
            if watch.start(i):
                action = "passed over"
            if action == "orphan once" and not (flag := Path(self.folder, "orphaned")).exists():
                flag.touch()
                os.kill(os.getppid(), signal.SIGKILL)
                while os.getppid() == int(Path(self.folder, "opened").read_text().split()[0]):
                    pass
            if action == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            watch.finish()
        (folder / "parent.txt").write_text(str(os.getppid()))
        return {}
'''
LIMITS = Limits(cpu_s=5, wall_s=20, memory_bytes=300_000_000)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "jobs_of_test_fork_server.py").write_text(JOB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jobs_of_test_fork_server", raising=False)
    return __import__("jobs_of_test_fork_server").Parents(str(tmp_path))


def run(job: Any, folder: Path, *payloads: list[str]) -> list[Unit]:
    units = [Unit(f"u{i}", f"unit {i}", payload) for i, payload in enumerate(payloads)]
    run_units(job, units, folder, LocalProcesses(2, LIMITS, lambda _: None, lambda: False))
    return units


def opened(tmp_path: Path) -> list[str]:
    return (tmp_path / "opened").read_text().split()


def test_a_job_is_opened_once_for_all_workers_and_their_successors(
    tmp_path: Path, job: Any
) -> None:
    units = run(job, tmp_path / "units", ["a"], ["b"], ["a", "crash"], ["a"])
    (fork_server,) = opened(tmp_path)
    parents = [(unit_folder(tmp_path / "units", u) / "parent.txt").read_text() for u in units[:2]]
    assert set(parents) == {fork_server}
    assert read_aside(unit_folder(tmp_path / "units", units[2])) == {1: "crashed"}
    with pytest.raises(ProcessLookupError):
        os.kill(int(fork_server), signal.SIG_DFL)


def test_a_lost_fork_server_is_replaced(tmp_path: Path, job: Any) -> None:
    run(job, tmp_path / "units", ["orphan once", "a"], ["b"])
    assert len(opened(tmp_path)) == 2


def test_what_went_wrong_on_opening_is_told(tmp_path: Path, job: Any) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(RuntimeError, match=r"(?s)could not be opened.*no model here"):
        run(job, tmp_path / "units", ["a"])


# ---------------------------------------------------------------------------------------------------------------------
# Workers of a run that was killed

SLOW = '''
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from llmpipe.core import fork_server
from llmpipe.core.executors import Limits, LocalProcesses
from llmpipe.core.units import Unit, run_units

if Path(sys.argv[0]).with_name("no-signal").exists():
    fork_server.end_with = lambda parent: None  # as on a system that has no parent-death signal

@dataclass(frozen=True)
class Slow:
    """Writes its file in two halves; the first worker waits in between until it may go on."""
    folder: str

    def open(self):
        with Path(self.folder, "opened").open("a") as file:
            file.write("x")
        return self.run

    def run(self, unit, folder, watch):
        watch.start(0)
        begun = Path(self.folder, "begun")
        is_first = not begun.exists()
        with (folder / "halves.txt").open("w") as file:
            file.write("first half ")
            file.flush()
            if is_first:
                begun.with_name("begun.tmp").write_text(f"{os.getpid()} {os.getppid()}")
                begun.with_name("begun.tmp").rename(begun)
                while not begun.with_name("go").exists():
                    time.sleep(0.001)
            file.write(f"second half of {os.getpid()}")
        return {"by": os.getpid()}

if __name__ == "__main__":
    limits = Limits(cpu_s=60, wall_s=300, memory_bytes=10**9)
    executor = LocalProcesses(2, limits, lambda _: None, lambda: False)
    run_units(Slow(sys.argv[1]), [Unit("u0", "unit 0", None)], Path(sys.argv[1], "units"), executor)
'''


def start_slow(folder: Path) -> subprocess.Popen[bytes]:
    script = folder / "slow_job.py"
    script.write_text(SLOW)
    return subprocess.Popen([sys.executable, script, folder], stderr=subprocess.PIPE)


def wait_for(happens: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_processes_of_a_killed_run_are_gone_even_if_they_are_stopped(tmp_path: Path) -> None:
    with start_slow(tmp_path) as process:
        wait_for((tmp_path / "begun").exists, "the worker's start")
        pids = [int(pid) for pid in (tmp_path / "begun").read_text().split()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        wait_for(lambda: not any(map(is_alive, pids)), "the end of the worker and the fork server")
        assert process.stderr is not None and process.stderr.read() == b""


@pytest.mark.slow
def test_a_worker_that_outlives_its_run_is_waited_for_and_spoils_nothing(tmp_path: Path) -> None:
    (tmp_path / "no-signal").touch()
    with start_slow(tmp_path) as killed:
        wait_for((tmp_path / "begun").exists, "the worker's start")
        worker, _ = map(int, (tmp_path / "begun").read_text().split())
        killed.kill()
        killed.wait()
        with start_slow(tmp_path) as following:
            opened = tmp_path / "opened"
            wait_for(lambda: opened.read_text() == "xx", "the next run's start")
            # A run that does not wait is done in this time, on a machine that is not slow; one that waits never is.
            time.sleep(1.0)
            assert is_alive(worker)
            assert not (tmp_path / "units" / "u0" / "done.json").exists()
            (tmp_path / "go").touch()
            assert following.wait(60) == 0
            assert following.stderr is not None and following.stderr.read() == b""
        wait_for(lambda: not is_alive(worker), "the end of the worker that was left")
        assert killed.stderr is not None and killed.stderr.read() == b""
    commit = read_commit(tmp_path / "units", Unit("u0", "unit 0", None))
    assert commit is not None, "the file is not what the commit record says"
    assert commit.record["by"] == worker
