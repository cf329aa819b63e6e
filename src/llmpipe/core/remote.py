"""Requests to other machines: patient with those that are busy, brief with those that refuse."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from llmpipe.core.errors import InputError

T = TypeVar("T")

WAITS_S = (1, 4, 15, 60)
"""Common Crawl asks clients to slow down on errors; four ever longer waits are 80 s in all."""
_MAX_WAIT_S = 600.0
"""Longest `Retry-After` that is waited for."""
_WORTH_ANOTHER_TRY = (408, 425, 429)
"""Statuses below 500 that say "later"; the others say "no"."""


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the place in it.

    Raises:
        InputError: the scheme needs a package that is not installed.
    """
    import fsspec

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # The default ends every request after five minutes, which a large archive can well take.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
        options["client_kwargs"] = {"timeout": timeout}
    scheme = url.partition("://")[0]
    try:
        filesystem, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        hint = "pip install 'llmpipe[s3]'" if scheme == "s3" else str(error)
        raise InputError(f"reading `{scheme}://` needs another package", hint) from None
    except ValueError:
        hint = "http, https, s3 and what else fsspec knows"
        raise InputError(f"`{url}`: nothing here can read `{scheme}://`", hint) from None
    return filesystem, path


@contextlib.contextmanager
def local_copy(name: str, folder: Path) -> Iterator[Path]:
    """Yield a local path for a file or an address: a download is deleted after reading.

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


class RemoteFile(io.RawIOBase):
    """A file at an address, read where it lies; a connection that breaks is opened again at the same place.

    Raises:
        InputError: the file is not there, may not be read, or one read failed five times.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._filesystem, self._path = open_filesystem(url)
        self._position = 0
        self._file: Any = patiently(url, self._open)
        self._size: int | None = self._file.size  # unknown where a server only sends files whole

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Whether the server sends parts of files."""
        return self._size is not None

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another position; the next read asks for it."""
        if whence == io.SEEK_END and self._size is None:
            raise io.UnsupportedOperation(f"the size of `{self._url}` is not known")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = (base or 0) + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the file goes."""
        data = patiently(self._url, lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the connection."""
        if self._file is not None and not self.closed:
            self._file.close()
        super().close()

    def _open(self) -> Any:
        return self._filesystem.open(self._path, "rb")

    def _read(self, n: int) -> bytes:
        try:
            self._file = self._file or self._open()
            if self.seekable():
                self._file.seek(self._position)
            while (missing := self._position - self._file.tell()) > 0:
                if not self._file.read(min(missing, 1 << 20)):
                    break
            return bytes(self._file.read(n))
        except Exception:
            self._file = None
            raise


def patiently(url: str, request: Callable[[], T], waits_s: Sequence[float] = WAITS_S) -> T:
    """Carry out a request, with ever longer pauses or those that the server asks for after each failure.

    Raises:
        InputError: there is no such file, it may not be read, or the last attempt failed too.
    """
    for wait_s in (*waits_s, None):
        try:
            return request()
        except PermissionError as error:
            hint = "for a public bucket set FSSPEC_S3_ANON=true" if url.startswith("s3:") else None
            raise InputError(f"`{url}` may not be read: {error}", hint) from None
        except Exception as error:  # every protocol has its own error classes
            cause = _cause(error)
            status = getattr(cause, "status", None)
            if isinstance(cause, FileNotFoundError) or status in (404, 410):
                raise InputError(f"there is no file at `{url}`") from None
            if isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_ANOTHER_TRY:
                raise InputError(f"`{url}` was refused with status {status}") from error
            if type(cause).__name__ == "NoCredentialsError":
                raise InputError(
                    f"`{url}` needs credentials, and there are none",
                    "give them as AWS's tools want them, or for a public bucket set FSSPEC_S3_ANON=true",
                ) from None
            if wait_s is None:
                raise InputError(
                    f"`{url}` cannot be read: {str(cause) or type(cause).__name__}",
                    "run the same command again later",
                ) from error
            time.sleep(max(wait_s, min(_MAX_WAIT_S, _asked_wait_s(cause))))
    raise AssertionError("unreachable")


def _cause(error: Exception) -> BaseException:
    """Return what really happened: fsspec says "not found" whenever asking for a size failed, and keeps the cause."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _asked_wait_s(error: BaseException) -> float:
    """Return the pause that a server asked for with `Retry-After`: seconds, or a date (RFC 9110, 10.2.3)."""
    headers = getattr(error, "headers", None)
    value = (headers.get("Retry-After") or "").strip() if headers else ""
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, moment.timestamp() - time.time())
