"""Many clients at once, some of which go away: the short form of `bench/serve.py`."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from llmpipe.apps.serve.parse import RequestLimits
from llmpipe.apps.serve.service import ToolRunner
from llmpipe.apps.serve.worker import Exchange
from llmpipe.assistant.reply import Reply

N_CLIENTS = 64
# On a busy machine a client of these 64 may need a while for its few bytes.
LIMITS = RequestLimits(max_body_bytes=20_000, header_timeout_s=3.0, body_timeout_s=20.0)
CALL = ["<|python_start|>", "x", "<|python_end|>", "<|output|>"]
LINES: dict[str, Any] = {f"say {i}": f"answer {i} " * 5 for i in range(5)}
LINES |= {f"use {i}": [*CALL, *f"used {i}"] for i in range(5)}


class Slow:
    """A tool that takes a while."""

    def run(self, text: str) -> str:
        time.sleep(0.02)
        return "done"


@contextlib.contextmanager
def _open_tools(names: Any) -> Iterator[Mapping[Any, Slow]]:
    yield {"python": Slow()}


def talk(port: int, rng: random.Random) -> bool:
    """Ask something and read the stream, or a part of it; return whether it was right."""
    line = rng.choice([*LINES])
    body = {"messages": [{"role": "user", "content": line}], "stream": True}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    n_wanted = rng.choice([0, 1, 7, 1000, 1000, 1000])
    text, n = "", 0
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=30) as answer:
        for event in answer:
            if not event.startswith(b"data: {"):
                continue
            if n == n_wanted:
                break  # and away
            n += 1
            text += json.loads(event[6:])["choices"][0]["delta"].get("content") or ""
    expected = LINES[line] if isinstance(LINES[line], str) else "".join(LINES[line][4:])
    return text == expected if n < n_wanted else expected.startswith(text)


@pytest.mark.slow
def test_streams_with_disconnects_leak_nothing_and_mix_nothing_up(
    start: Callable[..., Any],
) -> None:
    right: list[bool] = []
    with start(lines=LINES, limits=LIMITS, tools=ToolRunner(_open_tools, ("python",))) as served:
        end = time.monotonic() + 4

        def client(i: int) -> None:
            rng = random.Random(i)
            while time.monotonic() < end:
                right.append(talk(served.port, rng))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        # Somebody slow, and somebody with too much to say, among them.
        with socket.create_connection(("127.0.0.1", served.port)) as slow:
            slow.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-")
            with pytest.raises(urllib.error.HTTPError, match="413"):
                url = f"http://127.0.0.1:{served.port}/tokenize"
                urllib.request.urlopen(url, b"x" * 30_000, timeout=10)
            assert slow.recv(10) == b""
        for thread in threads:
            thread.join()
        served.wait_until_idle()
        assert served.service.worker.n_failures == 0
        assert not served.service.worker._rows
        gc.collect()
        kept = [thing for thing in gc.get_objects() if type(thing) in (Exchange, Reply)]
        assert not kept
    assert all(right) and len(right) > N_CLIENTS
