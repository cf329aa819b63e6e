"""Timing whole processes side by side, and writing the page about it.

The figure to compare is CPU seconds of the whole process tree: on shared machines wall time says how busy the others
are. Runs alternate (A, B, A, B, …), and the ratio is taken pair by pair, so that a drift of the machine's speed
falls on both.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmpipe.core.machine import n_usable_cores

ENVIRONMENTS = Path(__file__).parent / ".envs"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """One finished process: seconds of CPU and wall clock, peak memory of the tree in bytes, and its output."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    stdout: str


def peer_python(name: str, packages: Sequence[str]) -> Path:
    """Return the Python of a peer's own environment, made at first use."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    marker = folder / "installed"
    wanted = "\n".join(packages)
    if not marker.is_file() or marker.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        marker.write_text(wanted)
    return python


def our_python() -> Path:
    """Return the Python that llmpipe is installed in."""
    return Path(sys.executable)


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end; it must succeed.

    CPU time is that of the process and the children it waited for, as the operating system accounts it. Peak memory is
    the largest sum over the tree seen by sampling every 20 ms, so shared pages count once per process.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    peak = [0]
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, done))
    watcher.start()
    stdout, _ = process.communicate()
    done.set()
    watcher.join()
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(map(str, command))}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(cpu, wall, peak[0], stdout)


def _watch(pid: int, peak: list[int], done: threading.Event) -> None:
    while not done.wait(0.02):
        peak[0] = max(peak[0], sum(_memory(p) for p in [pid, *_descendants(pid)]))


def _descendants(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    children = [int(child) for child in text.split()]
    return children + [d for child in children for d in _descendants(child)]


def _memory(pid: int) -> int:
    """Proportional set size in bytes: pages shared by n processes count 1/n in each."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0
    )


def interleave(
    commands: Mapping[str, Sequence[str | Path]], n_runs: int = 3
) -> dict[str, list[Run]]:
    """Run each command `n_runs` times, in turn; a first round is not counted."""
    results: dict[str, list[Run]] = {name: [] for name in commands}
    for i in range(n_runs + 1):
        for name, command in commands.items():
            print(f"   {name} {'warm-up' if i == 0 else f'{i}/{n_runs}'}", file=sys.stderr)
            result = run(command)
            if i:
                results[name].append(result)
    return results


def ratio(a: Sequence[Run], b: Sequence[Run]) -> float:
    """Median over the pairs of a's CPU seconds over b's."""
    return statistics.median(x.cpu_s / y.cpu_s for x, y in zip(a, b, strict=True))


def median_cpu(runs: Sequence[Run]) -> float:
    """Median CPU seconds."""
    return statistics.median(r.cpu_s for r in runs)


def peak_mb(runs: Sequence[Run]) -> float:
    """Largest peak memory in MB."""
    return max(r.peak_bytes for r in runs) / 1e6


def header(title: str, part: str) -> str:
    """The top of a results page: what, how to run it again, on which commit and machine."""
    git = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return (
        f"# {title}\n\n"
        f"`make bench BENCH={part}`, commit {git.stdout.strip()}, {n_usable_cores()} cores of "
        f"{model}, Python {platform.python_version()}. Runs alternate; ratios are medians over pairs; CPU seconds are of "
        "the whole process tree.\n\n"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
