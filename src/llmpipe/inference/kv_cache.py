"""Keys and values of many sequences in one block of memory that is allocated once.

Without a cache each new token would send the whole text through the model again. But the keys and values
of earlier tokens stay what they were, because no token sees later ones; so they are kept, and a step
computes those of the new token alone. That turns work in the square of the length into work in the length,
and memory is the price: 2 numbers x layers x key-value heads x head_dim for every token.

Each sequence owns a slot, a row as long as the context. A slot that ends is given to the next request at
once, so rows of different lengths and ages share every step (continuous batching without pages; pages
save memory only when contexts are much longer than what is in them).

One column more than the context takes the writes of padding, so that they need no special case.
"""

# B batch  T new tokens per row  K keys  H key-value heads  D head_dim

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class SlotCache:
    """The memory of all slots.

    Attributes:
        keys: `layers slots kv_heads max_len+1 head_dim`; what lies behind a sequence's end is never read.
        values: the same.

    Args:
        n_layers: attention layers of the model.
        n_slots: sequences that can be held at the same time.
        max_len: tokens of the longest sequence.
        n_kv_heads: key-value heads of a layer.
        head_dim: size of a head.
        dtype: of keys and values.
        device: where they live.
    """

    def __init__(
        self,
        n_layers: int,
        n_slots: int,
        max_len: int,
        n_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.max_len = max_len
        shape = (n_layers, n_slots, n_kv_heads, max_len + 1, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Copy the first `n_tokens` of one slot into another."""
        for memory in (self.keys, self.values):
            memory[:, target, :, :n_tokens] = memory[:, source, :, :n_tokens]

    def rows(
        self, slots: Sequence[int], lengths: Sequence[int], n_new: Sequence[int]
    ) -> "CacheRows":
        """Return a view for one forward pass that adds `n_new[i]` tokens to slot `slots[i]`.

        Args:
            slots: one per row of the batch.
            lengths: tokens each slot holds before the pass.
            n_new: tokens each row adds; rows shorter than the longest are padded on the right.
        """
        return CacheRows(self, slots, lengths, n_new)


class CacheRows:
    """The slots that take part in one forward pass; what the model's attention layers append to.

    Attributes:
        positions: of the new tokens in their sequences.
        mask: True where a new token may attend to a key.
    """

    def __init__(
        self, cache: SlotCache, slots: Sequence[int], lengths: Sequence[int], n_new: Sequence[int]
    ) -> None:
        self._cache = cache
        device = cache.keys.device
        self._n_keys = max(length + new for length, new in zip(lengths, n_new, strict=True))
        assert self._n_keys <= cache.max_len, "the engine admits no sequence longer than a slot"

        self._slots = torch.tensor(slots, device=device)
        first, last = min(slots), max(slots)
        # A run of neighbouring slots is read in place; any other choice has to be gathered.
        is_run = list(slots) == list(range(first, last + 1))
        self._read: slice | Tensor = slice(first, last + 1) if is_run else self._slots

        steps = torch.arange(max(n_new), device=device)
        positions = torch.tensor(lengths, device=device)[:, None] + steps  # B T
        is_real = steps < torch.tensor(n_new, device=device)[:, None]  # B T
        self._columns: Int[Tensor, "batch time"] = positions.where(
            is_real, torch.full_like(positions, cache.max_len)
        )
        self.positions: Int[Tensor, "batch time"] = positions.clamp(max=cache.max_len - 1)
        keys = torch.arange(self._n_keys, device=device)
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
        everything = []
        for memory, new in ((self._cache.keys[i_layer], k), (self._cache.values[i_layer], v)):
            memory[self._slots[:, None], :, self._columns] = new.transpose(1, 2)  # B T H D
            everything.append(memory[self._read, :, : self._n_keys])
        return everything[0], everything[1]
