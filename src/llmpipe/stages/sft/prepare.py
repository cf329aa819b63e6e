"""From settings and inputs to rows that can be trained on, with every loss on the way counted."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.assistant.render import render
from llmpipe.core.errors import InputError
from llmpipe.stages.sft.config import FileSource, SFTConfig
from llmpipe.stages.sft.conversation import Conversation
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.generators.arithmetic import make_arithmetic
from llmpipe.stages.sft.generators.documents import make_from_documents, read_pages
from llmpipe.stages.sft.generators.templates import make_from_templates
from llmpipe.stages.sft.mixture import Share, Source, deduplicate, mix, split_held_out
from llmpipe.stages.sft.packing import Sample, fit_length, make_sample, pack
from llmpipe.stages.sft.sources import read_conversations
from llmpipe.tokenizer.bpe import Tokenizer

FILE_HELD_OUT_FRAC = 0.02
HELD_OUT_PER_SOURCE = 30  # enough for a steady validation loss, few enough to cost nothing
N_ERRORS_SHOWN = 5


@dataclass(frozen=True)
class Gathered:
    """The conversations of a run."""

    train: list[Conversation]
    held_out: list[Conversation]
    shares: list[Share]
    n_duplicates: int
    n_bad_rows: int


@dataclass(frozen=True)
class Packed:
    """Conversations as rows of tokens."""

    rows: list[list[Sample]]
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


def gather(config: SFTConfig, facts: Mapping[str, str | None], corpus: Path, seed: int) -> Gathered:
    """Make and read the conversations of all sources and mix them.

    Args:
        config: the stage's settings.
        facts: what the assistant can say about itself.
        corpus: folder of the corpus artifact, from which questions are made.
        seed: of the run; the result depends on nothing else but the arguments.
    """
    sources = [
        Source(name, pool, weight, config.max_repeats, may_join=True)
        for name, pool, weight in _own_pools(config, facts, corpus, seed)
    ]
    n_bad_rows = 0
    for file in config.sources:
        conversations, n_bad = _read(file)
        n_bad_rows += n_bad
        pool = split_held_out(conversations, FILE_HELD_OUT_FRAC)
        name = Path(file.path).name
        sources.append(Source(name, pool, file.weight, file.max_epochs, may_join=False))
    sources, n_duplicates = deduplicate(sources)
    if not any(source.pool.train for source in sources):
        raise InputError("no source has conversations to train on")
    rng = random.Random(f"sft mixture {seed}")
    train, shares = mix(sources, config.conversations, config.joined_frac, rng)
    held_out = []
    for source in sources:
        kept = source.pool.held_out
        held_out += rng.sample(kept, min(len(kept), HELD_OUT_PER_SOURCE))
    return Gathered(train, held_out, shares, n_duplicates, n_bad_rows)


def _own_pools(
    config: SFTConfig, facts: Mapping[str, str | None], corpus: Path, seed: int
) -> list[tuple[str, Pool, float]]:
    """Make the conversations of every kind that has a weight."""
    weights: dict[str, float] = {
        "arithmetic": config.mixture.arithmetic,
        "identity": config.mixture.identity,
        "documents": config.mixture.documents,
        "smalltalk": config.mixture.smalltalk,
        "refusals": config.mixture.refusals,
    }
    pools = []
    for name, weight in weights.items():
        if not weight:
            continue
        rng = random.Random(f"sft {name} {seed}")
        if name == "arithmetic":
            pool = make_arithmetic(config.conversations, HELD_OUT_PER_SOURCE, rng)
        elif name == "documents":
            pool = make_from_documents(read_pages(corpus), config.max_names)
        else:
            pool = make_from_templates(name, facts)
        pools.append((name, pool, weight))
    return pools


def _read(source: FileSource) -> tuple[list[Conversation], int]:
    """Read a file; its bad rows are an error, or counted, as the settings say."""
    path = Path(source.path)
    conversations, errors = read_conversations(path, path.name)
    if errors and source.bad_rows == "error":
        shown = "\n".join(f"  {error}" for error in errors[:N_ERRORS_SHOWN])
        raise InputError(
            f"{len(errors)} rows of `{path}` cannot be used:\n{shown}",
            'leave them out with `bad_rows = "skip"` in [[sft.sources]]',
        )
    return conversations, len(errors)


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
        whole = make_sample(render(conversation.messages, tokenizer), conversation.source)
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


def mixture_table(gathered: Gathered) -> list[dict[str, Any]]:
    """Describe the mixture for the manifest, one entry per source."""
    return [
        {
            "source": share.name,
            "available": share.n_available,
            "used": share.n_used,
            "epochs": round(share.epochs, 2),
        }
        for share in gathered.shares
    ]
