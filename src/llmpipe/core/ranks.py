"""Which of the processes started together this one is, read from torchrun's variables without torch."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MAIN_SPEAKS_FIRST_S = 0.5
"""How long the other processes wait before they say what it may say, too."""


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


def was_restarted() -> bool:
    """Tell whether torchrun started these processes in place of others that it lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def stop_with_launcher() -> None:
    """Ask the system for a SIGTERM when torchrun ends, however it ends; Linux only.

    A torchrun that is killed would leave its processes behind, with the GPUs and the lock of the run.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG, see prctl(2)


def is_first_to_say(message: str, is_lasting: bool) -> bool:
    """Tell whether no other process of this machine has said this yet.

    All of them see it when settings are wrong, or when one of them is lost; it is enough if one
    speaks. They find each other in the folder of logs that torchrun makes for every launch.

    Args:
        message: What is to be said.
        is_lasting: A restart would not help: also whoever said it before a restart counts.
    """
    ranks = current_ranks()
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # LAUNCH/attempt_0/1/error.json
    if file is None:
        return ranks.local_rank == 0
    if not ranks.is_main:
        time.sleep(MAIN_SPEAKS_FIRST_S)
    name = f"said-{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    try:
        (Path(file).parents[2 if is_lasting else 1] / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def signature() -> str:
    """Name this process for people, where it is not the main one: `[process 3 on node-b] `."""
    rank = current_ranks().rank
    return f"[process {rank} on {platform.node()}] " if rank else ""
