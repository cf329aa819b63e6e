"""Python's own documentation server: real pages over real HTTP, no network.

`python -m llmpipe.demo.pydoc_server` serves on loopback, prints its port, and ends when its standard input does: see `Server` in
the settings of the crawl.
"""

import os
import sys

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

if __name__ == "__main__":
    # Isolated and without site packages, so that what it documents is the standard library of this Python and nothing else.
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _CHILD, LOOPBACK])
