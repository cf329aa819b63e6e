from __future__ import annotations

import math

import pytest

from llmpipe.tasks.base import Score


def wilson_by_roots(n: int, correct: int) -> tuple[float, float]:
    """The interval's ends solve (p - x)^2 = z^2 x (1 - x) / n; here by the quadratic formula."""
    z2, p = 1.959964**2, correct / n
    a, b, c = 1 + z2 / n, -(2 * p + z2 / n), p * p
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(("n", "correct"), [(1, 0), (10, 9), (100, 50), (55, 53), (1000, 1)])
def test_interval_solves_the_equation_that_defines_it(n: int, correct: int) -> None:
    assert Score(n, correct).interval == pytest.approx(wilson_by_roots(n, correct), abs=1e-9)


def test_interval_of_ten_right_in_ten_has_a_width() -> None:
    low, high = Score(10, 10).interval
    assert low == pytest.approx(0.7225, abs=1e-4)  # Wilson's published value for 10 of 10
    assert high == pytest.approx(1.0)


def test_score_counts() -> None:
    assert Score(4, 3).accuracy == 0.75
