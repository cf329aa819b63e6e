"""Replace personal data: e-mail and IP addresses, telephone, card, account and US social security numbers.

A shape alone is not enough: of 206 card-like runs of digits in 1,471 web pages 15 pass Luhn, and some of
those are ISBNs. So every number is checked by its own rule before it is replaced, and a placeholder is the
same each time. All patterns have bounded or possessive repetition and run in linear time.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Literal

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Text
from llmpipe.stages.data.steps.addresses import ADDRESS
from llmpipe.stages.data.steps.base import Step
from llmpipe.stages.data.steps.phones import PHONE, is_phone_match

PLACEHOLDERS = {
    kind: f"[{kind}]" for kind in ("email", "ip", "phone", "card", "iban", "ssn", "address")
} | {
    "ipv4": "[ip]",
    "ipv6": "[ip]",
}

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9_][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,6}[A-Za-z]{2,24}(?![\w@])",
    re.ASCII,
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\w)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", re.ASCII)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){11,18}(?![\w-]|\.\d)", re.ASCII)
_IBAN = re.compile(
    r"(?<!\w)(?:[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}|[a-z]{2}\d{2}[a-z0-9]{11,30})(?!\w)", re.ASCII
)
_SSN = re.compile(r"(?<![\w-])(\d{3})([- ])(\d{2})\2(\d{4})(?![\w-])", re.ASCII)
_AT = re.compile("@")
_DIGITS = re.compile(r"\d[\d ./()-]{5}", re.ASCII)


@schema
class PiiConfig:
    """Replace personal data by fixed placeholders.

    FineWeb replaces e-mail and public IP addresses; the other kinds are checked by their own rules (Luhn,
    mod 97, number plans), not by shape alone.
    """

    kinds: tuple[
        Literal["email", "ipv4", "ipv6", "phone", "card", "iban", "ssn", "address"], ...
    ] = ("email", "ipv4", "ipv6", "phone", "card", "iban", "ssn")  # fmt: skip
    """What is looked for. `address`, off by default, knows the spelling of English-speaking countries only."""
    phone_regions: tuple[str, ...] = ("US",)
    """Countries whose national spelling is understood anywhere. Numbers with +country, and those beside a word such as *phone* or
    *call*, are found in any spelling."""
    public_ip_only: bool = True
    """Leave private, loopback and documentation addresses alone, as FineWeb does."""


class Pii(Step[PiiConfig]):
    """Replace personal data by placeholders and count it by kind."""

    name = "pii"
    summary = "replace personal data"

    def __init__(self, config: PiiConfig) -> None:
        finders: dict[str, tuple[re.Pattern[str], Callable[[re.Match[str]], bool]]] = {
            "email": (_EMAIL, lambda match: True),
            "iban": (_IBAN, lambda match: is_iban(match[0])),
            "card": (_CARD, _is_card_match),
            "ssn": (_SSN, lambda match: is_ssn(match[1], match[3], match[4])),
            "ipv4": (_IPV4, lambda match: is_ip(match[0], config.public_ip_only)),
            "ipv6": (_IPV6, lambda match: is_ip(match[0], config.public_ip_only)),
            "phone": (PHONE, lambda match: is_phone_match(match, config.phone_regions)),
            "address": (ADDRESS, lambda match: True),
        }
        # Long numbers with a check digit first: a part of one may look like a telephone number.
        self._finders = [
            (kind, *finder) for kind, finder in finders.items() if kind in config.kinds
        ]

    def __call__(self, document: Document) -> None:
        """Replace and count what is found."""
        text, n_found = document.text, 1
        while n_found:  # a placeholder is shorter than a number, and may bring the word "card" near to another one
            text, n_found = self._pass(text, document.pii)
        if document.pii:
            document.content = Text(text)

    def _pass(self, text: str, counts: dict[str, int]) -> tuple[str, int]:
        """Replace what one look finds; returns the text and how much it was."""
        n_found = 0
        has_digits = _DIGITS.search(text) is not None
        for kind, pattern, is_real in self._finders:
            if kind == "email" and "@" not in text:
                continue
            if kind in ("card", "iban", "ssn", "phone") and not has_digits:
                continue
            text, n = _replace(text, pattern, is_real, PLACEHOLDERS[kind])
            if n:
                counts[kind] = counts.get(kind, 0) + n
                n_found += n
        return text, n_found


def _replace(
    text: str, pattern: re.Pattern[str], is_real: Callable[[re.Match[str]], bool], placeholder: str
) -> tuple[str, int]:
    n = 0

    def substitute(match: re.Match[str]) -> str:
        nonlocal n
        if not is_real(match):
            return match[0]
        n += 1
        return placeholder

    return pattern.sub(substitute, text), n


def is_ip(text: str, public_only: bool) -> bool:
    """Tell whether a text is an address, and one of the public Internet if that is asked."""
    if public_only:
        return is_public_ip(text)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_public_ip(text: str) -> bool:
    """Tell whether an address is one of the public Internet.

    IPv6 has 2000::/3 for that (RFC 4291); beyond it, only what is written out in eight groups is taken for an address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6:
        is_written_out = text.count(":") == 7 and "::" not in text
        return address.is_global and (address in _GLOBAL_UNICAST or is_written_out)
    return address.is_global and not address.is_multicast and int(address) >> 24 < 224


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

_MAESTRO = ("5018", "5020", "5038", "5893", "6304", "6759", "6761", "6762", "6763")
_CARD_ISSUERS = (
    # (prefix from, prefix to, lengths). Source: ISO/IEC 7812 ranges as published by the card networks.
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),  # Mastercard since 2017
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),  # American Express
    ("6011", "6011", (16, 19)),  # Discover
    ("644", "649", (16, 19)),  # Discover
    ("65", "65", (16, 19)),  # Discover
    ("300", "305", (14, 16)),  # Diners Club
    ("36", "36", (14, 16)),  # Diners Club
    ("38", "39", (14, 16)),  # Diners Club
    ("3528", "3589", (16, 19)),  # JCB
    ("35", "35", (16,)),  # JCB, ranges around the published one
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("1800", "1800", (15,)),  # JCB, old
    ("2131", "2131", (15,)),  # JCB, old
    *((prefix, prefix, tuple(range(12, 20))) for prefix in _MAESTRO),
)


def is_card(text: str) -> bool:
    """Check issuer prefix, length and Luhn's sum; ISBN-13 (978, 979) has no issuer's prefix."""
    digits = re.sub("[ -]", "", text)
    fits = any(
        low <= digits[: len(low)] <= high and len(digits) in lengths
        for low, high, lengths in _CARD_ISSUERS
    )
    return fits and len(set(digits)) > 1 and luhn_sum(digits) % 10 == 0


_CARD_WORDS = re.compile(
    r"(?<!\[)\b(?:credit|debit|bank|card|visa|mastercard|maestro|amex|discover|payment|charged?)",
    re.I,
)
_CARD_WINDOW = 60
"""Characters before and behind a number in which a word about cards makes it one."""


def _is_card_match(match: re.Match[str]) -> bool:
    if is_card(match[0]):
        return True
    digits = re.sub("[ -]", "", match[0])
    if len(set(digits)) < 3 or luhn_sum(digits) % 10:
        return False
    # Issuers come and go, so an unknown prefix with a right check digit is a card where the text speaks of cards.
    start = max(0, match.start() - _CARD_WINDOW)
    return _CARD_WORDS.search(match.string, start, match.end() + _CARD_WINDOW) is not None


def luhn_sum(digits: str) -> int:
    """Return Luhn's sum (ISO/IEC 7812-1): from the right, every second digit doubled, digits added."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return sum(map(int, digits[-1::-2])) + sum(doubled)


# Length of an IBAN by country. Source: SWIFT IBAN registry.
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip


def is_iban(text: str) -> bool:
    """Check the country's length and ISO 7064's remainder 97-10."""
    compact = text.replace(" ", "").upper()
    if _IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    rotated = compact[4:] + compact[:4]
    return int("".join(str(int(sign, 36)) for sign in rotated)) % 97 == 1


def is_ssn(area: str, group: str, serial: str) -> bool:
    """Check what the US Social Security Administration never issues, and two numbers known from advertisements."""
    if area in ("000", "666") or area >= "900" or group == "00" or serial == "0000":
        return False
    return (area, group, serial) not in (("078", "05", "1120"), ("219", "09", "9999"))
