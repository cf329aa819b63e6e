"""Remote files: one download at a time per worker, with patient retries, to a file that is deleted after reading."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from llmpipe.core.remote import open_filesystem, patiently


@contextlib.contextmanager
def local_copy(name: str, folder: Path) -> Iterator[Path]:
    """Yield a local path for a file or URL (any scheme that fsspec knows).

    Raises:
        InputError: the file is not there, may not be read, or the download failed five times.
    """
    if "://" not in name:
        yield Path(name)
        return
    target = folder / ".download"
    try:
        filesystem, path = open_filesystem(name)
        patiently(name, lambda: filesystem.get_file(path, str(target)))
        yield target
    finally:
        target.unlink(missing_ok=True)
