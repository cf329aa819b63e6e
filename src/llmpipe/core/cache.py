"""Where this user keeps what can be made or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Return `$XDG_CACHE_HOME/llmpipe` or `~/.cache/llmpipe`; None for a user without a home, as in some containers.

    Source: XDG base directory specification, which also says to ignore a relative path.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "llmpipe"
    try:
        return Path.home() / ".cache" / "llmpipe"
    except RuntimeError:  # no HOME, and no entry in passwd
        return None
