"""Learns a vocabulary: a sample of the corpus -> counted pieces -> merges.

The corpus is counted unit by unit, in as many processes as there are, and only the counts come
together: so neither the order nor the number of workers can change a merge, and memory follows the
number of different words. See `tokenizer/splitter.py`, `piece_counts.py` and `learner.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.tokenize.config import MIN_VOCAB, TokenizeConfig
from llmpipe.stages.tokenize.documents import Unit, read_unit
from llmpipe.stages.tokenize.split import sample_bucket, split_hash
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.learner import learn_merges
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.piece_counts import (
    PieceCounter,
    PieceCounts,
    PrunedPieces,
    add_files,
    save_counts,
)
from llmpipe.tokenizer.special import N_SPECIAL, VOCAB_MULTIPLE, place_special


@dataclass(frozen=True)
class Sample:
    """Which documents the merges are learned from."""

    seed: int
    n_buckets: tuple[int, ...]
    """For each source."""
    val_below: int


@dataclass(frozen=True)
class CountWork:
    """Counts the pieces of a unit's sampled documents, into a file of its own."""

    config: TokenizeConfig
    sample: Sample
    folder: Path

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Write the unit's counts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        counter = PieceCounter(split_pattern(self.config.pattern))
        counter.add(sample_texts(unit, self.config, self.sample))
        save_counts(counter.finish(), counts_path(self.folder, unit))
        return {"text_bytes": counter.text_bytes}


def counts_path(folder: Path, unit: Unit) -> Path:
    """Return where a unit's counts are."""
    return folder / f"{unit.index:05d}.arrow"


def sample_texts(unit: Unit, config: TokenizeConfig, sample: Sample) -> Iterator[str]:
    """Yield the sampled training documents of a unit."""
    n_buckets = sample.n_buckets[unit.source]
    for document in read_unit(unit, config):
        if not document.text:
            continue
        data = document.data
        if split_hash(data) >= sample.val_below and sample_bucket(data, sample.seed) < n_buckets:
            yield document.text


def learn_from_files(
    config: TokenizeConfig,
    paths: Sequence[Path],
    text_bytes: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Tokenizer, PrunedPieces]:
    """Learn the vocabulary that `config` asks for from the counts of all units.

    Raises:
        InputError: if there is no text.
        UserError: if the text has fewer merges than asked for.
    """
    counts, pruned = add_files(paths, config.max_pieces)
    return learn(counts, config.vocab_size, config.pattern, text_bytes, on_progress), pruned


def check_vocab_size(vocab_size: int) -> None:
    """Check that there is room for a merge.

    Raises:
        UserError: if there is none.
    """
    if vocab_size <= 256 + N_SPECIAL:
        raise UserError(
            f"vocab_size ({vocab_size}) must be over {256 + N_SPECIAL}: 256 bytes and "
            f"{N_SPECIAL} special tokens stand beside the merges"
        )


def learn(
    counts: PieceCounts,
    vocab_size: int,
    pattern: str,
    text_bytes: int,
    on_progress: Callable[[int], None] | None = None,
) -> Tokenizer:
    """Learn a vocabulary from counted pieces; `text_bytes` of text were counted. See `learn_from_files`."""
    n_merges = vocab_size - 256 - N_SPECIAL
    if len(counts) == 0:
        raise InputError("there is no text to learn a vocabulary from: the corpus is empty")
    learned = learn_merges(counts, n_merges, on_progress)
    if len(learned) < n_merges:
        raise _too_few_merges(vocab_size, n_merges, len(learned), text_bytes)
    tokens = [*(bytes([byte]) for byte in range(256)), *learned]
    ranks = {token: i for i, token in enumerate(tokens)}
    special = place_special(len(tokens))
    return Tokenizer(ranks, split_pattern(pattern), special, is_merged=True)


def _too_few_merges(vocab_size: int, n_asked: int, n_found: int, n_bytes: int) -> UserError:
    possible = (256 + n_found + N_SPECIAL) // VOCAB_MULTIPLE * VOCAB_MULTIPLE
    smaller = (
        f"set `tokenize.vocab_size` to at most {possible:,}, or " if possible >= MIN_VOCAB else ""
    )
    return UserError(
        f"vocab_size {vocab_size:,} asks for {n_asked:,} merges, and "
        f"{n_bytes:,} bytes of text have only {n_found:,}",
        f"{smaller}give more text",
    )
