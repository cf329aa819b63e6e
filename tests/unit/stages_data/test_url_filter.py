"""Block lists: seed list, UT1-like folders, subdomains, addresses."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from llmpipe.core.errors import InputError
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.steps.url_filter import (
    UrlFilter,
    UrlFilterConfig,
    list_files,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lists = tmp_path / "lists"
    (lists / "gambling").mkdir(parents=True)
    (lists / "gambling" / "domains").write_text("casino.test\n# a comment\nWWW.Bets.test\n")
    (lists / "gambling" / "urls").write_text("example.org/poker\n")
    (lists / "press_domains.txt").write_text("news.test\n")
    with gzip.open(lists / "malware_urls.txt.gz", "wt") as file:
        file.write("example.org/bad/file.exe\n")
    return lists


def verdict(url: str, config: UrlFilterConfig, tmp_path: Path) -> Drop | None:
    UrlFilter.prepare(config, tmp_path)
    return UrlFilter(tmp_path)(Document(url=url, date=""))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://casino.test/", Drop("listed_domain", "casino.test", "gambling")),
        ("https://www.play.casino.test/x", Drop("listed_domain", "casino.test", "gambling")),
        ("http://bets.test/", Drop("listed_domain", "bets.test", "gambling")),
        ("http://www.example.org/poker/", Drop("listed_address", "example.org/poker", "gambling")),
        (
            "http://example.org/bad/file.exe",
            Drop("listed_address", "example.org/bad/file.exe", "malware"),
        ),
        ("http://pornhub.com/", Drop("listed_domain", "pornhub.com", "adult")),
        ("http://mycasino.test/", None),
        ("http://example.org/pokerface", None),
        ("http://news.test/", None),  # a category that was not chosen
        ("", None),
        ("http://[broken", None),
    ],
)
def test_verdicts(url: str, expected: Drop | None, folder: Path, tmp_path: Path) -> None:
    assert verdict(url, UrlFilterConfig(categories_folder=str(folder)), tmp_path) == expected


def test_seed_list_can_be_left_out(tmp_path: Path) -> None:
    assert verdict("http://pornhub.com/", UrlFilterConfig(use_seed_list=False), tmp_path) is None


def test_missing_or_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        list_files(UrlFilterConfig(categories_folder=str(tmp_path / "none")))
    with pytest.raises(InputError, match="has no list of the categories"):
        list_files(UrlFilterConfig(categories_folder=str(tmp_path)))


def test_shared_ut1_lists(test_data: Path, tmp_path: Path) -> None:
    config = UrlFilterConfig(
        categories_folder=str(test_data / "urlfilter" / "ut1"), categories=("gambling",)
    )
    with gzip.open(test_data / "urlfilter" / "ut1" / "gambling_domains.txt.gz", "rt") as file:
        domains = file.read().split()
    UrlFilter.prepare(config, tmp_path)
    step = UrlFilter(tmp_path)
    assert all(step(Document(f"http://a.{domain}/", "")) for domain in domains[:300])
