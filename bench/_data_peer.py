"""What datatrove does, in its own environment: decisions of its filters, MinHash signatures, extraction.

    python _data_peer.py decisions TEXTS.jsonl OUT.jsonl [--our-splitter]
    python _data_peer.py signatures TEXTS.jsonl
    python _data_peer.py extract PAGES.jsonl OUT.jsonl

Every filter sees the same text, whatever the others say. With `--our-splitter` words and sentences are split by
llmpipe's functions, so that what still differs is a rule.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def read_rows(path: str) -> list[dict[str, Any]]:
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_rows(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lend_splitter() -> None:
    """Let datatrove split words and sentences with llmpipe's functions."""
    sys.path.insert(0, str(ROOT / "src"))
    from datatrove.pipeline.filters import (
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    from llmpipe.stages.data.splitting import count_sentences, split_tokens

    for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
        module.split_into_words = lambda text, language: split_tokens(text)
    c4_filters.split_into_sentences = lambda text, language: [""] * count_sentences(text)


def decisions(texts: str, out: str) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    filters = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(),
    }
    rows = []
    for row in read_rows(texts):
        said = {"id": row["id"]}
        for name, one in filters.items():
            document = Document(text=row["text"], id=row["id"])
            result = one.filter(document)
            said[name] = result[1] if isinstance(result, tuple) else "" if result else "dropped"
            if name == "c4":
                said["c4_text"] = document.text
        rows.append(said)
    write_rows(out, rows)


def signatures(texts: str) -> None:
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        hash_config=HashConfig(hash_fc="sha1", precision=64),
        num_buckets=14,
        hashes_per_bucket=8,
        n_grams=5,
    )
    step = MinhashDedupSignature("/tmp/unused", config=config)
    rows = read_rows(texts)
    step.get_signature(step.get_shingles(rows[0]["text"]))  # loads spaCy
    started = time.process_time()
    for row in rows:
        step.get_signature(step.get_shingles(row["text"]))
    print(json.dumps({"documents": len(rows), "cpu_s": time.process_time() - started}))


def extract(pages: str, out: str) -> None:
    from trafilatura import extract as trafilatura_extract

    rows = read_rows(pages)
    texts = [
        trafilatura_extract(
            row["html"], favor_precision=True, include_comments=False, deduplicate=True
        )
        for row in rows
    ]
    write_rows(out, [{"id": r["id"], "text": t or ""} for r, t in zip(rows, texts, strict=True)])


if __name__ == "__main__":
    if "--our-splitter" in sys.argv:
        lend_splitter()
    command, *arguments = [part for part in sys.argv[1:] if not part.startswith("--")]
    {"decisions": decisions, "signatures": signatures, "extract": extract}[command](*arguments)
