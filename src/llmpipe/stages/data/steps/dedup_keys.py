"""The keys by which equal documents are found: of the address, of the text, and MinHash bands.

A step here never drops by itself: it notes 64-bit keys, and `grouping.py` decides when all documents have
been seen. With 64 bits, a billion documents have 0.03 wrong pairs to expect (n² / 2 / 2⁶⁴).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import numpy as np
import xxhash

from llmpipe.stages.data.config import ExactDedupConfig, MinHashConfig, UrlDedupConfig
from llmpipe.stages.data.document import Document


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


_MAX_NUMBERS = 200_000
"""Words remembered, about 25 MB."""


class _WordNumbers(dict[str, int]):
    """The hash of each word, made when it is first asked for: texts use the same words again and again."""

    def __missing__(self, word: str) -> int:
        number = self[word] = xxhash.xxh3_64_intdigest(word.encode())
        return number


class MinHashKeys:
    """Note one key per band of a MinHash signature over word n-grams.

    Words are compared without case and punctuation and with numbers alike, as in datatrove. A word is
    hashed once; n-grams, hash functions and bands are NumPy arithmetic modulo 2⁶⁴. The hash functions are
    multiply-shift with odd multipliers (Dietzfelbinger et al. 1997) over mixed 64-bit n-gram hashes.
    """

    def __init__(self, config: MinHashConfig) -> None:
        self._config = config
        self._numbers = _WordNumbers()
        # A fixed seed of its own: keys of different runs must be comparable.
        generator = np.random.Generator(np.random.PCG64(0x4D696E48))
        n = config.bands * config.rows
        self._multipliers = generator.integers(0, 2**64, n, dtype=np.uint64) | np.uint64(1)
        self._offsets = generator.integers(0, 2**64, n, dtype=np.uint64)
        self._word_factors = generator.integers(
            0, 2**64, config.ngram, dtype=np.uint64
        ) | np.uint64(1)
        self._row_factors = generator.integers(0, 2**64, config.rows, dtype=np.uint64) | np.uint64(
            1
        )

    def __call__(self, document: Document) -> None:
        """Note the document's keys."""
        document.keys["minhash"] = self.bands(document.text).tolist()

    def bands(self, text: str) -> np.ndarray:
        """Return one 64-bit key per band."""
        minima = self.signature(text).reshape(self._config.bands, self._config.rows)
        return _mix((minima * self._row_factors).sum(axis=1, dtype=np.uint64))

    def signature(self, text: str) -> np.ndarray:
        """Return the minimum of every hash function over the text's n-grams."""
        ngrams = self._ngram_hashes(text)
        minima = np.full(len(self._multipliers), np.iinfo(np.uint64).max, np.uint64)
        for start in range(
            0, len(ngrams), 256
        ):  # 112 x 256 numbers are 230 kB, and stay in the cache
            part = ngrams[start : start + 256]
            hashes = self._multipliers[:, None] * part[None, :] + self._offsets[:, None]
            np.minimum(minima, hashes.min(axis=1), out=minima)
        return minima

    def _ngram_hashes(self, text: str) -> np.ndarray:
        words = normalize_words(text)
        if len(self._numbers) > _MAX_NUMBERS:
            self._numbers.clear()
        hashes = np.array([self._numbers[word] for word in words] or [0], np.uint64)
        n = min(self._config.ngram, len(hashes))
        size = len(hashes) - n + 1
        combined = np.zeros(size, np.uint64)
        for i in range(n):
            combined += hashes[i : i + size] * self._word_factors[i]
        return _mix(combined)


_WORD = re.compile(r"\w+")
_DIGITS = re.compile(r"\d+")


def normalize_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation, every number as 0."""
    return _WORD.findall(_DIGITS.sub("0", text.lower()))


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread 64-bit numbers evenly: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
