r"""Cuts text into pieces as the split patterns do, a hundred thousand characters at a time.

A regular expression walks through text one match after the other. But in the patterns of this
project, where a piece begins is decided by a few neighbors: by the kind of a character (letter,
number, whitespace, …) and the kinds beside it. So numpy finds all beginnings at once, several times
as fast as a regex engine. Only counting pieces for training uses this; ids come from encoders
that run the pattern itself. Tests hold the two together, on real and on hostile text.

The rules, for `qwen2`, `llama3` and `cl100k` (see `patterns.py` for the patterns):

    letters      a run is a word; one character before it that is neither newline, letter nor number
                 belongs to it, unless that character is the end of a run of punctuation
    numbers      every digit alone (`qwen2`), or threes from the left (the others)
    punctuation  a run, with the space before it and the line breaks after it
    whitespace   up to its last line break one piece; of the rest, the last character goes with what
                 follows or stands alone, and those before it are a piece; at a text's end all of it
                 is one piece (`cl100k`)
    contractions an apostrophe that begins a piece takes `s t m d re ve ll` with it

`gpt2` is simpler: only a space (U+0020) goes with what follows, and line breaks are whitespace.
The other patterns (`o200k`, and ones read from files) are left to Python's `re`, with the classes
written out: exact as well, and a tenth as fast.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from llmpipe.tokenizer.char_classes import (
    EDGE,
    LETTER,
    NEWLINE,
    NUMBER,
    OTHER,
    SEPARATOR,
    SPACE,
    class_table,
    members,
)
from llmpipe.tokenizer.patterns import PATTERNS

_CHUNK_CHARS = 1 << 17
"""What is split at a time: small enough that the arrays stay in a processor's cache."""

_MAX_CHUNK_CHARS = 1 << 21
"""A text with no place to cut in this many characters is cut here, at the cost of one odd piece."""

_SAFE_CUT = re.compile(r"[0-9A-Za-z](?=[ \t\r\n])")
"""After a letter or digit and before whitespace, every pattern begins a new piece, and none looks
back: what follows is split as if the text began there."""

_BLANK, _APOSTROPHE, _LONG_S = ord(" "), ord("'"), ord("ſ")
_CASE_BIT = np.uint32(0x20)
_SHORT = [ord(letter) for letter in "stmd"]
_BEFORE_E = [ord(letter) for letter in "rv"]


@dataclass(frozen=True)
class Pieces:
    """Pieces of text: piece `i` is `data[starts[i] : starts[i + 1]]`; separators are pieces too."""

    data: bytes
    starts: np.ndarray


def split_texts(texts: Iterable[str], pattern: str) -> Iterator[Pieces]:
    """Cut texts (valid Unicode, with no lone surrogate) into pieces, many texts at a time."""
    yield from map(_splitter(pattern), _chunks(texts))


def split_text(text: str, pattern: str) -> list[str]:
    """Return the pieces of one text."""
    return [
        pieces.data[start:end].decode()
        for pieces in split_texts([text], pattern)
        for start, end in itertools.pairwise(pieces.starts.tolist())
    ]


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Join short texts and cut long ones, so that each chunk is a good size to split."""
    waiting: list[str] = []
    n_waiting = 0
    for text in texts:
        start = 0
        while len(text) - start > _CHUNK_CHARS:
            end = _cut_after(text, start + _CHUNK_CHARS)
            yield text[start:end]
            start = end
        waiting.append(text[start:])
        n_waiting += len(waiting[-1]) + 1
        if n_waiting >= _CHUNK_CHARS:
            yield SEPARATOR.join(waiting)
            waiting, n_waiting = [], 0
    if waiting:
        yield SEPARATOR.join(waiting)


def _cut_after(text: str, wanted: int) -> int:
    match = _SAFE_CUT.search(text, wanted, wanted + _MAX_CHUNK_CHARS)
    return match.end() if match else min(len(text), wanted + _MAX_CHUNK_CHARS)


def _splitter(pattern: str) -> Callable[[str], Pieces]:
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        PATTERNS["qwen2"]: partial(_word_starts, max_digits=1),
        PATTERNS["llama3"]: partial(_word_starts, max_digits=3),
        PATTERNS["cl100k"]: partial(_word_starts, max_digits=3, joins_end=True),
        PATTERNS["gpt2"]: _gpt2_starts,
    }
    if pattern in rules:
        return partial(_split, find=rules[pattern])
    compiled = python_pattern(pattern)
    return partial(_split_by_re, pattern=compiled)


def _split(text: str, find: Callable[[np.ndarray], np.ndarray]) -> Pieces:
    """Find where pieces start, counted in characters, and turn that into bytes."""
    # One more separator behind the text: every character has one after it.
    chars = np.frombuffer((text + SEPARATOR).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    starts = np.flatnonzero(find(chars)[:-1])
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > len(text):
        ends = np.cumsum(_utf8_lengths(chars), dtype=np.int64)
        starts = np.where(starts > 0, ends[starts - 1], 0)
    return Pieces(data, np.append(starts, len(data)))


def _utf8_lengths(chars: np.ndarray) -> np.ndarray:
    lengths = (chars >= 0x80).view(np.uint8) + (chars >= 0x800).view(np.uint8)
    lengths += (chars >= 0x10000).view(np.uint8)
    lengths += 1
    return lengths


# -- The patterns as rules over neighbors ----------------------------------------------------------


def _word_starts(chars: np.ndarray, max_digits: int, joins_end: bool = False) -> np.ndarray:
    """Mark where pieces start, for `qwen2` (1 digit), `llama3` and `cl100k` (up to 3).

    With `joins_end`, whitespace at a text's end is one piece, line breaks or not.
    """
    kinds = class_table()[chars]
    before, after = _before(kinds), _after(kinds)
    is_space = kinds == SPACE
    is_sign = (kinds == OTHER) & (before != OTHER) & ~_after_blank(chars)

    starts: np.ndarray = kinds == EDGE
    starts |= is_sign
    # One sign, then a letter: the sign belongs to the word, or begins a contraction.
    joins = is_sign & (after == LETTER)
    joined = np.zeros_like(joins)
    joined[1:] = joins[:-1]
    starts |= (kinds == LETTER) & (before != LETTER) & (before != SPACE) & ~joined
    _start_after_contractions(starts, chars, kinds, joins, ignore_case=True)

    starts |= (kinds == NEWLINE) & ((before == LETTER) | (before == NUMBER) | (before == EDGE))
    starts |= is_space & (before != SPACE) & (before != NEWLINE)
    starts |= is_space & (after != SPACE) & (after != NEWLINE) & (after != EDGE)
    after_newline = np.flatnonzero(is_space & (before == NEWLINE))
    starts[after_newline] |= _begins_anew(kinds, before, after_newline, joins_end)
    _start_numbers(starts, kinds, max_digits)
    return starts


def _gpt2_starts(chars: np.ndarray) -> np.ndarray:
    """Mark where pieces start, for `gpt2`."""
    kinds = class_table()[chars]
    kinds[kinds == NEWLINE] = SPACE
    before, after = _before(kinds), _after(kinds)
    is_space = kinds == SPACE
    is_first = ~is_space & (kinds != before) & ~_after_blank(chars)
    starts: np.ndarray = is_first | (kinds == EDGE)
    starts |= is_space & (before != SPACE)
    starts |= is_space & (after != SPACE) & (after != EDGE)
    signs = is_first & (kinds == OTHER) & (after == LETTER)
    _start_after_contractions(starts, chars, kinds, signs, ignore_case=False)
    return starts


def _before(kinds: np.ndarray) -> np.ndarray:
    before = np.empty_like(kinds)
    before[0], before[1:] = EDGE, kinds[:-1]
    return before


def _after(kinds: np.ndarray) -> np.ndarray:
    after = np.empty_like(kinds)
    after[-1], after[:-1] = EDGE, kinds[1:]
    return after


def _after_blank(chars: np.ndarray) -> np.ndarray:
    flags = np.zeros(len(chars), dtype=bool)
    flags[1:] = chars[:-1] == _BLANK
    return flags


def _begins_anew(
    kinds: np.ndarray, before: np.ndarray, spaces: np.ndarray, joins_end: bool
) -> np.ndarray:
    """Say which of the spaces that stand after a line break begin a piece.

    A piece of whitespace reaches to its last line break, so a space does if no line break follows
    in its run, or if the breaks before it belong to punctuation.
    """
    if len(spaces) == 0:
        return np.zeros(0, dtype=bool)
    space_ends = np.flatnonzero((before == SPACE) & (kinds != SPACE))
    next_kind = kinds[space_ends[np.searchsorted(space_ends, spaces, "right")]]
    break_starts = np.flatnonzero((kinds == NEWLINE) & (before != NEWLINE))
    break_start = break_starts[np.searchsorted(break_starts, spaces) - 1]
    goes_on = next_kind == NEWLINE
    if joins_end:
        goes_on |= next_kind == EDGE
    found: np.ndarray = ~goes_on | (before[break_start] == OTHER)
    return found


def _start_numbers(starts: np.ndarray, kinds: np.ndarray, max_digits: int) -> None:
    """Mark every `max_digits`-th number of a run, from its first."""
    places = np.flatnonzero(kinds == NUMBER)
    if max_digits == 1 or len(places) == 0:
        starts[places] = True
        return
    order = np.arange(len(places))
    is_first = np.diff(places, prepend=-2) != 1
    in_run = order - np.maximum.accumulate(np.where(is_first, order, 0))
    starts[places[in_run % max_digits == 0]] = True


def _start_after_contractions(
    starts: np.ndarray, chars: np.ndarray, kinds: np.ndarray, signs: np.ndarray, ignore_case: bool
) -> None:
    """Keep contractions together, and mark letters that follow one: `'st` is `'s` and `t`."""
    places = np.flatnonzero(signs & (chars == _APOSTROPHE))
    first, second = chars[places + 1], chars[places + 2]
    if ignore_case:
        # The long s is the only other character that matches one of these letters in any case.
        first = np.where(first == _LONG_S, ord("s"), first | _CASE_BIT)
        second = second | _CASE_BIT
    is_short = np.isin(first, _SHORT)
    is_long = (second == ord("e")) & np.isin(first, _BEFORE_E)
    is_long |= (first == ord("l")) & (second == ord("l"))
    starts[places[is_short | is_long] + 1] = False
    next_places = np.concatenate([places[is_short] + 2, places[is_long] + 3])
    starts[next_places[kinds[next_places] == LETTER]] = True


# -- The general way -------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def python_pattern(pattern: str) -> re.Pattern[str]:
    r"""Write a split pattern for Python's `re`, with `\p{…}` and `\s` spelled out."""

    def spell_out(match: re.Match[str]) -> str:
        inner = match[0].removeprefix("[").removesuffix("]")
        if inner == r"\S":
            return f"[^{_ranges(chr(92) + 's')}]"
        inner = re.sub(r"\\p\{\w+\}|\\s", lambda name: _ranges(name[0]), inner)
        return f"[{inner}]"

    spelled = re.sub(r"\[[^\]]*\]|\\p\{\w+\}|\\s|\\S", spell_out, pattern)
    return re.compile(spelled.replace(r"\z", r"\Z"))


def _ranges(char_class: str) -> str:
    """Return the inside of a character class with the same members."""
    codes = members(char_class)
    breaks = np.flatnonzero(np.diff(codes) != 1)
    firsts = codes[np.append(0, breaks + 1)].tolist()
    lasts = codes[np.append(breaks, len(codes) - 1)].tolist()
    return "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in zip(firsts, lasts, strict=True))


def _split_by_re(text: str, pattern: re.Pattern[str]) -> Pieces:
    pieces: list[str] = []
    for part in text.split(SEPARATOR):
        pieces += [*(match[0] for match in pattern.finditer(part)), SEPARATOR]
    data = [piece.encode("utf-8", "surrogatepass") for piece in pieces[:-1]]
    lengths = np.fromiter(map(len, data), dtype=np.int64, count=len(data))
    return Pieces(b"".join(data), np.append(0, np.cumsum(lengths)))
