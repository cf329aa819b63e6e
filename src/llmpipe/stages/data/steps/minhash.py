"""MinHash signatures of texts, and the keys of their bands (Broder 1997; Leskovec et al., "Mining of Massive Datasets", section 3.4).

The words of a text become 64-bit hashes by NumPy over all its letters at once. What counts as a word is what
`normalize_words` says: lower case, without punctuation, every number as 0. Splitting with its regular expression and
hashing word by word took 250 us for a page of 940 words, this takes 110, and remembers nothing.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from llmpipe.stages.data.steps.dedup_keys import MinHashConfig

_BLOCK = 1024
"""N-grams hashed at once: 112 x 1024 numbers of 32 bits are 460 kB, and stay in the cache."""
_LETTER, _DIGIT = 1, 2
_N_CODES = 0x10000
"""Letters beyond are rare, and looked up one by one."""
_MAX_LETTERS = 256
"""Of the letters of a longer word, the order does not count."""


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


class WordHashes:
    """Hash the words of texts: the sum of letter times a random number for its place, modulo 2⁶⁴, then mixed.

    Source: multilinear hashing, Lemire and Kaser 2014, arXiv:1202.4961.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._factors = random_odd(generator, _MAX_LETTERS)
        # The last entry, of a private code, stands for all codes beyond the table.
        self._kinds = np.fromiter(map(_kind, range(_N_CODES)), np.uint8, _N_CODES)

    def __call__(self, text: str) -> np.ndarray:
        """Return the hash of each word, in order."""
        codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), "<u4")
        if not len(codes):
            return np.empty(0, np.uint64)
        kinds = self._kinds.take(codes, mode="clip")
        if codes.max() >= _N_CODES:
            for code in np.unique(codes[codes >= _N_CODES]).tolist():
                kinds[codes == code] = _kind(code)
        is_digit, is_kept = kinds == _DIGIT, kinds != 0
        is_kept[1:] &= ~(is_digit[1:] & is_digit[:-1])  # of a number, the first digit stays
        places = np.flatnonzero(is_kept)
        if not len(places):
            return np.empty(0, np.uint64)
        is_first = np.ones(len(places), bool)
        is_first[1:] = kinds[places[1:] - 1] == 0
        starts = np.flatnonzero(is_first)
        lengths = np.diff(starts, append=len(places))
        i_letter = np.arange(len(places)) - np.repeat(starts, lengths)
        letters = codes[places]
        letters[is_digit[places]] = ord("0")
        return mix(np.add.reduceat(letters * self._factors.take(i_letter, mode="clip"), starts))


def _kind(code: int) -> int:
    """What the classes of letters and digits of a regular expression say of a letter."""
    letter = chr(code)
    if unicodedata.category(letter) == "Nd":
        return _DIGIT
    return _LETTER if letter.isalnum() or letter == "_" else 0


def mix(x: np.ndarray) -> np.ndarray:
    """Spread 64-bit numbers evenly: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def random_odd(generator: np.random.Generator, n: int) -> np.ndarray:
    """Return `n` random odd 64-bit numbers."""
    return generator.integers(0, 2**64, n, np.uint64) | np.uint64(1)
