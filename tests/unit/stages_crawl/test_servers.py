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
from llmpipe.stages.crawl.config import Server
from llmpipe.stages.crawl.fetch import Fetcher
from llmpipe.stages.crawl.links import extract_links
from llmpipe.stages.crawl.servers import started

HOST = "pydoc.localhost"
INDEX = f"http://{HOST}/"
SERVER = Server(HOST, ("python", "-m", "llmpipe.demo.pydoc_server"))
OWNER = """
import time
from llmpipe.stages.crawl.config import Server
from llmpipe.stages.crawl.servers import started
with started(Server("a.localhost", ("python", "-m", "llmpipe.demo.pydoc_server"))) as (host, port):
    print(port, flush=True)
    time.sleep(60)
"""


def test_pages_do_not_show_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_KEY", "not-for-everyone")
    with started(SERVER) as (host, port):
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
    with started(SERVER) as address:
        fetcher = Fetcher("t", 20, 10**7, {HOST: address})
        index = fetcher.get(INDEX)
        links = extract_links(index.content, index.charset, INDEX).anchors
        page = fetcher.get(f"{INDEX}zlib.html")
        fetcher.close()
    assert {f"{INDEX}{name}.html" for name in ("json", "zlib", "sys")} <= set(links)
    assert f"{INDEX}pytest.html" not in links
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


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("python", "-c", "print('the port is taken')"), "the port is taken"),
        (("python", "-c", ""), "it ended at once"),
        (("no-such-program",), "No such file or directory"),
    ],
)
def test_failure_to_start_is_explained(command: tuple[str, ...], reason: str) -> None:
    with (
        pytest.raises(InputError, match=f"server of `a.localhost` did not start: {reason}"),
        started(Server("a.localhost", command)),
    ):
        pass
