"""From settings and inputs to the conversations of a run, with every loss on the way counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.assistant.conversation import Conversation
from llmpipe.assistant.render import Message
from llmpipe.core.errors import InputError
from llmpipe.core.records.rows import HUB
from llmpipe.stages.sft.clean import deduplicate, read_evaluations
from llmpipe.stages.sft.config import SFTConfig
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.lint import RULES, Finding, lint
from llmpipe.stages.sft.mixture import MixtureSource, Share, mix, split_held_out
from llmpipe.stages.sft.own import HELD_OUT_PER_SOURCE, Facts, make_own
from llmpipe.stages.sft.sources import read_conversations
from llmpipe.stages.sft.tools_told import tell_tools
from llmpipe.tasks.templates import fill
from llmpipe.tokenizer.bpe import Tokenizer

FILE_HELD_OUT_FRAC = 0.02
N_ERRORS_SHOWN = 5


@dataclass(frozen=True)
class Aside:
    """A row that is not trained on."""

    source: str
    where: str
    reason: str


@dataclass(frozen=True)
class Gathered:
    """The conversations of a run."""

    train: list[Conversation]
    held_out: list[Conversation]
    shares: list[Share]
    n_duplicates: int
    aside: list[Aside]
    n_contaminated: int
    findings: list[tuple[str, Finding]]
    """(source, finding) of the linter, over conversations of others."""


def gather(
    config: SFTConfig,
    facts: Facts,
    corpus: Path,
    tokenizer: Tokenizer,
    seed: int,
    probed: Pool | None = None,
) -> Gathered:
    """Make and read the conversations of all sources and mix them.

    Args:
        corpus: Folder of the corpus artifact, from which questions are made.
        seed: The run's; the result depends on nothing but the arguments.
        probed: What an earlier assistant knows, if it was asked.
    """
    sources = [
        MixtureSource(name, pool, weight, config.max_repeats, is_own=True)
        for name, pool, weight in make_own(config, facts, corpus, tokenizer, seed, probed)
    ]
    others, aside, findings, n_contaminated = _read_others(config, seed)
    sources, n_duplicates = deduplicate([*sources, *others])
    if not any(source.pool.train for source in sources):
        raise InputError("no source has conversations to train on")
    rng = random.Random(f"sft mixture {seed}")
    train, shares = mix(sources, config.conversations, config.joined_frac, rng)
    held_out = []
    for source in sources:
        kept = source.pool.held_out
        held_out += rng.sample(kept, min(len(kept), HELD_OUT_PER_SOURCE))
    if config.tools_told_frac:
        of_others = {source.name for source in others}
        own = [c for c in train if c.source not in of_others]
        told = tell_tools(own, config.tools_told_frac, random.Random(f"sft tools {seed}"))
        train = [*told, *(c for c in train if c.source in of_others)]
        random.Random(f"sft order {seed}").shuffle(train)
    if config.system is not None:
        system = system_words(config.system, facts)
        train = [with_system(c, system) for c in train]
        held_out = [with_system(c, system) for c in held_out]
    return Gathered(train, held_out, shares, n_duplicates, aside, n_contaminated, findings)


def system_words(text: str, facts: Facts) -> str:
    """Fill the system message.

    Raises:
        InputError: it has a place that nothing is known for.
    """
    filled = fill(text, facts)
    if filled is None:
        known = ", ".join(f"{{{name}}}" for name, value in facts.items() if value is not None)
        raise InputError("sft.system has a place that is not known", f"known are {known}")
    return filled


def with_system(conversation: Conversation, words: str) -> Conversation:
    """Put a system message in front, unless there is one."""
    if conversation.messages[0].role == "system":
        return conversation
    messages = (Message("system", words), *conversation.messages)
    return Conversation(messages, conversation.source)


# ------------------------------------------------------------------------------------------
# Conversations of others


def _read_others(
    config: SFTConfig, seed: int
) -> tuple[list[MixtureSource], list[Aside], list[tuple[str, Finding]], int]:
    """Return the sources, the rows set aside, the linter's findings, and how many an evaluation holds."""
    sources: list[MixtureSource] = []
    aside: list[Aside] = []
    findings: list[tuple[str, Finding]] = []
    n_contaminated = 0
    evaluations = read_evaluations(config.decontamination, config.identity.name, seed)
    for file in config.sources:
        name = file.path if file.path.startswith(HUB) else Path(file.path).name
        conversations, errors = read_conversations(file.path, name, file.split)
        if errors and file.bad_rows == "error":
            shown = "\n".join(f"  {error}" for error in errors[:N_ERRORS_SHOWN])
            said = f"{len(errors)} rows of `{file.path}` cannot be used:\n{shown}"
            raise InputError(said, 'set them aside with `bad_rows = "skip"`')
        # The name of the file is enough: an artifact should not tell where it was made.
        aside += [Aside(name, error.where.rpartition("/")[2], error.said) for error in errors]
        clean = []
        for conversation in conversations:
            found = evaluations.find(conversation)
            if found is None:
                clean.append(conversation)
                findings += [(name, f) for f in lint(conversation, config.identity.name)]
            else:
                n_contaminated += 1
                aside.append(Aside(name, "", f"in an evaluation: {found}"))
        pool = split_held_out(clean, FILE_HELD_OUT_FRAC)
        sources.append(MixtureSource(name, pool, file.weight, file.max_epochs, False, file.license))
    return sources, aside, findings, n_contaminated


# ------------------------------------------------------------------------------------------
# For the manifest


def mixture_table(gathered: Gathered) -> list[dict[str, Any]]:
    """Describe the mixture, one entry per source."""
    return [
        {
            "source": share.name,
            "available": share.n_available,
            "used": share.n_used,
            "epochs": round(share.epochs, 2),
        }
        | ({"license": share.license} if share.license else {})
        for share in gathered.shares
    ]


def lint_table(findings: Sequence[tuple[str, Finding]]) -> dict[str, dict[str, int]]:
    """Count findings by rule and source."""
    counts = Counter((finding.rule, source) for source, finding in findings)
    found = {
        rule: {source: n for (of, source), n in counts.items() if of == rule} for rule in RULES
    }
    return {rule: by_source for rule, by_source in found.items() if by_source}
