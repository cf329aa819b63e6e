"""How likely a model finds given tokens: what most evaluations of base models come down to."""

# B batch  T time

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.loss import IGNORE, token_losses


@dataclass(frozen=True)
class Scored:
    """Tokens of which the last ones are scored."""

    ids: Sequence[int]
    n_given: int
    """Tokens at the start that are given and not scored; at least one, such as BOS."""


def log_likelihoods(context: EvaluationContext, sequences: Sequence[Scored]) -> list[float]:
    """Give the log-probability of each sequence's scored tokens, in nats, on every process.

    Sequences of like length go through the model together, the longest first, so that too little
    memory shows at once. What goes together does not depend on the number of processes, so neither
    do the results.

    Args:
        context: Of the evaluation that is going on.
        sequences: At most `context.row_tokens + 1` tokens each: the last one is only a target.
    """
    device, model = context.runtime.device, context.model
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].ids))
    groups: list[list[int]] = []
    for i in order:
        longest = len(sequences[groups[-1][0] if groups else i].ids) - 1
        if not groups or (len(groups[-1]) + 1) * longest > context.batch_tokens:
            groups.append([])
        groups[-1].append(i)
    found = [0.0] * len(sequences)
    for group, counts in context.share(groups):
        ids, targets = (part.to(device) for part in pad([sequences[i] for i in group]))
        with torch.no_grad(), context.runtime.autocast(context.dtype):
            hidden = model.hidden(ids)
        nats = token_losses(hidden, model.head.weight, targets, model.config.vocab_size)  # B T
        if counts:
            for i, total in zip(group, nats.double().sum(dim=1).tolist(), strict=True):
                found[i] = -total
    # One process knows each number, and the others have 0 there: the sum is exact.
    return context.runtime.sum(found)


def pad(sequences: Sequence[Scored]) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rows of equal length; what comes after a sequence does not change it."""
    longest = max(len(sequence.ids) for sequence in sequences) - 1
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    targets = torch.full_like(ids, IGNORE)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence.ids)
        ids[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, sequence.n_given - 1 : len(tokens) - 1] = tokens[sequence.n_given :]
    return ids, targets


class Continuations:
    """Makes texts and their continuations into tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = set(tokenizer.special.values())
        self.tokenizer = tokenizer
        self._n_bytes = [
            0 if i in special else len(tokenizer.token_bytes(i))
            for i in range(tokenizer.vocab_size)
        ]

    def encode(self, text: str, continuation: str, max_tokens: int) -> Scored:
        """Encode both as one text, after BOS; every token that has a byte of `continuation` is scored.

        Args:
            text: What is given.
            continuation: What is scored.
            max_tokens: Of the sequence; of one that is too long, the start of `text` is cut off.
        """
        encode, n_bytes = self.tokenizer.encode, self._n_bytes
        ids = encode(text + continuation)
        left = sum(n_bytes[i] for i in encode(text))
        n_given = 0
        for i in ids:
            left -= n_bytes[i]
            if left < 0:
                break
            n_given += 1
        n_cut = max(0, 1 + len(ids) - max_tokens)
        return Scored([self.tokenizer.bos_id, *ids[n_cut:]], max(1, 1 + n_given - n_cut))
