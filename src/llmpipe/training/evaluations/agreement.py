"""How the ranks stay in step in an evaluation, even if it fails on one of them.

Ranks wait for each other in every collective operation: when they sum numbers, and in each pass
through a model that is sharded over them (FSDP). If one rank leaves its evaluation with an error, the
others would wait for it until the run times out. So before each collective, and once more at the end,
a rank tells the others what it is about to do: one number per rank, summed. All go on only if all are
about to do the same; otherwise all leave the evaluation, at the same place.

This does not cover an error inside a pass through an FSDP model (out of memory, say), or a collective
that an evaluation starts on its own, without `context.runtime`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

import torch

from llmpipe.core.distributed import Runtime
from llmpipe.model.transformer import Transformer

T = TypeVar("T")


class Doing(IntEnum):
    """What a process is about to do."""

    SUM = 1
    """Exchange numbers, in whatever way."""
    PASS = 2
    RETURN = 3
    FAIL = 4


WORDS = {
    Doing.SUM: "exchange numbers",
    Doing.PASS: "go through the model",
    Doing.RETURN: "are done",
    Doing.FAIL: "failed",
}


class NotTogether(Exception):
    """Processes are about to do different things, so all leave."""


@dataclass
class Agreement:
    """Tells the other processes what this one is about to do, for one call of an evaluation."""

    runtime: Runtime
    is_over: bool = False

    def agree(self, doing: Doing) -> None:
        """Wait for all processes, and go on if all are about to do the same.

        Raises:
            NotTogether: on all processes that have not failed themselves.
        """
        ranks = self.runtime.ranks
        if ranks.is_alone:
            return
        if self.is_over:  # the others take part in no collective any more
            raise NotTogether("the processes of this evaluation have parted before")
        mine = [0.0] * ranks.world_size
        mine[ranks.rank] = float(doing)
        everyone = [Doing(int(number)) for number in self.runtime.sum(mine)]
        if set(everyone) == {doing} and doing != Doing.FAIL:
            return
        self.is_over = True
        if doing != Doing.FAIL:
            raise NotTogether(_describe(everyone))

    def fail(self) -> None:
        """Tell the others that this process leaves."""
        if not self.is_over:
            self.agree(Doing.FAIL)


def _describe(everyone: list[Doing]) -> str:
    failed = [rank for rank, doing in enumerate(everyone) if doing == Doing.FAIL]
    if failed:
        return f"it failed on process {', '.join(str(rank) for rank in failed)}"
    parts = []
    for doing, words in WORDS.items():
        if n := everyone.count(doing):
            parts.append(f"{n} {words}")
    return f"the processes do not take part alike: {', '.join(parts)}"


@dataclass(frozen=True)
class CheckedRuntime(Runtime):
    """A runtime whose collectives are agreed on first."""

    agreement: Agreement = field(kw_only=True)

    def sum(self, values: list[float]) -> list[float]:
        """Add numbers over all processes, in float64; every process gets the same result."""
        self.agreement.agree(Doing.SUM)
        return super().sum(values)

    def add(self, value: torch.Tensor) -> torch.Tensor:
        """Add a tensor over all processes, in place."""
        self.agreement.agree(Doing.SUM)
        return super().add(value)

    def gather(self, value: T) -> list[T]:
        """Give every process the values of all, in their order."""
        self.agreement.agree(Doing.SUM)
        return super().gather(value)

    def share(self, value: T) -> T:
        """Give every process the main one's value."""
        self.agreement.agree(Doing.SUM)
        return super().share(value)


@contextlib.contextmanager
def passes_agreed_on(model: Transformer, agreement: Agreement) -> Iterator[None]:
    """Let processes agree before each pass through a model that is spread over them."""

    def agree(*_: Any) -> None:
        agreement.agree(Doing.PASS)

    whole: Any = model
    hidden = whole.hidden  # as FSDP has set it on this object: it collects the outer weights

    def hidden_together(*args: Any, **kwargs: Any) -> Any:
        agree()
        return hidden(*args, **kwargs)

    handle = model.register_forward_pre_hook(agree, prepend=True)
    whole.hidden = hidden_together
    try:
        yield
    finally:
        handle.remove()
        whole.hidden = hidden
