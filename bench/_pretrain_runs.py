"""One run of one trainer, ours or a peer's, and what it said: for the parts `pretrain` and `pretrain_gpu`.

A peer is a checkout. Its own training script runs unmodified, driven by a runner that prints one line per step and
one `RESULT {...}` at the end; ours (`_pretrain_ours.py`) prints the same.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure

RUNNERS = measure.ROOT.parent / "shared" / "bench" / "pretrain"
OURS = Path(__file__).parent / "_pretrain_ours.py"
STEP = re.compile(r"^  step +(\d+) loss ([\d.]+|nan)")


@dataclass(frozen=True)
class Entry:
    """One line of a table: a runner and what to give it."""

    name: str
    script: Path = OURS
    repo: Path = measure.ROOT
    rest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a run: a result or an error, and the loss of each step on the way."""

    result: dict[str, Any] | None
    error: str | None = None
    losses: list[float] = field(default_factory=list)


def peer_name(repo: Path) -> str:
    """Tell whose checkout it is."""
    return "nanochat" if (repo / "nanochat").is_dir() else "nanoGPT"


def peer_entry(repo: Path, runners: Path, name: str | None = None, *rest: str) -> Entry:
    """Give the entry of a checkout."""
    script = runners / f"run_{peer_name(repo).lower()}.py"
    return Entry(name or peer_name(repo), script, repo, rest)


def run_once(
    entry: Entry,
    arguments: Sequence[str | Path | int],
    runners: Path,
    environment: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> Outcome:
    """Run an entry once; a run that fails, or takes longer than `limit_s`, has an error instead of a result."""
    command = [sys.executable, entry.script, "--repo", entry.repo.resolve(), *arguments]
    command += ["--log-every", 1]
    if entry.repo == measure.ROOT:
        command += ["--runners", runners]
    command += entry.rest
    started = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # torch's compiler has processes of its own
        process.communicate()
        return Outcome(None, f"not done after {limit_s:.1f} s")
    lines = stdout.splitlines()
    results = [line.removeprefix("RESULT ") for line in lines if line.startswith("RESULT ")]
    if process.returncode or not results:
        last = (stderr.strip() or "no output").splitlines()[-1]
        return Outcome(None, f"exit code {process.returncode}: {last[:300]}")
    result = {**json.loads(results[-1]), "whole_run_s": round(time.monotonic() - started, 1)}
    losses = [float(found[2]) for line in lines if (found := STEP.match(line))]
    return Outcome(result, None, losses)


def loss_table(curves: Mapping[str, Sequence[float]], n_wanted: int = 7) -> str:
    """Tabulate training losses side by side, at steps that are ever further apart."""
    n_steps = min(len(losses) for losses in curves.values())
    shares = [(i + 1) / n_wanted for i in range(n_wanted)]
    steps = sorted({1, *(max(1, round(n_steps * share**2)) for share in shares)})
    rows = [
        [name, *(f"{losses[step - 1]:.3f}" for step in steps)] for name, losses in curves.items()
    ]
    return measure.table(["step", *(f"{step:,}" for step in steps)], rows)


HOW_LOSSES_ARE_LOGGED = (
    "Losses of training steps are as each logs them: llmpipe's is the mean over the step's whole batch, nanochat's a "
    "moving average, nanoGPT's that of the step's last micro-batch. All read the same shards, nanoGPT rows of them at "
    "random.\n"
)


def wait_share(results: Iterable[Mapping[str, Any]]) -> str:
    """Say what share of a step ours spends waiting for data, the largest of several runs."""
    shares = [result["wait_share"] for result in results if "wait_share" in result]
    return f"{max(shares):.3%}" if shares else "not yet measured"
