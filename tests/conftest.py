"""Fixtures that all tests share."""

from __future__ import annotations

import os
import sys

# The tensors of tests are tiny: more threads only wait for each other. Set before torch is imported, and inherited by
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "killing"))  # processes that tests start find it too

import pytest
from steps import Steps

from llmpipe.core.console import Console
from llmpipe.core.metrics import Metrics
from llmpipe.core.stage import Context
from llmpipe.core.stop import StopFlag

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("LLMPIPE_TEST_DATA", SHARED_DATA))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set LLMPIPE_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture
def make_context() -> Callable[..., Context]:
    """Build the context that a stage's `run` gets: `make_context(out, workers=2)`."""

    def make(
        out: Path, workers: int = 1, device: str = "cpu", seed: int = 1, name: str = "test"
    ) -> Context:
        out.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(out / "metrics.jsonl")
        return Context(name, seed, Console(quiet=True), metrics, StopFlag(), workers, device)

    return make


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    """Give a way to kill runs at chosen steps."""
    return Steps(tmp_path / "steps-taken")
