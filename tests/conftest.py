"""Fixtures that all tests share."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys

# The tensors of tests are tiny: more threads only wait for each other. Set before torch is imported, and inherited by
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).parent / "killing"))  # processes that tests start find it too

import pytest
from steps import Steps

from llmpipe.core.console import Console
from llmpipe.core.metrics import Metrics
from llmpipe.core.stage import Context
from llmpipe.core.stop import StopFlag
from llmpipe.core.units import Unit

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


SBATCH = """#!{python}
import os, subprocess, sys
array = next(a for a in sys.argv if a.startswith("--array="))
last = int(array.split("=0-")[1].split("%")[0])
is_first = not os.path.exists("{log}")
for i in range(last + 1):
    is_lost = is_first and i == 1
    with open("{log}", "a") as log:
        print("lost" if is_lost else i if is_first else i + 1, file=log)
    if not is_lost:
        task = dict(os.environ, SLURM_ARRAY_TASK_ID=str(i))
        subprocess.run(["sh", sys.argv[-1]], env=task, check=True)
print(1)
"""


class RayOfOneMachine(ModuleType):
    """As much of Ray as is called: tasks run here, after a trip through pickle, and the second is lost once."""

    def __init__(self, log: Path) -> None:
        super().__init__("ray")
        self._log = log

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **options: Any) -> None:
        assert address == "auto"

    def remote(self, num_cpus: int, max_retries: int) -> Callable[[Any], Any]:
        assert num_cpus == 1 and max_retries > 0
        return lambda function: SimpleNamespace(remote=lambda *task: pickle.dumps((function, task)))

    def wait(self, pending: list[bytes], timeout: float) -> tuple[list[bytes], list[bytes]]:
        # What was lost is run again, after what waits.
        n_run = self._log.read_text().count("\n") if self._log.exists() else 0
        if n_run == 1 and len(pending) > 1:
            self._note("lost")
            pending = [*pending[1:], pending[0]]
        return pending[:1], pending[1:]

    def get(self, done: list[bytes]) -> None:
        for task in done:
            function, task = pickle.loads(task)
            (unit,) = (argument for argument in task if isinstance(argument, Unit))
            self._note(str(int(unit.id.lstrip("u"))))
            with contextlib.chdir("/"):  # Ray's processes are at home elsewhere
                function(*task)

    def cancel(self, task: bytes, force: bool) -> None:
        raise AssertionError("every task was waited for")

    def _note(self, word: str) -> None:
        with self._log.open("a") as log:
            print(word, file=log)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Stand in for a cluster that loses the second task once: `cluster("slurm")`, `cluster("ray")`.

    Returns the file that lists the units it ran.
    """

    def make(name: str) -> Path:
        log = tmp_path / "tasks.log"
        if name == "ray":
            monkeypatch.setitem(sys.modules, "ray", RayOfOneMachine(log))
            return log
        sbatch = tmp_path / "bin" / "sbatch"
        sbatch.parent.mkdir()
        sbatch.write_text(SBATCH.format(python=sys.executable, log=log))
        sbatch.chmod(0o755)
        monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
        return log

    return make
