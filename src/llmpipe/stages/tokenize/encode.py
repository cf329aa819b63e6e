"""Documents to ids: one unit of the corpus to its shards."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.artifact import atomic_file
from llmpipe.stages.tokenize.card import Card
from llmpipe.stages.tokenize.config import TokenizeConfig
from llmpipe.stages.tokenize.documents import Document, Unit, read_unit
from llmpipe.stages.tokenize.mixture import is_in_copy, sources_of
from llmpipe.stages.tokenize.split import Scan, split_hash
from llmpipe.tokenizer.encoders import Encoder, EncoderPlan
from llmpipe.tokenizer.shards import Shard, ShardWriter, Split

_COUNT_EVERY_TOKENS = 1 << 18


@dataclass(frozen=True)
class ScanWork:
    """The first pass over a unit."""

    config: TokenizeConfig
    seed: int

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Count documents and bytes; copies of a source hold nothing new."""
        scan = Scan()
        if unit.copy:
            return scan.to_json()
        for document in read_unit(unit, self.config):
            if document.text is not None:
                scan.add(document.data, self.seed)
        return scan.to_json()


@dataclass(frozen=True)
class EncodeWork:
    """The second pass over a unit: its shards, in a folder of its own until all are done."""

    config: TokenizeConfig
    encoder: EncoderPlan
    vocab_size: int
    bos_id: int
    val_below: int
    work_folder: Path

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Write the unit's shards and token counts; return what its record says."""
        folder = self.work_folder / f"{unit.index:05d}"
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
        folder.mkdir(parents=True)
        encoder = _open_encoder(self.encoder)
        source = sources_of(self.config)[unit.source]
        card = Card(self.config.compare)
        set_aside: list[dict[str, Any]] = []
        n_surrogates = n_empty = 0
        with self._shards(folder) as shards:
            for document in read_unit(unit, self.config):
                data = document.data
                if document.text is None:
                    set_aside += [_aside(document)] if unit.copy == 0 else []
                    continue
                n_empty += not data and unit.copy == 0
                split: Split = "val" if split_hash(data) < self.val_below else "train"
                if not data or not _is_wanted(split, data, source.epochs, unit.copy):
                    continue
                n_surrogates += document.n_surrogates
                ids = encoder.encode(document.text)
                shards.add(split, ids, len(data))
                if split == "val":
                    card.add(document, source.name, len(ids))
            finished = shards.finish()
        with atomic_file(folder / "counts.npy") as temporary, temporary.open("wb") as file:
            np.save(file, shards.train_counts)
        return {
            "source": source.name,
            "shards": [asdict(shard) for shard in finished],
            "set_aside": set_aside,
            "lone_surrogates": n_surrogates,
            "empty": n_empty,
            "card": card.to_json(),
        }

    def prepare(self) -> None:
        """Build the encoder, for all workers that will be forked."""
        _open_encoder(self.encoder)

    def _shards(self, folder: Path) -> UnitShards:
        return UnitShards(folder, self.vocab_size, self.bos_id, self.config.shard_tokens)


def _is_wanted(split: Split, data: bytes, epochs: float, copy: int) -> bool:
    """Say whether a document stands in this copy: those for validation stand in the first alone."""
    return copy == 0 if split == "val" else is_in_copy(data, epochs, copy)


def _aside(document: Document) -> dict[str, Any]:
    return {"id": document.id, "bytes": document.n_bytes, "reason": document.reason}


@functools.lru_cache(maxsize=1)
def _open_encoder(plan: EncoderPlan) -> Encoder:
    """Build the encoder once in each worker process."""
    return plan.open()


class UnitShards:
    """The shards of one unit: a new one begins after the document that fills the one before."""

    def __init__(self, folder: Path, vocab_size: int, bos_id: int, shard_tokens: int) -> None:
        self.train_counts = np.zeros(vocab_size, dtype=np.int64)
        self._folder = folder
        self._bos_id = bos_id
        self._shard_tokens = shard_tokens
        self._open: dict[Split, ShardWriter] = {}
        self._finished: list[Shard] = []
        self._stack = ExitStack()
        self._uncounted: list[np.ndarray] = []
        self._n_uncounted = 0

    def __enter__(self) -> UnitShards:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def add(self, split: Split, ids: np.ndarray, n_text_bytes: int) -> None:
        """Append a document to the open shard of its split."""
        writer = self._open.get(split)
        if writer is None:
            name = f"{split}-{len(self._finished) + len(self._open):05d}"
            writer = ShardWriter(self._folder, name, len(self.train_counts), self._bos_id)
            self._open[split] = self._stack.enter_context(writer)
        writer.add(ids, n_text_bytes)
        if split == "train":
            self._count(ids)
        if writer.tokens >= self._shard_tokens:
            self._finished.append(self._open.pop(split).finish(split))

    def finish(self) -> list[Shard]:
        """Close what is open; return all shards in the order of their numbers."""
        for split, writer in self._open.items():
            self._finished.append(writer.finish(split))
        self._open.clear()
        self._count_now()
        return sorted(self._finished, key=lambda shard: shard.name[-5:])

    def _count(self, ids: np.ndarray) -> None:
        self._uncounted.append(ids)
        self._n_uncounted += len(ids)
        if self._n_uncounted >= _COUNT_EVERY_TOKENS:
            self._count_now()

    def _count_now(self) -> None:
        if self._uncounted:
            ids = np.concatenate(self._uncounted)
            self.train_counts += np.bincount(ids, minlength=len(self.train_counts))
        self._uncounted, self._n_uncounted = [], 0


def place_shards(records: list[dict[str, Any]], work_folder: Path, out: Path) -> list[Shard]:
    """Move the shards of all units into `out` under their final names; may be done again.

    Returns:
        The shards, training first, numbered through over the units.
    """
    return [
        shard
        for split in ("train", "val")
        for shard in _place_split(split, records, work_folder, out)
    ]


def _place_split(
    split: str, records: list[dict[str, Any]], work_folder: Path, out: Path
) -> Iterator[Shard]:
    n_placed = 0
    for i, record in enumerate(records):
        for fields in record["shards"]:
            shard = Shard(**fields)
            if shard.split != split:
                continue
            name = f"{split}-{n_placed:05d}"
            n_placed += 1
            for suffix in ("tok.npy", "doc.npy"):
                source = work_folder / f"{i:05d}" / f"{shard.name}.{suffix}"
                if source.exists():
                    source.replace(out / f"{name}.{suffix}")
            yield Shard(**{**fields, "name": name})


def add_counts(n_units: int, work_folder: Path) -> np.ndarray:
    """Add up how often each token occurs in the training split."""
    counts = [np.load(work_folder / f"{i:05d}" / "counts.npy") for i in range(n_units)]
    total: np.ndarray = np.stack(counts).sum(axis=0)
    return total
