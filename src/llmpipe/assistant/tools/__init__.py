"""Tools that run while the assistant writes: text in, text out."""

from __future__ import annotations

from typing import Protocol


class Tool(Protocol):
    """What a reply can call; errors come back as text that begins with `error:`."""

    def run(self, text: str) -> str:
        """Return what the tool has to say about `text`, in bounded time."""
        ...
