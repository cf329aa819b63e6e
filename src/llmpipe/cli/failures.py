"""What went wrong, in one line with a hint, and the documented exit code."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

from llmpipe.core.errors import LlmpipeError


class Failure(NamedTuple):
    """How a command failed, as people are told."""

    message: str
    hint: str | None
    exit_code: int


def describe_failure(error: BaseException) -> Failure:
    """Put an error that ended a command into words; what nobody foresaw is a bug, whose traceback is kept in a file."""
    if isinstance(error, LlmpipeError):
        return Failure(error.message, error.hint, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("stopped by Ctrl-C", "run the same command again to go on", 130)
    if _is_disk_full(error):
        filename = getattr(error, "filename", None)
        where = f" (writing `{filename}`)" if filename else ""
        hint = "free some space and run the same command again; finished work is kept"
        return Failure(f"the disk is full{where}", hint, 75)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        where = f"`{error.filename}`" if error.filename else "a file"
        hint = "check its owner and permissions"
        return Failure(f"cannot use {where}: {error.strerror}", hint, 2)
    log = Path(tempfile.gettempdir()) / f"llmpipe-crash-{os.getpid()}.log"
    try:
        log.write_text("".join(traceback.format_exception(error)))
        hint = f"this is a bug in llmpipe; the traceback is in {log}"
    except OSError:
        hint = "this is a bug in llmpipe; --debug shows the traceback"
    summary = str(error).split("\n", 1)[0]
    return Failure(f"{type(error).__name__}: {summary}", hint, 1)


def leave_closed_pipe() -> None:
    """Let the interpreter flush stdout when it ends, although nobody reads it: `llmpipe show … | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_disk_full(error: BaseException) -> bool:
    """Whether the disk was full, also when a library reports it in its own words."""
    chain: BaseException | None = error
    while chain is not None:
        is_full = getattr(chain, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if is_full or "No space left on device" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False
