from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.core.ranks import Ranks
from llmpipe.training.loss import IGNORE
from llmpipe.training.parallel import my_share
from llmpipe.training.rows import WINDOW_TOKENS, EpochPlan, MixedRows, Rows
from llmpipe.training.step import Batch

BOS = 0


class ListTokens:
    """Shards in memory: each document is BOS and then numbers that occur once."""

    def __init__(self, lengths: list[int]) -> None:
        self.doc_starts = np.cumsum([0, *lengths])
        self.n_tokens = int(self.doc_starts[-1])
        self.all = np.arange(self.n_tokens) + 1
        self.all[self.doc_starts[:-1]] = BOS

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self.all[start:stop].copy()


lengths_of_documents = st.lists(st.integers(1, 70), min_size=1, max_size=60)
windows = st.sampled_from([1, 40, 200, WINDOW_TOKENS])
"""Tokens planned at once: less than a row, some rows, and more than all there are."""


def rows_of(plan: EpochPlan) -> list[list[tuple[int, int]]]:
    return [list(plan.pieces(row)) for row in range(plan.n_rows)]


@settings(max_examples=60, deadline=None)
@given(lengths_of_documents, st.integers(2, 32), st.one_of(st.none(), st.integers(0, 9)), windows)
def test_every_token_is_in_exactly_one_row(
    lengths: list[int], row_tokens: int, seed: int | None, window: int
) -> None:
    plan = EpochPlan(np.cumsum([0, *lengths]), row_tokens, seed, window)
    places = [piece for row in rows_of(plan) for piece in row]
    covered = [token for start, n in places for token in range(start, start + n)]
    assert sorted(covered) == list(range(sum(lengths)))


@settings(max_examples=60, deadline=None)
@given(lengths_of_documents, st.integers(2, 32), windows)
def test_all_rows_are_full_except_one(lengths: list[int], row_tokens: int, window: int) -> None:
    plan = EpochPlan(np.cumsum([0, *lengths]), row_tokens, 1, window)
    sizes = [sum(n for _, n in row) for row in rows_of(plan)]
    assert plan.n_rows == -(-sum(lengths) // row_tokens)
    assert Counter(size == row_tokens for size in sizes)[False] <= 1


@settings(max_examples=60, deadline=None)
@given(lengths_of_documents, st.integers(2, 32), windows)
def test_no_piece_crosses_a_document(lengths: list[int], row_tokens: int, window: int) -> None:
    starts = np.cumsum([0, *lengths])
    for row in rows_of(EpochPlan(starts, row_tokens, 1, window)):
        for start, n in row:
            document = np.searchsorted(starts, start, side="right") - 1
            assert start + n <= starts[document + 1]


def slow_plan(
    doc_starts: np.ndarray, row_tokens: int, shuffle: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """One window, as it was first written: tuples in lists, and a search for the longest that fits."""
    rows: list[list[tuple[int, int]]] = []
    rests: list[tuple[int, int]] = []
    for document in shuffle.permutation(len(doc_starts) - 1):
        start, stop = int(doc_starts[document]), int(doc_starts[document + 1])
        while stop - start >= row_tokens:
            rows.append([(start, row_tokens)])
            start += row_tokens
        if stop > start:
            rests.append((start, stop - start))
    while rests:
        row: list[tuple[int, int]] = []
        gap = row_tokens
        while gap and rests:
            fitting = [length for _, length in rests if length <= gap]
            longest = max(fitting or [length for _, length in rests])
            # of several with this length the one that came last
            i = max(i for i, (_, length) in enumerate(rests) if length == longest)
            start, length = rests.pop(i)
            if length > gap:
                rests.append((start + gap, length - gap))
                length = gap
            row.append((start, length))
            gap -= length
        rows.append(row)
    shuffle.shuffle(rows)
    return rows


@settings(max_examples=100, deadline=None)
@given(lengths_of_documents, st.integers(2, 32), st.integers(0, 9))
def test_plan_of_one_window_is_the_slow_one(lengths: list[int], row_tokens: int, seed: int) -> None:
    starts = np.cumsum([0, *lengths])
    expected = slow_plan(starts, row_tokens, np.random.default_rng(seed))
    assert rows_of(EpochPlan(starts, row_tokens, seed)) == expected


def test_windows_are_the_same_in_whatever_order_they_are_asked_for() -> None:
    starts = np.cumsum([0, *np.random.default_rng(1).integers(1, 70, 300)])
    rows = rows_of(EpochPlan(starts, 16, 5, window_tokens=100))  # 6 rows each
    plan = EpochPlan(starts, 16, 5, window_tokens=100)
    for row in np.random.default_rng(2).permutation(plan.n_rows):
        assert list(plan.pieces(int(row))) == rows[row]


def test_each_window_shuffles_its_rows_in_its_own_way() -> None:
    # one document: its rows lie in order, 8 to a window
    rows = rows_of(EpochPlan(np.array([0, 64 * 16]), 16, 5, window_tokens=128))
    orders = {tuple(row[0][0] // 16 % 8 for row in rows[i : i + 8]) for i in range(0, 64, 8)}
    assert len(orders) == 8


def test_documents_that_fit_are_rarely_cut() -> None:
    # log-normal lengths with a mean of 1,072 tokens in rows of 2,048, as web pages have
    lengths = np.random.default_rng(1).lognormal(6.4, 1.0, 5_000).astype(int) + 1
    starts = np.cumsum([0, *lengths])
    pieces = [start for row in rows_of(EpochPlan(starts, 2048, 1)) for start, _ in row]
    places = np.searchsorted(starts, pieces, side="right") - 1
    n_pieces = np.bincount(places, minlength=len(lengths))
    fits = lengths < 2048
    # plain concatenation cuts a document of mean length every second time
    assert (n_pieces[fits] > 1).mean() < 0.1


def test_batches_are_a_pure_function_of_the_row_number() -> None:
    tokens = ListTokens([5, 17, 3, 40, 8, 8, 21])
    one, other = Rows(tokens, 8, seed=3), Rows(tokens, 8, seed=3)
    whole = one.batch(0, 26)
    for start in (20, 4, 11, 0):  # in any order, across epochs
        part = other.batch(start, 5)
        assert part.ids.equal(whole.ids[start : start + 5])
        assert part.targets.equal(whole.targets[start : start + 5])


def test_epochs_and_seeds_differ_in_order_and_hold_the_same_tokens() -> None:
    tokens = ListTokens([5, 17, 3, 40, 8, 8, 21])
    rows = Rows(tokens, 8, seed=3)
    n = rows.rows_per_epoch
    first, second = rows.batch(0, n), rows.batch(n, n)
    other_seed = Rows(tokens, 8, seed=4).batch(0, n)
    assert not first.ids.equal(second.ids)
    assert not first.ids.equal(other_seed.ids)
    for batch in (first, second, other_seed):
        used = batch.ids[batch.targets != IGNORE]
        assert sorted(used.tolist()) == sorted(tokens.all.tolist())


def test_targets_are_the_next_tokens_and_bos_ends_a_document() -> None:
    tokens = ListTokens([4, 3])  # 0 2 3 4 | 0 6 7
    batch = Rows(tokens, 8, seed=None).batch(0, 1, with_segments=True)
    assert batch.segments is not None
    assert batch.ids[0].tolist() == [0, 2, 3, 4, 0, 6, 7, BOS]
    assert batch.targets[0].tolist() == [2, 3, 4, BOS, 6, 7, BOS, IGNORE]
    assert batch.segments[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 0]


@pytest.mark.parametrize("n_documents", [1, 3])
def test_one_token_documents_are_rows_too(n_documents: int) -> None:
    batch = Rows(ListTokens([1] * n_documents), 2, seed=None).batch(0, 1)
    assert batch.targets[0].tolist()[:1] == [BOS]


class Named(Rows):
    """Rows that say which corpus and which number they are."""

    def __init__(self, corpus: int) -> None:
        self.corpus = corpus

    def batch(self, first_row: int, n_rows: int, with_segments: bool = False) -> Batch:
        ids = torch.tensor([[self.corpus, first_row + i] for i in range(n_rows)])
        return Batch(ids, ids, ids if with_segments else None)


def test_mixture_has_its_proportions_in_every_stretch_and_a_longer_run_begins_the_same() -> None:
    parts = [Named(0), Named(1)]
    rows = MixedRows(parts, [3.0, 1.0], n_rows=60)
    corpora = rows.batch(0, 60).ids[:, 0].tolist()
    for start in range(0, 60, 4):  # three rows of the first corpus and one of the second
        assert sorted(corpora[start : start + 4]) == [0, 0, 0, 1]
    longer = MixedRows(parts, [3.0, 1.0], n_rows=400).batch(0, 60, with_segments=True)
    assert torch.equal(longer.ids, rows.batch(0, 60).ids)
    assert longer.segments is not None and torch.equal(longer.segments, longer.ids)


def test_mixture_goes_through_each_part_row_by_row() -> None:
    mixed = MixedRows([Named(0), Named(1), Named(2)], [0.5, 0.3, 0.2], 100).batch(0, 100).ids
    for corpus, n_rows in enumerate((50, 30, 20)):
        numbers = mixed[mixed[:, 0] == corpus][:, 1].tolist()
        assert numbers == list(range(n_rows))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    st.integers(1, 200),
    st.integers(1, 1000),
)
def test_a_longer_mixture_begins_as_a_shorter_one(weights: list[int], n: int, more: int) -> None:
    parts = [Named(i) for i in range(len(weights))]
    short = MixedRows(parts, [float(w) for w in weights], n)
    long = MixedRows(parts, [float(w) for w in weights], n + more)
    assert torch.equal(short.batch(0, n).ids, long.batch(0, n).ids)


def test_one_large_and_many_small_parts_begin_alike_in_a_short_and_a_long_run() -> None:
    # The small ones are due from row 45 on only: a run of 40 rows is the large one alone.
    weights = [0.9, *[0.1 / 9] * 9]
    mixed = MixedRows([Named(i) for i in range(10)], weights, 40).batch(0, 40).ids
    assert mixed.tolist() == [[0, i] for i in range(40)]


def used(batch: Batch) -> Counter[int]:
    return Counter(batch.ids[batch.targets != IGNORE].tolist())


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_processes_together_read_each_token_once_per_epoch(world_size: int) -> None:
    """From any step on, and with epochs that end inside a step: the step alone says what is read."""
    tokens = ListTokens([5, 17, 3, 40, 8, 8, 21, 9])  # 111 tokens: 14 rows of 8, one not full
    micro, n_micro = 2, 4  # 8 rows a step: two epochs end in the middle of the fourth step
    seen: Counter[int] = Counter()
    for step in (2, 3, 0, 1):  # as resumed runs would, each from new
        for rank in range(world_size):
            rows = Rows(tokens, 8, seed=3)
            for i in my_share(range(n_micro), Ranks(rank, world_size)):
                first = (step * n_micro + i) * micro
                n = min(micro, max(0, 28 - first))
                if n:
                    seen += used(rows.batch(first, n))
    assert seen == Counter({token: 2 * n for token, n in Counter(tokens.all.tolist()).items()})


def test_each_part_of_a_mixture_goes_through_its_own_epochs() -> None:
    small, large = ListTokens([5, 17, 3]), ListTokens([30, 8, 2, 23, 33])  # 4 rows, 12 rows
    rows = MixedRows([Rows(small, 8, 3), Rows(large, 8, 3)], [1.0, 1.0], 24)
    # 12 rows of each: three epochs of the small one, one of the large one; some BOS are in both
    expected = Counter(small.all.tolist() * 3 + large.all.tolist())
    assert sum((used(rows.batch(i, 3)) for i in range(0, 24, 3)), Counter()) == expected
