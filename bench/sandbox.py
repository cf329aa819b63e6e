"""The sandbox of the python tool: what it costs over bare Python, and which attacks it holds."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measure

from llmpipe.assistant.tools.attacks import try_attacks
from llmpipe.assistant.tools.python import MEMORY_BYTES, PythonTool

PROGRAM, ANSWER = "37+45", "82"
N_RUNS, N_WARM_UP = 40, 3


def main(results: Path) -> None:
    with PythonTool() as warm:
        in_force = warm.in_force()
        ways = {
            "bare Python: `python -I -S -c 'print(37+45)'`": _bare,
            "sandbox, first call: a new process, shut in, and a fork": _first_call,
            "sandbox, next calls: a fork": lambda: _expect(warm.run(PROGRAM)),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for i in range(N_RUNS + N_WARM_UP):
            for name, way in ways.items():
                taken = _timed(way)
                if i >= N_WARM_UP:
                    times[name].append(taken)
        next_calls = _cpu_of_calls()
        findings = list(try_attacks(warm))
    (results / "sandbox.md").write_text(
        measure.header("Sandbox of the python tool", "sandbox")
        + f"In force here: {in_force} (Linux {os.uname().release.partition('-')[0]}). {N_RUNS} runs of each, in turn, after "
        f"{N_WARM_UP} that did not count; medians. Programs have {MEMORY_BYTES >> 20} MB of memory.\n\n"
        + _cost(times, next_calls)
        + "\n## Attacks\n\nThe programs are in `src/llmpipe/resources/sandbox/attacks.toml`; `llmpipe doctor --sandbox` "
        "tries them on any machine.\n\n"
        + measure.table(
            ["attack", "result", "what the program saw"],
            [[f.name, "held" if f.held else "**came through**", _plain(f.detail)] for f in findings],
        ),
        encoding="utf-8",
    )  # fmt: skip


def _cost(times: dict[str, list[tuple[float, float]]], next_calls: float) -> str:
    bare, first, following = times.values()
    cpu_ms = [statistics.median(cpu for cpu, _ in way) * 1000 for way in (bare, first)]
    cpu_ms.append(next_calls * 1000)
    wall_ms = [
        statistics.median(wall for _, wall in way) * 1000 for way in (bare, first, following)
    ]
    rows = [
        [name, f"{cpu:.1f}", f"{cpu - cpu_ms[0]:+.1f}", f"{wall:.1f}", f"{wall - wall_ms[0]:+.1f}"]
        for name, cpu, wall in zip(times, cpu_ms, wall_ms, strict=True)
    ]
    rows[0][2] = rows[0][4] = ""
    return measure.table(["way", "CPU ms", "over bare", "wall ms", "over bare"], rows)


def _timed(way: Callable[[], None]) -> tuple[float, float]:
    """Return CPU seconds of the processes that were started and ended meanwhile, and wall seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    way()
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def _bare() -> None:
    command = [sys.executable, "-I", "-S", "-c", f"print({PROGRAM})"]
    _expect(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def _first_call() -> None:
    with PythonTool() as tool:
        _expect(tool.run(PROGRAM))


def _cpu_of_calls(n_calls: int = 200) -> float:
    """Return CPU seconds of one call: those of a process that answers many, less one that answers one."""

    def many(n: int) -> None:
        with PythonTool() as own:
            for _ in range(n):
                _expect(own.run(PROGRAM))

    return (_timed(lambda: many(n_calls + 1))[0] - _timed(lambda: many(1))[0]) / n_calls


def _expect(answer: str) -> None:
    if answer != ANSWER:
        raise SystemExit(f"the answer is {answer!r} and should be {ANSWER}")


def _plain(detail: str) -> str:
    """Leave out paths: they are of this machine."""
    return detail.partition(": '/")[0].replace("|", "\\|")
