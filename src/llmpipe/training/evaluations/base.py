"""What an evaluation is, and what it is given.

    def vowels(context: EvaluationContext) -> dict[str, float]:
        ...

Every process calls every evaluation, with the same model. Each works on its `share`, and what they
found is added up with `context.runtime.sum`. That, and passes through the model, are the only times
at which they wait for each other (`agreement.py` says what happens where one of them fails).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from llmpipe.core.distributed import Runtime
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationContext:
    """The model as it is, and where it is."""

    model: Transformer
    """On the device, in evaluation mode, without gradients; it must not be changed."""
    tokenizer: Tokenizer
    runtime: Runtime
    """Device and processes; `runtime.sum` adds numbers over all processes."""
    dtype: torch.dtype
    """Matrix products are computed in this type, within `runtime.autocast(dtype)`."""
    step: int
    """Updates done so far."""
    row_tokens: int
    """Length of the rows that the model is trained on: it knows no later positions."""
    batch_tokens: int
    """Tokens that training puts through the model at once, so that memory holds as many."""

    def share(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """Deal items to the processes; each gets as many, which passes through an FSDP model need.

        Returns:
            This process's items, each with whether it counts: where the items cannot be dealt
            evenly, some processes get one twice, and its second time counts for nothing.
        """
        ranks = self.runtime.ranks
        mine = [(item, True) for item in items[ranks.rank :: ranks.world_size]]
        if len(mine) < -(-len(items) // ranks.world_size):
            mine.append((items[0], False))
        return mine


class Evaluation(Protocol):
    """Anything that can be called with the model as it is and gives numbers."""

    def __call__(self, context: EvaluationContext, /) -> Mapping[str, float]:
        """Measure the model; every process takes part, and all return the same numbers."""
        ...
