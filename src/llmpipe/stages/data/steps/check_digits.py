"""Numbers with a check digit, and numbers with a rule for what is never issued: cards, IBAN, ISBN, EAN, ISSN and US social security."""

from __future__ import annotations

import re

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


def luhn_sum(digits: str) -> int:
    """Return Luhn's sum (ISO/IEC 7812-1): from the right, every second digit doubled, digits added."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return sum(map(int, digits[-1::-2])) + sum(doubled)


# Length of an IBAN by country. Source: SWIFT IBAN registry.
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "BI": 27, "DJ": 27,
    "FK": 18, "HN": 28, "MN": 20, "NI": 28, "OM": 23, "RU": 33, "SD": 18, "SO": 23, "YE": 30,
}  # fmt: skip


def is_iban(text: str) -> bool:
    """Check the country's length and ISO 7064's remainder 97-10."""
    compact = re.sub("[ -]", "", text).upper()
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    rotated = compact[4:] + compact[:4]
    return int("".join(str(int(sign, 36)) for sign in rotated)) % 97 == 1


def is_ssn(area: str, group: str, serial: str) -> bool:
    """Check what the US Social Security Administration never issues, and two numbers known from advertisements."""
    if area in ("000", "666") or area >= "900" or group == "00" or serial == "0000":
        return False
    return (area, group, serial) not in (("078", "05", "1120"), ("219", "09", "9999"))


def is_gtin(digits: str) -> bool:
    """Check the last digit of an EAN-8, UPC-A (12), EAN-13 or GTIN-14, ISBN-13 among them (GS1 General Specifications, 7.9)."""
    weighted = sum(int(digit) * (3, 1)[i % 2] for i, digit in enumerate(digits[-2::-1]))
    return (weighted + int(digits[-1])) % 10 == 0


def is_isbn_10(text: str) -> bool:
    """Check an ISBN of ten signs in four groups or one (ISO 2108:1992: weights 10 to 1, modulo 11)."""
    if not re.fullmatch(r"\d{1,5}([ -])\d{1,7}\1\d{1,7}\1[\dX]|\d{9}[\dX]", text):
        return False
    signs = re.sub("[ -]", "", text)
    if len(signs) != 10:
        return False
    values = [10 if sign == "X" else int(sign) for sign in signs]
    return sum((10 - i) * value for i, value in enumerate(values)) % 11 == 0


def is_issn(text: str) -> bool:
    """Check an ISSN, `0317-8471` (ISO 3297: weights 8 to 1, modulo 11)."""
    if not re.fullmatch(r"\d{4}-\d{3}[\dX]", text):
        return False
    values = [10 if sign == "X" else int(sign) for sign in text.replace("-", "")]
    return sum((8 - i) * value for i, value in enumerate(values)) % 11 == 0
