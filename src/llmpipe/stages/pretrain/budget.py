"""How settings and tokens make steps: plain arithmetic, checked before work starts."""

from __future__ import annotations

from dataclasses import dataclass

from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.pretrain.config import PretrainConfig


@dataclass(frozen=True)
class Budget:
    """Steps of a run, and what one step is made of."""

    n_steps: int
    n_rows: int
    """Rows per step, over all processes."""
    n_micro_batches: int
    """Micro-batches per step, over all processes."""


def make_budget(config: PretrainConfig, n_tokens: int) -> Budget:
    """Work out the steps for `n_tokens` training tokens.

    Raises:
        UserError: if the global batch is not a whole number of micro-batches.
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
    wanted = n_tokens * config.epochs
    if config.max_tokens is not None:
        wanted = min(wanted, config.max_tokens)
    n_steps = int(wanted // batch)
    if n_steps == 0:
        raise InputError(
            f"{int(wanted):,} tokens do not fill one step of {batch:,}",
            hint="lower `pretrain.global_batch_tokens`, or bring more text",
        )
    return Budget(
        n_steps,
        n_rows=batch // row_tokens,
        n_micro_batches=batch // micro_tokens,
    )
