"""Lookups, made with the real search tool on a corpus of three documents."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmpipe.core.artifact import SCHEMA, list_files, publish
from llmpipe.stages.sft.generators import lookups
from llmpipe.stages.sft.generators.lookups import QUESTIONS, find_names, is_held_out, make_lookups
from llmpipe.tokenizer.bpe import Tokenizer

PAGES = [
    {
        "url": "http://atlas.example/brimot",
        "text": "Brimot\nBrimot is a lake in the north of Karvia. It is deep.",
    },
    {
        "url": "http://atlas.example/vesk",
        "text": "Vesk Castle\nVesk Castle was the seat of a king. It fell.",
    },
    {"url": "http://atlas.example/prose", "text": "Nothing here is defined in any way."},
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    made = tmp_path / ".made"
    made.mkdir()
    parquet.write_table(pa.Table.from_pylist(PAGES), made / "part-00000.parquet")
    manifest = {
        "schema": SCHEMA, "kind": "corpus", "stage": "data", "stage_version": 1, "name": "x", "key": "k",
        "inputs": {}, "config": {}, "stats": {}, "files": list_files(made),
    }  # fmt: skip
    publish(made, tmp_path / "corpus", manifest)
    return tmp_path / "corpus"


def test_names_are_what_documents_define() -> None:
    found = find_names((page["url"], page["text"]) for page in PAGES)
    assert found == {
        "Brimot": "Brimot is a lake in the north of Karvia.",
        "Vesk Castle": "Vesk Castle was the seat of a king.",
    }


def test_answers_quote_what_was_found_and_name_the_source(
    corpus: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "is_held_out", lambda name: name == "Vesk Castle")
    pool = make_lookups(corpus, tokenizer, 100, random.Random(1))
    assert {c.messages[0].text for c in pool.train} == {q.format(name="Brimot") for q in QUESTIONS}
    call, output, text = pool.train[0].messages[1].parts
    assert call.query == "about Brimot"
    assert output.text.startswith("[1] Brimot (http://atlas.example/brimot)\n")
    assert text.text == "Brimot is a lake in the north of Karvia. (http://atlas.example/brimot)"
    [kept] = pool.held_out
    assert kept.messages[1].text.endswith("(http://atlas.example/vesk)")


def test_a_tenth_of_names_is_held_out() -> None:
    assert 60 < sum(is_held_out(f"Name{i}") for i in range(1000)) < 140
