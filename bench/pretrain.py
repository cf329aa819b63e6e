"""Pretraining beside nanochat and nanoGPT: the same shape, the same tokens, one thread on a CPU.

    python bench/pretrain.py --peer ../nanochat --peer ../nanoGPT

A peer is a checkout; its own training script runs unmodified, driven by the runners in `--runners`. Without peers only
ours is measured. The figure to compare is tokens per CPU second of the process, over all steps but the first ten; runs
alternate, and the ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure

RUNNERS = measure.ROOT.parent / "shared" / "bench" / "pretrain"
NOVELS = measure.ROOT.parent / "shared" / "data" / "text" / "english_novels.jsonl.zst"
DATA = measure.ENVIRONMENTS / "pretrain-data"
STEPS = {"cpu-2l": 150, "cpu-4l": 24}
N_ROUNDS = 2
# nanochat's peak rates. Source: karpathy/nanochat 92d63d4, scripts/base_train.py.
NANOCHAT_RATES = {"matrix-lr": 0.02, "embedding-lr": 0.3, "unembedding-lr": 0.008, "scalar-lr": 0.5}


@dataclass(frozen=True)
class Entry:
    """One line of the table: a runner and what to give it."""

    name: str
    script: Path
    repo: Path
    rest: tuple[str, ...] = ()


def main(
    results: Path,
    peers: Sequence[Path] = (),
    data: Path | None = None,
    runners: Path = RUNNERS,
    n_rounds: int = N_ROUNDS,
    shapes: Sequence[str] = tuple(STEPS),
) -> None:
    data = data or make_data(runners)
    text = measure.header("Pretraining", "pretrain")
    text += (
        "Novels as byte-level BPE of 8,192 ids, one thread, no compilation. Ours computes matrix products in bfloat16 "
        "where the CPU has instructions for it; the peers on a CPU do not offer that by default. `x ours` is our tokens per CPU "
        "second over theirs, the median over rounds. The losses are over the same held-out tokens.\n\n"
    )
    for shape in shapes:
        entries = list_entries(peers, shape, runners)
        rounds = [
            {entry.name: run(entry, shape, data, runners) for entry in entries}
            for _ in range(n_rounds)
        ]
        text += section(shape, [entry.name for entry in entries], rounds)
    text += "On a GPU: not yet measured. What a model writes as it learns: [novels](novels.md).\n"
    results.mkdir(parents=True, exist_ok=True)
    (results / "pretrain.md").write_text(text, encoding="utf-8")


def list_entries(peers: Sequence[Path], shape: str, runners: Path) -> list[Entry]:
    """List ours, and each peer with its settings; nanochat also without its cut of the rates."""
    ours = Path(__file__).parent / "_pretrain_ours.py"
    entries = [
        Entry("llmpipe", ours, measure.ROOT),
        Entry("llmpipe, float32", ours, measure.ROOT, ("--dtype", "float32")),
    ]
    for repo in peers:
        name = "nanochat" if (repo / "nanochat").is_dir() else "nanoGPT"
        script = runners / f"run_{name.lower()}.py"
        entries.append(Entry(name, script, repo))
        if name == "nanochat":
            # Its cut of the rates, as the square root of the batch, goes too far at these batches.
            rates = tuple(f"--{key}={value * 8}" for key, value in NANOCHAT_RATES.items())
            entries.append(Entry("nanochat, rates x 8", script, repo, ("--", *rates)))
    return entries


def run(entry: Entry, shape: str, data: Path, runners: Path) -> dict[str, Any]:
    """Run one entry once and return its result line."""
    command = [sys.executable, str(entry.script), "--repo", str(entry.repo.resolve())]
    command += ["--data", str(data), "--shape", shape, "--steps", str(STEPS[shape])]
    command += ["--device", "cpu", "--log-every", "1000"]
    if entry.repo == measure.ROOT:
        command += ["--runners", str(runners)]
    print(f"   {shape} {entry.name}", file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *entry.rest], env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{entry.name} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    print(
        f"      {result['tok_per_cpu_s']:,} val {result['val_loss']}", file=sys.stderr, flush=True
    )
    return result


def section(shape: str, names: Sequence[str], rounds: Sequence[dict[str, dict[str, Any]]]) -> str:
    """Tabulate one shape."""
    rows = []
    for name in names:
        of_name = [r[name] for r in rounds]
        ratio = statistics.median(
            r[names[0]]["tok_per_cpu_s"] / r[name]["tok_per_cpu_s"] for r in rounds
        )
        last = of_name[-1]
        rows.append(
            [
                name,
                last["optimizer"],
                f"{last['params'] / 1e6:.2f}M",
                f"{statistics.median(r['tok_per_cpu_s'] for r in of_name):,.0f}",
                f"{ratio:.2f}",
                f"{statistics.median(r['val_loss'] for r in of_name):.3f}",
                f"{statistics.median(r['val_bpb'] for r in of_name):.3f}",
                f"{max(r['peak_mem_gib'] for r in of_name):.2f}",
            ]
        )
    n = rounds[0][names[0]]["tokens_per_step"] * STEPS[shape]
    head = f"## {shape}\n\n{STEPS[shape]} steps, {n:,} tokens, rounds: {len(rounds)}.\n\n"
    titles = ["", "optimizer", "parameters", "tokens per CPU s", "x ours", "val loss", "val bpb"]
    return head + measure.table([*titles, "peak GiB"], rows) + "\n"


def make_data(runners: Path) -> Path:
    """Make the shards that everyone reads, once."""
    if (DATA / "meta.json").exists():
        return DATA
    import io

    import zstandard

    if not NOVELS.exists():
        raise SystemExit(f"{NOVELS} is missing: name shards with --data")
    with tempfile.TemporaryDirectory() as folder:
        packed = zstandard.ZstdDecompressor().stream_reader(NOVELS.open("rb"))
        for i, line in enumerate(io.TextIOWrapper(packed, encoding="utf-8")):
            (Path(folder) / f"{i:03d}.txt").write_text(json.loads(line)["text"], encoding="utf-8")
        script = str(runners / "make_shards.py")
        command = [sys.executable, script, "--out", str(DATA), "--vocab", "8192", folder]
        subprocess.run(command, check=True)
    return DATA


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, action="append", default=[], help="a checkout")
    parser.add_argument("--data", type=Path, help="shards made by the runners' make_shards.py")
    parser.add_argument("--runners", type=Path, default=RUNNERS)
    parser.add_argument("--rounds", type=int, default=N_ROUNDS)
    parser.add_argument("--shape", action="append", choices=STEPS, default=[])
    parser.add_argument("--results", type=Path, default=measure.ROOT / "docs" / "results")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    shapes = given.shape or tuple(STEPS)
    main(given.results, given.peer, given.data, given.runners, given.rounds, shapes)
