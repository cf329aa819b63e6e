"""Where personal data stands in a text: see `pii.py`, whose settings are read at every start and so import none of this.

A shape alone is not enough: of 206 card-like runs of digits in 1,471 web pages 15 pass Luhn, and some of
those are ISBNs. So every number is checked by its own rule before it is replaced, what its text calls it
counts, and a placeholder is the same each time. All patterns run in linear time.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llmpipe.stages.data.steps.addresses import ADDRESS
from llmpipe.stages.data.steps.check_digits import (
    IBAN_LENGTHS,
    is_card,
    is_gtin,
    is_iban,
    is_ssn,
    luhn_sum,
)
from llmpipe.stages.data.steps.internet import find_emails, find_ipv4, find_ipv6
from llmpipe.stages.data.steps.labels import is_called_ssn, number_label
from llmpipe.stages.data.steps.phones import find_phones

if TYPE_CHECKING:
    from llmpipe.stages.data.steps.pii import PiiConfig

Span = tuple[int, int]

PLACEHOLDERS = {
    kind: f"[{kind}]" for kind in ("email", "ip", "phone", "card", "iban", "ssn", "address")
} | {
    "ipv4": "[ip]",
    "ipv6": "[ip]",
}

_RUN = re.compile(r"\d(?:[ ./()-]{0,3}+\d){6,}+", re.ASCII)
_GROUP = re.compile(r"\d+", re.ASCII)
_IBAN = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![\w-][A-Za-z]{2}\d\d)(?:[ -]?[A-Za-z0-9]){11,30}")


def replace_all(text: str, config: PiiConfig, counts: dict[str, int]) -> str:
    """Return the text with placeholders for what `config` looks for, and count that by kind."""
    n_found = 1
    # Again until nothing is found: a placeholder is short, and may bring the word "card" near to a number.
    while n_found:
        text, n_found = _replace_once(text, config, counts)
    return text


def _replace_once(text: str, config: PiiConfig, counts: dict[str, int]) -> tuple[str, int]:
    """Replace what one look finds; returns the text and how much it was."""
    found: list[tuple[int, int, str]] = []
    for kind, spans in _find(text if text.isascii() else _plain(text), config):
        for start, end in spans:
            i = bisect(found, (start, end))
            if (i == 0 or found[i - 1][1] <= start) and (i == len(found) or end <= found[i][0]):
                found.insert(i, (start, end, kind))
                counts[kind] = counts.get(kind, 0) + 1
    parts, done = [], 0
    for start, end, kind in found:
        parts += [text[done:start], PLACEHOLDERS[kind]]
        done = end
    return "".join([*parts, text[done:]]) if found else text, len(found)


def _find(text: str, config: PiiConfig) -> Iterator[tuple[str, Iterable[Span]]]:
    """Find each kind; long numbers with a check digit first: a part of one may look like a telephone number."""
    kinds = config.kinds
    if "email" in kinds:
        yield "email", find_emails(text)
    runs = [match.span() for match in _RUN.finditer(text)]
    if "iban" in kinds:
        yield "iban", find_ibans(text)
    if runs and "card" in kinds:
        yield "card", find_cards(text, runs)
    if runs and "ssn" in kinds:
        yield "ssn", find_ssns(text, runs)
    if "ipv4" in kinds:
        yield "ipv4", find_ipv4(text, config.public_ip_only)
    if "ipv6" in kinds:
        yield "ipv6", find_ipv6(text, config.public_ip_only)
    if runs and "phone" in kinds:
        yield "phone", find_phones(text, runs, config.phone_regions)
    if "address" in kinds:
        yield "address", (match.span() for match in ADDRESS.finditer(text))


_SPELLINGS = {
    **{ord(sign): str(i % 10) for first in "٠۰०০੦૦୦௦౦೦൦๐໐၀០０" for i, sign in enumerate(map(chr, range(ord(first), ord(first) + 10)))},
    **dict.fromkeys(map(ord, "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000"), " "),
    **dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2060\ufeff"), " "),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-"),
    **dict(zip(map(ord, "（）＋．＠：／，＃"), "()+.@:/,#", strict=True)),
}  # fmt: skip
_OTHER_SPELLING = re.compile(rf"[{''.join(map(chr, _SPELLINGS))}]|(?<=\d)ー(?=\d)")
"""The long mark of Kana stands for a hyphen between digits only."""


def _plain(text: str) -> str:
    """Write digits, spaces, hyphens and brackets of other scripts as ASCII, sign by sign, so that all positions stay."""
    return _OTHER_SPELLING.sub(lambda match: _SPELLINGS.get(ord(match[0]), "-"), text)


_GROUPINGS = {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (4, 4, 5), (4, 4, 4)}
"""How cards print their numbers: ISO/IEC 7812 leaves it open, the networks do not."""

_EXPIRY = re.compile(r"\D{1,8}(?:0[1-9]|1[0-2])/(?:20)?\d\d(?!\d)")


def find_cards(text: str, runs: Iterable[Span]) -> Iterator[Span]:
    """Find card numbers in runs of digits, the longest first where what follows is another number."""
    for run in runs:
        groups = [match.span() for match in _GROUP.finditer(text, *run)]
        i = 0
        while i < len(groups):
            n = _card_groups(text, groups[i : i + 19])
            around = groups[max(0, i - 1) : i] + groups[i + n : i + n + 1]
            if n and any(end - start >= 4 for start, end in around):
                # The middle of a longer number, or of a row of figures.
                n = n if number_label(text, groups[i][0]) == "card" else 0
            if n:
                yield groups[i][0], groups[i + n - 1][1]
            i += max(n, 1)


def _card_groups(text: str, groups: list[Span]) -> int:
    """Return how many groups from the first one on are a card number."""
    start = groups[0][0]
    before = text[start - 1 : start] if start else ""
    if before == "_" or before.isalnum() or before in (".", "-"):
        return 0
    if groups[0][1] - start < 3:
        return 0  # no card is printed so
    lengths: list[int] = []
    best = 0
    for i, (first, last) in enumerate(groups):
        separator = text[groups[i - 1][1] : first] if i else ""
        if i and (separator not in (" ", "-") or separator != text[groups[0][1] : groups[1][0]]):
            break
        lengths.append(last - first)
        if sum(lengths) > 19:
            break
        behind = text[last : last + 2]
        if re.match(r"\w|-[^\W\d]|\.\d", behind) or (behind[:1] == "-" and i + 1 == len(groups)):
            continue
        if sum(lengths) >= 12 and _is_card_at(text, start, last, tuple(lengths)):
            best = i + 1
    return best


def _is_card_at(text: str, start: int, end: int, lengths: tuple[int, ...]) -> bool:
    digits = re.sub("[ -]", "", text[start:end])
    if luhn_sum(digits) % 10 or len(set(digits)) < 2:
        return False
    is_certain = is_card(digits) and (len(lengths) == 1 or lengths in _GROUPINGS)
    if len(lengths) == 1 and len(digits) < 15 and is_gtin(digits):
        # An EAN has 12 to 14 digits and a check digit of its own; one in ten passes Luhn as well.
        is_certain = is_certain and _EXPIRY.match(text, end) is not None
    label = number_label(text, start)
    # Issuers come and go, so an unknown prefix with a right check digit is a card where the text says so.
    if label == "card" and len(set(digits)) > 2:
        return True
    return is_certain and label != "other"


def find_ibans(text: str) -> Iterator[Span]:
    """Find account numbers: the country says how long one is, so capitals and digits behind it do no harm."""
    for match in _IBAN.finditer(text):
        start = match.start() - 2
        length = IBAN_LENGTHS.get(text[start : start + 2].upper())
        n_signs = 0
        for end in range(start, match.end()):
            n_signs += text[end].isalnum()
            if n_signs == length:
                break
        else:
            continue
        compact = text[start : end + 1]
        behind = text[end + 1 : end + 2]
        is_one_case = compact == compact.upper() or compact == compact.lower()
        if is_one_case and not (behind == "_" or behind.isalnum()) and is_iban(compact):
            yield start, end + 1


_SSN_BARE = re.compile(r"\d{9}")


def find_ssns(text: str, runs: Iterable[Span]) -> Iterator[Span]:
    """Find US social security numbers: with hyphens, or spelled otherwise if the text says what they are."""
    for run in runs:
        groups = [match.span() for match in _GROUP.finditer(text, *run)]
        for i, (start, end) in enumerate(groups):
            last = end
            if end - start == 9:
                parts, separator = (
                    (text[start : start + 3], text[start + 3 : start + 5], text[start + 5 : end]),
                    "",
                )
            elif [b - a for a, b in groups[i : i + 3]] == [3, 2, 4]:
                parts = tuple(text[a:b] for a, b in groups[i : i + 3])  # type: ignore[assignment]
                last = groups[i + 2][1]
                separator = text[end : groups[i + 1][0]]
                if separator != text[groups[i + 1][1] : groups[i + 2][0]]:
                    continue
            else:
                continue
            before, behind = text[max(0, start - 1) : start], text[last : last + 2]
            if before in ("_", "-", ".") or before.isalnum() or re.match(r"[\w-]| \d", behind):
                continue
            if not is_ssn(*parts) or separator not in ("", "-", " ", "."):
                continue
            if is_called_ssn(text, start) or (
                separator == "-" and number_label(text, start) not in ("other", "phone")
            ):
                yield start, last
