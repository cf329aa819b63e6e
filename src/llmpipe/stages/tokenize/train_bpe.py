"""Learns a vocabulary: a sample of the corpus -> pieces -> merges.

rustbpe does the counting and merging: it gave the merges of a slow reference to the last one, at
a third of the CPU time of Hugging Face's trainer. What is here is what comes before and after: the
sample, text that the split cannot take, and clear errors.

rustbpe 0.1 counts in 32 bits: given a pair that stood 2.2 billion times in a text, it learned a
pair of another text that was a million times rarer. A pair cannot stand more often than the text
has bytes, so `train_bytes` stays below 2^31, and the trainer refuses more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.tokenize.config import MIN_VOCAB, TokenizeConfig
from llmpipe.stages.tokenize.documents import Unit, read_unit
from llmpipe.stages.tokenize.split import sample_bucket, split_hash
from llmpipe.tokenizer.bpe import Tokenizer, clean_text
from llmpipe.tokenizer.encoders import cut_long_runs
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.special import N_SPECIAL, VOCAB_MULTIPLE, place_special

_BUFFER_TEXTS = 256
"""Texts that rustbpe takes at a time. Its own default, 8,192, holds whole books in memory."""

_MAX_BYTES = 2**31 - 1

_TEXT_CHARS = 200_000
"""Longer documents are handed over in parts, which costs at most one odd piece a part."""


@dataclass(frozen=True)
class Sample:
    """Which documents the merges are learned from."""

    seed: int
    n_buckets: int
    val_below: int
    max_bytes: int


def train_tokenizer(
    units: Sequence[Unit], config: TokenizeConfig, sample: Sample, threads: int
) -> Tokenizer:
    """Learn the vocabulary that `config` asks for.

    Args:
        units: the corpus.
        config: the stage's settings.
        sample: which documents to learn from.
        threads: processor cores to use; the merges do not depend on it.

    Raises:
        InputError: if there is no text.
        UserError: if the text has fewer merges than asked for.
    """
    texts = sample_texts(units, config, sample)
    return train_on_texts(texts, config.vocab_size, config.pattern, threads)


def train_on_texts(
    texts: Iterator[str], vocab_size: int, pattern: str, threads: int = 1
) -> Tokenizer:
    """Learn a vocabulary of `vocab_size` from `texts`; see `train_tokenizer`."""
    n_merges = vocab_size - 256 - N_SPECIAL
    if n_merges < 1:
        raise UserError(
            f"vocab_size ({vocab_size}) must be over {256 + N_SPECIAL}: 256 bytes and "
            f"{N_SPECIAL} special tokens stand beside the merges"
        )
    # rustbpe's thread pool reads this once, when it first works; there is no argument for it.
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    import rustbpe

    regex = split_pattern(pattern)
    trainer = rustbpe.Tokenizer()
    seen = _Seen(texts)
    trainer.train_from_iterator(
        seen.parts(regex), vocab_size=256 + n_merges, buffer_size=_BUFFER_TEXTS, pattern=regex
    )
    if seen.n_bytes == 0:
        raise InputError("there is no text to learn a vocabulary from: the corpus is empty")
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    if len(ranks) < 256 + n_merges:
        raise _too_few_merges(vocab_size, n_merges, len(ranks) - 256, seen.n_bytes)
    return Tokenizer(ranks, regex, place_special(256 + n_merges))


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


def sample_texts(units: Sequence[Unit], config: TokenizeConfig, sample: Sample) -> Iterator[str]:
    """Yield the sampled training documents in order, at most `sample.max_bytes` of them."""
    left = sample.max_bytes
    for unit in units:
        for document in read_unit(unit, config):
            if not document.text:
                continue
            text = clean_text(document.text)[0]
            data = text.encode()
            if split_hash(data) < sample.val_below:
                continue
            if sample_bucket(data, sample.seed) >= sample.n_buckets:
                continue
            if len(data) > left:
                yield data[:left].decode(errors="ignore")
                return
            left -= len(data)
            yield text


class _Seen:
    """Passes texts on in parts that the trainer can take, and counts their bytes."""

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts = texts
        self.n_bytes = 0

    def parts(self, regex: str) -> Iterator[str]:
        for text in self._texts:
            self.n_bytes += len(text.encode())
            if self.n_bytes > _MAX_BYTES:
                raise UserError(f"at most {_MAX_BYTES:,} bytes of text can be learned from")
            for segment, is_piece in cut_long_runs(text, regex):
                if is_piece:  # 50,000 spaces overflow the regex engine and teach nothing
                    continue
                for start in range(0, len(segment), _TEXT_CHARS):
                    yield segment[start : start + _TEXT_CHARS]
