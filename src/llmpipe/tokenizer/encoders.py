r"""Who turns text into ids: tiktoken as the reference, splintr where it gives the same ids.

splintr encodes four times as fast as tiktoken (46 against 11 MB of mixed text per CPU second with
cl100k's vocabulary, splintr-rs 0.22 and tiktoken 0.14), and is young. So at start-up both encode one
awkward text with the vocabulary at hand; where a single id differs, tiktoken does the work.

tiktoken has one trap: a run of about a million whitespace characters overflows the regex engine's
stack in `\s+(?!\S)`, and the panic is a BaseException that prints a backtrace (openai/tiktoken
issues 15 and 245). `cut_long_runs` takes such runs out first, at places where the split
pattern would cut too, so the ids stay what they would have been.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmpipe.tokenizer.patterns import PATTERNS, WHITESPACE

if TYPE_CHECKING:
    import tiktoken

LONG_RUN = 50_000
"""Characters of whitespace from which a run is cut out. tiktoken fails near 1,000,000; 100,000
pass. Source: measured with tiktoken 0.14."""

PROBE = (
    "Hello world! It's 1, 12, 123 and 12345.67; we'LL see, I'D say 'ſ ’s.\n\n\n"
    "def f(x):\n\treturn  x ** 2  # naïve café\r\n\r\n   \n  end \x0b\x0c\x85\xa0 \u2028x\u3000y"
    "Привет, мир! 你好,世界。こんにちは ¿Qué tal? שלום مرحبا ٣٤٥ Ⅷ ½ \u212a K\u0301e\u0301 "
    "camelCaseHTTPServer snake_case 👩‍👩‍👧‍👦🇫🇷 <|bos|><|im_end|> <|endoftext|>///\n\n"
    "ﬁ ǅ ᾳ \x00\x1c\x1f\x7f \u200b\ufeff a\u0300\u0301 'Re 'vE 'm'M   \t \t!!!???\n/\n" + " " * 70
)
"""Text on which encoders are likeliest to differ: case folding, digits, every kind of space,
combining marks, several scripts, emoji, control characters, typed special tokens."""

_RUN = re.compile(f"[{WHITESPACE}]+")
_TO_LAST_NEWLINE = re.compile(r".*[\r\n]", re.DOTALL)


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
        self._whole: tiktoken.Encoding | None = None

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`; see `Encoder`."""
        text.encode("utf-8")  # tiktoken would replace a lone surrogate without a word
        parts = []
        for segment, is_piece in cut_long_runs(text, self._pattern):
            if is_piece:
                ids = self._one_piece().encode_ordinary(segment)
            else:
                ids = self._by_pattern.encode_ordinary(segment)
            parts.append(np.array(ids, dtype=np.uint32))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _one_piece(self) -> tiktoken.Encoding:
        """Return an encoding that takes its whole text as one piece; built when first needed."""
        if self._whole is None:
            self._whole = _tiktoken_encoding(self._ranks, r"[\s\S]+")
        return self._whole


class FastEncoder:
    """splintr, in the calling thread."""

    name = "splintr"

    def __init__(self, ranks: Mapping[bytes, int], pattern: str) -> None:
        import splintr

        lines = (
            base64.b64encode(token) + b" %d\n" % rank
            for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        )
        self._inner = splintr.Tokenizer.from_bytes(b"".join(lines), pattern, {})

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`; see `Encoder`."""
        return np.frombuffer(self._inner.encode_flat(text), dtype="<u4")


def choose_encoder(ranks: Mapping[bytes, int], pattern: str) -> tuple[Encoder, str]:
    """Return the fastest encoder that is exact for this vocabulary, and why it was chosen."""
    reference = ReferenceEncoder(ranks, pattern)
    try:
        fast = FastEncoder(ranks, pattern)
        equal = np.array_equal(fast.encode(PROBE), reference.encode(PROBE))
    except (ImportError, ValueError, RuntimeError) as error:
        return reference, f"encoding with tiktoken: splintr cannot be used here ({error})"
    if not equal:
        return reference, "encoding with tiktoken: splintr's ids differ for this vocabulary"
    return fast, "encoding with splintr: its ids equal tiktoken's on the probe text"


def cut_long_runs(text: str, pattern: str) -> Iterator[tuple[str, bool]]:
    r"""Cut runs of at least `LONG_RUN` whitespace characters out of `text`.

    Yields `(segment, is_piece)`: segments to be split by the pattern, and between them segments
    that are one piece of the split already. Joined they are `text`.

    Why the split cannot change: look at a run of whitespace with no line break in it, or at the
    part of a run after its last line break. No token before it reaches into it, since the only
    token that ends in whitespace is one that ends in line breaks (` ?[^\s\p{L}\p{N}]+[\r\n]*` and
    `\s*[\r\n]+`). Inside, `\s+(?!\S)` takes all of it, but for the last character when
    something other than a space follows. No pattern looks back, so what comes after is split as
    if the text began there. The pattern `gpt2` gives line breaks no special part, so there the
    whole run counts. A pattern that is not in the table is left alone.
    """
    if pattern not in PATTERNS.values() or len(text) < LONG_RUN:
        yield text, False
        return
    breaks_matter = r"\s*[\r\n]+" in pattern
    start = 0
    for run_start, run_end in _long_runs(text):
        if breaks_matter and (match := _TO_LAST_NEWLINE.match(text, run_start, run_end)):
            run_start = match.end()
        piece_end = run_end - (run_end < len(text))
        if piece_end - run_start < LONG_RUN:
            continue
        if run_start > start:
            yield text[start:run_start], False
        yield text[run_start:piece_end], True
        start = piece_end
    if start < len(text):
        yield text[start:], False


def _long_runs(text: str) -> Iterator[tuple[int, int]]:
    """Find whitespace runs of at least `LONG_RUN` by looking at every `LONG_RUN`-th character."""
    seen = 0
    for i in range(0, len(text), LONG_RUN):
        if i < seen or text[i] not in WHITESPACE:
            continue
        start = i
        while start > seen and text[start - 1] in WHITESPACE:
            start -= 1
        match = _RUN.match(text, start)
        seen = match.end() if match else i
        if seen - start >= LONG_RUN:
            yield start, seen


def _tiktoken_encoding(ranks: Mapping[bytes, int], pattern: str) -> tiktoken.Encoding:
    import tiktoken

    return tiktoken.Encoding(
        "llmpipe", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={}
    )
