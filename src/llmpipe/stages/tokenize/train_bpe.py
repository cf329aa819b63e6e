"""Learns a vocabulary: a sample of the corpus -> counted pieces -> merges.

The corpus is counted unit by unit, in as many processes as there are, and only the counts come
together: so neither the order nor the number of workers can change a merge, and memory follows the
number of different words. See `tokenizer/splitter.py`, `piece_counts.py` and `learner.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError, UserError
from llmpipe.core.units import RunUnit, Unit, Watch
from llmpipe.stages.tokenize.config import MIN_VOCAB, TokenizeConfig
from llmpipe.stages.tokenize.encode import documents_of
from llmpipe.stages.tokenize.split import sample_bucket, split_hash
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.learner import learn_merges
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.piece_counts import PieceCounter, PieceCounts, save_counts
from llmpipe.tokenizer.special import N_SPECIAL, VOCAB_MULTIPLE, place_special

COUNTS_FILE = "counts.arrow"
"""In the folder of a unit: its pieces, and how often each occurs."""


@dataclass(frozen=True)
class CountJob:
    """Counts the pieces of a unit's sampled documents."""

    config: TokenizeConfig
    seed: int
    n_buckets: tuple[int, ...]
    """For each source, how many buckets of its documents are in the sample."""
    val_below: int

    def open(self) -> RunUnit:
        """Return the function that runs a unit."""
        return self._run

    def _run(self, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        counter = PieceCounter(split_pattern(self.config.pattern))
        counter.add(self._texts(unit, watch))
        save_counts(counter.finish(), folder / COUNTS_FILE)
        return {"text_bytes": counter.text_bytes}

    def _texts(self, unit: Unit, watch: Watch) -> Iterator[str]:
        """Yield the sampled training documents of a unit."""
        n_buckets = self.n_buckets[unit.payload.source]
        for document in documents_of(unit, self.config, watch):
            data = document.data
            if not document.text or split_hash(data) < self.val_below:
                continue
            if sample_bucket(data, self.seed) < n_buckets:
                yield document.text


def learn_vocabulary(
    counts: PieceCounts,
    vocab_size: int,
    pattern: str,
    text_bytes: int,
    on_progress: Callable[[int], None] | None = None,
) -> Tokenizer:
    """Learn a vocabulary from counted pieces.

    Args:
        vocab_size: how many tokens it is to have, bytes and special tokens among them.
        pattern: name of the pattern that cut the text into the pieces.
        text_bytes: size of the text that was counted, for messages.
        on_progress: gets the number of merges learned.

    Raises:
        InputError: if there is no text.
        UserError: if the text has fewer merges than asked for.
    """
    n_merges = vocab_size - 256 - N_SPECIAL
    if n_merges <= 0:
        raise UserError(
            f"vocab_size ({vocab_size}) must be over {256 + N_SPECIAL}: 256 bytes and "
            f"{N_SPECIAL} special tokens stand beside the merges"
        )
    if len(counts) == 0:
        raise InputError("there is no text to learn a vocabulary from: the corpus is empty")
    learned = learn_merges(counts, n_merges, on_progress)
    if len(learned) < n_merges:
        possible = (256 + len(learned) + N_SPECIAL) // VOCAB_MULTIPLE * VOCAB_MULTIPLE
        is_allowed = possible >= MIN_VOCAB
        smaller = f"set `tokenize.vocab_size` to at most {possible:,}, or " if is_allowed else ""
        raise UserError(
            f"vocab_size {vocab_size:,} asks for {n_merges:,} merges, and "
            f"{text_bytes:,} bytes of text have only {len(learned):,}",
            f"{smaller}give more text",
        )
    tokens = [*(bytes([byte]) for byte in range(256)), *learned]
    ranks = {token: i for i, token in enumerate(tokens)}
    special = place_special(len(tokens))
    return Tokenizer(ranks, split_pattern(pattern), special, is_merged=True)
