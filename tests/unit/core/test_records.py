"""The one reader of records: the same rows however a file is packed, and a place and a reason for all others."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import fastwarc.stream_io
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.core.errors import InputError
from llmpipe.core.records.compression import Break, open_pieces
from llmpipe.core.records.files import ending_of, expand, open_stream
from llmpipe.core.records.lines import Unreadable, intact, read_json_lines, read_lines, whole
from llmpipe.core.records.parquet import read_parquet
from llmpipe.core.records.rows import READERS, read_rows

ROWS = [{"text": f"line {i}", "n": i} for i in range(2000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def members(pack: Callable[[bytes], bytes], n_members: int = 4) -> bytes:
    """Pack `LINES` in members that are cut anywhere."""
    size = len(LINES) // n_members + 1
    return b"".join(pack(LINES[i : i + size]) for i in range(0, len(LINES), size))


def skippable(content: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def zstd_long(data: bytes) -> bytes:
    """A frame that asks for a window of 2 GiB, as `zstd --long=31` writes it."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


def lz4(data: bytes) -> bytes:
    import io

    buffer = io.BytesIO()
    writer = fastwarc.stream_io.Lz4Writer(buffer)
    writer.write(data)
    writer.close()
    return buffer.getvalue()


@pytest.mark.parametrize(
    "stored",
    [
        LINES,
        LINES.removesuffix(b"\n"),
        b"\xef\xbb\xbf" + LINES,
        gzip.compress(LINES),
        gzip.compress(b"\xef\xbb\xbf" + LINES),
        members(gzip.compress),
        members(gzip.compress) + bytes(10_000),  # padded, as tapes do
        zstd(LINES),
        members(zstd),
        members(zstd_long, 1),
        members(lambda data: skippable(b"size") + zstd(data)),  # as pzstd writes
        members(zstd) + skippable(b"table of the frames"),  # as the seekable format ends
        lz4(LINES),
    ],
    ids=(
        [
            "plain",
            "open",
            "mark",
            "gzip",
            "gzip-mark",
            "members",
            "padded",
            "zstd",
            "frames",
            "long",
            "pzstd",
            "seekable",
            "lz4",
        ]
    ),
)
def test_a_file_has_the_same_rows_however_it_is_packed(tmp_path: Path, stored: bytes) -> None:
    for name in ("a.jsonl", "a.jsonl.gz"):  # what it is packed with, the name does not decide
        (tmp_path / name).write_bytes(stored)
        found = list(whole(read_json_lines(tmp_path / name)))
        assert [row for _, row in found] == ROWS
        assert found[6][0] == f"{tmp_path / name}:7"
    with open_stream(tmp_path / "a.jsonl") as stream:
        assert stream.read().removeprefix(b"\xef\xbb\xbf").rstrip() == LINES.rstrip()


@pytest.mark.parametrize("name", ["long28", "long31", "pzstd", "seekable"])
def test_files_of_other_zstd_tools_are_read_whole(test_data: Path, name: str) -> None:
    path = test_data.parent / "cases" / "data" / "09-zstd" / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip("the cases are not here")
    assert len(list(whole(read_json_lines(path)))) == 12


@pytest.mark.parametrize(("pack", "kind"), [(gzip.compress, "gzip"), (zstd, "zstd")])
def test_of_a_cut_file_everything_before_the_cut_is_read(
    tmp_path: Path, pack: Callable[[bytes], bytes], kind: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(members(pack)[:-20])
    rows = list(read_json_lines(path))
    good = [row for row in rows if not isinstance(row, Unreadable)]
    # Three members of four are whole, and so are all lines that end in them.
    n_whole = LINES[: 3 * (len(LINES) // 4 + 1)].count(b"\n")
    assert [row for _, row in good[:n_whole]] == ROWS[:n_whole]
    bad = [row for row in rows if isinstance(row, Unreadable)]
    assert [(row.reason, row.is_damage) for row in bad][-1] == (f"truncated_{kind}", True)
    assert {row.reason for row in bad[:-1]} <= {"cut_line"}
    with pytest.raises(InputError, match=rf"a\.jsonl` cannot be read: truncated_{kind}"):
        list(intact(read_json_lines(path)))
    with pytest.raises(InputError, match="truncated"), open_stream(path) as stream:
        stream.read()


@pytest.mark.parametrize(("pack", "kind"), [(gzip.compress, "gzip"), (zstd, "zstd")])
def test_behind_a_damaged_member_reading_goes_on(
    tmp_path: Path, pack: Callable[[bytes], bytes], kind: str
) -> None:
    packed = [
        pack(f'{{"n": {i}, "x": "{random.Random(i).random()}"}}\n'.encode()) for i in range(5)
    ]
    packed[2] = packed[2][:20] + bytes(len(packed[2]) - 20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(packed))
    rows = list(read_json_lines(path))
    # The line behind the damage may have lost its beginning, and nothing tells whether it has.
    assert [row[1]["n"] for row in rows if not isinstance(row, Unreadable)] == [0, 1, 4]
    (damage,) = [row for row in rows if isinstance(row, Unreadable) and row.is_damage]
    assert (damage.reason, damage.n_bytes) == (f"damaged_{kind}", len(packed[2]))


def test_a_name_that_says_packed_over_bytes_that_are_not_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    data = bytearray(gzip.compress(LINES))
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="unknown_compression"):
        list(whole(read_json_lines(path)))
    path.write_bytes(LINES)  # unpacked on its way, by a server or a browser
    assert len(list(whole(read_json_lines(path)))) == len(ROWS)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.text(alphabet="ab \r", max_size=30), max_size=12),
    st.integers(1, 40),
    st.integers(5, 25),
    st.booleans(),
)
def test_ranges_that_meet_have_every_line_once(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    n_bytes: int,
    limit: int,
    is_open: bool,
) -> None:
    data = "\n".join(lines).encode() + (b"" if is_open else b"\n")
    path = tmp_path_factory.mktemp("ranges") / "a"
    path.write_bytes(data)
    found: list[str] = []
    for start in range(0, len(data), n_bytes):
        for line in read_lines(path, max_bytes=limit, start=start, stop=start + n_bytes):
            is_long = isinstance(line, Unreadable)
            found.append(line.reason if is_long else line[1].decode().removesuffix("\n"))
    stored = data.decode().split("\n")
    sizes = [len(line) + 1 for line in stored[:-1]] + [len(stored[-1])]
    expected = [
        "over_limit" if size > limit else line
        for line, size in zip(stored, sizes, strict=True)
        if size > limit or line.strip()
    ]
    assert found == expected


def test_a_long_line_is_passed_over_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"n": 1}\n"' + b"x" * 5_000_000 + b'"\n{"n": 2}\n'))
    first, long, last = read_json_lines(path, label="a", max_bytes=1000)
    assert (first, last) == (("a:1", {"n": 1}), ("a:3", {"n": 2}))
    assert long == Unreadable("a:2", "over_limit", 5_000_003)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"n": 1', "not JSON: Expecting ',' delimiter"),
        (b"[" * 100_000, "not JSON: "),
        (b'{"n": "\xff"}', "not UTF-8 (invalid start byte at byte 7 of the line)"),
        (b"3", "expected an object, got int"),
    ],
)
def test_a_bad_line_costs_itself_alone(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n\n' + line + b'\n{"n": "\xe2\x80\xa8"}\n')
    first, bad, last = read_json_lines(path)
    assert isinstance(bad, Unreadable)
    assert bad.where == f"{path}:3"
    assert bad.said.startswith(said)
    assert not bad.is_damage
    assert (first, last) == ((f"{path}:1", {"n": 1}), (f"{path}:4", {"n": "\u2028"}))
    with pytest.raises(InputError, match=r"a\.jsonl:3: "):
        list(whole(read_json_lines(path)))


# ------------------------------------------------------------------------------------------ Parquet


def test_parquet_rows_bear_their_numbers_and_wanted_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=300)
    found = list(whole(read_parquet(path, ["n", "nowhere"], label="a", groups=range(1, 3))))
    assert found == [(f"a: row {i + 1}", {"n": i}) for i in range(300, 900)]


def test_missing_columns_are_named_with_those_there(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    with pytest.raises(InputError, match="no column `body` or `html`, there are text, n") as caught:
        list(read_parquet(path, needed=["body", "html"], hint="name it"))
    assert caught.value.hint == "name it"


def test_one_text_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [b"caf\xe9" if i == 70 else b"%d" % i for i in range(100)]
    pq.write_table(pa.table({"text": pa.array(texts).view(pa.string())}), path)
    rows = list(read_parquet(path, label="a"))
    assert rows[70] == Unreadable("a: row 71", "not_utf8")
    assert [row[1]["text"] for row in rows if not isinstance(row, Unreadable)] == [
        str(i) for i in range(100) if i != 70
    ]


def test_a_flipped_bit_costs_its_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist(ROWS), path, row_group_size=500, compression="none",
        use_dictionary=False, write_page_checksum=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"line 1234", b"line 1235", 1))
    rows = list(read_parquet(path))
    assert [row for row in rows if not isinstance(row, Unreadable)] == [
        (f"{path}: row {i + 1}", ROWS[i]) for i in range(2000) if i // 500 != 2
    ]
    bad = [row for row in rows if isinstance(row, Unreadable)]
    assert [row.n_bytes > 0 for row in bad] == [True] + [False] * 499
    with pytest.raises(InputError, match=r"a\.parquet` cannot be read: .*CRC"):
        list(intact(read_parquet(path)))


# -------------------------------------------------------------------------------- kinds and names


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b'[{"n": 1},\n {"n": 2}]', [{"n": 1}, {"n": 2}]),
        ("a.json", b"\xef\xbb\xbf[\n]", []),
        ("a.json.gz", gzip.compress(b'{"n": 1}\n{"n": 2}'), [{"n": 1}, {"n": 2}]),
        ("a.ndjson", b'{"n": 1}\n', [{"n": 1}]),
        ("a.csv", b'\xef\xbb\xbfa,b\n1,"x\ny"\n', [{"a": "1", "b": "x\ny"}]),
        ("A.TXT.zst", zstd(b"\xef\xbb\xbfone\ntwo"), [{"text": "one\ntwo"}]),
    ],
)
def test_a_file_is_read_by_its_ending(
    tmp_path: Path, name: str, content: bytes, expected: list[object]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert [row for _, row in whole(read_rows(tmp_path / name))] == expected


def test_an_unknown_ending_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.xlsx`: the kinds of file read here are \.jsonl, "):
        list(read_rows(tmp_path / "a.xlsx"))


def test_endings_are_told_with_packing_and_addresses() -> None:
    names = {
        "a.jsonl.gz": ".jsonl",
        "https://x.org/A.CSV.zst?v=1.txt": ".csv",
        "a?b.txt": ".txt",
        "a.json": ".json",
        "jsonl": None,
        "a.gz": None,
    }
    assert {name: ending_of(name, READERS) for name in names} == names


def test_names_stand_for_files_and_nothing_is_an_error(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "in/c.txt", "in/.d.txt", "e.pdf", "[x].jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "dir.jsonl").mkdir()
    here = str(tmp_path)
    known = [f"{here}/{name}" for name in ("[x].jsonl", "a.jsonl.gz", "b.jsonl", "in/c.txt")]
    assert expand([here], READERS) == known
    assert expand([f"{here}/*.jsonl", f"{here}/[x].jsonl"], READERS) == [
        f"{here}/[x].jsonl",
        f"{here}/b.jsonl",
        f"{here}/[x].jsonl",
    ]
    assert expand([f"{here}/e.pdf", "hf:a/b", "s3://c/d"], READERS) == [
        f"{here}/e.pdf",
        "hf:a/b",
        "s3://c/d",
    ]
    assert expand([f"file://{here}/*.gz"], READERS) == [f"file://{here}/a.jsonl.gz"]
    for name, message in (
        (f"{here}/none", "there is no file or folder `.*none`"),
        (f"{here}/*.csv", "no file fits"),
        (f"file://{here}/*.csv", "no file fits"),
        (f"{here}/dir.jsonl", "holds no input"),
    ):
        with pytest.raises(InputError, match=message):
            expand([name], READERS)


def test_what_cannot_be_searched_loses_the_rest_behind_damage() -> None:
    import io

    data = gzip.compress(b"one\n") + b"damage" + gzip.compress(b"two\n")
    pieces = [piece for piece in open_pieces(io.BytesIO(data)) if piece]
    assert pieces[0] == b"one\n"
    assert [piece.reason for piece in pieces[1:] if isinstance(piece, Break)] == [
        "garbage_between_members"
    ]
