"""The step that a few new tokens take, in the fastest form a machine has for it.

On a CPU it is C (`native.py`), on a GPU a recorded graph of kernels (`graph.py`). Long prompts, and machines that
have neither, go through the model itself; all three ways give the same logits up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from llmpipe.inference import native
from llmpipe.inference.graph import GraphDecoder
from llmpipe.inference.kv_cache import SlotCache
from llmpipe.model.transformer import Transformer


class Decoder(Protocol):
    """Advances sequences by a token each, or by a few.

    Attributes:
        most_tokens: that it takes in a step.
        takes_prompts: whether several of them may belong to one sequence.
    """

    most_tokens: int
    takes_prompts: bool

    def __call__(
        self,
        ids: Sequence[int],
        slots: Sequence[int],
        lengths: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """Append tokens to the sequences in some slots; return the logits after the wanted ones."""
        ...

    def refresh(self) -> None:
        """Look for the weights again, in case others have taken their place in the model."""
        ...


def build_decoder(model: Transformer, cache: SlotCache) -> Decoder | None:
    """Return the decoder for a model where it is; None if there is none for it."""
    if cache.keys.device.type == "cuda":
        return GraphDecoder(model, cache)
    if native.supports(model, cache) and native.compiled() is not None:
        return native.NativeDecoder(model, cache)
    return None
