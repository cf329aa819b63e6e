"""The page of `llmpipe tokens --web`: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmpipe.apps.serve
from llmpipe.apps.serve.app import build_tokens_app
from llmpipe.apps.serve.options import run_tokens_page
from llmpipe.apps.serve.parse import RequestLimits
from llmpipe.apps.serve.server import listen, make_server
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special

TOKENIZER = Tokenizer(
    {bytes([byte]): byte for byte in range(256)}, PATTERNS["qwen2"], place_special(256)
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOST = "127.0.0.1"
LIMITS = RequestLimits(max_body_bytes=200_000)
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def port() -> Iterator[int]:
    with listen(HOST, 0) as listener:
        server = make_server(build_tokens_app({"a": TOKENIZER, "b": TOKENIZER}, LIMITS), LIMITS)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    found = (answer.status, dict(answer.getheaders()), answer.read())
    connection.close()
    return found


@pytest.mark.parametrize("path", ["/", "/tokens"])
def test_the_page_is_guarded_like_the_chat_page(port: int, path: str) -> None:
    status, headers, body = ask(port, "GET", path)
    assert status == 200 and b"<title>Tokens</title>" in body
    for name in re.findall(rb'(?:src|href)="page/([^"]+)"', body):
        assert ask(port, "GET", f"/page/{name.decode()}")[0] == 200
    lowered = {name.lower(): value for name, value in headers.items()}
    assert lowered["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert lowered["x-content-type-options"] == "nosniff"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_a_browser_shows_tokens_as_they_are_typed(port: int) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.goto(f"http://{HOST}:{port}/")
        page.fill("textarea", "<b>")
        tokens = page.locator("section").first.locator(".token")
        sync_api.expect(tokens).to_have_text(["<", "b", ">"])
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.token')).cursor") == "default"
        )
        browser.close()
    assert not [text for text in complaints if "favicon" not in text and "404" not in text]


def test_a_text_comes_back_as_tokens_of_each_tokenizer(port: int) -> None:
    body = json.dumps({"text": "<b>"}).encode()
    status, headers, answer = ask(port, "POST", "/tokens", body, JSON)
    assert (status, headers["content-type"]) == (200, "application/json")
    views = json.loads(answer)
    assert [view["name"] for view in views] == ["a", "b"]
    assert [piece["id"] for piece in views[0]["pieces"]] == [60, 98, 62]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/../etc/passwd", None, {}, 404),
        ("GET", "/page/..%2f..%2fapp.py", None, {}, 404),
        ("GET", "/", None, {"Host": "evil.example"}, 403),
        ("POST", "/tokens", b"{}", {**JSON, "Host": "evil.example:80"}, 403),
        ("POST", "/tokens", b'{"text": "x"}', {"Origin": "http://evil.example"}, 403),
        ("POST", "/tokens", b"{}", JSON, 400),
        ("POST", "/tokens", b"[" * 100_000, JSON, 400),
        ("POST", "/tokens", b'{"text": 1}', JSON, 400),
        ("POST", "/tokens", b"\xff", JSON, 400),
        ("POST", "/tokens", b"x", {**JSON, "Content-Length": "-1"}, 400),
        ("POST", "/tokens", b"", {**JSON, "Content-Length": str(LIMITS.max_body_bytes + 1)}, 413),
        ("POST", "/", b"{}", JSON, 405),
        ("POST", "/v1/chat/completions", b"{}", JSON, 404),
    ],
)
def test_other_requests_are_refused(
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    assert ask(port, method, path, body, headers)[0] == status
    assert ask(port, "GET", "/")[0] == 200


def test_a_taken_port_is_an_error(port: int, tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    with pytest.raises(UserError, match=f"cannot listen on {HOST}:{port}"):
        run_tokens_page((str(tmp_path),), port, Console())


def test_command_says_where_the_page_is_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    command = [sys.executable, "-m", "llmpipe", "tokens", "--web", "--tokenizer", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        port = int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
        status, _, answer = ask(port, "POST", "/tokens", b'{"text": "ab"}', JSON)
        assert (status, [p["id"] for p in json.loads(answer)[0]["pieces"]]) == (200, [97, 98])
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert "Traceback" not in process.stderr.read()


def test_missing_server_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llmpipe.apps.serve.server")
    monkeypatch.delattr(llmpipe.apps.serve, "server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match="the server needs uvicorn"):
        run_tokens_page((), 0, Console())
