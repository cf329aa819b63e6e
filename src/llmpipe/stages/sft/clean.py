"""What is kept of conversations: each once, and none that an evaluation asks.

Two conversations are the same if they say the same words, whatever their case and spacing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from llmpipe.assistant.conversation import Conversation
from llmpipe.stages.sft.config import DecontaminationSettings
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.mixture import MixtureSource
from llmpipe.tasks.base import AssistantFacts
from llmpipe.tasks.overlap import Runs, collect_runs, strings_of
from llmpipe.tasks.registry import TASKS

N_QUESTIONS = 1000
"""Per built-in task: all there are, or more than are asked."""


def text_key(texts: Iterable[str]) -> int:
    """Return a number that texts share if they differ in case, spacing and forms of characters only."""
    words = "\0".join(
        " ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts
    )
    return xxhash.xxh3_64_intdigest(words.encode("utf-8", "surrogatepass"))


def conversation_key(conversation: Conversation) -> int:
    """Return the key of all that is said, with who says it."""
    texts = []
    for message in conversation.messages:
        texts.append(message.role)
        texts += [value for part in message.parts for value in vars(part).values()]
    return text_key(texts)


def deduplicate(sources: Sequence[MixtureSource]) -> tuple[list[MixtureSource], int]:
    """Keep the first of equal conversations, over all sources, and return how many went.

    A conversation that is held out is never trained either. Our own ask the same in several
    spellings on purpose; of those only exact copies go.
    """
    held_out = [c for source in sources for c in source.pool.held_out]
    exact = {c.messages for c in held_out}
    loose = {conversation_key(c) for c in held_out}
    kept_sources, n_dropped = [], 0
    for source in sources:
        kept = []
        for conversation in source.pool.train:
            key = conversation_key(conversation)
            is_known = conversation.messages in exact if source.is_own else key in loose
            if is_known:
                n_dropped += 1
            else:
                exact.add(conversation.messages)
                loose.add(key)
                kept.append(conversation)
        kept_sources.append(replace(source, pool=Pool(kept, source.pool.held_out)))
    return kept_sources, n_dropped


@dataclass(frozen=True)
class Evaluations:
    """What evaluations ask."""

    runs: Runs
    """Of words, from the files of evaluation sets."""
    questions: frozenset[int]
    """Keys of the questions of the built-in tasks."""

    def find(self, conversation: Conversation) -> str | None:
        """Say what of a conversation is in an evaluation, or None."""
        for message in conversation.messages:
            if message.role == "user" and text_key([message.text]) in self.questions:
                return f"question of a task: {message.text}"
        run = self.runs.find("\n".join(message.text for message in conversation.messages))
        return " ".join(run) if run else None


def read_evaluations(config: DecontaminationSettings, own_name: str, seed: int) -> Evaluations:
    """Collect what the evaluation sets and, with the run's seed, the built-in tasks hold.

    Raises:
        InputError: a file cannot be read.
    """
    texts = (text for name in config.files for text in strings_of(Path(name)))
    facts = AssistantFacts(own_name)
    asked = {
        text_key([example.question])
        for task in TASKS.values()
        for example in task.examples(facts, N_QUESTIONS, seed)
    }
    return Evaluations(collect_runs(texts, config.ngram, config.min_words), frozenset(asked))
