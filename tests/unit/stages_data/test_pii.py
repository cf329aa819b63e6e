"""Truth table of personal data. All numbers are published examples or made up from their check digits."""

from __future__ import annotations

import time

import pytest

from llmpipe.stages.data.document import Document, Text
from llmpipe.stages.data.steps.pii import Pii, PiiConfig, is_card, is_iban, luhn_sum

REPLACE = Pii(PiiConfig())


def replaced(text: str, step: Pii = REPLACE) -> tuple[str, dict[str, int]]:
    document = Document(url="", date="", content=Text(text))
    step(document)
    return document.text, document.pii


FOUND = [
    ("email", "write to jane.doe+news@mail.example.co.uk today", "write to [email] today"),
    ("email", "(bob@example.org)", "([email])"),
    ("email", "mailto:bob_b@example.org.", "mailto:[email]."),
    ("ipv4", "from 8.8.8.8 at noon", "from [ip] at noon"),
    ("ipv4", "http://93.184.216.34:8080/", "http://[ip]:8080/"),
    ("ipv6", "to 2001:4860:4860::8888, then", "to [ip], then"),
    ("phone", "call +44 20 7946 0958 now", "call [phone] now"),
    ("phone", "call (415) 555-2671.", "call [phone]."),
    ("phone", "Tel. 650-253-0000", "Tel. [phone]"),
    ("card", "card 4111 1111 1111 1111 ok", "card [card] ok"),
    ("card", "5500005555555559", "[card]"),
    ("card", "3782-822463-10005", "[card]"),
    ("card", "6759 6498 2643 8453", "[card]"),
    ("card", "630427373398", "[card]"),
    ("iban", "IBAN GB82 WEST 1234 5698 7654 32.", "IBAN [iban]."),
    ("iban", "DE89370400440532013000", "[iban]"),
    ("ssn", "SSN 536-22-8726", "SSN [ssn]"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), FOUND)
def test_personal_data_is_replaced(kind: str, text: str, expected: str) -> None:
    assert replaced(text) == (expected, {kind: 1})


NOT_PERSONAL = [
    "user@localhost and a@b",
    "version 1.2.3.4.5 of it",
    "on 127.0.0.1, 10.1.2.3, 192.168.0.1, 224.0.0.1 and 300.1.2.3",
    "::1, fe80::1, 2001:db8::1 and std::vector::at",
    "at 12:34:56 on 2024-05-17, pages 1999-2005",
    "4111 1111 1111 1112 fails Luhn",
    "ISBN 978-0-306-40615-7 and 9780306406157",
    "0000 0000 0000 0000",
    "GB82 WEST 1234 5698 7654 33 fails mod 97",
    "666-22-8726, 000-12-3456, 900-12-3456, 123-00-4567, 123-45-0000, 078-05-1120",
    "order 123456789012 of item 4155552671",
    "pi is 3.14159265358979",
    "$ 1 200 300 400",
]


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_other_text_stays(text: str) -> None:
    assert replaced(text) == (text, {})


def test_several_are_counted_by_kind() -> None:
    text, counts = replaced("a@example.org b@example.org 8.8.4.4 and 4111111111111111")
    assert text == "[email] [email] [ip] and [card]"
    assert counts == {"email": 2, "ipv4": 1, "card": 1}


def test_result_has_nothing_left_to_find() -> None:
    text = " ".join(source for _, source, _ in FOUND)
    once, _ = replaced(text)
    assert replaced(once) == (once, {})


def test_kinds_and_region_are_settings() -> None:
    only_ip = Pii(PiiConfig(kinds=("ipv4",)))
    assert replaced("a@example.org 8.8.8.8", only_ip) == ("a@example.org [ip]", {"ipv4": 1})
    abroad = Pii(PiiConfig(phone_regions=()))
    assert replaced("650-253-0000 or +1 650-253-0000", abroad)[1] == {"phone": 1}


def test_luhn_by_the_published_example() -> None:
    # ISO/IEC 7812-1's example 7992739871 has check digit 3: 67 + 3 = 70.
    assert luhn_sum("79927398713") == 70
    assert luhn_sum("79927398710") == 67


def test_prefix_and_length_are_needed() -> None:
    assert is_card("4111111111111111")
    assert not is_card("9111111111111111"[:-1] + "3")
    assert not is_iban("GB82WEST123456987654321")


@pytest.mark.parametrize(
    "unit", ["1-", "a@", "1.", "1 ", "a.", "AB12 ", "1:", "(1", "x@x.", "+1(", "0" * 7 + " "]
)
def test_patterns_are_linear(unit: str) -> None:
    """A megabyte of hostile text takes no more than ten times ten times less of it."""
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    replaced(text[:100_000])
    small = time.process_time() - started
    assert small < 1.5


def cleaned(text: str, config: PiiConfig | None = None) -> str:
    page = Document(url="", date="", content=Text(text))
    Pii(config or PiiConfig())(page)
    return page.text


def test_unknown_issuers_are_cards_where_the_text_speaks_of_cards() -> None:
    # 584528792610 passes Luhn; its prefix is in no table.
    assert cleaned("my credit card 584528792610 was lost") == "my credit card [card] was lost"
    assert cleaned("article 584528792610 is sold out") == "article 584528792610 is sold out"
    assert cleaned("my credit card 584528792611 was lost").count("584528792611") == 1


def test_ibans_in_small_letters() -> None:
    assert cleaned("pay to gb42nawi04454264788619 today") == "pay to [iban] today"
    assert cleaned("GB56HXDO88167774656119 is mine") == "[iban] is mine"


def test_private_addresses_only_if_asked() -> None:
    text = "from 192.168.0.7 to fe80::1ff:fe23:4567:890a"
    assert cleaned(text) == text
    assert cleaned(text, PiiConfig(public_ip_only=False)) == "from [ip] to [ip]"


def test_dates_are_no_telephone_numbers() -> None:
    everywhere = PiiConfig(phone_regions=("US", "FR", "SE", "FI"))
    assert cleaned("born on 6/24/1991 in Paris", everywhere) == "born on 6/24/1991 in Paris"
    assert cleaned("call 01.84.17.61.18 now", everywhere) == "call [phone] now"


def test_an_independent_detector_finds_nothing_left() -> None:
    """Plain shapes without any check, on a text full of personal data."""
    import re

    text = cleaned(
        "Mail jane.doe@example.org or bob+x@mail.example.co.uk. Card 4111-1111-1111-1111, IBAN DE89370400440532013000, "
        "SSN 536-22-8726, phone +1 415 555 2671 from 8.8.8.8 and 2001:4860:4860::8888."
    )
    assert not re.search(r"\S+@\S+|(?:\d[ -]?){9,}|(?:\d{1,3}\.){3}\d|(?:[0-9a-f]{4}:){2}", text)
    assert text.count("[") == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Phone:\n0393 1144137", "Phone:\n[phone]"),
        ("please call 0345 744 4422 or 03456 005 165.", "please call [phone] or [phone]."),
        ("(37) 788-063-Office", "[phone]-Office"),
        ("+46 (0)8 928 571 38 fax", "[phone] fax"),
        ("call 555-0100-2000 x58 now", "call [phone] now"),
        ("open 1990-2001, call it a day", "open 1990-2001, call it a day"),
        ("the call of 2023-04-17 ended", "the call of 2023-04-17 ended"),
        ("we called. 12345678 items", "we called. 12345678 items"),
        ("order 0393 1144137", "order 0393 1144137"),
    ],
)
def test_a_word_about_telephones_makes_a_number_one(text: str, expected: str) -> None:
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He lives at 1600 Pennsylvania Avenue NW.", "He lives at [address] NW."),
        ("12 N. 5th St, Apt 4, Springfield, IL 62701 is it", "[address] is it"),
        ("P.O. Box 149 in town", "[address] in town"),
        ("in 2024 Wall Street fell", "in [address] fell"),  # what such a shape costs
        ("10 Downing lane", "10 Downing lane"),
        ("the 3 Musketeers Way back", "the [address] back"),
    ],
)
def test_street_addresses_if_asked(text: str, expected: str) -> None:
    assert cleaned(text, PiiConfig(kinds=("address",))) == expected
    assert "[address]" not in cleaned(text)


def test_addresses_beyond_the_public_internet_if_written_out() -> None:
    assert cleaned("from 6e40:4041:c617:e898:c11:40d2:c669:2eb4 today") == "from [ip] today"
    assert cleaned("at 12:30:45 and fe80::1") == "at 12:30:45 and fe80::1"
