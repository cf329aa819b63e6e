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

from llmpipe.model.transformer import Transformer


class SlotCache:
    """The memory of all slots.

    Attributes:
        keys: `layers slots kv_heads max_len+1 head_dim`; what lies behind a sequence's end is never read.
        values: the same.

    Args:
        model: whose keys and values these are; they get the type and the device of its embedding.
        n_slots: sequences that can be held at the same time.
        max_len: tokens of the longest sequence.
    """

    def __init__(self, model: Transformer, n_slots: int, max_len: int) -> None:
        self.max_len = max_len
        config, weights = model.config, model.embed.weight
        shape = (config.n_layers, n_slots, config.n_kv_heads, max_len + 1, config.head_dim)
        self.keys = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
        self.values = torch.zeros_like(self.keys)

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
        device = self.keys.device
        n_keys = max(length + new for length, new in zip(lengths, n_new, strict=True))
        assert n_keys <= self.max_len, "the engine admits no sequence longer than a slot"
        steps = torch.arange(max(n_new), device=device)
        columns = torch.tensor(lengths, device=device)[:, None] + steps  # B T
        is_padding = steps >= torch.tensor(n_new, device=device)[:, None]  # B T
        return CacheRows(self, slots, columns.masked_fill(is_padding, self.max_len), n_keys)


class CacheRows:
    """The slots that take part in one forward pass; what the model's attention layers append to.

    Args:
        slots: one per row of the batch.
        columns: where in its slot each new token goes; `max_len` is the column for padding.
        n_keys: columns that are read; no row is longer.

    Attributes:
        positions: of the new tokens in their sequences.
        mask: True where a new token may attend to a key: at its own position and all before it.
    """

    def __init__(
        self,
        cache: SlotCache,
        slots: Sequence[int],
        columns: Int[Tensor, "batch time"],
        n_keys: int,
    ) -> None:
        self._cache, self._columns, self._n_keys = cache, columns, n_keys
        first, last = min(slots), max(slots)
        self._read: slice | Tensor
        if list(slots) == list(range(first, last + 1)):  # neighbors are read in place
            self._slots = torch.arange(first, last + 1, device=columns.device)
            self._read = slice(first, last + 1)
        else:  # any other choice has to be gathered, which copies it
            self._slots = self._read = torch.tensor(slots, device=columns.device)
        self.positions: Int[Tensor, "batch time"] = columns.clamp(max=cache.max_len - 1)
        keys = torch.arange(n_keys, device=columns.device)
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
