"""Servers that are started on this machine for the time of a crawl."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from llmpipe.core.errors import InputError
from llmpipe.stages.crawl.config import Server

LOOPBACK = "127.0.0.1"

_NEEDED = ("LD_LIBRARY_PATH", "SYSTEMROOT")
"""Without these, some programs do not start."""


@contextlib.contextmanager
def started(server: Server) -> Iterator[tuple[str, int]]:
    """Start a server and yield its address and port; it ends when the block does, or when we do, however we end.

    Raises:
        InputError: it does not start.
    """
    program, *arguments = server.command
    command = [sys.executable if program == "python" else program, *arguments]
    pipe = subprocess.PIPE
    # Pages may print the environment, which may hold secrets: give the child none.
    environment = {key: os.environ[key] for key in _NEEDED if key in os.environ}
    try:
        # In a session of its own, Ctrl-C reaches us alone, and the page being fetched still comes whole.
        child = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise _not_started(server, error.strerror or str(error)) from None
    with child:
        try:
            assert child.stdout is not None
            answer = child.stdout.readline().decode(errors="replace").strip()
            if not answer.isdecimal():
                raise _not_started(server, answer or "it ended at once")
            yield LOOPBACK, int(answer)
        finally:
            child.kill()


def _not_started(server: Server, reason: str) -> InputError:
    command = " ".join(server.command)
    return InputError(
        f"the server of `{server.host}` did not start: {reason}",
        f"try `{command}`: it must print the port it serves on, and wait for its input to end",
    )
