from __future__ import annotations

import math

import pytest

from llmpipe.core.errors import UserError
from llmpipe.training.schedule import Cosine, Schedule, Trapezoid, describe, lr_factor, phases


def factors_of(schedule: Schedule, n_steps: int, step_tokens: int = 100) -> list[float]:
    parts = phases(schedule, n_steps, step_tokens)
    return [lr_factor(step, parts) for step in range(n_steps)]


def test_trapezoid_rises_stays_and_falls_to_the_last_step() -> None:
    factors = factors_of(Trapezoid(warmup_frac=0.1, cooldown_frac=0.5, final_frac=0.0), 20)
    assert factors[:2] == [0.5, 1.0]
    assert factors[2:11] == [1.0] * 9
    assert factors[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_trapezoid_without_ramps_is_constant() -> None:
    assert set(factors_of(Trapezoid(warmup_frac=0.0, cooldown_frac=0.0), 7)) == {1.0}


def test_cosine_falls_to_its_final_fraction() -> None:
    factors = factors_of(Cosine(warmup_frac=0.1, final_frac=0.1), 100)
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[99] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 89 / 90)))
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_nothing_said_is_two_and_fifty_percent() -> None:
    parts = phases(Trapezoid(), 200, 100)
    assert (parts.n_warmup, parts.n_level, parts.n_cooldown) == (4, 96, 100)
    assert phases(Cosine(), 200, 100).n_warmup == 4


def test_lengths_in_tokens_are_those_of_the_steps_they_fill() -> None:
    in_tokens = Trapezoid(warmup_tokens=400, cooldown_tokens=1000, final_frac=0.2)
    in_shares = Trapezoid(warmup_frac=0.2, cooldown_frac=0.5, final_frac=0.2)
    assert factors_of(in_tokens, 20) == factors_of(in_shares, 20)
    assert factors_of(Cosine(warmup_tokens=400), 20) == factors_of(Cosine(warmup_frac=0.2), 20)
    # 401 tokens need a fifth step, and none need none
    assert phases(Trapezoid(warmup_tokens=401), 20, 100).n_warmup == 5
    assert phases(Trapezoid(warmup_tokens=0, cooldown_tokens=0), 20, 100).n_level == 20


def test_a_longer_run_in_tokens_begins_as_the_shorter_one() -> None:
    schedule = Trapezoid(warmup_tokens=300, cooldown_tokens=800)
    short, long = factors_of(schedule, 20), factors_of(schedule, 50)
    assert short[:12] == long[:12] == [1 / 3, 2 / 3, *[1.0] * 10]
    assert short[12:] == long[42:] == [1 - i / 8 for i in range(8)]


def test_shares_may_overlap_and_the_lower_ramp_counts() -> None:
    factors = factors_of(Trapezoid(warmup_frac=1.0, cooldown_frac=1.0), 4)
    assert factors == [0.25, 0.5, 0.5, 0.25]


def test_tokens_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"warm-up \(3 steps\) and cooldown \(8 steps\) do not fit"):
        phases(Trapezoid(warmup_tokens=300, cooldown_tokens=800), 10, 100)
    with pytest.raises(UserError, match=r"which has 10 steps of 100 tokens") as refused:
        phases(Cosine(warmup_tokens=1001), 10, 100)
    assert refused.value.hint == "lower `schedule.warmup_tokens`, or train on more tokens"
    assert phases(Cosine(warmup_tokens=1000), 10, 100).n_cooldown == 0


@pytest.mark.parametrize("part", ["warmup", "cooldown"])
def test_a_length_said_twice_is_refused(part: str) -> None:
    with pytest.raises(UserError, match=rf"`schedule.{part}_frac` \(0.1\) and .* \(5,000\) both"):
        Trapezoid(**{f"{part}_frac": 0.1, f"{part}_tokens": 5000})
    with pytest.raises(UserError, match="both say how long the warmup is"):
        Cosine(warmup_frac=0.0, warmup_tokens=1)


def test_description_has_steps_and_tokens_of_each_part() -> None:
    trapezoid = phases(Trapezoid(warmup_tokens=400, cooldown_frac=0.5), 20, 100)
    assert describe(trapezoid, 100) == (
        "trapezoid: warm-up 4 steps (400 tokens), level 6 steps (600 tokens), "
        "down to 0 in 10 steps (1,000 tokens)"
    )
    assert describe(phases(Cosine(), 100, 100), 100) == (
        "cosine: warm-up 2 steps (200 tokens), down to 0.1 in 98 steps (9,800 tokens)"
    )
