"""Makers of training conversations: seeded, the same for the same arguments.

Every maker returns a `Pool`: what may be trained, and what is kept back for measuring. The two
share no question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmpipe.assistant.conversation import Conversation


@dataclass(frozen=True)
class Pool:
    """Conversations of one source."""

    train: list[Conversation]
    held_out: list[Conversation]


def draw_pool(
    next_conversation: Callable[[bool], Conversation | None], n: int, n_held_out: int
) -> Pool:
    """Draw until there are `n` different questions to train on, and `n_held_out` kept back.

    `next_conversation(held_out)` gives None where chance has drawn what belongs to the other side.
    """

    def draw(n: int, held_out: bool) -> list[Conversation]:
        found: dict[str, Conversation] = {}
        while len(found) < n:
            conversation = next_conversation(held_out)
            if conversation is not None:
                found[conversation.messages[0].text] = conversation
        return list(found.values())

    return Pool(draw(n, held_out=False), draw(n_held_out, held_out=True))
