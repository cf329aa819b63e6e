"""Pretraining on one GPU beside nanochat and nanoGPT, and what 8 bits and `exact` cost or bring.

    make bench BENCH=pretrain_gpu PEERS="../nanochat ../nanoGPT"
    python bench/pretrain_gpu.py --peer ../nanochat --peer ../nanoGPT --only speed --minutes 9

Every run is a process of its own with a time limit. What it measured is a line of `pretrain-gpu.jsonl` beside the page,
and what is there is not measured again (but with `--again`): where commands may take ten minutes only, give the
same command several times, with `--minutes 9`, until nothing is left. A run that fails is named on the page, and the next
one goes on. Where there is no GPU the page is written from the lines there are, and says what is not yet measured.
`--try-on-cpu` goes the whole way with a toy model, for a look at the bench itself; that page is not kept in docs/.

Needs torch for CUDA (2.11 or newer), NumPy, and what our training imports: annotated-types, filelock, jaxtyping,
safetensors. On a machine without an installed llmpipe: `PYTHONPATH=src python3 bench/pretrain_gpu.py`. No network.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import _pretrain_gpu_page as page
import measure
import pretrain
from _pretrain_runs import RUNNERS, Entry, Outcome, peer_entry, peer_name, run_once

RECORDS = "pretrain-gpu.jsonl"
RANDOM_DATA = measure.ENVIRONMENTS / "pretrain-gpu-data"
LEAST_S = 60.0
"""A run that would have less time than this is left to the next command."""


@dataclass(frozen=True)
class Piece:
    """A question, and the runs that answer it: all entries in turn, `n_rounds` times."""

    shape: str
    n_steps: int
    n_skipped: int
    """First steps, left out of the speed: kernels are compiled there."""
    entries: tuple[str, ...]
    n_rounds: int = 2
    limit_s: float = 240.0
    total: int = 0
    """Tokens per step; 0: the shape's."""
    is_text: bool = False
    """Read text, for losses; else random ids, for speed alone."""


PIECES = {
    "speed": Piece(
        "gpt2-124m", 30, 10, ("llmpipe", "nanochat", "nanochat, heads of 64", "nanoGPT")
    ),
    "large": Piece("gpt2-1.5b", 10, 4, ("llmpipe",), n_rounds=1, limit_s=400.0),
    "float8": Piece("depth-24", 16, 5, ("bfloat16", "float8"), limit_s=300.0),
    "exact": Piece("gpt2-124m", 20, 6, ("default", "exact")),
    "curves": Piece(
        "gpt2-124m", 120, 10, ("llmpipe", "nanochat", "nanoGPT"), 1, total=2**17, is_text=True
    ),
}
BFLOAT16 = ("--dtype", "bfloat16")
OF_OURS = {"float8": ("--dtype", "float8"), "exact": (*BFLOAT16, "--exact")}


def main(
    results: Path,
    peers: Sequence[Path] = (),
    only: Sequence[str] = (),
    runners: Path = RUNNERS,
    text_data: Path | None = None,
    minutes: float | None = None,
    is_again: bool = False,
    is_try: bool = False,
    n_rounds: int | None = None,
) -> None:
    records = read_records(results / RECORDS)
    machine = find_machine(is_try)
    ends = time.monotonic() + minutes * 60 if minutes else math.inf
    if machine is None:
        say("no GPU here: the page says what is not yet measured")
    for name in only or PIECES if machine else ():
        piece = PIECES[name]
        if is_try:
            piece = replace(piece, shape="cpu-2l", n_steps=6, n_skipped=2, n_rounds=1, total=0)
        elif n_rounds:
            piece = replace(piece, n_rounds=n_rounds)
        if is_again:
            records = [r for r in records if r["piece"] != name or not machine.items() <= r.items()]
        data = text_data if piece.is_text and text_data else make_data(runners, piece, is_try)
        for i_round, entry in product(range(piece.n_rounds), list_entries(piece, peers, runners)):
            key = {"piece": name, "entry": entry.name, "round": i_round, **machine}
            same = [r for r in records if key.items() <= r.items()]
            if any(r["result"] is not None for r in same):
                continue
            limit_s = min(piece.limit_s, ends - time.monotonic())
            if limit_s < LEAST_S:
                say(f"{name}: {entry.name}, round {i_round + 1}: no time left")
                continue
            say(f"{name}: {entry.name}, round {i_round + 1}")
            arguments = run_arguments(piece, data, is_try)
            outcome = run_once(entry, arguments, runners, limit_s=limit_s)
            records = [r for r in records if r not in same]  # it failed before
            source = json.loads((data / "meta.json").read_text())["source"]
            measured = {"commit": commit(), "shape": piece.shape, "data": source}
            records.append({**key, **measured, **asdict(outcome)})
            write_records(results / RECORDS, records)
            say("   " + headline(outcome))
    write_page(results, records, is_try)


def write_page(results: Path, records: Sequence[dict[str, Any]], is_try: bool) -> None:
    """Write the page and its drawing from all records."""
    results.mkdir(parents=True, exist_ok=True)
    plan = {name: asdict(piece) for name, piece in PIECES.items()}
    text, plot = page.write(records, plan, is_try)
    (results / "pretrain-gpu.md").write_text(text, encoding="utf-8")
    if plot is not None:
        (results / "pretrain-gpu.svg").write_text(plot, encoding="utf-8")
    say(f"wrote {results / 'pretrain-gpu.md'}")


def list_entries(piece: Piece, peers: Sequence[Path], runners: Path) -> list[Entry]:
    """Turn the names of a piece's entries into commands; without a peer's checkout its entries fall out."""
    checkouts = {peer_name(repo): repo for repo in peers}
    entries = []
    for name in piece.entries:
        owner = name.split(",")[0]
        if owner in checkouts:
            rest = ("--head-dim", "64") if name.endswith("heads of 64") else ()
            entries.append(peer_entry(checkouts[owner], runners, name, *rest))
        elif owner not in ("nanochat", "nanoGPT"):
            entries.append(Entry(name, rest=OF_OURS.get(name, BFLOAT16)))
    return entries


def run_arguments(piece: Piece, data: Path, is_try: bool) -> list[str | Path | int]:
    """Give what every trainer of a piece is told alike."""
    arguments: list[str | Path | int] = ["--data", data, "--shape", piece.shape]
    arguments += ["--steps", piece.n_steps, "--skip", piece.n_skipped]
    arguments += ["--device", "cpu" if is_try else "cuda"]
    return [*arguments, "--total", piece.total] if piece.total else arguments


def make_data(runners: Path, piece: Piece, is_try: bool) -> Path:
    """Make the shards, once: of novels, or of random ids where there are none or only speed counts."""
    if piece.is_text and pretrain.NOVELS.exists() and not is_try:
        return pretrain.make_data(runners)
    folder = RANDOM_DATA.with_name(RANDOM_DATA.name + ("-small" if is_try else ""))
    if not (folder / "meta.json").exists():
        vocab, n_tokens, n_val = (512, 100_000, 20_000) if is_try else (50_304, 60_000_000, 2**20)
        options = ["--vocab", vocab, "--random", n_tokens, "--val-tokens", n_val]
        command = [sys.executable, runners / "make_shards.py", "--out", folder, *options]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return folder


def find_machine(is_try: bool) -> dict[str, str] | None:
    """Name the GPU and torch, in a process of its own: ours must not take memory on the GPU."""
    look = "import torch; c = torch.cuda; print(c.get_device_name(0) if c.is_available() else '', torch.__version__, sep='|')"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    device, version = done.stdout.strip().splitlines()[-1].split("|")
    device = "CPU" if is_try else device
    return {"device": device, "torch": version} if device else None


def headline(outcome: Outcome) -> str:
    """Say in a few words what a run gave."""
    result = outcome.result
    if result is None:
        return f"failed: {outcome.error}"
    mfu = "" if result["mfu"] is None else f", MFU {result['mfu']:.1%}"
    return (
        f"{result['tok_s']:,} tokens/s{mfu}, {result['peak_mem_gib']} GiB, val {result['val_loss']}"
    )


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read what was measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write all records, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in records))
    partial.replace(path)


def commit() -> str:
    """Name the commit; a copy of the files that is no repository has none."""
    command = ["git", "-C", str(measure.ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--peer", type=Path, action="append", default=[], help="a checkout")
    parser.add_argument("--only", action="append", choices=PIECES, default=[])
    parser.add_argument("--minutes", type=float, help="start no run that would end later")
    parser.add_argument("--rounds", type=int, help="of each piece")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--text", type=Path, help="shards of text, made by make_shards.py")
    parser.add_argument("--runners", type=Path, default=RUNNERS)
    parser.add_argument("--results", type=Path, help="default docs/results/")
    parser.add_argument("--try-on-cpu", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    results = given.results or (
        Path(tempfile.mkdtemp()) if given.try_on_cpu else measure.ROOT / "docs" / "results"
    )
    main(
        results,
        given.peer,
        given.only,
        given.runners,
        given.text,
        given.minutes,
        given.again,
        given.try_on_cpu,
        given.rounds,
    )
