"""Remote files: one download at a time per worker, with patient retries, to a file that is deleted after reading."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from llmpipe.core.errors import InputError

_WAITS_S = (1, 4, 15, 60)
"""Common Crawl asks clients to slow down on errors; four ever longer waits are 80 s in all."""


@contextlib.contextmanager
def local_copy(name: str, folder: Path) -> Iterator[Path]:
    """Yield a local path for a file or URL (any scheme that fsspec knows).

    Raises:
        InputError: the download failed five times.
    """
    if "://" not in name:
        yield Path(name)
        return
    target = folder / ".download"
    try:
        _download(name, target)
        yield target
    finally:
        target.unlink(missing_ok=True)


def _download(url: str, target: Path) -> None:
    import fsspec

    for wait_s in (*_WAITS_S, None):
        try:
            with fsspec.open(url, "rb") as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            return
        except FileNotFoundError:
            raise InputError(f"there is no file at `{url}`") from None
        except PermissionError as error:
            raise InputError(f"`{url}` may not be read: {error}") from None
        except ImportError as error:
            scheme = url.partition("://")[0]
            hint = "pip install 'llmpipe[s3]'" if scheme == "s3" else str(error)
            raise InputError(f"reading `{scheme}://` needs another package", hint) from None
        except Exception as error:  # every protocol has its own error classes
            if wait_s is None:
                raise InputError(
                    f"`{url}` cannot be read: {error}", "run the same command again later"
                ) from error
            time.sleep(wait_s)
