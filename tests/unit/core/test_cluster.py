"""Units on a simulated Slurm and on a simulated Ray cluster: the same commits as on one machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.cluster import make_executor
from llmpipe.core.errors import UserError
from llmpipe.core.executors import Limits
from llmpipe.core.units import Unit, run_units

LIMITS = Limits(30, 60, 10**9)
# Workers import their job by name, so it must stand in a module of its own.
JOB = """
import time
from dataclasses import dataclass

@dataclass(frozen=True)
class Squares:
    wait_s: float

    def open(self):
        return self.run

    def run(self, unit, folder, watch):
        time.sleep(self.wait_s)
        (folder / "square.txt").write_text(str(unit.payload ** 2))
        return {"square": unit.payload ** 2}
"""


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "squares_job.py").write_text(JOB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sys.modules.pop("squares_job", None)
    import squares_job  # type: ignore[import-not-found]

    return squares_job.Squares


def units(n: int) -> list[Unit]:
    return [Unit(f"u{i}", f"unit {i}", i) for i in range(n)]


def test_unknown_executors_are_refused() -> None:
    with pytest.raises(UserError, match="there is no executor `spark`"):
        make_executor("spark", 1, LIMITS, lambda _: None, lambda: False)


def test_slurm_needs_sbatch(tmp_path: Path, squares: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    executor = make_executor("slurm", 2, LIMITS, lambda _: None, lambda: False)
    with pytest.raises(UserError, match="sbatch"):
        run_units(squares(0.0), units(1), tmp_path / "units", executor)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_cluster_does_all_units_also_when_a_task_is_lost(
    tmp_path: Path,
    squares: Any,
    cluster: Callable[[str], Path],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = cluster(name)
    monkeypatch.chdir(tmp_path)
    executor = make_executor(name, 2, LIMITS, lambda _: None, lambda: False)
    commits = run_units(squares(0.0), units(3), Path("units"), executor)
    assert [commit.record["square"] for commit in commits] == [0, 1, 4]
    assert log.read_text().split() == ["0", "lost", "2", "1"]
