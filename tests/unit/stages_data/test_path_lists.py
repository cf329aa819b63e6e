"""Lists of Common Crawl's files, whole and in slices."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.data.sources import inputs
from llmpipe.stages.data.sources.inputs import expand_inputs, expand_list

LINES = [f"crawl-data/CC-MAIN-2024-22/segments/1/warc/{i:05d}.warc.gz" for i in range(5)]


@pytest.fixture
def listed(tmp_path: Path) -> str:
    path = tmp_path / "warc.paths.gz"
    path.write_bytes(gzip.compress("\n".join(LINES).encode()))
    return str(path)


def test_other_names_are_no_lists() -> None:
    assert expand_list("a.warc.gz") is None
    assert expand_list("hf:name#0:1") is None


def test_slices_of_a_list(listed: str) -> None:
    addresses = [f"https://data.commoncrawl.org/{line}" for line in LINES]
    assert expand_inputs([listed]) == addresses
    assert expand_inputs([f"{listed}#1:3"]) == addresses[1:3]
    assert expand_inputs([f"{listed}#3:"]) == addresses[3:]


def test_wrong_slices_are_refused(listed: str) -> None:
    with pytest.raises(UserError, match="START:STOP"):
        expand_list(f"{listed}#three")
    with pytest.raises(InputError, match="names no file"):
        expand_list(f"{listed}#9:")


def test_a_crawl_by_name_and_a_list_in_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(inputs, "_read_list", lambda address: asked.append(address) or LINES)
    (first,) = expand_list("cc:CC-MAIN-2024-22#0:1") or []
    assert first == f"https://data.commoncrawl.org/{LINES[0]}"
    (second,) = expand_list("s3://commoncrawl/crawl-data/X/warc.paths.gz#0:1") or []
    assert second == f"s3://commoncrawl/{LINES[0]}"
    assert asked == [
        "https://data.commoncrawl.org/crawl-data/CC-MAIN-2024-22/warc.paths.gz",
        "s3://commoncrawl/crawl-data/X/warc.paths.gz",
    ]


def test_files_beside_a_list_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"")
    (tmp_path / "my.paths").write_text("a.warc\nhttps://example.org/b.warc\n")
    assert expand_list(str(tmp_path / "my.paths")) == [
        str(tmp_path / "a.warc"),
        "https://example.org/b.warc",
    ]


def test_common_crawls_own_list_is_read(test_data: Path) -> None:
    path = test_data / "warc" / "whirlwind-python" / "CC-MAIN-2024-22.warc.paths.gz"
    found = expand_list(f"{path}#0:2") or []
    assert len(found) == 2
    assert all(name.startswith("https://data.commoncrawl.org/") for name in found)
