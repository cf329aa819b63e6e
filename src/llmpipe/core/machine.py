"""What this machine offers: cores, and a folder for what can be made again. Loads without torch."""

from __future__ import annotations

import os
from pathlib import Path


def n_usable_cores() -> int:
    """Count the cores that this process may run on, which a container or `taskset` may have made fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows cannot say more


def cache_folder() -> Path | None:
    """Return where what can be made or downloaded again is kept: `$XDG_CACHE_HOME/llmpipe` or `~/.cache/llmpipe`; None for a user without a home, as in some containers.

    Source: XDG base directory specification, which also says to ignore a relative path.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "llmpipe"
    try:
        return Path.home() / ".cache" / "llmpipe"
    except RuntimeError:  # no HOME, and no entry in passwd
        return None
