"""The rendezvous: how the processes of a run find each other, even where an earlier run met at the same address.

torchrun keeps one key-value store across all its restarts, and torch's own rendezvous reads the keys
that the processes before a restart left there: it connects to addresses of dead processes, and hangs
(seen with torch 2.13). So the processes first agree on a prefix for their keys that no earlier ones used.

Every process draws a random name. Rank 0 publishes its own name next to those it has read, until every
rank has acknowledged it; a rank that reads its own name there knows that this rank 0 is not a leftover.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, Protocol

from llmpipe.core.errors import UserError
from llmpipe.core.ranks import Ranks

LOOK_EVERY_S = 0.05


class Store(Protocol):
    """What of torch's store is used here."""

    def set(self, key: str, value: str, /) -> None:
        """Write a key."""

    def get(self, key: str, /) -> bytes:
        """Read a key."""

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all keys are there."""


def agree_on_name(store: Store, ranks: Ranks, timeout_s: float) -> str:
    """Return a new name, the same on every process, when all are there.

    Raises:
        UserError: naming who did not come in time.
    """
    own = uuid.uuid4().hex
    deadline = time.monotonic() + timeout_s
    others = range(1, ranks.world_size)
    heard: dict[str, str | None] = {}
    if not ranks.is_main:
        store.set(f"name/{ranks.rank}", json.dumps(own))
    while True:
        if ranks.is_main:
            now = {str(rank): _read(store, f"name/{rank}") for rank in others}
            if now != heard:
                heard = now
                store.set("round", json.dumps({"name": own, "heard": heard}))
            missing = [rank for rank in others if _read(store, f"answer/{rank}") != own]
            if not missing:
                return own
        else:
            missing = [0]
            offer = _read(store, "round")
            if offer is not None and offer["heard"].get(str(ranks.rank)) == own:
                store.set(f"answer/{ranks.rank}", json.dumps(offer["name"]))
                return str(offer["name"])
        if time.monotonic() > deadline:
            who = "process" if len(missing) == 1 else "processes"
            raise UserError(
                f"{who} {', '.join(map(str, missing[:8]))} of {ranks.world_size} did not come "
                f"within {timeout_s:.0f} s",
                hint="start the same command on every machine; look whether it ended there with an error",
            )
        time.sleep(LOOK_EVERY_S)


def _read(store: Store, key: str) -> Any:
    return json.loads(store.get(key)) if store.check([key]) else None
