from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from llmpipe.core.errors import InputError
from llmpipe.stages.crawl import pydoc_server as module
from llmpipe.stages.crawl.fetch import Fetcher
from llmpipe.stages.crawl.links import extract_links
from llmpipe.stages.crawl.pydoc_server import pydoc_server
from llmpipe.stages.crawl.urls import PYDOC_HOST, PYDOC_INDEX

OWNER = """
import time
from llmpipe.stages.crawl.pydoc_server import pydoc_server
with pydoc_server() as (host, port):
    print(port, flush=True)
    time.sleep(60)
"""


def test_pages_do_not_show_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_KEY", "not-for-everyone")
    with pydoc_server() as (host, port):
        page = urllib.request.urlopen(f"http://{host}:{port}/os.html", timeout=10).read().decode()
    assert "environ" in page
    assert "SOME_SERVICE_KEY" not in page
    assert "not-for-everyone" not in page


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_gone(port: int) -> bool:
    for _ in range(100):
        if not is_listening(port):
            return True
        time.sleep(0.05)
    return False


def test_it_serves_the_standard_library_and_nothing_else() -> None:
    with pydoc_server() as address:
        fetcher = Fetcher("t", 20, 10**7, {PYDOC_HOST: address})
        index = fetcher.get(PYDOC_INDEX)
        links = extract_links(index.content, index.charset, PYDOC_INDEX).anchors
        page = fetcher.get(f"{PYDOC_INDEX}zlib.html")
        fetcher.close()
    assert {f"{PYDOC_INDEX}{name}.html" for name in ("json", "zlib", "sys")} <= set(links)
    assert f"{PYDOC_INDEX}pytest.html" not in links
    assert b"compress" in page.content
    assert str(address[1]).encode() not in page.content
    assert wait_until_gone(address[1])


def test_it_ends_when_its_owner_is_killed() -> None:
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        assert is_listening(port)
        os.kill(owner.pid, signal.SIGKILL)
    assert wait_until_gone(port)


def test_failure_to_start_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOPBACK", "192.0.2.1")  # TEST-NET-1: no machine's address
    with pytest.raises(InputError, match="did not start"), pydoc_server():
        pass
