r"""Who turns text into ids: tiktoken as the reference, gigatoken where it gives the same ids.

gigatoken encodes four to twenty times as fast as tiktoken (see docs/results/tokenize.md), and is
young. So at start-up both encode one awkward text with the vocabulary at hand; where a single id
differs, tiktoken does the work. splintr-rs, as exact, is half as fast: docs/decisions/0012.
"""

from __future__ import annotations

import resource
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmpipe.tokenizer.merges import Merge, read_ranks, write_ranks
from llmpipe.tokenizer.patterns import cut_long_runs, pattern_name

if TYPE_CHECKING:
    import tiktoken

PROBE = (
    "Hello world! It's 1, 12, 123 and 12345.67; we'LL see, I'D say 'ſ ’s.\n\n\n"
    "def f(x):\n\treturn  x ** 2  # naïve café\r\n\r\n   \n  end \x0b\x0c\x85\xa0 \u2028x\u3000y"
    "Привет, мир! 你好,世界。こんにちは ¿Qué tal? שלום مرحبا ٣٤٥ Ⅷ ½ \u212a K\u0301e\u0301 "
    "camelCaseHTTPServer snake_case 👩‍👩‍👧‍👦🇫🇷 <|bos|><|im_end|> <|endoftext|>///\n\n"
    "ﬁ ǅ ᾳ \x00\x1c\x1f\x7f \u200b\ufeff a\u0300\u0301 'Re 'vE 'm'M   \t \t!!!???\n/\n" + " " * 70
)
"""Text on which encoders are likeliest to differ: case folding, digits, every kind of space,
combining marks, several scripts, emoji, control characters, typed special tokens."""

_GIGATOKEN_SPLITTERS = {
    "qwen2": "qwen2",
    "gpt2": "gpt2",
    "cl100k": "gpt4",
    "llama3": "olmo3",
    "o200k": "o200k",
}
"""What gigatoken calls the patterns that it has a splitter for."""

UNICODE_17 = (
    (0x088F, 0x088F), (0x0C5C, 0x0C5C), (0x0CDC, 0x0CDC), (0x1ACF, 0x1ADD), (0x1AE0, 0x1AEB),
    (0xA7CE, 0xA7CF), (0xA7D2, 0xA7D2), (0xA7D4, 0xA7D4), (0xA7F1, 0xA7F1), (0x10940, 0x10959),
    (0x10EC5, 0x10EC7), (0x10EFA, 0x10EFB), (0x11B60, 0x11B67), (0x11DB0, 0x11DDB),
    (0x11DE0, 0x11DE9), (0x16EA0, 0x16EB8), (0x16EBB, 0x16ED3), (0x16FF2, 0x16FF6),
    (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DF2), (0x1E6C0, 0x1E6DE),
    (0x1E6E0, 0x1E6F5), (0x1E6FE, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD),
    (0x323B0, 0x33479),
)  # fmt: skip
"""First and last code points of what came with Unicode 17, which gigatoken 0.10 knows and tiktoken
0.14 does not: letters, digits and marks to one, unknown signs to the other, so text with them is
split differently and left to tiktoken. Source: measured. A test compares the two engines on every
code point, so that a release which knows more is noticed."""

_FIRST_LEAD = 0xE0
"""All of them have three bytes or four in UTF-8, the first of which is at least this."""

_LOOK_EVERY_BYTES = 4 << 20
_MEMORY_BYTES = 64 << 20
"""Memory that gigatoken may take for remembered pieces. 60 MB of text in 75 languages fill it."""


class Encoder(Protocol):
    """Encodes ordinary text: nothing typed in it becomes a special token."""

    name: str

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text` as uint32. Raises UnicodeEncodeError on a lone surrogate."""
        ...


class ReferenceEncoder:
    """tiktoken, guarded against long runs of whitespace."""

    name = "tiktoken"

    def __init__(self, ranks: Mapping[bytes, int], pattern: str) -> None:
        self._ranks = ranks
        self._pattern = pattern
        self._by_pattern = _tiktoken_encoding(ranks, pattern)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`; see `Encoder`."""
        text.encode("utf-8")  # tiktoken would replace a lone surrogate without a word
        parts = []
        for segment, is_piece in cut_long_runs(text, self._pattern):
            encoding = self._whole if is_piece else self._by_pattern
            parts.append(np.array(encoding.encode_ordinary(segment), dtype=np.uint32))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    @cached_property
    def _whole(self) -> tiktoken.Encoding:
        """An encoding that takes its whole text as one piece."""
        return _tiktoken_encoding(self._ranks, r"[\s\S]+")


class FastEncoder:
    """gigatoken, in the calling thread, with a bound on the memory that it keeps.

    It remembers the ids of every different piece that it met, and has no way to forget; so from
    time to time it is built anew.
    """

    name = "gigatoken"

    def __init__(self, rank_lines: bytes, pattern: str) -> None:
        """Build the encoder from what a rank file holds.

        Raises:
            ValueError: if gigatoken has no splitter for the pattern.
        """
        name = pattern_name(pattern)
        if name is None:
            raise ValueError("it has no splitter for this pattern")
        self._splitter = _GIGATOKEN_SPLITTERS[name]
        self.rank_lines, self._pattern = rank_lines, pattern
        self._build()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`; see `Encoder`."""
        data = text.encode("utf-8")
        if has_new_character(text, data):
            return self._reference.encode(text)
        self._n_bytes += len(data)
        if self._n_bytes >= _LOOK_EVERY_BYTES:
            self._forget_if_large()
        ids: np.ndarray = self._inner.encode(data)
        return ids

    def merges(self) -> list[Merge]:
        """Return the vocabulary's merges, which gigatoken finds twenty times as fast as Python."""
        found: list[Merge] = self._inner.merges
        return found

    def _build(self) -> None:
        from gigatoken.gigatoken_rs import BPETokenizer

        with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
            file.write(self.rank_lines)
            file.flush()
            self._inner = BPETokenizer.from_tiktoken(file.name, self._splitter)
        self._n_bytes = 0
        self._memory_at_start = _resident_bytes()

    def _forget_if_large(self) -> None:
        self._n_bytes = 0
        if _resident_bytes() - self._memory_at_start > _MEMORY_BYTES:
            del self._inner
            self._build()

    @cached_property
    def _reference(self) -> ReferenceEncoder:
        return ReferenceEncoder(read_ranks(self.rank_lines, "ranks"), self._pattern)


class NormalizingEncoder:
    """Brings text to NFC, where é is always one character, as Qwen's own files ask for."""

    def __init__(self, inner: Encoder) -> None:
        self.name = inner.name
        self._inner = inner

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`; see `Encoder`."""
        return self._inner.encode(unicodedata.normalize("NFC", text))


@dataclass(frozen=True)
class EncoderPlan:
    """What another process needs to encode as this one does; cheaper to open than a tokenizer."""

    name: str
    rank_file: Path
    pattern: str
    nfc: bool

    def open(self) -> Encoder:
        """Build the encoder, without comparing it with the reference once more."""
        rank_lines = self.rank_file.read_bytes()
        encoder: Encoder
        if self.name == FastEncoder.name:
            encoder = FastEncoder(rank_lines, self.pattern)
        else:
            encoder = ReferenceEncoder(read_ranks(rank_lines, str(self.rank_file)), self.pattern)
        return NormalizingEncoder(encoder) if self.nfc else encoder


def choose_encoder(
    ranks: Mapping[bytes, int], pattern: str, nfc: bool = False, is_merged: bool = True
) -> tuple[Encoder, str]:
    """Return the fastest encoder that is exact for this vocabulary, and why it was chosen.

    `is_merged` says whether merges make every token; gigatoken panics where they do not.
    """
    encoder, why = _choose(ranks, pattern, is_merged)
    return (NormalizingEncoder(encoder) if nfc else encoder), why


def _choose(ranks: Mapping[bytes, int], pattern: str, is_merged: bool) -> tuple[Encoder, str]:
    if not is_merged:
        why = "encoding with tiktoken: no merge makes some tokens of this vocabulary"
        return ReferenceEncoder(ranks, pattern), why
    try:
        # One after the other: the second takes the memory that the first gave back.
        expected = ReferenceEncoder(ranks, pattern).encode(PROBE)
        fast = FastEncoder(write_ranks(ranks), pattern)
        if np.array_equal(fast.encode(PROBE), expected):
            return fast, "encoding with gigatoken: its ids equal tiktoken's on the probe text"
        why = "gigatoken's ids differ for this vocabulary"
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        # Its module is private, and another version may have other names and arguments.
        why = f"gigatoken cannot be used here ({error})"
    return ReferenceEncoder(ranks, pattern), f"encoding with tiktoken: {why}"


def _resident_bytes() -> int:
    """Return this process's memory; where the system does not say, the most that it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _tiktoken_encoding(ranks: Mapping[bytes, int], pattern: str) -> tiktoken.Encoding:
    import tiktoken

    return tiktoken.Encoding(
        "llmpipe", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={}
    )


def has_new_character(text: str, data: bytes) -> bool:
    """Say whether one of the characters in `UNICODE_17` is in a text.

    Looking at two bytes of each long character in `data`, the same text in UTF-8, rules out nearly
    all texts, at 4 GB/s.
    """
    if len(text) == len(data):
        return False
    values = np.frombuffer(data, dtype=np.uint8)
    leads = np.flatnonzero(values >= _FIRST_LEAD)
    beginnings = values[leads].astype(np.uint16) << 8 | values[leads + 1]
    if not _beginnings()[beginnings].any():
        return False
    chars = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return any(bool(((chars >= first) & (chars <= last)).any()) for first, last in UNICODE_17)


@lru_cache(maxsize=1)
def _beginnings() -> np.ndarray:
    """Return for every two bytes whether one of the characters begins with them."""
    table = np.zeros(1 << 16, dtype=bool)
    for first, last in UNICODE_17:
        for code in (*range(first, last, 64), last):
            table[int.from_bytes(chr(code).encode()[:2], "big")] = True
    return table
