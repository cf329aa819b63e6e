"""The bench of pretraining on a GPU: what its page says of which records, and that it runs at all."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("pretrain_gpu")
    for name in set(sys.modules) - before:
        if (BENCH / f"{name}.py").exists():
            del sys.modules[name]


def record(piece: str, entry: str, i_round: int, **result: Any) -> dict[str, Any]:
    known = {"optimizer": "Muon", "params": 1e6, "of_measured_matmul": 0.5, "val_loss": 3.0}
    known |= {"mfu": None, "tok_s": 100, "peak_mem_gib": 1.0}
    of_machine = {"device": "NVIDIA H200", "torch": "2.11.0+cu130", "commit": "abc1234"}
    key = {"piece": piece, "entry": entry, "round": i_round, **of_machine}
    return {**key, "result": known | result, "error": None, "losses": [], "data": "random"}


def lines_about(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_without_a_gpu_the_page_says_that_nothing_is_measured(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "find_machine", lambda is_try: None)
    bench.main(tmp_path)
    text = (tmp_path / "pretrain-gpu.md").read_text()
    assert "Not yet measured" in text
    assert lines_about(text, "| 124M: MFU") == ["| 124M: MFU | ≥ 50% | not yet measured |"]
    assert 'make bench BENCH=pretrain_gpu PEERS="NANOCHAT NANOGPT"' in text
    assert not (tmp_path / bench.RECORDS).exists()


def test_ratios_are_medians_over_rounds_and_failures_are_named(bench: ModuleType) -> None:
    speeds = {"llmpipe": (130, 200, 150), "nanoGPT": (100, 100, 100), "nanochat": (100, 250, 100)}
    records = [
        record("speed", entry, i, tok_s=speed, mfu=0.5 if entry == "llmpipe" else 0.4)
        for entry, of_entry in speeds.items()
        for i, speed in enumerate(of_entry)
    ]
    failed = {**record("large", "llmpipe", 0), "result": None, "error": "out of memory"}
    text, plot = bench.page.write([*records, failed], {})
    assert plot is None
    # 1.3, 2.0, 1.5 and 1.3, 0.8, 1.5
    assert lines_about(text, "| 124M: tokens/s over nanoGPT's")[0].endswith("| 1.50 |")
    assert lines_about(text, "| 124M: tokens/s over nanochat's")[0].endswith("| 1.30 |")
    assert lines_about(text, "| 124M: MFU")[0].endswith("| 50.00% |")
    assert lines_about(text, "| depth 24")[0].endswith("| not yet measured |")
    assert "* llmpipe, round 1: failed, `out of memory`" in text
    assert "## NVIDIA H200, torch 2.11.0+cu130\n\nCommit abc1234." in text


def test_losses_are_tabulated_and_drawn(bench: ModuleType) -> None:
    curves = {"llmpipe": [9.0 - i / 10 for i in range(49)], "nanoGPT": [9.0] * 49}
    records = [{**record("curves", entry, 0), "losses": losses} for entry, losses in curves.items()]
    text, plot = bench.page.write(records, {})
    # 49 (i / 7)² for i = 1 ... 7
    assert "| step | 1 | 4 | 9 | 16 | 25 | 36 | 49 |" in text
    assert "| llmpipe | 9.000 | 8.700 | 8.200 | 7.500 | 6.600 | 5.500 | 4.200 |" in text
    assert plot is not None
    assert plot.count("<polyline") == 2


def test_a_run_that_takes_too_long_is_ended_and_named(bench: ModuleType, tmp_path: Path) -> None:
    from _pretrain_runs import Entry, run_once

    script = tmp_path / "sleeps.py"
    script.write_text("import time; time.sleep(60)")
    outcome = run_once(Entry("slow", script, tmp_path), [], tmp_path, limit_s=0.3)
    assert outcome.result is None
    assert outcome.error == "not done after 0.3 s"
    script.write_text("raise ValueError('no such shape')")
    outcome = run_once(Entry("broken", script, tmp_path), [], tmp_path)
    assert outcome.error == "exit code 1: ValueError: no such shape"


@pytest.mark.slow  # starts three processes with torch
def test_the_whole_way_with_a_toy_model(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bench.RUNNERS.exists():
        pytest.skip("no runners here")
    monkeypatch.setattr(bench, "RANDOM_DATA", tmp_path / "data")
    bench.main(tmp_path, only=["exact"], is_try=True)
    records = [json.loads(line) for line in (tmp_path / bench.RECORDS).read_text().splitlines()]
    assert [r["entry"] for r in records] == ["default", "exact"]
    for r in records:
        assert r["error"] is None
        assert len(r["losses"]) == 6
        assert 0 <= r["result"]["wait_share"] < 1
    assert records[0]["losses"] == pytest.approx(records[1]["losses"], rel=1e-3)
    # What is there is not measured again.
    monkeypatch.setattr(bench, "run_once", None)
    bench.main(tmp_path, only=["exact"], is_try=True)
    assert "A try of the bench" in (tmp_path / "pretrain-gpu.md").read_text()
