"""Learning rate schedules: functions from progress to a factor of the peak rate.

Settings give warm-up and cooldown as shares of the run or in tokens. Shares suit any length; tokens
stay what they are when a run gets longer, which is what extending one needs. `phases` turns either
into steps, once, and `lr_factor` reads those.

Steps count from 0; the factor of step `n_steps - 1` is the last one used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from llmpipe.core.config import schema
from llmpipe.core.errors import UserError

WARMUP_FRAC = 0.02
COOLDOWN_FRAC = 0.5


@schema
class Trapezoid:
    """Up, level, and straight down: the level part can be extended later (WSD).

    Source: Haegele et al. 2024, arXiv:2405.18392; the long way down is karpathy/nanochat's.
    """

    kind: Literal["trapezoid"] = "trapezoid"
    warmup_frac: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of the steps in which the rate rises from 0; without it and `warmup_tokens`, 0.02."""
    warmup_tokens: Annotated[int, Ge(0)] | None = None
    """Tokens in which the rate rises, instead of `warmup_frac`; rounded up to whole steps."""
    cooldown_frac: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of the steps in which the rate falls to `final_frac`; without it and `cooldown_tokens`,
    0.5."""
    cooldown_tokens: Annotated[int, Ge(0)] | None = None
    """Tokens in which the rate falls, instead of `cooldown_frac`; rounded up to whole steps."""
    final_frac: Annotated[float, Ge(0), Le(1)] = 0.0
    """Rate at the end, as a share of the peak."""

    def __post_init__(self) -> None:
        """Refuse what is said twice."""
        refuse_both("warmup", self.warmup_frac, self.warmup_tokens)
        refuse_both("cooldown", self.cooldown_frac, self.cooldown_tokens)


@schema
class Cosine:
    """Up, then down along half a cosine. Source: Loshchilov and Hutter 2017, arXiv:1608.03983."""

    kind: Literal["cosine"] = "cosine"
    warmup_frac: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of the steps in which the rate rises from 0; without it and `warmup_tokens`, 0.02."""
    warmup_tokens: Annotated[int, Ge(0)] | None = None
    """Tokens in which the rate rises, instead of `warmup_frac`; rounded up to whole steps."""
    final_frac: Annotated[float, Ge(0), Le(1)] = 0.1
    """Rate at the end, as a share of the peak. Source: Brown et al. 2020, appendix B."""

    def __post_init__(self) -> None:
        """Refuse what is said twice."""
        refuse_both("warmup", self.warmup_frac, self.warmup_tokens)


Schedule = Trapezoid | Cosine


def refuse_both(part: str, share: float | None, tokens: int | None) -> None:
    """Refuse a part whose length is given in both ways.

    Raises:
        UserError: naming both settings.
    """
    if share is not None and tokens is not None:
        raise UserError(
            f"`schedule.{part}_frac` ({share}) and `schedule.{part}_tokens` ({tokens:,}) both say "
            f"how long the {part} is",
            hint="leave one of them out",
        )


@dataclass(frozen=True)
class Phases:
    """A schedule worked out for one run, in steps."""

    schedule: Schedule
    n_steps: int
    n_warmup: int
    n_cooldown: int
    """The steps at the end in which the rate falls; of a cosine, all after the warm-up."""

    @property
    def n_before_cooldown(self) -> int:
        """Steps of warm-up and level part; with long ramps that overlap, only up to the second."""
        return self.n_steps - self.n_cooldown

    @property
    def n_level(self) -> int:
        """Steps at the peak rate between the ramps."""
        return max(0, self.n_before_cooldown - self.n_warmup)


def phases(schedule: Schedule, n_steps: int, step_tokens: int) -> Phases:
    """Work out the parts of a schedule for `n_steps` steps of `step_tokens` tokens.

    Raises:
        UserError: if parts that are given in tokens do not fit into the run.
    """

    def steps(share: float | None, tokens: int | None, usual: float) -> int:
        if tokens is not None:
            return -(-tokens // step_tokens)
        return round(n_steps * (usual if share is None else share))

    n_warmup = steps(schedule.warmup_frac, schedule.warmup_tokens, WARMUP_FRAC)
    if isinstance(schedule, Cosine):
        n_cooldown = max(0, n_steps - n_warmup)
    else:
        n_cooldown = steps(schedule.cooldown_frac, schedule.cooldown_tokens, COOLDOWN_FRAC)
    # Shares may overlap: the lower ramp counts then. Whoever counts tokens means all of them.
    names = [n for n in ("warmup_tokens", "cooldown_tokens") if getattr(schedule, n, None)]
    if names and n_warmup + n_cooldown > n_steps:
        raise UserError(
            f"warm-up ({n_warmup:,} steps) and cooldown ({n_cooldown:,} steps) do not fit into the "
            f"run, which has {n_steps:,} steps of {step_tokens:,} tokens",
            hint=f"lower `schedule.{'` or `schedule.'.join(names)}`, or train on more tokens",
        )
    return Phases(schedule, n_steps, n_warmup, n_cooldown)


def describe(parts: Phases, step_tokens: int) -> str:
    """Say how long each part is, in steps and tokens."""

    def length(n_steps: int) -> str:
        return f"{n_steps:,} steps ({n_steps * step_tokens:,} tokens)"

    down = f"down to {parts.schedule.final_frac:g} in {length(parts.n_cooldown)}"
    if isinstance(parts.schedule, Cosine):
        return f"cosine: warm-up {length(parts.n_warmup)}, {down}"
    level = f"level {length(parts.n_level)}"
    return f"trapezoid: warm-up {length(parts.n_warmup)}, {level}, {down}"


def warmup(step: int, n_warmup: int) -> float:
    """Rise in a line; the first step already moves."""
    return min(1.0, (step + 1) / n_warmup) if n_warmup else 1.0


def trapezoid(step: int, parts: Phases) -> float:
    """Give the factor at `step`; the last step is one cooldown's fraction above `final_frac`."""
    final = parts.schedule.final_frac
    left = min(1.0, (parts.n_steps - step) / parts.n_cooldown) if parts.n_cooldown else 1.0
    falling = final + (1 - final) * left
    return min(warmup(step, parts.n_warmup), falling)


def cosine(step: int, parts: Phases) -> float:
    """Give the factor at `step`."""
    if step < parts.n_warmup:
        return warmup(step, parts.n_warmup)
    final = parts.schedule.final_frac
    progress = (step - parts.n_warmup) / max(1, parts.n_cooldown)
    height = 0.5 * (1 + math.cos(math.pi * progress))
    return final + (1 - final) * height


def lr_factor(step: int, parts: Phases) -> float:
    """Give the factor of the peak learning rate at `step`."""
    if isinstance(parts.schedule, Trapezoid):
        return trapezoid(step, parts)
    return cosine(step, parts)
