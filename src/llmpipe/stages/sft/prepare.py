"""Conversations as rows that can be trained on, with every loss on the way counted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llmpipe.assistant.conversation import Conversation
from llmpipe.assistant.render import render_for_training
from llmpipe.core.errors import InputError
from llmpipe.stages.sft.config import SFTConfig
from llmpipe.stages.sft.packing import MaskedSequence, fit_length, make_sample, pack
from llmpipe.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Packed:
    """Conversations as rows of tokens."""

    rows: list[list[MaskedSequence]]
    n_cut: int
    n_dropped: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all conversations, without padding."""
        return sum(len(sample.ids) for row in self.rows for sample in row)

    @property
    def n_trained(self) -> int:
        """Tokens that the loss looks at."""
        return sum(sample.n_trained for row in self.rows for sample in row)

    def trained_by_source(self) -> dict[str, int]:
        """Count trained tokens by where they come from."""
        counts: dict[str, int] = {}
        for row in self.rows:
            for sample in row:
                counts[sample.source] = counts.get(sample.source, 0) + sample.n_trained
        return counts


def pack_conversations(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    config: SFTConfig,
    max_seq_len: int,
    rng: random.Random,
) -> Packed:
    """Render, fit and pack conversations; the order of the rows is shuffled."""
    samples, n_cut, n_dropped = [], 0, 0
    for conversation in conversations:
        for rendered in render_for_training(conversation.messages, tokenizer):
            whole = make_sample(rendered, conversation.source)
            fitted = fit_length(whole, max_seq_len, config.over_long)
            if fitted is None:
                n_dropped += 1
                continue
            n_cut += len(fitted.ids) < len(whole.ids)
            samples.append(fitted)
    if not samples:
        raise InputError(f"no conversation has an answer within {max_seq_len} tokens")
    rows = pack([len(sample.ids) for sample in samples], max_seq_len)
    rng.shuffle(rows)
    return Packed([[samples[i] for i in row] for row in rows], n_cut, n_dropped)


def by_source(conversations: Sequence[Conversation]) -> dict[str, list[Conversation]]:
    """Group conversations by where they come from."""
    groups: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        groups.setdefault(conversation.source, []).append(conversation)
    return groups
