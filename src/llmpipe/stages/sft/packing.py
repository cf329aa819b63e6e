"""Conversations of different lengths into rows of one length, each blind to its neighbors.

Rows are filled best-fit decreasing: the longest conversation first, each into the fullest row that
still has room for it. Conversations stay whole. In a row every conversation is a segment of its own
that attends only to itself, so the loss of a packed row is the sum of the losses of its
conversations, as if each had stood alone.

A token's attention costs as much as its row is long, and most conversations are much shorter than the
longest one. So what one update holds is laid out once more (`refold`): conversations that fit into a
row of half the length, or a quarter, and are not needed to fill a longer one, stand in such rows.

Source: best-fit packing for training without cut documents, Ding et al. 2024, arXiv:2404.10830.
"""

# B batch  T time

from __future__ import annotations

import bisect
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmpipe.assistant.conversation import Conversation
from llmpipe.assistant.render import Rendered, render_for_training
from llmpipe.core.errors import InputError
from llmpipe.stages.sft.config import SFTConfig
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.loss import IGNORE
from llmpipe.training.step import Batch


@dataclass(frozen=True)
class MaskedSequence:
    """Token ids of one conversation, and which of them are trained."""

    ids: np.ndarray
    mask: np.ndarray
    source: str

    @property
    def n_trained(self) -> int:
        """Tokens that the loss looks at; the first of a sequence is predicted from nothing."""
        return int(self.mask[1:].sum())


def make_sample(rendered: Rendered, source: str) -> MaskedSequence:
    """Turn a rendered conversation into arrays."""
    return MaskedSequence(np.array(rendered.ids, np.int64), np.array(rendered.mask, bool), source)


def fit_length(sample: MaskedSequence, max_seq_len: int, over_long: str) -> MaskedSequence | None:
    """Cut or drop a conversation that is longer than a row; None if nothing to train on is left."""
    if len(sample.ids) > max_seq_len:
        if over_long == "drop":
            return None
        sample = MaskedSequence(sample.ids[:max_seq_len], sample.mask[:max_seq_len], sample.source)
    return sample if sample.n_trained else None


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the rows, each as the indices of the conversations it holds.

    Open rows are kept by the room they have left. There are at most `capacity` different amounts,
    so a placement costs one search in a short sorted list.
    """
    # Longest first, as with suitcases: the small ones find a place in what is left between the large ones.
    # "Best fit" is the open row with the least room that is still enough, the first of `rooms` at or above
    # the length. The order is fixed (ties by index), so a resumed run packs the same rows.
    rooms: list[int] = []  # ascending, each amount once
    rows_with: dict[int, list[int]] = {}  # amount of room -> rows that have it
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        assert 0 < length <= capacity, "lengths are fitted before packing"
        place = bisect.bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rows_with[room], rooms[place]
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        left = room - length
        if left:
            if left not in rows_with:
                bisect.insort(rooms, left)
            rows_with.setdefault(left, []).append(row)
    return rows


@dataclass(frozen=True)
class Packed:
    """Conversations as rows of tokens."""

    rows: list[list[MaskedSequence]]
    n_cut: int
    n_dropped: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all conversations, without padding."""
        return sum(len(sample.ids) for row in self.rows for sample in row)

    @property
    def n_trained(self) -> int:
        """Tokens that the loss looks at."""
        return sum(sample.n_trained for row in self.rows for sample in row)

    def trained_by_source(self) -> dict[str, int]:
        """Count trained tokens by where they come from."""
        counts: Counter[str] = Counter()
        for row in self.rows:
            for sample in row:
                counts[sample.source] += sample.n_trained
        return dict(counts)


def pack_conversations(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    config: SFTConfig,
    max_seq_len: int,
    rng: random.Random,
) -> Packed:
    """Render, fit and pack conversations; the order of the rows is shuffled."""
    samples, n_cut, n_dropped = [], 0, 0
    for conversation in conversations:
        for rendered in render_for_training(conversation.messages, tokenizer):
            whole = make_sample(rendered, conversation.source)
            fitted = fit_length(whole, max_seq_len, config.over_long)
            if fitted is None:
                n_dropped += 1
                continue
            n_cut += len(fitted.ids) < len(whole.ids)
            samples.append(fitted)
    if not samples:
        raise InputError(f"no conversation has an answer within {max_seq_len} tokens")
    rows = pack([len(sample.ids) for sample in samples], max_seq_len)
    rng.shuffle(rows)
    return Packed([[samples[i] for i in row] for row in rows], n_cut, n_dropped)


SHORTEST_ROW = 256
"""Below this length attention costs little beside the rest, and larger batches are worth more."""


def refold(samples: Sequence[MaskedSequence], n_time: int) -> dict[int, list[list[MaskedSequence]]]:
    """Lay conversations out in rows of `n_time` tokens, or a half, a quarter, … of it.

    Best fit, decreasing: a conversation goes into the fullest row with room for it, or opens a row
    of the shortest length that holds it.

    Returns:
        The rows by their length, the longest first.
    """
    # A row of 2,048 tokens with attention over all pairs costs 4 times as much there as two of 1,024, for the
    # same tokens. Which rows an update trains on was decided before (`pack`); here only their shape changes,
    # and the sum of the losses with it by rounding alone.
    lengths = [n_time]
    while lengths[-1] % 2 == 0 and lengths[-1] // 2 >= SHORTEST_ROW:
        lengths.append(lengths[-1] // 2)
    rows: list[list[MaskedSequence]] = []
    capacities: list[int] = []
    rooms: list[tuple[int, int]] = []  # (what is left, number of the row), ascending
    for sample in sorted(samples, key=lambda sample: -len(sample.ids)):
        n = len(sample.ids)
        place = bisect.bisect_left(rooms, (n, 0))
        if place < len(rooms):
            room, row = rooms.pop(place)
        else:
            row, room = len(rows), min(length for length in lengths if length >= n)
            rows.append([])
            capacities.append(room)
        rows[row].append(sample)
        bisect.insort(rooms, (room - n, row))
    folded: dict[int, list[list[MaskedSequence]]] = {}
    for capacity, row_samples in sorted(
        zip(capacities, rows, strict=True), key=lambda pair: -pair[0]
    ):
        folded.setdefault(capacity, []).append(row_samples)
    return folded


def make_batch(rows: Sequence[Sequence[MaskedSequence]], n_time: int, pad_id: int) -> Batch:
    """Lay out conversations, one list of them per row; the segments keep them apart.

    Two conversations of 3 and 2 tokens in a row of 6, the assistant's tokens in capitals:

        ids       u A B  u C  pad
        targets   A B -  C -  -       the next token where it is the assistant's, `IGNORE` elsewhere
        segments  1 1 1  2 2  0

    So the model learns to write answers and not to write questions, though it reads both.
    """
    shape = (len(rows), n_time)
    ids = np.full(shape, pad_id, np.int64)
    targets = np.full(shape, IGNORE, np.int64)
    segments = np.zeros(shape, np.int64)  # 0 is the padding, which attends to itself
    for i_row, conversations in enumerate(rows):
        start = 0
        for i_segment, sample in enumerate(conversations, start=1):
            stop = start + len(sample.ids)
            ids[i_row, start:stop] = sample.ids
            segments[i_row, start:stop] = i_segment
            # The token at t predicts the one at t + 1; the last of a conversation predicts nothing.
            next_ids = np.where(sample.mask[1:], sample.ids[1:], IGNORE)
            targets[i_row, start : stop - 1] = next_ids
            start = stop
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(segments))
