"""Which text is left to the reference because it holds characters of Unicode 17."""

from __future__ import annotations

import pytest

from llmpipe.tokenizer.encoders import UNICODE_17, has_new_character


def found(text: str) -> bool:
    return has_new_character(text, text.encode())


@pytest.mark.parametrize("bounds", UNICODE_17)
def test_each_range_is_found_with_both_ends_and_nothing_beside_it(bounds: tuple[int, int]) -> None:
    first, last = bounds
    beside = {first - 1, last + 1} - {code for a, b in UNICODE_17 for code in (a, b)}
    assert found(f"plain naïve 你好 {chr(first)}")
    assert found(f"{chr((first + last) // 2)}")
    assert found(f"a{chr(last)}b")
    assert not any(found(f"naïve 你好 {chr(code)}") for code in beside)


def test_text_without_them_is_not_held_up() -> None:
    assert not found("")
    assert not found("plain")
    assert not found("“naïve” — Привет, мир! 你好 مرحبا 👩‍👩‍👧‍👦 \U0010ffff")
