"""Bits per byte of texts that were held out, file by file: which kind of text the model gets better at.

Source of the idea: Magnusson et al. 2023 (Paloma), arXiv:2312.10523. Unlike perplexity per token, bits per
byte compare models with different tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from llmpipe.core.errors import InputError
from llmpipe.core.records.files import expand
from llmpipe.core.records.lines import whole
from llmpipe.core.records.rows import READERS, read_rows
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.evaluations.config import BitsPerByte
from llmpipe.training.evaluations.likelihood import Scored, log_likelihoods

MOST_PER_TOKEN = 16
"""Characters read for each token wanted: no tokenizer makes its tokens as long on average."""


class BitsPerByteEvaluation:
    """Measures the texts of some files, each as long as `max_tokens` allow."""

    def __init__(self, settings: BitsPerByte) -> None:
        """Read the texts.

        Raises:
            InputError: if a file cannot be read, or holds no text.
        """
        self.settings = settings
        files = expand(settings.files, READERS)
        self.texts = {name: _read_texts(name, settings) for name in files}
        self.labels = _labels(files)

    def __call__(self, context: EvaluationContext, /) -> dict[str, float]:
        """Measure all texts of all files, and each file's by itself if there are several."""
        rows: list[Scored] = []
        file_of_row: list[str] = []
        n_bytes = dict.fromkeys(self.texts, 0)
        for name, texts in self.texts.items():
            cut, n_bytes[name] = _cut(texts, context, self.settings.max_tokens)
            rows += cut
            file_of_row += [name] * len(cut)
        nats = dict.fromkeys(self.texts, 0.0)
        for name, found in zip(file_of_row, log_likelihoods(context, rows), strict=True):
            nats[name] -= found
        all_bytes, all_nats = sum(n_bytes.values()), math.fsum(nats.values())
        numbers = {"bits_per_byte": all_nats / math.log(2) / all_bytes}
        if len(self.texts) > 1:
            for name, label in self.labels.items():
                numbers[f"bits_per_byte_{label}"] = nats[name] / math.log(2) / n_bytes[name]
        return numbers


def _labels(files: Sequence[str]) -> dict[str, str]:
    """Call each file by its name without endings; those of one name by their folder too."""
    short = {name: Path(name).name.split(".")[0] for name in files}
    counts = list(short.values())
    return {
        name: label if counts.count(label) == 1 else f"{Path(name).parent.name}_{label}"
        for name, label in short.items()
    }


def _read_texts(path: str, settings: BitsPerByte) -> list[str]:
    texts, n_left = [], settings.max_tokens * MOST_PER_TOKEN
    for where, row in whole(read_rows(path)):
        text = row.get(settings.text_field)
        if not isinstance(text, str):
            raise InputError(
                f"{where}: `{settings.text_field}` is no text, it has {', '.join(row)}"
            )
        if text:
            texts.append(text)
            n_left -= len(text)
        if n_left <= 0:
            break
    if not texts:
        raise InputError(f"`{path}` holds no text")
    return texts


def _cut(texts: list[str], context: EvaluationContext, max_tokens: int) -> tuple[list[Scored], int]:
    """Cut texts into rows as training does: BOS before a text, and a long one goes on in the next row.

    Returns:
        The rows, and the bytes of what is scored in them.
    """
    tokenizer, length = context.tokenizer, context.row_tokens
    rows: list[Scored] = []
    n_bytes, n_left = 0, max_tokens
    for text in texts:
        ids = [tokenizer.bos_id, *tokenizer.encode(text)[:n_left]]
        n_left -= len(ids) - 1
        n_bytes += len(tokenizer.decode_bytes(ids[1:]))
        rows += [
            Scored(ids[start : start + length + 1], n_given=1)
            for start in range(0, len(ids) - 1, length)
        ]
        if n_left <= 0:
            break
    return rows, n_bytes
