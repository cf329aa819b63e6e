"""Ten million synthetic signatures through the grouping in units: time, memory, and whether the clusters are right.

    python bench/_data_dedup.py [DOCUMENTS] [WORKERS]

A fifth of the documents are copies of an earlier one that share a few of their 14 bands; the planted clusters are known.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llmpipe.core.executors import Limits, LocalProcesses
from llmpipe.stages.data.facts import Column
from llmpipe.stages.data.grouping import group_in_units

BANDS = 14


def write_signatures(folder: Path, n: int) -> tuple[list[Column], np.ndarray]:
    """Write the bands of `n` documents; returns them, and per document the first of its planted cluster."""
    rng = np.random.default_rng(1)
    first = np.arange(n)
    copies = rng.random(n) < 0.2
    copies[0] = False
    originals = np.flatnonzero(~copies)
    places = np.flatnonzero(copies)
    # A copy is one of a document before it.
    upper = np.searchsorted(originals, places)
    first[places] = originals[(rng.random(len(places)) * upper).astype(np.int64)]
    columns = []
    for band in range(BANDS):
        keys = rng.integers(0, 2**64, n, dtype=np.uint64)
        # Band 0 is always shared, the others by a third of the copies each.
        shared = places if band == 0 else places[rng.random(len(places)) < 0.33]
        keys[shared] = keys[first[shared]]
        path = folder / f"minhash_{band:03d}.npy"
        np.save(path, keys[None])
        columns.append(Column(path.stem, (path,), 0, path.stem))
    return columns, first


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    folder = Path(tempfile.mkdtemp(prefix="llmpipe-dedup-"))
    try:
        columns, first = write_signatures(folder, n)
        before = resource.getrusage(resource.RUSAGE_SELF)
        wall = time.perf_counter()
        executor = LocalProcesses(
            workers, Limits(600, 600, 4 * 10**9), lambda _: None, lambda: False
        )
        firsts = group_in_units(columns, np.ones(n, bool), folder / "groups", executor, 5_000_000)
        wall = time.perf_counter() - wall
        after, children = (
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu += children.ru_utime + children.ru_stime
        exact = np.array_equal(firsts, first)
        print(
            f"{n:,} documents, {BANDS} bands, {workers} workers: {cpu:.1f} CPU s, {wall:.1f} s; largest process "
            f"{max(after.ru_maxrss, children.ru_maxrss) / 1e6:.2f} GB (the maker of the signatures included); "
            f"{np.count_nonzero(firsts != np.arange(n)):,} duplicates; clusters as planted: {exact}"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
