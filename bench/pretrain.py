"""Pretraining beside nanochat and nanoGPT: the same shape, the same tokens, one thread on a CPU.

    python bench/pretrain.py --peer ../nanochat --peer ../nanoGPT

A peer is a checkout; its own training script runs unmodified, driven by the runners in `--runners`. Without peers only
ours is measured. The figure to compare is tokens per CPU second of the process, over all steps but the first ten; runs
alternate, and the ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measure
from _pretrain_runs import (
    HOW_LOSSES_ARE_LOGGED,
    RUNNERS,
    Entry,
    Outcome,
    loss_table,
    peer_entry,
    peer_name,
    run_once,
    wait_share,
)

NOVELS = measure.ROOT.parent / "shared" / "data" / "text" / "english_novels.jsonl.zst"
DATA = measure.ENVIRONMENTS / "pretrain-data"
STEPS = {"cpu-2l": 150, "cpu-4l": 24}
N_ROUNDS = 2
# nanochat's peak rates. Source: karpathy/nanochat 92d63d4, scripts/base_train.py.
NANOCHAT_RATES = {"matrix-lr": 0.02, "embedding-lr": 0.3, "unembedding-lr": 0.008, "scalar-lr": 0.5}


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
        "second over theirs, the median over rounds. Validation losses are over the same held-out tokens.\n\n"
        f"{HOW_LOSSES_ARE_LOGGED}\n"
    )
    for shape in shapes:
        entries = list_entries(peers, runners)
        rounds = [
            {entry.name: run(entry, shape, data, runners) for entry in entries}
            for _ in range(n_rounds)
        ]
        text += section(shape, [entry.name for entry in entries], rounds)
    text += "On a GPU: [pretraining on a GPU](pretrain-gpu.md). What a model writes as it learns: [novels](novels.md).\n"
    results.mkdir(parents=True, exist_ok=True)
    (results / "pretrain.md").write_text(text, encoding="utf-8")


def list_entries(peers: Sequence[Path], runners: Path) -> list[Entry]:
    """List ours, and each peer with its settings; nanochat also without its cut of the rates."""
    entries = [Entry("llmpipe"), Entry("llmpipe, float32", rest=("--dtype", "float32"))]
    for repo in peers:
        entries.append(peer_entry(repo, runners))
        if peer_name(repo) == "nanochat":
            # Its cut of the rates, as the square root of the batch, goes too far at these batches.
            rates = [f"--{key}={value * 8}" for key, value in NANOCHAT_RATES.items()]
            entries.append(peer_entry(repo, runners, "nanochat, rates x 8", "--", *rates))
    return entries


def run(entry: Entry, shape: str, data: Path, runners: Path) -> Outcome:
    """Run one entry once; it must succeed."""
    print(f"   {shape} {entry.name}", file=sys.stderr, flush=True)
    arguments = ["--data", data, "--shape", shape, "--steps", STEPS[shape], "--device", "cpu"]
    outcome = run_once(entry, arguments, runners, {"OMP_NUM_THREADS": "1"})
    if outcome.result is None:
        raise SystemExit(f"{entry.name} failed: {outcome.error}")
    speed, val_loss = outcome.result["tok_per_cpu_s"], outcome.result["val_loss"]
    print(f"      {speed:,} val {val_loss}", file=sys.stderr, flush=True)
    return outcome


def section(shape: str, names: Sequence[str], rounds: Sequence[dict[str, Outcome]]) -> str:
    """Tabulate one shape."""
    results = [{name: outcome.result or {} for name, outcome in r.items()} for r in rounds]
    rows = []
    for name in names:
        of_name = [r[name] for r in results]
        ratio = statistics.median(
            r[names[0]]["tok_per_cpu_s"] / r[name]["tok_per_cpu_s"] for r in results
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
    n = results[0][names[0]]["tokens_per_step"] * STEPS[shape]
    titles = ["", "optimizer", "parameters", "tokens per CPU s", "x ours", "val loss", "val bpb"]
    ours = [result for r in results for result in r.values()]
    return (
        f"## {shape}\n\n{STEPS[shape]} steps, {n:,} tokens, rounds: {len(rounds)}.\n\n"
        + measure.table([*titles, "peak GiB"], rows)
        + f"\nllmpipe waits for data {wait_share(ours)} of a step's time, in the run where it is most.\n\n"
        + loss_table({name: rounds[0][name].losses for name in names})
        + "\n"
    )


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
