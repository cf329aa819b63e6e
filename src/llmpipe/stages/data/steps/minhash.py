"""MinHash signatures of texts, and the keys of their bands (Broder 1997; Leskovec et al., "Mining of Massive Datasets", section 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmpipe.stages.data.steps.word_hashes import WordHashes, mix, random_odd

if TYPE_CHECKING:
    from llmpipe.stages.data.steps.dedup_keys import MinHashConfig

_BLOCK = 1024
"""N-grams hashed at once: 112 x 1024 numbers of 32 bits are 460 kB, and stay in the cache."""


class MinHash:
    """A key per band of a MinHash signature over the word n-grams of a text.

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
