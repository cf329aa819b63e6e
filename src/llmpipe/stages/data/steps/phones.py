"""Telephone numbers: what shows that a run of digits is one.

A number plan alone decides little: most runs of ten digits are valid somewhere, and few of those on web pages are telephones.
So a number counts if one of three things speaks for it: a plus and a country code that fit a number plan, a national
spelling with separators that is valid in a wanted country, or a word beside it that speaks of telephones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PHONE = re.compile(
    r"(?<![\w.,$€£%/=-])\+?\(?\d(?:[ ./()-]{0,2}\d){6,14}(?: ?(?:x|ext\.?) ?\d{1,6})?(?![\w%])",
    re.ASCII | re.I,
)
_DATE = re.compile(r"\d{1,4}([ ./-])\d{1,2}\1(?:\d{4}|\d{1,2})")
_YEARS = re.compile(r"(?:1[89]|20)\d\d[ /-]{1,3}(?:1[89]|20)\d\d")
_EXTENSION = re.compile(r" ?(?:x|ext\.?) ?\d+\Z", re.I)
_WORD_BEFORE = re.compile(
    r"\b(?:(?:tele|i)?phone|tel|mobile|mob|cell|fax|desk|hotline|helpline|whatsapp|sms|dial|ring|texte?d?|call(?:s|ed|ing)?"
    r"|messages? to|answering at|reach(?:ed)? (?:\w+ )?(?:at|on))"
    r"\b[^\d.!?]{0,16}\Z"
    r"|\[phone\]\W{0,3}(?:or|and)?\W{0,3}\Z",  # another one behind it
    re.I,
)
_WORD_BEHIND = re.compile(r"\W{1,3}(?:mobile|fax|cell|phone|desk|office|home)\b", re.I)
_WINDOW = 40


def is_phone(text: str, regions: Sequence[str]) -> bool:
    """Ask the number plans. A national number must be written with separators: bare digits are mostly ids.

    Args:
        text: the number as it is written.
        regions: ISO 3166 codes of the countries whose national spelling counts.
    """
    import phonenumbers

    is_international = text.startswith("+")
    if not is_international:
        groups = re.findall(r"\d+", _EXTENSION.sub("", text))
        if _looks_like_dates(text) or len(groups) < 3 or len(groups[0]) == 4:
            return False  # 2024-05-17 and 1999/2000 begin with four digits
    for region in [None] if is_international else regions:
        try:
            number = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException:
            continue
        # After a plus even a number that nobody has yet can be meant as nothing else.
        if phonenumbers.is_valid_number(number) or (
            is_international and phonenumbers.is_possible_number(number)
        ):
            return True
    return False


def is_phone_match(match: re.Match[str], regions: Sequence[str]) -> bool:
    """Tell whether a match is a telephone number, by its plan or by the words around it."""
    if is_phone(match[0], regions):
        return True
    if _looks_like_dates(match[0]) or not 7 <= sum(map(str.isdigit, match[0])) <= 15:
        return False
    before = match.string[max(0, match.start() - _WINDOW) : match.start()]
    if _WORD_BEFORE.search(before):
        return True
    return _WORD_BEHIND.match(match.string, match.end()) is not None


def _looks_like_dates(text: str) -> bool:
    return bool(_DATE.fullmatch(text) or _YEARS.fullmatch(text))
