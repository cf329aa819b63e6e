"""Units and executors: commits, retries, set-aside records, limits, stopping."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.errors import InputError, LlmpipeError, Stopped
from llmpipe.core.executors import CLEAN_INPUT, Limits, LocalProcesses, UnitProgress
from llmpipe.core.stop import StopFlag
from llmpipe.core.units import (
    FILES,
    InPlace,
    Stoppable,
    Unit,
    read_aside,
    read_commit,
    run_units,
    unit_folder,
    write_commit,
)

# Workers import their job by name, so it must stand in a module of its own.
JOB = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from llmpipe.core.errors import InputError

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
        if action == "damaged":
            raise InputError("unit is damaged", "a hint")
        if action == "full disk":
            raise OSError(28, "No space left on device")
        if action == "end of file":
            raise EOFError("a file of the job's ended early")
        if action == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
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
    n_workers: int = 1, seen: list[UnitProgress] | None = None, stop: bool = False
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


def test_an_end_of_file_within_a_job_is_a_bug_like_others(tmp_path: Path, job: Any) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)unit 0.*EOFError: a file of the job's"):
        run_units(job, units(["end of file"]), tmp_path / "units", local())


def test_a_full_disk_is_told_by_its_number(tmp_path: Path, job: Any) -> None:
    with pytest.raises(OSError, match="in act") as error:
        run_units(job, units(["full disk"]), tmp_path / "units", local())
    assert error.value.errno == 28


# ---------------------------------------------------------------------------------------------------------------------
# Clean input: no record is set aside


def clean(n_workers: int, wall_s: float = 60.0) -> LocalProcesses:
    limits = replace(CLEAN_INPUT, wall_s=wall_s)
    return LocalProcesses(n_workers, limits, lambda _: None, lambda: False)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_error_reaches_the_caller_with_its_hint(
    tmp_path: Path, job: Any, n_workers: int
) -> None:
    todo = units(["a"], ["damaged"], ["b"])
    with pytest.raises(InputError, match="unit is damaged") as error:
        run_units(job, todo, tmp_path / "units", clean(n_workers))
    assert error.value.hint == "a hint"


@pytest.mark.parametrize("n_workers", [1, 2])
def test_commits_come_in_the_units_order(tmp_path: Path, job: Any, n_workers: int) -> None:
    todo = units(["a"] * 9, ["b"], ["c"] * 3, ["d"] * 2)
    commits = run_units(job, todo, tmp_path / "units", clean(n_workers))
    assert [commit.record["n"] for commit in commits] == [9, 1, 3, 2]


@pytest.mark.parametrize(
    ("action", "what", "hint"),
    [
        ("killed", "something killed it", "with fewer `--workers`"),
        ("crash", "crashed, exit code -11", "finished units are kept"),
    ],
)
def test_a_worker_that_ends_twice_ends_the_run_and_says_where(
    tmp_path: Path, job: Any, action: str, what: str, hint: str
) -> None:
    todo = units(["a"], ["a", "b", action])
    with pytest.raises(LlmpipeError, match=rf"twice in `unit 1`, near record 2: {what}") as error:
        run_units(job, todo, tmp_path / "units", clean(2))
    assert hint in str(error.value.hint)
    assert not read_aside(unit_folder(tmp_path / "units", todo[1]))


def test_a_worker_that_hangs_is_ended_and_reported(tmp_path: Path, job: Any) -> None:
    todo = units(["a"], ["a", "sleep"])
    with pytest.raises(LlmpipeError, match=r"`unit 1`, near record 1: it did not get any further"):
        run_units(job, todo, tmp_path / "units", clean(2, wall_s=0.5))


def test_in_place_a_stop_leaves_after_the_unit_in_hand(tmp_path: Path, job: Any) -> None:
    stop, todo, seen = StopFlag(), units(["a"], ["b"], ["c"]), []

    def note(n_done: int) -> None:
        seen.append(n_done)
        if n_done == 2:
            stop.request()

    executor = Stoppable(InPlace(note, lambda: stop.requested), stop.check)
    with pytest.raises(Stopped):
        run_units(job, todo, tmp_path / "units", executor)
    done = [read_commit(tmp_path / "units", unit) is not None for unit in todo]
    assert (seen, done) == ([1, 2], [True, True, False])


def test_hashes_that_the_job_knows_are_taken_into_the_commit(tmp_path: Path) -> None:
    folder, unit = tmp_path / "units", units(["a"])[0]
    place = unit_folder(folder, unit)
    place.mkdir(parents=True)
    (place / "known.txt").write_text("a")
    (place / "new.txt").write_text("b")
    write_commit(place, {"n": 1, FILES: {"known.txt": "0" * 64}})
    assert read_commit(folder, unit) is None  # for that is not the hash
    trusted = read_commit(folder, unit, verify=False)
    assert trusted is not None and trusted.record == {"n": 1}


def test_stop_ends_the_workers(tmp_path: Path, job: Any) -> None:
    started = time.monotonic()
    executor = LocalProcesses(1, Limits(60, 60, 10**9), lambda _: None, lambda: True)
    executor.run(job, units(["sleep"]), tmp_path / "units")
    assert time.monotonic() - started < 20
    assert read_commit(tmp_path / "units", units(["sleep"])[0]) is None
