"""From pools of conversations to the one list that is trained on.

How much of each source the mixture holds follows from its weight; a source with too few
conversations for its share is repeated in whole shuffled passes (epochs), up to a bound. Single
questions are then joined into conversations of several turns, because a chat goes on: a model that
has only seen first turns copies the numbers of an earlier question.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llmpipe.assistant.conversation import Conversation
from llmpipe.stages.sft.generators import Pool
from llmpipe.tasks.base import is_in_share

MAX_JOINED = 5


@dataclass(frozen=True)
class MixtureSource:
    """A pool with its part in the mixture."""

    name: str
    pool: Pool
    weight: float
    max_epochs: float
    is_own: bool
    """Whether we made it: its conversations may then become turns of longer ones."""
    license: str | None = None


@dataclass(frozen=True)
class Share:
    """What became of a source."""

    name: str
    n_available: int
    n_used: int
    license: str | None = None

    @property
    def epochs(self) -> float:
        """How often the source is seen."""
        return self.n_used / self.n_available if self.n_available else 0.0


def split_held_out(conversations: list[Conversation], frac: float) -> Pool:
    """Keep back a share of conversations, chosen by a hash of what they say."""
    pool = Pool([], [])
    for conversation in conversations:
        key = repr(conversation.messages).encode("utf-8", "surrogatepass")
        (pool.held_out if is_in_share(key, frac) else pool.train).append(conversation)
    return pool


def mix(
    sources: Sequence[MixtureSource], total: int, joined_frac: float, rng: random.Random
) -> tuple[list[Conversation], list[Share]]:
    """Draw about `total` conversations by weight, and join some of them.

    Args:
        total: Questions with their answers, as far as the bounds of repetition allow.
        joined_frac: The share of questions that stand in a conversation of several turns.
    """
    total_weight = sum(source.weight for source in sources if source.pool.train)
    joinable: list[Conversation] = []
    alone: list[Conversation] = []
    shares = []
    for source in sources:
        available = source.pool.train
        wanted = round(total * source.weight / total_weight) if available else 0
        n_used = min(wanted, round(len(available) * source.max_epochs))
        for conversation in _draw(available, n_used, rng):
            # A system message stands at the beginning, so what has one is not put behind others.
            may_join = source.is_own and conversation.messages[0].role != "system"
            (joinable if may_join else alone).append(conversation)
        shares.append(Share(source.name, len(available), n_used, source.license))
    rng.shuffle(joinable)
    mixed = alone + join(joinable, joined_frac, rng)
    rng.shuffle(mixed)
    return mixed, shares


def _draw(available: list[Conversation], n: int, rng: random.Random) -> list[Conversation]:
    """Return n conversations: whole passes in new orders, the last one cut."""
    drawn: list[Conversation] = []
    while len(drawn) < n:
        drawn += rng.sample(available, min(len(available), n - len(drawn)))
    return drawn


def join(
    conversations: list[Conversation], joined_frac: float, rng: random.Random
) -> list[Conversation]:
    """Join neighbors, so that `joined_frac` of them stand in conversations of 2 to `MAX_JOINED`."""
    n_joined = round(len(conversations) * joined_frac)
    result = conversations[n_joined:]
    start = 0
    while start < n_joined:
        stop = min(start + rng.randint(2, MAX_JOINED), n_joined)
        group = conversations[start:stop]
        messages = tuple(message for conversation in group for message in conversation.messages)
        kinds = {conversation.source for conversation in group}
        result.append(Conversation(messages, kinds.pop() if len(kinds) == 1 else "joined"))
        start = stop
    return result
