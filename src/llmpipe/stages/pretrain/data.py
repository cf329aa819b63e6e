"""What pretraining reads: rows to train on, and a share of the validation tokens for each process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from llmpipe.core.distributed import Runtime
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.shards import TokenShards
from llmpipe.training.loss import IGNORE
from llmpipe.training.rows import MixedRows, Rows
from llmpipe.training.step import Batch


@dataclass(frozen=True)
class CorpusShards:
    """Tokens of one artifact."""

    train: TokenShards
    val: TokenShards
    weight: float = 1.0


@dataclass(frozen=True)
class Data:
    """What is trained on and measured on."""

    corpora: Sequence[CorpusShards]
    tokenizer: Tokenizer

    @property
    def n_train_tokens(self) -> int:
        """Count the tokens to train on, each once."""
        return sum(corpus.train.n_tokens for corpus in self.corpora)

    @property
    def shards(self) -> list[TokenShards]:
        """List all shards."""
        return [shards for corpus in self.corpora for shards in (corpus.train, corpus.val)]


def training_rows(data: Data, row_tokens: int, n_rows: int, seed: int) -> Rows | MixedRows:
    """Number the rows of the run, over all corpora."""
    parts = [Rows(corpus.train, row_tokens, seed) for corpus in data.corpora]
    if len(parts) == 1:
        return parts[0]
    return MixedRows(parts, [corpus.weight for corpus in data.corpora], n_rows)


def validation_batches(
    data: Data, config: PretrainConfig, row_tokens: int, runtime: Runtime
) -> list[Batch]:
    """Cut this process's share of the validation tokens, in order, at most `eval_tokens` in all.

    Corpora of a mixture are measured in the proportions in which they are trained on.
    """
    micro = config.micro_batch_size
    total = math.fsum(corpus.weight for corpus in data.corpora)
    cuts: list[tuple[Rows, int, int]] = []
    for corpus in data.corpora:
        rows = Rows(corpus.val, row_tokens, seed=None)
        wanted = int(config.eval_tokens * corpus.weight / total) // row_tokens
        n_rows = min(rows.rows_per_epoch, max(1, wanted))
        cuts += [(rows, i, min(micro, n_rows - i)) for i in range(0, n_rows, micro)]
    n_processes = runtime.ranks.world_size
    batches = [
        rows.batch(first, n, config.document_mask)
        for rows, first, n in cuts[runtime.ranks.rank :: n_processes]
    ]
    if len(batches) < -(-len(cuts) // n_processes):
        # With FSDP all processes must go through the model equally often: one more, for nothing.
        nothing = cuts[0][0].batch(0, 1, config.document_mask)
        batches.append(replace(nothing, targets=torch.full_like(nothing.targets, IGNORE)))
    return batches


def count_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    """Give the bytes of text of each id; special tokens stand for none."""
    special = set(tokenizer.special.values())
    sizes = [
        0 if i in special else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)
    ]
    return torch.tensor(sizes)
