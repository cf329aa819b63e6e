"""Remote files: copied, retried, deleted."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from llmpipe.core import remote
from llmpipe.core.errors import InputError
from llmpipe.core.remote import local_copy


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    return waits


def test_local_files_are_used_in_place(tmp_path: Path) -> None:
    with local_copy(str(tmp_path / "a"), tmp_path) as path:
        assert path == tmp_path / "a"


def test_remote_file_is_copied_and_deleted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "work").mkdir()
    with local_copy(f"file://{tmp_path}/a", tmp_path / "work") as path:
        assert path.parent == tmp_path / "work"
        assert path.read_bytes() == b"content"
    assert not path.exists()


class Flaky:
    """A file system that fails in given ways, then has the file."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def get_file(self, path: str, target: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        Path(target).write_bytes(b"at last")


def test_failures_are_retried_with_longer_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    flaky = Flaky(ConnectionError("busy"), TimeoutError("slow"))
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url, **options: (flaky, url))
    with local_copy("https://example.org/a", tmp_path) as path:
        assert path.read_bytes() == b"at last"
    assert no_waiting == [1, 4]


def test_hopeless_download_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    flaky = Flaky(*[ConnectionError("no route")] * 5)
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url, **options: (flaky, url))
    with (
        pytest.raises(InputError, match=r"`https://example.org/a` cannot be read: no route"),
        local_copy("https://example.org/a", tmp_path),
    ):
        pass
    assert len(no_waiting) == 4


def test_missing_file_is_not_tried_again(tmp_path: Path, no_waiting: list[float]) -> None:
    with (
        pytest.raises(InputError, match="there is no file"),
        local_copy(f"file://{tmp_path}/none", tmp_path),
    ):
        pass
    assert no_waiting == []


@contextlib.contextmanager
def server(answers: list[tuple[int, dict[str, str], bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve the answers one after the other on loopback, the last one for ever."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/a.warc", asked
        finally:
            listening.shutdown()
            thread.join()


def test_a_server_is_left_alone_as_long_as_it_asks(tmp_path: Path, no_waiting: list[float]) -> None:
    busy = [(503, {"Retry-After": "37"}, b""), (429, {}, b""), (503, {"Retry-After": "9999"}, b"")]
    with (
        server([*busy, (200, {}, b"at last")]) as (url, _),
        local_copy(url, tmp_path) as path,
    ):
        assert path.read_bytes() == b"at last"
    assert no_waiting == [37, 4, 600]


def test_a_date_to_retry_after_is_understood(
    tmp_path: Path, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote.time, "time", lambda: 1_000_000_000.0)
    busy = (503, {"Retry-After": "Sun, 09 Sep 2001 01:47:40 GMT"}, b"")  # 60 s later
    with server([busy, (200, {}, b"x")]) as (url, _), local_copy(url, tmp_path):
        pass
    assert no_waiting == [60]


def test_a_refusal_is_not_tried_again(tmp_path: Path, no_waiting: list[float]) -> None:
    with (
        server([(403, {}, b"")]) as (url, asked),
        pytest.raises(InputError, match="refused with status 403"),
        local_copy(url, tmp_path),
    ):
        pass
    assert no_waiting == []
    assert asked == ["/a.warc"]


def test_a_busy_server_is_asked_again_for_the_size_too(no_waiting: list[float]) -> None:
    from llmpipe.core.stage import fingerprint_files

    busy = (503, {"Retry-After": "9"}, b"")
    # fsspec asks by HEAD and, after a failure, by GET: both are answered with "busy" once.
    with server([busy, busy, (200, {"ETag": '"7"'}, b"four")]) as (url, _):
        (file,) = fingerprint_files([url])
    assert (file.path, file.n_bytes) == (url, 4)
    assert no_waiting == [9]


def test_an_unknown_scheme_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="nothing here can read `nosuch://`"),
        local_copy("nosuch://a/b", tmp_path),
    ):
        pass


def test_a_changed_file_at_an_address_has_another_fingerprint() -> None:
    from llmpipe.core.stage import fingerprint_files

    answers = [(200, {"ETag": '"1"'}, b"four")]
    with server(answers) as (url, _):
        (first,), (same,) = fingerprint_files([url]), fingerprint_files([url])
        answers[0] = (200, {"ETag": '"2"'}, b"four")
        (other,) = fingerprint_files([url])
    assert first == same != other
