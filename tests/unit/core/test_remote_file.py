"""Files at addresses, read where they lie, over connections that break."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmpipe.core import remote
from llmpipe.core.errors import InputError
from llmpipe.core.records.files import open_binary
from llmpipe.core.records.lines import read_json_lines, whole
from llmpipe.core.records.parquet import read_parquet
from llmpipe.core.remote import RemoteFile

CONTENT = bytes(range(256)) * 4000
LINES = b"".join(b'{"n": %d}\n' % i for i in range(50_000))


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    return waits


class Breaking(io.BytesIO):
    """A connection that breaks at the third read."""

    def __init__(self, content: bytes, size: int | None) -> None:
        super().__init__(content)
        self.size = size
        self._n_reads = 0

    def read(self, n: int | None = -1, /) -> bytes:
        self._n_reads += 1
        if self._n_reads == 3:
            raise ConnectionError("the line went dead")
        # As HTTP does, now and then it gives less than was asked for.
        return super().read(n if self._n_reads % 2 or n is None else max(1, n - 7))

    def seek(self, *place: int) -> int:
        assert self.size is not None, "a stream"
        return super().seek(*place)


class Files:
    def __init__(self, content: bytes, size: int | None) -> None:
        self.content, self.size = content, size
        self.n_opened = 0

    def open(self, path: str, mode: str) -> Breaking:
        self.n_opened += 1
        return Breaking(self.content, self.size)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_broken_connection_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], is_stream: bool
) -> None:
    # A stream has to be read again from its beginning, so it must live that long.
    files = Files(CONTENT, None if is_stream else len(CONTENT))
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url, **options: (files, url))
    read = 600_000 if is_stream else 100_000
    with RemoteFile("https://x.org/a") as file:
        found = b""
        while part := file.read(read):
            found += part
    assert found == CONTENT
    assert files.n_opened > 1
    assert set(waits) == {1}


def test_a_place_in_the_file_is_gone_to(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(CONTENT, len(CONTENT))
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url, **options: (files, url))
    with io.BufferedReader(RemoteFile("https://x.org/a")) as file:
        assert file.seek(-10, io.SEEK_END) == len(CONTENT) - 10
        assert file.read(100) == CONTENT[-10:]
        file.seek(1000)
        file.seek(5, io.SEEK_CUR)
        assert (file.tell(), file.read(3)) == (1005, CONTENT[1005:1008])
    stream = RemoteFile("https://x.org/a")
    stream._size = None
    with pytest.raises(io.UnsupportedOperation, match="size"):
        stream.seek(0, io.SEEK_END)


@contextlib.contextmanager
def server(folder: Path, has_ranges: bool, n_busy: int) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder on loopback; the first requests are answered with "busy"."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.command)
            if len(asked) <= n_busy:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = (folder / self.path.lstrip("/")).read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, stop = (int(found[1]), int(found[2]) + 1) if found and has_ranges else (0, None)
            self.send_response(206 if found and has_ranges else 200)
            if has_ranges:
                self.send_header("Accept-Ranges", "bytes")
                if found:
                    end = min(stop or 0, len(data)) - 1
                    self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            self.send_header("Content-Length", str(len(data[start:stop])))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[start:stop])

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", asked
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize("has_ranges", [True, False])
def test_lines_are_read_from_a_server_that_is_busy_at_first(
    tmp_path: Path, waits: list[float], has_ranges: bool
) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    with server(tmp_path, has_ranges, n_busy=2) as (url, _):
        rows = [row["n"] for _, row in whole(read_json_lines(f"{url}/a.jsonl.gz"))]
    assert rows == list(range(50_000))
    assert waits


def test_parquet_is_read_from_a_server(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(1000)}), tmp_path / "a.parquet", row_group_size=100)
    with server(tmp_path, has_ranges=True, n_busy=0) as (url, _):
        rows: list[Any] = list(whole(read_parquet(f"{url}/a.parquet", groups=range(2, 4))))
    assert [row["n"] for _, row in rows] == list(range(200, 400))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file at `file://"):
        open_binary(f"file://{tmp_path}/none")
    with pytest.raises(InputError, match="none` cannot be read: No such file"):
        open_binary(tmp_path / "none")
