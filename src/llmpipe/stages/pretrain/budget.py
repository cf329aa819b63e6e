"""How settings and tokens make steps: plain arithmetic, checked before work starts."""

from __future__ import annotations

from dataclasses import dataclass

from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.training.schedule import Phases, phases


@dataclass(frozen=True)
class Budget:
    """Steps of a run, and what one step is made of."""

    n_steps: int
    n_rows: int
    """Rows per step, over all processes."""
    n_micro_batches: int
    """Micro-batches per step, over all processes."""
    schedule: Phases
    """How the learning rate goes up and down."""
    data_from_step: int = 0
    """Steps done before, on other data: the rows of this run's data begin with the next."""

    def first_row(self, step: int) -> int:
        """Number the first row of a step; that of `n_steps` is the number of all rows."""
        return (step - self.data_from_step) * self.n_rows


def make_budget(config: PretrainConfig, n_tokens: int, data_from_step: int = 0) -> Budget:
    """Work out the steps for `n_tokens` training tokens.

    Args:
        config: With every setting filled in.
        n_tokens: Training tokens at hand, each counted once.
        data_from_step: Steps done before, on other data (`extend.data_from_step`).

    Raises:
        UserError: if the global batch is not a whole number of micro-batches, or the schedule's parts
            do not fit.
        InputError: if the tokens do not fill one step.
    """
    row_tokens, batch = config.row_tokens, config.global_batch_tokens
    assert row_tokens is not None, "filled in by `depth.fill_in`"
    assert batch is not None, "filled in by `depth.fill_in`"
    micro_tokens = row_tokens * config.micro_batch_size
    if batch % micro_tokens:
        raise UserError(
            f"global_batch_tokens ({batch}) must be a multiple of "
            f"micro_batch_size * row_tokens ({config.micro_batch_size} * {row_tokens})"
        )
    wanted = data_from_step * batch + n_tokens * config.epochs
    if config.max_tokens is not None:
        wanted = min(wanted, config.max_tokens)
    n_steps = int(wanted // batch)
    if n_steps <= data_from_step:
        raise InputError(
            f"{int(wanted):,} tokens do not fill one step of {batch:,}",
            hint="lower `pretrain.global_batch_tokens`, or bring more text",
        )
    return Budget(
        n_steps,
        n_rows=batch // row_tokens,
        n_micro_batches=batch // micro_tokens,
        schedule=phases(config.schedule, n_steps, batch),
        data_from_step=data_from_step,
    )


def shortfall(config: PretrainConfig, n_tokens: int, budget: Budget) -> str:
    """Say that the tokens end before the run was to, if they do; else nothing.

    Args:
        config: With every setting filled in.
        n_tokens: Training tokens at hand, each counted once.
        budget: What they make.
    """
    asked, batch = config.max_tokens, config.global_batch_tokens
    if asked is None or batch is None or budget.n_steps >= asked // batch:
        return ""
    again = "" if config.epochs == 1 else f", gone over {config.epochs:g} times"
    return (
        f"asked for {asked:,} tokens, and there are {n_tokens:,}{again}: {budget.n_steps:,} steps "
        f"and not {asked // batch:,} (`pretrain.epochs` goes over the tokens again)"
    )
