"""Makers of training conversations: seeded, the same for the same arguments.

Every maker returns a `Pool`: what may be trained, and what is kept back for measuring. The two
share no question.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmpipe.assistant.conversation import Conversation


@dataclass(frozen=True)
class Pool:
    """Conversations of one source."""

    train: list[Conversation]
    held_out: list[Conversation]
