"""Learning rate schedules: functions from progress to a factor of the peak rate.

Steps count from 0; the factor of step `n_steps - 1` is the last one used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from llmpipe.core.config import schema


@schema
@dataclass(frozen=True)
class Trapezoid:
    """Up, level, and straight down: the level part can be extended later (WSD).

    Source: Haegele et al. 2024, arXiv:2405.18392; the long way down is karpathy/nanochat's.
    """

    kind: Literal["trapezoid"] = "trapezoid"
    warmup_frac: Annotated[float, Ge(0), Le(1)] = 0.02
    """Share of the steps in which the rate rises from 0."""
    cooldown_frac: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the steps in which the rate falls to `final_frac`."""
    final_frac: Annotated[float, Ge(0), Le(1)] = 0.0
    """Rate at the end, as a share of the peak."""


@schema
@dataclass(frozen=True)
class Cosine:
    """Up, then down along half a cosine. Source: Loshchilov and Hutter 2017, arXiv:1608.03983."""

    kind: Literal["cosine"] = "cosine"
    warmup_frac: Annotated[float, Ge(0), Le(1)] = 0.02
    """Share of the steps in which the rate rises from 0."""
    final_frac: Annotated[float, Ge(0), Le(1)] = 0.1
    """Rate at the end, as a share of the peak. Source: Brown et al. 2020, appendix B."""


Schedule = Trapezoid | Cosine


def warmup(step: int, n_warmup: int) -> float:
    """Rise in a line; the first step already moves."""
    return min(1.0, (step + 1) / n_warmup) if n_warmup else 1.0


def trapezoid(step: int, n_steps: int, schedule: Trapezoid) -> float:
    """Give the factor at `step`; the last step is one cooldown's fraction above `final_frac`."""
    n_cooldown = round(n_steps * schedule.cooldown_frac)
    left = min(1.0, (n_steps - step) / n_cooldown) if n_cooldown else 1.0
    falling = schedule.final_frac + (1 - schedule.final_frac) * left
    return min(warmup(step, round(n_steps * schedule.warmup_frac)), falling)


def cosine(step: int, n_steps: int, schedule: Cosine) -> float:
    """Give the factor at `step`."""
    n_warmup = round(n_steps * schedule.warmup_frac)
    if step < n_warmup:
        return warmup(step, n_warmup)
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    height = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.final_frac + (1 - schedule.final_frac) * height


def lr_factor(step: int, n_steps: int, schedule: Schedule) -> float:
    """Give the factor of the peak learning rate at `step` of `n_steps`."""
    if isinstance(schedule, Trapezoid):
        return trapezoid(step, n_steps, schedule)
    return cosine(step, n_steps, schedule)
