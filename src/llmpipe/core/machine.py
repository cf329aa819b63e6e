"""What this machine has for us, asked without torch."""

from __future__ import annotations

import os


def n_usable_cores() -> int:
    """Count the cores that this process may run on, which a container or `taskset` may have made fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows cannot say more
