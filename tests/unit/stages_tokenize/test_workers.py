"""Units in processes: order, records, stopping, errors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, Stopped
from llmpipe.core.stop import StopFlag
from llmpipe.stages.tokenize.workers import run_units


@dataclass(frozen=True)
class Number:
    index: int


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import this file, whatever folder pytest was started from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))


UNITS = [Number(i) for i in range(6)]


def square(unit: Number) -> dict[str, Any]:
    return {"square": unit.index**2}


def fail_at_three(unit: Number) -> dict[str, Any]:
    if unit.index == 3:
        raise InputError("unit 3 is damaged", "a hint")
    return square(unit)


def die(unit: Number) -> dict[str, Any]:
    os._exit(9)


def run(work: Any, folder: Path, n_workers: int, stop: StopFlag | None = None) -> list[int]:
    with Console(quiet=True).progress("test", len(UNITS), "unit") as bar:
        records = run_units(work, UNITS, folder, n_workers, stop or StopFlag(), bar)
    return [record["square"] for record in records]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_records_come_in_the_units_order(tmp_path: Path, n_workers: int) -> None:
    assert run(square, tmp_path, n_workers) == [0, 1, 4, 9, 16, 25]


def test_units_with_a_record_are_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "00002.json").write_text(json.dumps({"square": -1}))
    assert run(square, tmp_path, 1) == [0, 1, -1, 9, 16, 25]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_error_reaches_the_caller_with_its_hint(tmp_path: Path, n_workers: int) -> None:
    with pytest.raises(InputError, match="unit 3 is damaged") as error:
        run(fail_at_three, tmp_path, n_workers)
    assert error.value.hint == "a hint"
    assert run(square, tmp_path, 1) == [0, 1, 4, 9, 16, 25]


def test_a_dead_worker_is_reported_and_does_not_hang(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a worker process died"):
        run(die, tmp_path, 2)


def test_a_stop_leaves_after_the_unit_in_hand(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request()
    with pytest.raises(Stopped):
        run(square, tmp_path, 1, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.json"]
