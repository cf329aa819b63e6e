"""The second pass of the data stage on 5 GB of kept text: one worker and two, in turn; time and memory.

What is measured begins where the first pass ends: with segments, which are written here by the stage's own writer from
synthetic documents. An older checkout named with `PEERS=../older` is measured on the same segments.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np

from llmpipe.core.config import digest
from llmpipe.core.units import DONE, write_commit
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.segments import DROPPED, KEPT, Row, SegmentWriter

WORK = Path(os.environ.get("LLMPIPE_BENCH_CORPUS", measure.ENVIRONMENTS / "corpus"))
"""Where segments and corpora go: 7 GB."""
N_UNITS = int(os.environ.get("LLMPIPE_BENCH_UNITS", "36"))
N_ROUNDS = int(os.environ.get("LLMPIPE_BENCH_ROUNDS", "3"))
DOCUMENTS = 50_000
"""In a unit, as in an archive of Common Crawl."""
N_WORDS = 30_000


def main(results: Path, peers: Sequence[Path] = ()) -> None:
    """Measure everything and write docs/results/corpus.md."""
    units = write_units(WORK / "units")
    older = {f"before ({path.name})": path for path in peers}
    before = {name: run(units, 1, path) for name, path in older.items()}
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for i in range(N_ROUNDS):
        for workers, found in runs.items():
            print(f"   {workers} workers {i + 1}/{N_ROUNDS}", file=sys.stderr)
            found.append(run(units, workers))
    shutil.rmtree(WORK / "out")
    (results / "corpus.md").write_text(page(before, runs), encoding="utf-8")


def run(units: Path, workers: int, checkout: Path = measure.ROOT) -> dict[str, Any]:
    """Run the second pass once."""
    script = Path(__file__).with_name("_corpus_run.py")
    environment = {"PYTHONPATH": str(checkout.resolve() / "src")}
    command = [measure.our_python(), script, units, WORK / "out", str(workers)]
    said: dict[str, Any] = json.loads(measure.run(command, environment).stdout.splitlines()[-1])
    print(f"   {said}", file=sys.stderr)
    return said


def page(before: dict[str, dict[str, Any]], runs: dict[int, list[dict[str, Any]]]) -> str:
    """Word the figures."""
    rows = [figures(name, [one]) for name, one in before.items()]
    rows += [figures(f"{workers} workers", found) for workers, found in runs.items()]
    every = [*before.values(), *runs[1], *runs[2]]
    one = runs[1][0]
    largest = max(max(x["parent_mb"], x["worker_mb"]) for x in [*runs[1], *runs[2]])
    same = "All runs gave" if len({x["id"] for x in every}) == 1 else "NOT all runs gave"
    return (
        measure.header("Writing a corpus: the second pass, by units", "corpus")
        + f"{one['documents']:,} synthetic documents in {N_UNITS} units, of which {one['kept']:,} are kept with "
        f"{one['text_bytes'] / 1e9:.2f} GB of text in {one['parts']} parts. Measured is the second pass: from the segments of the "
        "first pass to the files of the corpus, deciding about duplicates included. Medians of "
        f"{len(runs[1])} rounds; what came before was run once.\n\n"
        'The machine was shared. The load is that when a run began; "without waiting" is the wall time less the seconds for which the '
        "processes stood ready and got no CPU, by the scheduler's account (of two workers side by side, the smaller number).\n\n"
        + measure.table(
            ["", "wall s", "without waiting", "CPU s", "largest worker MB", "parent MB", "load"],
            rows,
        )
        + f"\nTwo workers over one: wall time {ratios(runs, 'wall_s')}, without waiting {ratios(runs, 'quiet_s')}; the aim was 0.6. "
        f"Largest process: {largest:.0f} MB; the aim was 400. {same} a corpus with the same id.\n"
    )


def ratios(runs: dict[int, list[dict[str, Any]]], key: str) -> str:
    """Return the median over the pairs of runs, and each."""
    each = [two[key] / one[key] for one, two in zip(runs[1], runs[2], strict=True)]
    return f"{statistics.median(each):.2f} ({', '.join(f'{ratio:.2f}' for ratio in each)})"


def figures(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return a row of the table."""
    keys = ("wall_s", "quiet_s", "cpu_s", "worker_mb", "parent_mb")
    loads = ", ".join(f"{run['load']:.1f}" for run in runs)
    return [name, *(f"{statistics.median(run[key] for run in runs):.0f}" for key in keys), loads]


# ------------------------------------------------------------------------------------------------ synthetic segments


def write_units(folder: Path) -> Path:
    """Write what the first pass leaves, in two processes; what is there already stays."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(write_unit, [(folder, i) for i in range(N_UNITS)], chunksize=1)
    return folder


def write_unit(folder: Path, i_unit: int) -> None:
    """Write one unit: a quarter dropped by a filter, a tenth copies of other documents but for a word."""
    place = folder / digest(["bench", i_unit])[:32]
    if (place / DONE).is_file():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    words = _vocabulary()
    writer = SegmentWriter(DataConfig(), place)
    draw = np.random.default_rng([1, i_unit])
    for i in range(DOCUMENTS):
        seed = i_unit * DOCUMENTS + i
        fate = draw.random()
        writer.rows.append(_row(words, i, seed, int(draw.integers(0, seed + 1)), fate))
        writer.end_record(i)
    writer.close()
    write_commit(place, {"cpu_s": {}})


def _vocabulary() -> np.ndarray:
    draw = np.random.default_rng(4)
    letters = draw.choice(list("eeettaaooiinnsshhrrddlcumwfgypbvk"), (N_WORDS, 12))
    lengths = draw.integers(2, 13, N_WORDS)
    words = ["".join(row[:n]) for row, n in zip(letters.tolist(), lengths, strict=True)]
    return np.array(words, dtype=object)


def _row(words: np.ndarray, i_record: int, seed: int, earlier: int, fate: float) -> Row:
    is_copy = fate < 0.1
    text, keys = _content(words, earlier if is_copy else seed)
    own = np.random.default_rng([2, seed])
    url = f"https://www.site{int(own.pareto(0.8) * 20) % 400_000}.example/{seed:x}"
    common = {"url": url, "date": "2026-01-01T00:00:00Z", "lang": "en", "lang_score": 0.9}
    if fate > 0.75:
        return Row(
            i_record, DROPPED, step="gopher_quality", reason="too_short", value="31", threshold="50",
            text=text[:500], page=f"<html><body>{text[:400]}", **common,
        )  # fmt: skip
    fresh = own.integers(0, 1 << 63, 16).tolist()
    return Row(
        i_record, KEPT, text=f"{text} {seed}" if is_copy else text, n_words=text.count(" ") + 1,
        pii={"email": 1} if fate < 0.13 else {}, **common,
        keys={"url_dedup": fresh[:1], "exact_dedup": fresh[1:2], "minhash": [keys[0], *fresh[3:]]},
    )  # fmt: skip


def _content(words: np.ndarray, seed: int) -> tuple[str, list[int]]:
    """Return a text of some 3 kB, frequent words first as in a language, and its first band."""
    draw = np.random.default_rng([3, seed])
    n = 20 + int(draw.lognormal(5.85, 0.9))
    places = (draw.random(n) ** 4 * len(words)).astype(np.int64)
    return " ".join(words[places].tolist()), draw.integers(0, 1 << 63, 1).tolist()
