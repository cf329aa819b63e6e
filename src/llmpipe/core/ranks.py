"""Which of the processes started together this one is, read from torchrun's variables without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """This process's place among all processes of the run; the defaults are a run of one."""

    rank: int = 0
    """Number of this process, over all machines."""
    world_size: int = 1
    """How many processes there are, over all machines."""
    local_rank: int = 0
    """Number of this process on its machine; picks its GPU."""
    local_world_size: int = 1
    """How many processes there are on this machine; they share its cores."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return self.world_size == 1


def current_ranks() -> Ranks:
    """Read the place of this process as torchrun set it; without torchrun, a run of one."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return Ranks(
        rank=int(os.environ.get("RANK", "0")),
        world_size=world_size,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size))),
    )
