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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmpipe.inference.kv_cache import SlotCache
from llmpipe.model.transformer import Transformer

LEAST_KEYS = 128
"""Fewer keys than this cost a GPU as much, so they share one graph."""


class GraphDecoder:
    """Takes the decoding step of one model and one cache, with the weights where they are.

    Args:
        model: on the device of the cache.
        cache: its keys and values.
        is_recorded: replay graphs; without, the same static step runs kernel by kernel on any device.
    """

    def __init__(self, model: Transformer, cache: SlotCache, is_recorded: bool = True) -> None:
        self._model, self._cache, self._is_recorded = model, cache, is_recorded
        n_slots, device = cache.keys.shape[1], cache.keys.device
        self.most_tokens, self.takes_prompts = n_slots, False
        # One block of numbers, so that a step needs one copy to the device: ids, then lengths.
        self._inputs: Int[Tensor, "two slots"] = torch.zeros(
            2, n_slots, dtype=torch.long, device=device
        )
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if is_recorded else None
        self._recorded: tuple[int, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Look for the weights again, in case others have taken their place in the model."""
        self._weights = list(self._model.parameters())

    @torch.inference_mode()
    def __call__(
        self,
        ids: Sequence[int],
        slots: Sequence[int],
        lengths: Sequence[int],
        wanted: Sequence[int],
    ) -> Float[Tensor, "batch vocab_size"]:
        """Append tokens to the sequences in some slots; return the logits after the wanted ones.

        Args:
            ids: the new tokens, one for each sequence.
            slots: where the keys and values of each one's sequence lie.
            lengths: tokens that stand before each in its sequence.
            wanted: indices of the tokens after which logits are needed.
        """
        n_slots = self._inputs.shape[1]
        # A recorded graph cannot skip a row, so every slot up to the last one used takes part. Slots of no
        # request write into the column behind the context, read what is there, and nobody looks at the result.
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
        rows = StaticRows(self._cache, lengths, n_keys)
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


class StaticRows:
    """The first slots of a cache, each with one new token, in shapes that depend on no request.

    Attributes:
        positions: of the new tokens in their sequences.
        mask: True where a new token may attend to a key.
    """

    def __init__(self, cache: SlotCache, lengths: Int[Tensor, "batch time"], n_keys: int) -> None:
        self._cache, self._n_keys, self._n_rows = cache, n_keys, len(lengths)
        self._columns = lengths[:, 0]
        self._slots = torch.arange(self._n_rows, device=lengths.device)
        self.positions: Int[Tensor, "batch time"] = lengths.clamp(max=cache.max_len - 1)
        keys = torch.arange(n_keys, device=lengths.device)
        self.mask: Bool[Tensor, "batch 1 time keys"] = keys <= self.positions[:, None, :, None]

    def append(
        self,
        i_layer: int,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]
    ]:
        """Store the new keys and values of a layer; return all keys and values of its rows."""
        keys, values = self._cache.keys[i_layer], self._cache.values[i_layer]
        keys[self._slots, :, self._columns] = k[:, :, 0]
        values[self._slots, :, self._columns] = v[:, :, 0]
        return keys[: self._n_rows, :, : self._n_keys], values[: self._n_rows, :, : self._n_keys]


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is `n` or more."""
    return 1 << (n - 1).bit_length()
