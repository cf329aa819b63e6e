"""Remote files: copied, retried, deleted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import pytest

from llmpipe.core.errors import InputError
from llmpipe.stages.data.sources import fetch


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", waits.append)
    return waits


def test_local_files_are_used_in_place(tmp_path: Path) -> None:
    with fetch.local_copy(str(tmp_path / "a"), tmp_path) as path:
        assert path == tmp_path / "a"


def test_remote_file_is_copied_and_deleted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "work").mkdir()
    with fetch.local_copy(f"file://{tmp_path}/a", tmp_path / "work") as path:
        assert path.parent == tmp_path / "work"
        assert path.read_bytes() == b"content"
    assert not path.exists()


def test_failures_are_retried_with_longer_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    answers: list[Any] = [ConnectionError("busy"), TimeoutError("slow"), io.BytesIO(b"at last")]

    def answer(url: str, mode: str) -> io.BytesIO:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(fsspec, "open", answer)
    with fetch.local_copy("https://example.org/a", tmp_path) as path:
        assert path.read_bytes() == b"at last"
    assert no_waiting == [1, 4]


def test_hopeless_download_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    def fail(url: str, mode: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(fsspec, "open", fail)
    with (
        pytest.raises(InputError, match=r"`https://example.org/a` cannot be read: no route"),
        fetch.local_copy("https://example.org/a", tmp_path),
    ):
        pass
    assert len(no_waiting) == 4


def test_missing_file_is_not_tried_again(tmp_path: Path, no_waiting: list[float]) -> None:
    with (
        pytest.raises(InputError, match="there is no file"),
        fetch.local_copy(f"file://{tmp_path}/none", tmp_path),
    ):
        pass
    assert no_waiting == []
