"""The keys by which equal documents are found: of the address, of the text, and MinHash bands.

A step here never drops by itself: it notes 64-bit keys, and `grouping.py` decides when all documents have
been seen. With 64 bits, a billion documents have 0.03 wrong pairs to expect (n² / 2 / 2⁶⁴).
"""

from __future__ import annotations

from urllib.parse import urlsplit

import numpy as np
import xxhash

from llmpipe.stages.data.config import ExactDedupConfig, MinHashConfig, UrlDedupConfig
from llmpipe.stages.data.document import Document
from llmpipe.stages.data.steps.word_hashes import WordHashes, mix, random_odd


class UrlKey:
    """Note the key of a document's address."""

    def __init__(self, config: UrlDedupConfig) -> None:
        self._config = config

    def __call__(self, document: Document) -> None:
        """Note the document's keys."""
        if document.url:
            address = normalize_url(document.url, self._config.ignore_query)
            document.keys["url_dedup"] = [xxhash.xxh3_64_intdigest(address.encode())]


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


class TextKey:
    """Note the key of a document's text."""

    def __init__(self, config: ExactDedupConfig) -> None:
        self._config = config

    def __call__(self, document: Document) -> None:
        """Note the document's keys."""
        document.keys["exact_dedup"] = [xxhash.xxh3_64_intdigest(document.text.strip().encode())]


_BLOCK = 1024
"""N-grams hashed at once: 112 x 1024 numbers of 32 bits are 460 kB, and stay in the cache."""


class MinHashKeys:
    """Note one key per band of a MinHash signature over word n-grams.

    Words are compared without case and punctuation and with numbers alike, as in datatrove. N-grams are mixed from
    the 64-bit hashes of their words; the hash functions of the signature are multiply-shift with odd multipliers
    (Dietzfelbinger et al. 1997) on the upper 32 bits, which a processor does for eight numbers and more at once. Of two
    texts with a thousand n-grams each and none in common, a minimum agrees once in two million.
    """

    def __init__(self, config: MinHashConfig) -> None:
        self._config = config
        # A fixed seed of its own: keys of different runs must be comparable.
        generator = np.random.Generator(np.random.PCG64(0x4D696E48))
        n = config.bands * config.rows
        self._multipliers = generator.integers(0, 2**32, (n, 1), np.uint32) | np.uint32(1)
        self._offsets = generator.integers(0, 2**32, (n, 1), np.uint32)
        self._word_factors = random_odd(generator, config.ngram)
        self._row_factors = random_odd(generator, config.rows)
        self._word_hashes = WordHashes(generator)

    def __call__(self, document: Document) -> None:
        """Note the document's keys."""
        document.keys["minhash"] = self.bands(document.text).tolist()

    def bands(self, text: str) -> np.ndarray:
        """Return one 64-bit key per band."""
        minima = self.signature(text).reshape(self._config.bands, self._config.rows)
        return mix((mix(minima.astype(np.uint64)) * self._row_factors).sum(axis=1))

    def signature(self, text: str) -> np.ndarray:
        """Return the minimum of every hash function over the text's n-grams."""
        ngrams = self._ngram_hashes(text)
        minima = np.full(len(self._multipliers), np.iinfo(np.uint32).max, np.uint32)
        for start in range(0, len(ngrams), _BLOCK):
            hashes = self._multipliers * ngrams[start : start + _BLOCK]
            hashes += self._offsets
            np.minimum(minima, hashes.min(axis=1), out=minima)
        return minima

    def _ngram_hashes(self, text: str) -> np.ndarray:
        words = self._word_hashes(text)
        if not len(words):
            words = np.zeros(1, np.uint64)
        n = min(self._config.ngram, len(words))
        size = len(words) - n + 1
        combined = np.zeros(size, np.uint64)
        for i in range(n):
            combined += words[i : i + size] * self._word_factors[i]
        return (mix(combined) >> np.uint64(32)).astype(np.uint32)
