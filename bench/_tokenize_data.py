"""The texts that the tokenizer's measurements use, cut from the real data that tests use too."""

from __future__ import annotations

import gzip
import json
import os
import random
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

DATA = Path(os.environ.get("LLMPIPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

_PART_CHARS = 200_000
"""Novels are cut, so that the documents can be mixed."""

_SHARES = {"english": 0.45, "french": 0.1, "peps": 0.15, "languages": 0.1, "python": 0.2}


def _texts(name: str) -> Iterator[str]:
    if name == "python":
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
            if "site-packages" not in path.parts:
                yield path.read_text(encoding="utf-8", errors="ignore")
        return
    if name == "languages":
        with gzip.open(DATA / "langid/lingua_sentences.jsonl.gz", "rt", encoding="utf-8") as file:
            sentences = [json.loads(line)["text"] for line in file]
        yield from ("\n".join(sentences[i : i + 50]) for i in range(0, len(sentences), 50))
        return
    file_name = {"english": "english_novels", "french": "french_novels", "peps": "python_peps"}[
        name
    ]
    data = (DATA / f"text/{file_name}.jsonl.zst").read_bytes()
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        lines = reader.read().decode().splitlines()
    yield from (json.loads(line)["text"] for line in lines)


def _up_to(texts: Iterable[str], n_bytes: int) -> Iterator[str]:
    while n_bytes > 0:
        for text in texts:
            for start in range(0, len(text), _PART_CHARS):
                part = text[start : start + _PART_CHARS]
                n_bytes -= len(part.encode())
                yield part
                if n_bytes <= 0:
                    return


def write_mix(paths: list[Path], n_bytes: int) -> int:
    """Write `n_bytes` of mixed text over the files, as JSON lines; returns the bytes of text.

    Novels, Python's own documents and sources, and sentences of 75 languages; what is short of its
    share comes again from its beginning.
    """
    parts: list[str] = []
    for name, share in _SHARES.items():
        parts += _up_to(list(_texts(name)), round(share * n_bytes))
    random.Random(1).shuffle(parts)
    for i, path in enumerate(paths):
        rows = (json.dumps({"text": text}, ensure_ascii=False) for text in parts[i :: len(paths)])
        path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return sum(len(text.encode()) for text in parts)
