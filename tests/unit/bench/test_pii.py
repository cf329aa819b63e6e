"""The generated sets of the bench of personal data: that their numbers are what they claim, and what the step does with a sample."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import phonenumbers
import pytest

from llmpipe.stages.data.steps.pii import PiiConfig

BENCH = Path(__file__).parents[3] / "bench"
SEED = 9
"""Neither the page's nor one that the step was built with."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("pii")
    for name in set(sys.modules) - before:
        if name in ("measure", "pii") or name.startswith("_pii"):
            del sys.modules[name]


def test_harmless_texts_are_left_alone(bench: ModuleType) -> None:
    texts = [text for _, _, text in bench._pii_harmless.texts(5_200, SEED)]
    for config in (PiiConfig(), PiiConfig(phone_regions=bench.COUNTRIES)):
        replace = bench.replacer(config)
        assert sum(replace(text) != text for text in texts) <= 5  # 1 in 1,000
    # The set can fail a tool: shapes without a check touch a third of it.
    assert sum(bench.replace_plain(text) != text for text in texts) > 1_000


@pytest.mark.parametrize(("way", "share"), [("abroad", 0.97), ("beside a word", 0.99)])
def test_telephones_of_twenty_countries_go_whole(bench: ModuleType, way: str, share: float) -> None:
    pairs = [p for c in bench._pii_personal.COUNTRIES for p in bench._pii_personal.phones(way, c, 40, SEED)]  # fmt: skip
    assert bench.share_found(bench.replacer(PiiConfig()), pairs) >= share
    assert bench.share_found(bench.replace_plain, pairs) < 0.7


@pytest.mark.parametrize("kind", ["e-mail", "IPv4", "IPv6", "card", "IBAN", "US social security"])
def test_the_other_kinds_go_whole(bench: ModuleType, kind: str) -> None:
    pairs = list(bench._pii_personal.others(kind, 500, SEED))
    assert bench.share_found(bench.replacer(PiiConfig()), pairs) >= 0.99


def test_the_hand_written_formats_are_those_of_the_plans(bench: ModuleType) -> None:
    """By another road: most numbers drawn from the table are possible by the plans that the library carries."""
    countries = bench._pii_personal.COUNTRIES
    assert len({country.code for country in countries}) == 20
    is_possible = {
        country.code: [
            phonenumbers.is_possible_number(phonenumbers.parse(number, country.code))
            for _, number in bench._pii_personal.phones("at home", country, 100, SEED)
        ]
        for country in countries
    }
    # Seven digits in Lagos and Mexico's 01 are still written, and no longer in the plan.
    assert [code for code, found in is_possible.items() if sum(found) < 90] == ["NG", "MX"]


def test_check_digits_of_the_generated_numbers() -> None:
    sys.path.insert(0, str(BENCH))
    try:
        harmless = importlib.import_module("_pii_harmless")
    finally:
        sys.path.remove(str(BENCH))
    # Published examples: ISBN 0-306-40615-2, EAN 4006381333931, ISSN 0317-8471, Luhn 79927398713.
    assert harmless._modulo_11("030640615") == "0306406152"
    assert harmless._gtin("400638133393") == "4006381333931"
    assert harmless._modulo_11("0317847") == "03178471"
    assert harmless.with_luhn("7992739871") == "79927398713"
