"""What is done to a unit of the corpus: the first pass counts its documents, the last one turns them into ids.

A unit (see `core/units.py`) is a file or a range of one. Each writes shards of its own, numbered from 0; when all units
are done the shards are numbered through, in the order of the units. So it does not matter which unit is done first, or by whom.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.units import FILES, Commit, RunUnit, Unit, Watch
from llmpipe.stages.tokenize.config import TokenizeConfig
from llmpipe.stages.tokenize.documents import CorpusDocument, read_range
from llmpipe.stages.tokenize.split import Scan, is_in_copy, sources_of, split_hash
from llmpipe.stages.tokenize.stats import Card, save_counts
from llmpipe.tokenizer.encoders import Encoder, EncoderPlan
from llmpipe.tokenizer.shards import Shard, ShardWriter, Split

_COUNT_EVERY_TOKENS = 1 << 18
_COUNTS = "counts.npy"
_TOLD_EVERY = 64
"""Documents after which the watch hears of it: often enough to find a worker that hangs, and no cost."""


def documents_of(unit: Unit, config: TokenizeConfig, watch: Watch) -> Iterator[CorpusDocument]:
    """Yield the documents of a unit, and tell the watch how far it is."""
    for i, document in enumerate(read_range(unit.payload, config)):
        if i % _TOLD_EVERY == 0:
            watch.start(i)
        yield document


@dataclass(frozen=True)
class ScanJob:
    """The first pass over a unit: counts documents and bytes."""

    config: TokenizeConfig
    seed: int

    def open(self) -> RunUnit:
        """Return the function that runs a unit."""
        return self._run

    def _run(self, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        scan = Scan()
        if unit.payload.copy == 0:  # later copies of a source hold nothing new
            for document in documents_of(unit, self.config, watch):
                if document.text is not None:
                    scan.add(document.data, self.seed)
        return asdict(scan)


@dataclass(frozen=True)
class EncodeJob:
    """The last pass over a unit: writes its shards and token counts."""

    config: TokenizeConfig
    encoder: EncoderPlan
    vocab_size: int
    bos_id: int
    val_below: int

    def open(self) -> RunUnit:
        """Build the encoder, which all workers share: it is the largest thing in memory."""
        return partial(self._run, self.encoder.open())

    def _run(self, encoder: Encoder, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        for leftover in folder.glob(".tmp-*"):  # of a run that was killed
            leftover.unlink()
        copy = unit.payload.copy
        source = sources_of(self.config)[unit.payload.source]
        card = Card(self.config.compare)
        set_aside: list[dict[str, Any]] = []
        n_surrogates = n_empty = 0
        with ExitStack() as stack:
            limit = self.config.shard_tokens
            shards = UnitShards(stack, folder, self.vocab_size, self.bos_id, limit)
            for document in documents_of(unit, self.config, watch):
                data = document.data
                if not document.text:
                    if document.text is None and copy == 0:
                        size, reason = document.n_bytes, document.reason
                        set_aside.append({"id": document.id, "bytes": size, "reason": reason})
                    n_empty += document.text == "" and copy == 0
                    continue
                split: Split = "val" if split_hash(data) < self.val_below else "train"
                # Documents for validation stand in the first copy alone.
                is_wanted = copy == 0 if split == "val" else is_in_copy(data, source.epochs, copy)
                if not is_wanted:
                    continue
                n_surrogates += document.n_surrogates
                ids = encoder.encode(document.text)
                shards.add(split, ids, len(data))
                if split == "val":
                    card.add(document, source.name, len(ids))
            finished = shards.finish()
        save_counts(folder / _COUNTS, shards.train_counts)
        return {
            "source": source.name,
            "shards": [asdict(shard) for shard in finished],
            FILES: {name: sha for shard in finished for name, sha in _files_of(shard).items()},
            "set_aside": set_aside,
            "lone_surrogates": n_surrogates,
            "empty": n_empty,
            "card": card.largest(),
        }


def _files_of(shard: Shard) -> dict[str, str]:
    """Return the names of a shard's files with their hashes, which were taken while they were written."""
    return {f"{shard.name}.tok.npy": shard.tok_sha256, f"{shard.name}.doc.npy": shard.doc_sha256}


class UnitShards:
    """The shards of one unit: a new one begins after the document that fills the one before."""

    def __init__(
        self, stack: ExitStack, folder: Path, vocab_size: int, bos_id: int, shard_tokens: int
    ) -> None:
        self.train_counts = np.zeros(vocab_size, dtype=np.int64)
        self._folder = folder
        self._bos_id = bos_id
        self._shard_tokens = shard_tokens
        self._open: dict[Split, ShardWriter] = {}
        self._finished: list[Shard] = []
        self._stack = stack
        self._uncounted: list[np.ndarray] = []
        self._n_uncounted = 0

    def add(self, split: Split, ids: np.ndarray, n_text_bytes: int) -> None:
        """Append a document to the open shard of its split."""
        writer = self._open.get(split)
        if writer is None:
            name = f"{split}-{len(self._finished) + len(self._open):05d}"
            writer = ShardWriter(self._folder, name, len(self.train_counts), self._bos_id)
            self._open[split] = self._stack.enter_context(writer)
        writer.add(ids, n_text_bytes)
        if split == "train":
            self._uncounted.append(ids)
            self._n_uncounted += len(ids)
            if self._n_uncounted >= _COUNT_EVERY_TOKENS:
                self._count()
        if writer.tokens >= self._shard_tokens:
            self._finished.append(self._open.pop(split).finish(split))

    def finish(self) -> list[Shard]:
        """Close what is open; return all shards in the order of their numbers."""
        for split, writer in self._open.items():
            self._finished.append(writer.finish(split))
        self._open.clear()
        self._count()
        return sorted(self._finished, key=lambda shard: shard.name[-5:])

    def _count(self) -> None:
        if self._uncounted:
            ids = np.concatenate(self._uncounted)
            self.train_counts += np.bincount(ids, minlength=len(self.train_counts))
        self._uncounted, self._n_uncounted = [], 0


def place_shards(commits: Sequence[Commit], out: Path) -> list[Shard]:
    """Give the shards of all units their final names in `out`; may be done again.

    Returns:
        The shards, training first, numbered through over the units.
    """
    placed: dict[Split, list[Shard]] = {"train": [], "val": []}
    for commit in commits:
        for fields in commit.record["shards"]:
            shard = Shard(**fields)
            ours = placed[shard.split]
            ours.append(replace(shard, name=f"{shard.split}-{len(ours):05d}"))
            for old, new in zip(_files_of(shard), _files_of(ours[-1]), strict=True):
                _place(commit.folder / old, out / new)
    return placed["train"] + placed["val"]


def _place(source: Path, target: Path) -> None:
    """Put a file in its place under a second name, so that its unit stays what its commit record says."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # A file system without hard links: a run killed from here on does the unit again.
        source.replace(target)


def add_counts(commits: Iterable[Commit]) -> np.ndarray:
    """Add up how often each token occurs in the training split."""
    total: np.ndarray = sum(np.load(commit.folder / _COUNTS) for commit in commits)
    return total
