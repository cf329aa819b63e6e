"""Python's own documentation server in a child process: real pages over real HTTP, no network."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from llmpipe.core.errors import InputError

LOOPBACK = "127.0.0.1"

# `pydoc` imports what it documents, and importing `antigravity` opens a web browser, so the child
# knows no browsers. Some modules print when they are imported, so its output goes nowhere once the
# port is told. Reading stdin keeps it alive: when we end, however we end, so does it.
_CHILD = """
import os, pydoc, sys, webbrowser
webbrowser._tryorder = []
server = pydoc._start_server(pydoc._url_handler, sys.argv[1], 0)
print(server.error or server.port, flush=True)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.stdin.buffer.read()
os._exit(0)
"""


_NEEDED = ("LD_LIBRARY_PATH", "SYSTEMROOT")
"""Without these, some Pythons do not start."""


@contextlib.contextmanager
def pydoc_server() -> Iterator[tuple[str, int]]:
    """Run the server on loopback and yield its address and port.

    The child is isolated and without site packages, so that what it documents is the standard
    library of this Python and nothing else.

    Raises:
        InputError: it does not start.
    """
    command = [sys.executable, "-I", "-S", "-c", _CHILD, LOOPBACK]
    pipe = subprocess.PIPE
    # Pages of `os` and others print the environment, which may hold secrets: give the child none.
    environment = {key: os.environ[key] for key in _NEEDED if key in os.environ}
    # In a session of its own, Ctrl-C reaches us alone, and the page being fetched still comes whole.
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            assert child.stdout is not None
            answer = child.stdout.readline().decode(errors="replace").strip()
            if not answer.isdecimal():
                raise InputError(
                    f"Python's documentation server did not start: {answer or 'it ended at once'}",
                    "set crawl.pydoc = false and name seeds, or check `python -m pydoc -p 0`",
                )
            yield LOOPBACK, int(answer)
        finally:
            child.kill()
