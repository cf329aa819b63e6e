from __future__ import annotations

import math

import pytest

from llmpipe.training.schedule import Cosine, Trapezoid, lr_factor


def test_trapezoid_rises_stays_and_falls_to_the_last_step() -> None:
    schedule = Trapezoid(warmup_frac=0.1, cooldown_frac=0.5, final_frac=0.0)
    factors = [lr_factor(step, 20, schedule) for step in range(20)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2:11] == [1.0] * 9
    assert factors[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_trapezoid_without_ramps_is_constant() -> None:
    schedule = Trapezoid(warmup_frac=0.0, cooldown_frac=0.0)
    assert {lr_factor(step, 7, schedule) for step in range(7)} == {1.0}


def test_cosine_falls_to_its_final_fraction() -> None:
    schedule = Cosine(warmup_frac=0.1, final_frac=0.1)
    factors = [lr_factor(step, 100, schedule) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[99] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 89 / 90)))
    assert factors[10:] == sorted(factors[10:], reverse=True)
