"""Units and executors: commits, retries, set-aside records, limits, stopping."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.executors import Limits, LocalProcesses, Progress
from llmpipe.core.units import Unit, read_aside, read_commit, run_units, unit_folder

# Workers import their job by name, so it must stand in a module of its own.
JOB = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Numbers:
    """Writes a line for every record of a unit; some records misbehave."""
    flags: str

    def open(self):
        if "broken" in self.flags:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.run

    def run(self, unit, folder, watch):
        lines = []
        for i, action in enumerate(unit.payload):
            if watch.gives_up_at and watch.gives_up_at[0] == i:
                lines.append(f"{i} end {watch.gives_up_at[1]}")
                break
            if action == "die while reading":
                os.kill(os.getpid(), signal.SIGSEGV)
            reason = watch.start(i)
            lines.append(f"{i} {reason or self.act(action)}")
            watch.finish()
        (folder / "lines.txt").write_text("\\n".join(lines))
        return {"n": len(lines)}

    def act(self, action):
        if action == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if action == "crash once" and not (flag := Path(self.flags) / "crashed").exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        if action == "compute":
            while True:
                pass
        if action == "sleep":
            time.sleep(60)
        if action == "grow":
            bytearray(2_000_000_000)
        if action == "bug":
            raise KeyError("a bug in the job")
        return action
'''
LIMITS = Limits(cpu_s=0.3, wall_s=2.0, memory_bytes=300_000_000)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "jobs_of_test_units.py").write_text(JOB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jobs_of_test_units", raising=False)
    module = __import__("jobs_of_test_units")
    return module.Numbers(str(tmp_path))


def local(
    n_workers: int = 1, seen: list[Progress] | None = None, stop: bool = False
) -> LocalProcesses:
    return LocalProcesses(
        n_workers, LIMITS, (seen if seen is not None else []).append, lambda: stop
    )


def units(*payloads: list[str]) -> list[Unit]:
    return [Unit(f"u{i}", f"unit {i}", payload) for i, payload in enumerate(payloads)]


def lines(folder: Path, unit: Unit) -> list[str]:
    return (unit_folder(folder, unit) / "lines.txt").read_text().split("\n")


def test_units_are_run_and_committed(tmp_path: Path, job: Any) -> None:
    todo, seen = units(["a", "b"], ["c"]), []
    commits = run_units(job, todo, tmp_path / "units", local(2, seen))
    assert [c.record for c in commits] == [{"n": 2}, {"n": 1}]
    assert lines(tmp_path / "units", todo[0]) == ["0 a", "1 b"]
    assert (seen[-1].n_units, seen[-1].n_records) == (2, 3)


def test_done_units_are_not_run_again_and_damaged_ones_are(tmp_path: Path, job: Any) -> None:
    folder, todo = tmp_path / "units", units(["a"], ["b"])
    run_units(job, todo, folder, local())
    first, second = (unit_folder(folder, unit) / "lines.txt" for unit in todo)
    stamps = [path.stat().st_mtime_ns for path in (first, second)]
    second.write_text("damaged")
    assert read_commit(folder, todo[1]) is None
    run_units(job, todo, folder, local())
    assert first.stat().st_mtime_ns == stamps[0]
    assert second.read_text() == "0 b"


def test_record_that_crashes_is_tried_twice_and_set_aside(tmp_path: Path, job: Any) -> None:
    folder, todo = tmp_path / "units", units(["a", "crash", "crash once", "b"])
    run_units(job, todo, folder, local())
    assert lines(folder, todo[0]) == ["0 a", "1 crashed", "2 crash once", "3 b"]
    assert read_aside(unit_folder(folder, todo[0])) == {1: "crashed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "reason"),
    [("compute", "cpu_limit"), ("sleep", "wall_limit"), ("grow", "memory_limit")],
)
def test_limits(tmp_path: Path, job: Any, action: str, reason: str) -> None:
    folder, todo = tmp_path / "units", units(["a", action, "b"])
    started = time.monotonic()
    run_units(job, todo, folder, local())
    assert lines(folder, todo[0]) == ["0 a", f"1 {reason}", "2 b"]
    assert time.monotonic() - started < 30


def test_input_that_cannot_be_read_on_is_given_up(tmp_path: Path, job: Any) -> None:
    folder, todo = tmp_path / "units", units(["a", "die while reading", "b"])
    run_units(job, todo, folder, local())
    assert lines(folder, todo[0]) == ["0 a", "1 end crashed"]


def test_workers_that_cannot_start_are_an_error_and_no_bad_input(tmp_path: Path, job: Any) -> None:
    broken = type(job)("broken")
    with pytest.raises(
        RuntimeError, match=r"3 workers ended \(killed, exit code -9\) before their first"
    ):
        run_units(broken, units(["a"]), tmp_path / "units", local())
    assert not read_aside(unit_folder(tmp_path / "units", units(["a"])[0]))


def test_bug_in_a_job_is_reported_with_its_place(tmp_path: Path, job: Any) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)unit 0.*KeyError: 'a bug in the job'"):
        run_units(job, units(["bug"]), tmp_path / "units", local())


def test_stop_ends_the_workers(tmp_path: Path, job: Any) -> None:
    started = time.monotonic()
    executor = LocalProcesses(1, Limits(60, 60, 10**9), lambda _: None, lambda: True)
    executor.run(job, units(["sleep"]), tmp_path / "units")
    assert time.monotonic() - started < 20
    assert read_commit(tmp_path / "units", units(["sleep"])[0]) is None
