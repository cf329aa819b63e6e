"""Workers are forked by a process that has opened the job once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.executors import Limits, LocalProcesses
from llmpipe.core.units import Unit, read_aside, run_units, unit_folder

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
