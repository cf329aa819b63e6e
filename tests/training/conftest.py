"""Tests that train models for minutes: `pytest -m training`. Without `-m training` they are not collected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "training: trains a model for minutes; not in the suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "training" in (config.getoption("markexpr") or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("training") is not None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


class Llmpipe:
    """Runs commands in a folder; a command that fails, or misses its `[expect]`, fails the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "llmpipe", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="session")
def llmpipe(tmp_path_factory: pytest.TempPathFactory) -> Llmpipe:
    return Llmpipe(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def demo(llmpipe: Llmpipe) -> Path:
    """The demo's corpus and base model: `LLMPIPE_DEMO` (such as `runs/tiny`), or made here."""
    if named := os.environ.get("LLMPIPE_DEMO"):
        return Path(named).resolve()
    for stage in ("crawl", "data", "tokenize", "pretrain"):
        llmpipe(stage, "tiny")
    return llmpipe.folder / "runs" / "tiny"
