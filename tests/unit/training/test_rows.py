from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.training.loss import IGNORE
from llmpipe.training.rows import MixedRows, Rows, plan_rows
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


@settings(max_examples=60, deadline=None)
@given(lengths_of_documents, st.integers(2, 32), st.one_of(st.none(), st.integers(0, 9)))
def test_every_token_is_in_exactly_one_row(
    lengths: list[int], row_tokens: int, seed: int | None
) -> None:
    starts = np.cumsum([0, *lengths])
    plan = plan_rows(starts, row_tokens, seed)
    places = [place for row in range(plan.n_rows) for place in plan.pieces(row)]
    covered = [token for start, n in places for token in range(start, start + n)]
    assert sorted(covered) == list(range(sum(lengths)))


@settings(max_examples=60, deadline=None)
@given(lengths_of_documents, st.integers(2, 32))
def test_all_rows_are_full_except_one(lengths: list[int], row_tokens: int) -> None:
    plan = plan_rows(np.cumsum([0, *lengths]), row_tokens, 1)
    sizes = [sum(n for _, n in plan.pieces(row)) for row in range(plan.n_rows)]
    assert plan.n_rows == -(-sum(lengths) // row_tokens)
    assert Counter(size == row_tokens for size in sizes)[False] <= 1


@settings(max_examples=60, deadline=None)
@given(lengths_of_documents, st.integers(2, 32))
def test_no_piece_crosses_a_document(lengths: list[int], row_tokens: int) -> None:
    starts = np.cumsum([0, *lengths])
    plan = plan_rows(starts, row_tokens, 1)
    for start, n in zip(plan.starts, plan.lengths, strict=True):
        document = np.searchsorted(starts, start, side="right") - 1
        assert start + n <= starts[document + 1]


def test_documents_that_fit_are_rarely_cut() -> None:
    # log-normal lengths with a mean of 1,072 tokens in rows of 2,048, as web pages have
    lengths = np.random.default_rng(1).lognormal(6.4, 1.0, 5_000).astype(int) + 1
    starts = np.cumsum([0, *lengths])
    plan = plan_rows(starts, 2048, 1)
    places = np.searchsorted(starts, plan.starts, side="right") - 1
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
