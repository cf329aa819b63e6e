"""Where a server listens, and what its model is called there."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from llmpipe.core.errors import UserError

LOOPBACK = "127.0.0.1"


def model_name(folder: Path) -> str:
    """Return what clients call a model: its run and folder."""
    return "-".join(folder.resolve().parts[-2:])


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_key(host: str, key: str | None) -> None:
    """Refuse to let other machines in without a key.

    Raises:
        UserError: if there is none.
    """
    if not is_loopback(host) and not key:
        raise UserError(
            f"other machines can reach {host}, and there is no key",
            hint="set LLMPIPE_API_KEY, or listen on 127.0.0.1",
        )
