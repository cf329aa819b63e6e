"""Rows for the model, cut from token shards: no token lost, and padding in one row per epoch.

Every token of the shards is an input exactly once per epoch; its target is the token after it,
which for the last token of a document is the BOS of the next, so the model learns where texts end.
Nothing needs to overlap, so a document can be cut anywhere.

The plan for one epoch: shuffle the documents, and cut them, laid end to end, into windows of whole
rows. In each window, cut off full rows from long documents; then fill each row with the longest rest
that still fits, and when none fits cut the next one to size and keep what is over. The window's rows
are shuffled at the end. (Cropping to best fit, as some do, throws away a fifth to a third of the
tokens; plain concatenation cuts nearly every document.)

Windows do not depend on each other and are planned when their rows are asked for, so a run over
billions of tokens starts, and resumes anywhere, at once.

Row number -> tokens is a pure function of the shards, the seed and the row length, so the state of
the loader is one integer, whatever the number of processes.
"""

# B batch  T time

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from llmpipe.core.errors import InputError
from llmpipe.training.loss import IGNORE
from llmpipe.training.step import Batch

WINDOW_TOKENS = 2**26
"""Rows are planned for this many tokens at once: some 60,000 web pages. More would pack no better."""


@runtime_checkable
class Tokens(Protocol):
    """Token shards, as `llmpipe.tokenizer.shards.TokenShards` has them."""

    n_tokens: int

    @property
    def doc_starts(self) -> np.ndarray:
        """Where each document starts, and the end of the last."""
        ...

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Copy a stretch of all shards' tokens."""
        ...


class EpochPlan:
    """Which stretches of the shards make up each row of one epoch.

    Holds two numbers per document, and the rows of the window that was asked for last.
    """

    def __init__(
        self,
        doc_starts: np.ndarray,
        row_tokens: int,
        shuffle_seed: int | None,
        window_tokens: int = WINDOW_TOKENS,
    ) -> None:
        """Put the documents in order; nothing is packed yet.

        Args:
            doc_starts: Start of each document and the end of the last; tokens lie without gaps.
            row_tokens: Length of a row.
            shuffle_seed: Decides the order; None keeps documents in order and shuffles nothing.
            window_tokens: Tokens that are packed together, at most.
        """
        self.row_tokens = row_tokens
        self.n_rows = -(-int(doc_starts[-1]) // row_tokens)
        """Rows of the epoch; all are full, except one of the last window."""
        self._doc_starts = doc_starts
        self._rows_per_window = max(1, window_tokens // row_tokens)
        n_windows = -(-self.n_rows // self._rows_per_window)
        self._order = np.arange(len(doc_starts) - 1)
        self._shuffles: list[np.random.Generator] = []
        if shuffle_seed is not None:
            shuffle = np.random.default_rng(shuffle_seed)
            shuffle.shuffle(self._order)
            self._shuffles = [shuffle, *shuffle.spawn(n_windows - 1)]
        self._ends = np.cumsum(np.diff(doc_starts)[self._order])
        """Where each document ends when all are laid end to end in their new order."""
        self._latest: tuple[int, PackedRows, np.ndarray] | None = None

    def pieces(self, row: int) -> Iterator[tuple[int, int]]:
        """Give start and length of each piece of a row."""
        window, i = divmod(row, self._rows_per_window)
        if self._latest is None or self._latest[0] != window:
            packed = self._pack(window)
            order = np.arange(packed.n_rows)
            if self._shuffles:  # a copy, so that a window is the same each time it is planned
                copy.deepcopy(self._shuffles[window]).shuffle(order)
            self._latest = window, packed, order
        _, packed, order = self._latest
        return packed.pieces(int(order[i]))

    def _pack(self, window: int) -> PackedRows:
        """Cut a window's documents out of the epoch, and pack them into rows."""
        begin = window * self._rows_per_window * self.row_tokens
        end = min(begin + self._rows_per_window * self.row_tokens, int(self._ends[-1]))
        first = np.searchsorted(self._ends, begin, side="right")
        last = np.searchsorted(self._ends, end, side="left")
        documents = self._order[first : last + 1]
        starts, stops = self._doc_starts[documents], self._doc_starts[documents + 1]
        # The first document may begin in the window before, and the last one end in the next.
        starts[0] = stops[0] - (self._ends[first] - begin)
        stops[-1] -= self._ends[last] - end
        return pack(starts.tolist(), stops.tolist(), self.row_tokens)


@dataclass
class PackedRows:
    """Rows as plain numbers: a tuple for each of 100,000 pieces would take three times as long."""

    first_piece: list[int] = field(default_factory=lambda: [0])
    """Row i is made of the pieces `first_piece[i]` to `first_piece[i + 1]`."""
    starts: list[int] = field(default_factory=list)
    """Where in the shards each piece starts."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of each piece."""

    @property
    def n_rows(self) -> int:
        """Rows so far."""
        return len(self.first_piece) - 1

    def add(self, row: Sequence[tuple[int, int]]) -> None:
        """Add a row of pieces, each given by start and length."""
        for start, length in row:
            self.starts.append(start)
            self.lengths.append(length)
        self.first_piece.append(len(self.starts))

    def pieces(self, row: int) -> Iterator[tuple[int, int]]:
        """Give start and length of each piece of a row."""
        stretch = slice(self.first_piece[row], self.first_piece[row + 1])
        return zip(self.starts[stretch], self.lengths[stretch], strict=True)


def pack(starts: Sequence[int], stops: Sequence[int], row_tokens: int) -> PackedRows:
    """Cut and pack documents into rows, all full except the last.

    Documents of 5, 2, 3 and 2 tokens in rows of 4: the first fills a row and leaves 1 token; the others give
    the rows 3 + 1 and 2 + 2. Only the one longer than a row is cut. Laid end to end and cut every 4 tokens,
    the third would be cut as well.
    """
    rows = PackedRows()
    rests = _Rests(row_tokens)
    for start, stop in zip(starts, stops, strict=True):
        while stop - start >= row_tokens:
            rows.add([(start, row_tokens)])
            start += row_tokens
        if stop > start:
            rests.add(start, stop - start)
    while rests.n_tokens:
        rows.add(rests.fill_row())
    return rows


class _Rests:
    """Pieces shorter than a row, by length; a bit per length tells which lengths there are."""

    def __init__(self, row_tokens: int) -> None:
        self.row_tokens = row_tokens
        self.by_length: list[list[int]] = [[] for _ in range(row_tokens + 1)]
        self.present = 0
        self.n_tokens = 0

    def add(self, start: int, length: int) -> None:
        self.by_length[length].append(start)
        self.present |= 1 << length
        self.n_tokens += length

    def take(self, longest: int) -> tuple[int, int] | None:
        """Take the longest piece of at most `longest` tokens."""
        # Bit n of `present` says that a piece of n tokens is there. Keep the bits up to `longest`; the highest
        # one that is set is the answer, in one operation whatever the number of pieces.
        length = (self.present & ((1 << (longest + 1)) - 1)).bit_length() - 1
        if length < 1:
            return None
        start = self.by_length[length].pop()
        if not self.by_length[length]:
            self.present &= ~(1 << length)
        self.n_tokens -= length
        return start, length

    def fill_row(self) -> list[tuple[int, int]]:
        """Make one full row, or the last one from all that is left."""
        row: list[tuple[int, int]] = []
        gap = self.row_tokens
        while gap and self.n_tokens:
            piece = self.take(gap)
            if piece is None:  # all are longer than the gap: cut one, keep what is over
                start, length = self.take(self.row_tokens) or (0, 0)
                self.add(start + gap, length - gap)
                piece = start, gap
            row.append(piece)
            gap -= piece[1]
        return row


class Rows:
    """Rows by number, over as many epochs as asked for.

    Row `i` of the run is row `i % rows_per_epoch` of epoch `i // rows_per_epoch`; every epoch has
    its own order.
    """

    def __init__(self, tokens: Tokens, row_tokens: int, seed: int | None) -> None:
        if tokens.n_tokens == 0:
            raise InputError("the shards hold no tokens")
        self.shards = tokens
        self.row_tokens = row_tokens
        self.seed = seed
        # All rows of a plan are full, except the last one.
        self.rows_per_epoch = -(-tokens.n_tokens // row_tokens)
        self._bos = int(tokens.tokens(0, 1)[0])
        self._plans: dict[int, EpochPlan] = {}

    def plan(self, epoch: int) -> EpochPlan:
        """Give the plan of an epoch; the latest one is kept."""
        if epoch not in self._plans:
            # Unlike seed + epoch, a sequence makes no two runs share an epoch.
            seed = None
            if self.seed is not None:
                seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
            self._plans = {epoch: EpochPlan(self.shards.doc_starts, self.row_tokens, seed)}
        return self._plans[epoch]

    def batch(self, first_row: int, n_rows: int, with_segments: bool = False) -> Batch:
        """Cut the rows `first_row` to `first_row + n_rows` of the run."""
        shape = (n_rows, self.row_tokens)
        ids = np.full(shape, self._bos, dtype=np.int64)
        targets = np.full(shape, IGNORE, dtype=np.int64)
        segments = np.zeros(shape, dtype=np.int64)
        for i in range(n_rows):
            epoch, row = divmod(first_row + i, self.rows_per_epoch)
            at = 0
            for number, (start, length) in enumerate(self.plan(epoch).pieces(row), start=1):
                stretch = self._with_next(start, length)
                ids[i, at : at + length] = stretch[:-1]
                targets[i, at : at + length] = stretch[1:]
                segments[i, at : at + length] = number
                at += length
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(targets),
            torch.from_numpy(segments) if with_segments else None,
        )

    def _with_next(self, start: int, length: int) -> np.ndarray:
        """Read a piece and the token after it; after the very last token comes a BOS."""
        stretch = self.shards.tokens(start, min(start + length + 1, self.shards.n_tokens))
        if len(stretch) == length:
            stretch = np.append(stretch, self._bos)
        return stretch.astype(np.int64)


class MixedRows:
    """Rows of several corpora in fixed proportions, by number.

    The j-th row of a corpus of share w is due at the time (j + 1/2) / w, and rows come in the order
    of their times. So every stretch of the run has the proportions, to within a row or two of each
    corpus (after n rows of k corpora, one has had n * w rows, to within (k * w + 1) / 2), row number
    -> tokens stays a pure function, and a longer run begins as a shorter one.
    """

    def __init__(self, parts: Sequence[Rows], weights: Sequence[float], n_rows: int) -> None:
        self.parts = parts
        shares = np.array(weights) / math.fsum(weights)
        # By the time t each corpus has had t * w rows, to within one half, so n rows are full by
        # the time n + len(parts) / 2. Fewer times than that, and a run's end would come out of turn.
        last = n_rows + len(parts) / 2
        due = [(np.arange(math.ceil(last * w) + 1) + 0.5) / w for w in shares]
        which = np.repeat(np.arange(len(parts)), [len(times) for times in due])
        number = np.concatenate([np.arange(len(times)) for times in due])
        order = np.argsort(np.concatenate(due), kind="stable")[:n_rows]
        self._which, self._number = which[order], number[order]

    def batch(self, first_row: int, n_rows: int, with_segments: bool = False) -> Batch:
        """Cut the rows `first_row` to `first_row + n_rows` of the run."""
        rows = [
            self.parts[self._which[i]].batch(int(self._number[i]), 1, with_segments)
            for i in range(first_row, first_row + n_rows)
        ]
        segments = [row.segments for row in rows if row.segments is not None]
        return Batch(
            torch.cat([row.ids for row in rows]),
            torch.cat([row.targets for row in rows]),
            torch.cat(segments) if segments else None,
        )
