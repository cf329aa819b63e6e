"""The decoding step on a GPU, recorded once and replayed: a CUDA graph.

A step launches some twenty kernels per layer, and launching them from Python takes longer than a small model
needs to run them. A graph launches all of them at once, but only with the very shapes and addresses it was
recorded with. So it works on the first slots of the cache, whether a request holds them or not, and on
numbers of rows and keys that are powers of two; each pair of them has a graph of its own.
"""

# B rows  K keys

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from llmpipe.inference.kv_cache import CacheRows, SlotCache
from llmpipe.model.transformer import Transformer

LEAST_KEYS = 128
"""Fewer keys than this cost a GPU as much, so they share one graph."""


class GraphDecoder:
    """Takes the decoding step of one model and one cache, with the weights where they are.

    Args:
        is_recorded: replay graphs; without, the same static step runs kernel by kernel on any device.
    """

    def __init__(self, model: Transformer, cache: SlotCache, is_recorded: bool = True) -> None:
        self._model, self._cache, self._is_recorded = model, cache, is_recorded
        n_slots, device = cache.keys.shape[1], cache.keys.device
        self.most_tokens, self.takes_prompts = n_slots, False
        # One block of numbers, so that a step needs one copy to the device: ids, then lengths.
        self._inputs = torch.zeros(2, n_slots, dtype=torch.long, device=device)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if is_recorded else None
        self._recorded: tuple[int, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """See `Decoder`."""
        self._weights = list(self._model.parameters())

    @torch.inference_mode()
    def __call__(
        self,
        ids: Sequence[int],
        slots: Sequence[int],
        lengths: Sequence[int],
        wanted: Sequence[int],
    ) -> Float[Tensor, "batch vocab_size"]:
        """See `Decoder`; each sequence gets one token."""
        n_slots = self._inputs.shape[1]
        # A recorded graph cannot skip a row, so every slot up to the last one used takes part. Idle slots
        # write into the column behind the context, and nobody looks at what comes out for them.
        inputs = torch.tensor([[0] * n_slots, [self._cache.max_len] * n_slots])
        inputs[0, list(slots)] = torch.tensor(ids)
        inputs[1, list(slots)] = torch.tensor(lengths)
        self._inputs.copy_(inputs)
        n_rows = min(_power_of_two(max(slots) + 1), n_slots)
        n_keys = min(max(LEAST_KEYS, _power_of_two(max(lengths) + 1)), self._cache.max_len)
        if not self._is_recorded:
            logits = self._step(n_rows, n_keys)
        else:
            graph, logits = self._graph(n_rows, n_keys)
            graph.replay()
        return logits[[slots[i] for i in wanted]]

    def _step(self, n_rows: int, n_keys: int) -> Float[Tensor, "batch vocab_size"]:
        ids, lengths = self._inputs[:, :n_rows, None]  # B 1 each
        rows = CacheRows(self._cache, range(n_rows), lengths, n_keys)
        logits: Tensor = self._model(ids, positions=rows.positions, mask=rows.mask, cache=rows)
        return logits[:, 0]

    def _graph(self, n_rows: int, n_keys: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Return the graph for a shape, recorded at its first use and whenever the weights have moved."""
        found = tuple([weight.data_ptr() for weight in self._weights])
        if found != self._recorded:
            self._graphs.clear()
            self._recorded = found
        if (n_rows, n_keys) not in self._graphs:
            # Libraries allocate at their first call, which a recording must not. The token is
            # written twice, into the same place.
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # has no types
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step(n_rows, n_keys)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self._step(n_rows, n_keys)
            self._graphs[n_rows, n_keys] = graph, logits
        return self._graphs[n_rows, n_keys]


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is `n` or more."""
    return 1 << (n - 1).bit_length()
