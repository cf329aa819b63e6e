"""The keys by which equal documents are found: of the address, of the text, and MinHash bands.

A step here never drops by itself: it notes 64-bit keys, and `grouping.py` decides when all documents have
been seen. With 64 bits, a billion documents have 0.03 wrong pairs to expect (n² / 2 / 2⁶⁴).
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import xxhash
from annotated_types import Gt, Le

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document
from llmpipe.stages.data.steps.base import Step


@schema
class UrlDedupConfig:
    """Keep one document per address, the first in key order."""

    ignore_query: bool = False
    """Treat addresses that differ only after `?` as equal."""


@schema
class ExactDedupConfig:
    """Keep one document per text, the first in key order; white space at both ends does not count."""


@schema
class MinHashConfig:
    """Keep one document of every cluster of near-duplicates, the first in key order.

    A pair of Jaccard similarity s shares a band with probability 1 - (1 - s^rows)^bands: at 14 x 8
    half of the pairs at s = 0.72. Source: FineWeb, section 3.4.
    """

    bands: Annotated[int, Gt(0), Le(128)] = 14
    """Groups of hashes; one equal group makes two documents candidates."""
    rows: Annotated[int, Gt(0), Le(64)] = 8
    """Hashes per group."""
    ngram: Annotated[int, Gt(0), Le(32)] = 5
    """Words per shingle."""


class UrlKey(Step[UrlDedupConfig]):
    """Note the key of a document's address."""

    name = "url_dedup"
    summary = "keep one document per address"
    scope = "corpus"
    needs_text = False

    def __call__(self, document: Document) -> None:
        """Note the document's keys."""
        if document.url:
            address = normalize_url(document.url, self._config.ignore_query)
            document.keys[self.name] = [xxhash.xxh3_64_intdigest(address.encode())]


def normalize_url(url: str, ignore_query: bool = False) -> str:
    """Write addresses of the same page alike: no scheme, `www.`, default port, fragment or last slash."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return url
    port_text = f":{port}" if port not in (None, 80, 443) else ""
    query = f"?{parts.query}" if parts.query and not ignore_query else ""
    return f"{host.removeprefix('www.')}{port_text}{parts.path.rstrip('/')}{query}"


class TextKey(Step[ExactDedupConfig]):
    """Note the key of a document's text."""

    name = "exact_dedup"
    summary = "keep one document per text"
    scope = "corpus"

    def __call__(self, document: Document) -> None:
        """Note the document's keys."""
        document.keys[self.name] = [xxhash.xxh3_64_intdigest(document.text.strip().encode())]


class MinHashKeys(Step[MinHashConfig]):
    """Note one key per band of the MinHash signature of a document's text."""

    name = "minhash"
    summary = "keep one document per cluster of near-duplicates"
    scope = "corpus"

    def __init__(self, config: MinHashConfig) -> None:
        from llmpipe.stages.data.steps.minhash import MinHash

        self._minhash = MinHash(config)

    def __call__(self, document: Document) -> None:
        """Note the document's keys."""
        document.keys[self.name] = self._minhash.bands(document.text).tolist()

    @classmethod
    def n_keys(cls, config: MinHashConfig) -> int:
        """Return the number of bands."""
        return config.bands
