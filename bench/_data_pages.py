"""The pages with gold text as archives like Common Crawl's, and the benchmarks' own scorers.

Pages: adbar/trafilatura's evaluation set and scrapinghub/article-extraction-benchmark, from the shared test data.
Scorers, written after the two repositories' `evaluate.py`: segments that must and must not be in the text, counted
over all pages; and 4-gram shingles of the article's body, precision and recall averaged over pages.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

TEST_DATA = Path(os.environ.get("LLMPIPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = ("trafilatura", "scrapinghub-aeb")
_TOKEN = re.compile(r"\w+")


@dataclass(frozen=True)
class Page:
    """One page with what a person marked in it."""

    url: str
    html: bytes
    gold: dict[str, Any]
    source: str


def files(name: str) -> Iterator[tuple[str, bytes]]:
    """Read the files of a set: their names and their bytes."""
    packed = (TEST_DATA / "html" / name / "pages.tar.zst").read_bytes()
    data = zstandard.ZstdDecompressor().stream_reader(packed).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                yield member.name.removeprefix("./"), file.read()


def pages(sets: tuple[str, ...] = SETS, need_gold: bool = True) -> Iterator[Page]:
    """Read the pages of the named sets."""
    for name in sets:
        with gzip.open(
            TEST_DATA / "html" / name / "index.jsonl.gz", "rt", encoding="utf-8"
        ) as file:
            rows = {row["file"]: row for row in map(json.loads, file)}
        for path, data in files(name):
            row = rows.get(path) or rows.get(path.partition("/")[2])
            if row is None or (need_gold and not row.get("gold")):
                continue
            url = row.get("url") or ""
            url = url if "://" in url else f"http://{name}.invalid/{path}"
            yield Page(url, data, row.get("gold") or {}, name)


def write_archives(folder: Path, n_files: int, found: list[Page] | None = None) -> list[Path]:
    """Write the pages as `n_files` archives: request, response and metadata, one gzip member each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}.warc.gz" for i in range(n_files)]
    files = [path.open("wb") for path in paths]
    for i, page in enumerate(found or pages()):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
        response = head + f"Content-Length: {len(page.html)}\r\n\r\n".encode() + page.html
        request = f"GET / HTTP/1.1\r\nHost: {page.url.split('/')[2]}\r\n\r\n".encode()
        for kind, block in (
            ("request", request),
            ("response", response),
            ("metadata", b"fetchTimeMs: 10\r\n"),
        ):
            files[i % n_files].write(gzip.compress(_record(kind, page.url, block, i), 6, mtime=0))
    for file in files:
        file.close()
    return paths


def _record(kind: str, url: str, block: bytes, i: int) -> bytes:
    content = (
        "application/warc-fields" if kind == "metadata" else f"application/http; msgtype={kind}"
    )
    identified = "WARC-Identified-Payload-Type: text/html\r\n" if kind == "response" else ""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2024-05-01T10:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-{'qrm'.index('q' if kind == 'request' else kind[0]):04d}-{i:012d}>\r\n"
        f"WARC-Target-URI: {url}\r\n{identified}Content-Type: {content}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


# --------------------------------------------------------------------------------------------------- scorers


def segment_scores(texts: Mapping[str, str], found: list[Page]) -> tuple[float, float, float]:
    """Precision, recall and F1 as trafilatura's evaluation counts them: segments, over all pages."""
    tp = fp = fn = 0
    for page in found:
        text = texts.get(page.url, "")
        hits = sum(segment in text for segment in page.gold.get("with", ()))
        tp += hits
        fn += len(page.gold.get("with", ())) - hits
        fp += sum(segment in text for segment in page.gold.get("without", ()))
    return _scores(tp / max(1, tp + fp), tp / max(1, tp + fn))


def shingle_scores(texts: Mapping[str, str], found: list[Page]) -> tuple[float, float, float]:
    """Precision, recall and F1 as the article extraction benchmark counts them: averaged over pages."""
    precisions, recalls = [], []
    for page in found:
        true, said = _shingles(page.gold.get("articleBody", "")), _shingles(texts.get(page.url, ""))
        tp = sum((true & said).values())
        fp, fn = sum(said.values()) - tp, sum(true.values()) - tp
        precisions.append(1.0 if fp == fn == 0 else tp / (tp + fp) if tp + fp else 0.0)
        recalls.append(1.0 if fp == fn == 0 else tp / (tp + fn) if tp + fn else 0.0)
    return _scores(sum(precisions) / len(precisions), sum(recalls) / len(recalls))


def _shingles(text: str) -> Counter[tuple[str, ...]]:
    tokens = _TOKEN.findall(text)
    return Counter(tuple(tokens[i : i + 4]) for i in range(max(1, len(tokens) - 3)))


def _scores(precision: float, recall: float) -> tuple[float, float, float]:
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)
