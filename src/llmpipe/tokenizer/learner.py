"""Learns merges from unique pieces and their counts: exact, in 64 bits, many merges at a time.

`twin.py` is the algorithm; this gives the same merges to the last one. Two ideas make it fast.

*Each pair keeps the list of places where it stands.* A pair with a new token in it can come into
being only when that token does, so the list is made once, and later only loses places: a place
knows which pair stands there now, and a list is checked against that when it is used.

*Merges that cannot influence each other are made together.* Say the most frequent pairs are
(a, b), (c, d), (e, f), … in this order. Merging (a, b) changes the counts of pairs (x, a) and (b, y),
and makes new pairs (x, ab) and (ab, y), which are no more frequent than (x, a) and (b, y) were. So
as long as no pair that is at least as frequent as the next one has the form (x, a) or (b, y) of a
pair before it, the next merge is the one that it would have been. `_independent` takes as many as
this allows: three or so at first, a hundred near the end. numpy then handles all their places at once.

In bytes per symbol of the unique pieces: 4 each for its token, its neighbors, its pair and its
piece, and about 10 for the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from llmpipe.tokenizer.piece_counts import PieceCounts

_POOL_PAIRS = 8192
"""Most frequent pairs that are kept at hand; the rest wait until these are used up."""

_MAX_TOGETHER = 512

_NONE = -1


def learn_merges(
    counts: PieceCounts, n_merges: int, on_progress: Callable[[int], None] | None = None
) -> list[bytes]:
    """Return the tokens that the merges make, in the order learned.

    Of pairs that are equally frequent, the one with the smaller ids is merged first, as in
    `twin.train` and in rustbpe.

    Fewer than `n_merges` come back if no pair is left. `on_progress` gets the number so far.
    """
    text = _Text(counts)
    tokens = [bytes([byte]) for byte in range(256)]
    n_wanted = 256 + n_merges
    while len(tokens) < n_wanted:
        slots = text.next_merges(min(_MAX_TOGETHER, n_wanted - len(tokens)))
        if len(slots) == 0:
            break
        pairs = zip(text.left[slots].tolist(), text.right[slots].tolist(), strict=True)
        tokens += [tokens[a] + tokens[b] for a, b in list(pairs)]
        text.merge(slots, len(tokens) - len(slots))
        if on_progress:
            on_progress(len(tokens) - 256)
    return tokens[256:]


class _Text:
    """The unique pieces as symbols, and the pairs of neighbors in them.

    A symbol is known by its place, the index of its first byte. A merged symbol stands at the place
    of its left part; the place of the right part is dead from then on.
    """

    def __init__(self, counts: PieceCounts) -> None:
        data, starts, self._piece_counts = _without_single_bytes(counts)
        n = len(data)
        self._token = data.astype(np.int32)
        lengths = np.diff(starts)
        self._piece = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self._next = np.arange(1, n + 1, dtype=np.int32)
        self._next[starts[1:] - 1] = _NONE
        self._before = np.arange(-1, n - 1, dtype=np.int32)
        self._before[starts[:-1]] = _NONE
        self._pair = np.full(n, _NONE, dtype=np.int32)
        """At each place, which pair begins there, as its slot in the arrays below."""

        self._n_pairs = 0
        self.left = np.empty(1 << 16, dtype=np.int32)
        self.right = np.empty(1 << 16, dtype=np.int32)
        self._count = np.empty(1 << 16, dtype=np.int64)
        self._list = np.empty((1 << 16, 3), dtype=np.int32)
        """Where a pair's places are: which array of `_places`, from where, to where."""
        self._places: list[np.ndarray] = []

        self._pool = np.empty(0, dtype=np.int64)
        self._pool_least = np.iinfo(np.int64).max
        begins = self._next != _NONE
        for first, end in _byte_ranges(data):  # all at once would take 50 bytes more a symbol
            chosen = begins & (data >= first) & (data < end)
            self._add_pairs(np.flatnonzero(chosen).astype(np.int32))

    def next_merges(self, n_most: int) -> np.ndarray:
        """Return the slots of the next merges that can be made together, in their order."""
        self._pool = self._pool[self._count[self._pool] >= self._pool_least]
        if not _POOL_PAIRS // 8 <= len(self._pool) <= _POOL_PAIRS * 2:
            self._fill_pool()
        counts = self._count[self._pool]
        top = self._pool
        n_looked_at = 2 * n_most
        if len(counts) > n_looked_at:
            least = np.partition(counts, len(counts) - n_looked_at)[len(counts) - n_looked_at]
            top = top[counts >= least]  # all of the least count, so that ties stay together
        order = np.lexsort((self.right[top], self.left[top], -self._count[top]))
        top = top[order]
        n = _independent(
            self._count[top].tolist(), self.left[top].tolist(), self.right[top].tolist(), n_most
        )
        return top[:n]

    def merge(self, slots: np.ndarray, first_id: int) -> None:
        """Merge these pairs everywhere; they get the ids from `first_id` on."""
        at, new_id = self._standing_places(slots, first_id)
        right = self._next[at]
        after = self._next[right]
        before = self._before[at]
        weight = self._piece_counts[self._piece[at]]
        has_after = after != _NONE
        self._token[right] = _NONE

        # Pairs that are gone: of the right part with what follows, of what precedes with the left
        # part (where that is not the right part of another merge, counted already).
        np.subtract.at(self._count, self._pair[right[has_after]], weight[has_after])
        precedes = (before != _NONE) & (self._token[before] != _NONE)
        np.subtract.at(self._count, self._pair[before[precedes]], weight[precedes])
        self._count[slots] = 0

        self._token[at] = new_id
        self._pair[right] = _NONE
        self._pair[at] = _NONE
        self._next[at] = after
        self._before[after[has_after]] = at[has_after]
        before = self._before[at]
        before = before[before != _NONE]
        before = before[self._token[before] < first_id]  # the others are in `at`
        self._add_pairs(np.concatenate([at[has_after], before]))

    def _standing_places(self, slots: np.ndarray, first_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places where these pairs stand now, and the new id for each."""
        lists = [self._places[i][a:b] for i, a, b in self._list[slots].tolist()]
        lengths = [len(places) for places in lists]
        at = np.concatenate(lists)
        index = np.repeat(np.arange(len(slots)), lengths)
        is_standing = self._pair[at] == slots[index]
        at, index = at[is_standing], index[is_standing]
        if self.left[slots[-1]] == self.right[slots[-1]]:
            # Of `aaaa` merge the first and the third pair: `_independent` puts such a pair last.
            start = int(np.searchsorted(index, len(slots) - 1))
            own = _every_second(np.sort(at[start:]), self._next)
            at, index = np.append(at[:start], own), index[: start + len(own)]
        return at, (first_id + index).astype(np.int32)

    def _add_pairs(self, at: np.ndarray) -> None:
        """Give slots to the pairs that begin at these places; all of them are new."""
        if len(at) == 0:
            return
        left, right = self._token[at], self._token[self._next[at]]
        keys, order = _sort_pairs(left, right)
        at = at[order]
        firsts = np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)
        lasts = np.append(firsts[1:], len(at))
        counts = np.add.reduceat(self._piece_counts[self._piece[at]], firsts)
        start = self._n_pairs
        self._n_pairs += len(firsts)
        self._reserve()
        new = slice(start, self._n_pairs)
        slots = np.arange(start, self._n_pairs, dtype=np.int32)
        self.left[new], self.right[new] = left[order[firsts]], right[order[firsts]]
        self._count[new] = counts
        self._list[new, 0] = len(self._places)
        self._list[new, 1], self._list[new, 2] = firsts, lasts
        self._pair[at] = np.repeat(slots, lasts - firsts)
        self._places.append(at)
        self._pool = np.append(self._pool, slots[counts >= self._pool_least])

    def _fill_pool(self) -> None:
        """Put the most frequent pairs into the pool, and say how rare those in it may be."""
        counts = self._count[: self._n_pairs]
        self._pool_least = 1
        if len(counts) > _POOL_PAIRS:
            least = int(np.partition(counts, len(counts) - _POOL_PAIRS)[-_POOL_PAIRS])
            self._pool_least = max(1, least)
        self._pool = np.flatnonzero(counts >= self._pool_least)

    def _reserve(self) -> None:
        """Make room for new pairs, half as many again each time, so that little is copied."""
        if self._n_pairs <= len(self._count):
            return
        n = max(self._n_pairs, len(self._count) * 3 // 2)
        for array in (self.left, self.right, self._count, self._list):
            array.resize((n, *array.shape[1:]), refcheck=False)


def _sort_pairs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a key of each pair, sorted, and the order that sorts them.

    numpy sorts numbers three times as fast as it finds the order that would sort them, so the
    place is put into the low bits of the number.
    """
    n_index_bits = len(left).bit_length()
    n_id_bits = int(max(left.max(), right.max())).bit_length()
    keys = left.astype(np.int64)
    keys <<= n_id_bits
    keys |= right
    if 2 * n_id_bits + n_index_bits > 63:
        order = np.argsort(keys)
        return keys[order], order
    keys <<= n_index_bits
    keys |= np.arange(len(left))
    keys.sort()
    order = keys & ((1 << n_index_bits) - 1)
    keys >>= n_index_bits
    return keys, order


def _without_single_bytes(counts: PieceCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pieces' bytes, where each starts and the end, and how often each occurs."""
    offsets = np.frombuffer(counts.pieces.buffers()[1], dtype=np.int64)[: len(counts) + 1]
    data = np.frombuffer(counts.pieces.buffers()[2] or b"", dtype=np.uint8)
    lengths = np.diff(offsets)
    is_long = lengths > 1
    data = data[offsets[0] : offsets[-1]][np.repeat(is_long, lengths)]
    starts = np.append(0, np.cumsum(lengths[is_long]))
    if len(data) >= 2**31:
        raise OverflowError("the unique pieces have 2^31 bytes or more: keep fewer")
    return data, starts, counts.counts[is_long]


def _byte_ranges(data: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut 0..256 into ranges of byte values that hold at least a sixteenth of the data each."""
    first = total = 0
    for byte, n in enumerate(np.bincount(data, minlength=256).tolist()):
        total += n
        if total > len(data) // 16:
            yield first, byte + 1
            first, total = byte + 1, 0
    yield first, 256


def _every_second(at: np.ndarray, next_place: np.ndarray) -> np.ndarray:
    """Of places in a row, each the next one's neighbor, keep the first, the third, and so on."""
    order = np.arange(len(at))
    is_first = np.ones(len(at), dtype=bool)
    is_first[1:] = next_place[at[:-1]] != at[1:]
    in_row = order - np.maximum.accumulate(np.where(is_first, order, 0))
    kept: np.ndarray = at[in_row % 2 == 0]
    return kept


def _independent(counts: list[int], lefts: list[int], rights: list[int], n_most: int) -> int:
    """Return how many of the pairs, from the most frequent on, can be merged together.

    The pairs come in their order, with all that are as frequent as the last.
    """
    taken_lefts: set[int] = set()
    taken_rights: set[int] = set()
    n = 0
    while n < len(counts):
        end = n + 1
        while end < len(counts) and counts[end] == counts[n]:
            end += 1
        group_lefts, group_rights = set(lefts[n:end]), set(rights[n:end])
        if group_rights & taken_lefts or group_lefts & taken_rights:
            return n
        for i in range(n, end):
            if i == n_most:
                return n_most
            taken_lefts.add(lefts[i])
            taken_rights.add(rights[i])
            if lefts[i] in group_rights or rights[i] in group_lefts:
                return i + 1
        n = end
    return n
