"""Reading documents by unit: the same documents however the input is cut, and clear errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.core.errors import InputError
from llmpipe.stages.tokenize.config import TokenizeConfig
from llmpipe.stages.tokenize.documents import (
    InputRange,
    expand_inputs,
    plan_ranges,
    read_range,
    split_text,
)

TEXTS = ["first", "second\nline", "", "naïve 你好", "x" * 300]
CONFIG = TokenizeConfig()


def jsonl(texts: list[str]) -> bytes:
    rows = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(texts)]
    return ("\n".join(rows) + "\n").encode()


def texts_of(units: list[InputRange], config: TokenizeConfig = CONFIG) -> list[str | None]:
    return [document.text for unit in units for document in read_range(unit, config)]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".jsonl", lambda data: data),
        (".jsonl.gz", gzip.compress),
        (".jsonl.zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_json_lines_are_read_plain_and_compressed(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack(jsonl(TEXTS)))
    documents = list(read_range(InputRange(str(path), 0, None), CONFIG))
    assert [document.text for document in documents] == TEXTS
    assert [document.id for document in documents] == ["d0", "d1", "d2", "d3", "d4"]


def test_zstd_frames_one_after_the_other_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    pack = zstandard.ZstdCompressor().compress
    path.write_bytes(pack(jsonl(TEXTS)) + pack(jsonl(["more"])))
    assert texts_of(plan_ranges([str(path)], 10)) == [*TEXTS, "more"]


@pytest.mark.parametrize("unit_bytes", [1, 7, 40, 41, 64, 100_000])
def test_every_line_belongs_to_exactly_one_range(tmp_path: Path, unit_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(TEXTS)[:-1] + b"\n\n" + jsonl(["last"])[:-1])  # no final line break
    assert texts_of(plan_ranges([str(path)], unit_bytes)) == [*TEXTS, "last"]


@pytest.mark.parametrize("unit_bytes", [1, 100, 100_000])
def test_every_row_group_belongs_to_exactly_one_unit(tmp_path: Path, unit_bytes: int) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {i}" for i in range(100)]
    pq.write_table(pa.table({"text": texts, "n": range(100)}), path, row_group_size=13)
    units = plan_ranges([str(path)], unit_bytes)
    assert texts_of(units) == texts
    assert len(units) == {1: 8, 100_000: 1}.get(unit_bytes, len(units))


def test_a_document_longer_than_allowed_has_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["short", "é" * 60, "y" * 70_000, "end"]))
    config = TokenizeConfig(max_document_bytes=100)
    documents = list(read_range(plan_ranges([str(path)], 10**6)[0], config))
    assert [(d.text, d.n_bytes) for d in documents] == [
        ("short", 0),
        (None, 120),
        (None, 22 + 70_000 + 3),  # so long a line is skipped unread, and its own bytes are counted
        ("end", 0),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "caf\xe9"}', "not UTF-8 (invalid continuation byte at byte 13 of the line)"),
        (b'{"text": "x"', "not JSON: Expecting ',' delimiter"),
        (b'["x"]', "expected an object, got list"),
        (b'{"text": null}', "`text` must be a text, NoneType came"),
        (b'{"body": "x"}', "`text` must be a text, NoneType came"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "end"}\n')
    (unit,) = plan_ranges([str(path)], 10**6)
    good, bad, end = read_range(unit, CONFIG)
    assert (good.text, bad.text, end.text) == ("good", None, "end")
    assert (bad.id, bad.reason) == ("a.jsonl:2", reason)


def test_a_file_without_the_key_is_an_error_that_names_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"body": "x", "n": 1}\n' * 3)
    with pytest.raises(InputError, match=r"a\.jsonl:1: no key `text`, there are body, n"):
        texts_of(plan_ranges([str(path)], 10**6))


def test_a_byte_order_mark_is_passed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + jsonl(TEXTS))
    assert texts_of(plan_ranges([str(path)], 50)) == TEXTS


def test_a_packed_file_is_told_by_its_content_and_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(jsonl(TEXTS)))
    assert texts_of(plan_ranges([str(path)], 10)) == TEXTS


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), path)
    with pytest.raises(InputError, match="no column `text`, there are body, n"):
        texts_of(plan_ranges([str(path)], 10**6))


def test_a_row_of_parquet_that_is_not_utf8_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    bad = pa.array([b"good", b"caf\xe9", b"end"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), path)
    documents = list(read_range(plan_ranges([str(path)], 10**6)[0], CONFIG))
    assert [document.text for document in documents] == ["good", None, "end"]
    assert (documents[1].id, documents[1].reason) == ("a.parquet: row 2", "not_utf8")


def test_rows_of_later_row_groups_bear_the_numbers_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": list("abcdef")}), path, row_group_size=2)
    units = plan_ranges([str(path)], 1)
    ids = [document.id for unit in units for document in read_range(unit, CONFIG)]
    assert ids == [f"a.parquet: row {i}" for i in range(1, 7)]


def test_a_flipped_bit_in_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["one", "two", "zoo"]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"two", b"twp", 1))
    with pytest.raises(InputError, match=r"a\.parquet` cannot be read: .*CRC"):
        texts_of(plan_ranges([str(path)], 10**6))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_cut_off_file_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    texts = [str(i) * 50 for i in range(2000)]
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(jsonl(texts)))
    elif name.endswith("zst"):
        path.write_bytes(zstandard.ZstdCompressor().compress(jsonl(texts)))
    else:
        pq.write_table(pa.table({"text": texts}), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=name):
        texts_of(plan_ranges([str(path)], 10**6))


def test_folders_and_globs_are_expanded(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "c.txt"):
        (tmp_path / name).write_text("")
    found = [str(tmp_path / "a.jsonl.gz"), str(tmp_path / "b.jsonl")]
    assert expand_inputs([str(tmp_path)]) == found
    assert expand_inputs([str(tmp_path / "*.jsonl*"), found[0]]) == found
    with pytest.raises(InputError, match=r"c\.txt`: the kinds of file read here are"):
        expand_inputs([str(tmp_path / "c.txt")])
    with pytest.raises(InputError, match="no file fits"):
        expand_inputs([str(tmp_path / "none*.jsonl")])


def test_urls_are_read_through_fsspec(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "b.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(TEXTS)))
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS))
    found = expand_inputs([f"file://{tmp_path}/*.jsonl*", f"file://{tmp_path}/b.parquet"])
    assert found == [f"file://{tmp_path}/{name}" for name in ("a.jsonl", "a.jsonl.gz", "b.parquet")]
    assert texts_of(plan_ranges(found, 10**6)) == TEXTS * 3
    with pytest.raises(InputError, match="no file fits"):
        expand_inputs([f"file://{tmp_path}/*.parquets"])


@settings(deadline=None)
@given(st.text(alphabet="ab \n\r", max_size=300), st.integers(1, 50))
def test_pieces_join_to_the_text_and_are_short(text: str, n_chars: int) -> None:
    pieces = list(split_text(text, n_chars))
    assert "".join(pieces) == text
    assert all(len(piece) <= n_chars for piece in pieces)
    assert all(pieces) or text == ""


def test_pieces_end_at_paragraphs_then_lines_then_spaces() -> None:
    assert list(split_text("aaa\nbbb\n\nccc ddd eee", 12)) == ["aaa\nbbb\n\n", "ccc ddd eee"]
    assert list(split_text("aaa bbb\nccc ddd eee", 12)) == ["aaa bbb\n", "ccc ddd eee"]
    assert list(split_text("aaa bbb ccc ddd eee", 12)) == ["aaa bbb ccc ", "ddd eee"]
    assert list(split_text("a" * 25, 10)) == ["a" * 10, "a" * 10, "a" * 5]
