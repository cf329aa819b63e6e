"""Merges from 5 GB of text in bounded memory, with and without pruning of rare pieces."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import measure
from _tokenize_data import write_mix

SCRIPT = Path(__file__).parent / "_tokenize_ours.py"
MIX_BYTES, N_BYTES = 125_000_000, 5_000_000_000
NO_LIMIT, TIGHT_LIMIT = 1_000_000_000, 1_000_000
N_CLAIMED = 30_000
HEADERS = (
    *("limit", "pieces kept", "left out", "those under", "CPU s", "peak MB"),
    *("first merges that are the same", "merges in common"),
)


def main(results: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="llmpipe-bench-") as name:
        text = measure.header("Tokenizer: merges from 5 GB", "tokenizer_large")
        text += _large(Path(name))
    (results / "tokenize-large.md").write_text(text, encoding="utf-8")


def _large(work: Path) -> str:
    data, counts = work / "mix.jsonl", work / "counts"
    write_mix([data], MIX_BYTES)
    counts.mkdir()
    ours = [measure.our_python(), SCRIPT]
    counted = measure.run([*ours, "count_large", data, counts, str(N_BYTES)])
    default = json.loads(measure.run([*ours, "max_pieces"]).stdout)
    rows, merges = [], {}
    for limit in (NO_LIMIT, default, TIGHT_LIMIT):
        out = work / f"{limit}.hex"
        run = measure.run([*ours, "learn_large", counts, str(limit), out])
        found, merges[limit] = json.loads(run.stdout), out.read_text().split()
        n_same = _n_same(merges[NO_LIMIT], merges[limit])
        n_common = len(set(merges[NO_LIMIT]) & set(merges[limit]))
        name = {NO_LIMIT: "none", default: f"{default:,} (default)"}.get(limit, f"{limit:,}")
        cells = [f"{found['kept']:,}", f"{found['pruned']:,}", f"{found['below']:,}"]
        times = [f"{run.cpu_s:.0f}", f"{run.peak_bytes / 1e6:,.0f}"]
        rows.append([name, *cells, *times, f"{n_same:,}", f"{n_common:,}"])
    n_merges = len(merges[NO_LIMIT])
    is_claimed = _n_same(merges[NO_LIMIT], merges[default]) >= N_CLAIMED
    return (
        f"{N_BYTES / 1e9:.0f} GB: the shared texts again and again, each time with one "
        "character in 1,000 replaced where it is a small letter (seeded), so that there are as many "
        f"different words as in a large corpus. Counting takes {counted.cpu_s:.0f} CPU s and "
        f"{counted.peak_bytes / 1e6:,.0f} MB; then {n_merges:,} merges are learned with different limits on "
        "the pieces that are kept (`tokenize.max_pieces`).\n\n"
        + measure.table(HEADERS, rows)
        + f"\nWith the default limit at least {N_CLAIMED:,} merges are those of the count of all pieces: "
        f"{'yes' if is_claimed else 'NO'}.\n"
    )


def _n_same(a: list[str], b: list[str]) -> int:
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))
