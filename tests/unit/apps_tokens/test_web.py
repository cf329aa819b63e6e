"""The page's server: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator

import pytest

from llmpipe.apps.tokens.web import HOST, MAX_BODY_BYTES, make_server
from llmpipe.core.errors import UserError
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special

TOKENIZER = Tokenizer.from_ranks(
    {bytes([byte]): byte for byte in range(256)}, PATTERNS["qwen2"], place_special(256)
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def port() -> Iterator[int]:
    server = make_server({"a": TOKENIZER, "b": TOKENIZER}, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
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


def test_the_page_needs_nothing_from_elsewhere(port: int) -> None:
    status, headers, body = ask(port, "GET", "/")
    assert status == 200
    assert b"http" not in body.replace(b"http-equiv", b"")
    assert b"innerHTML" not in body
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


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
    assert (status, headers["Content-Type"]) == (200, "application/json")
    views = json.loads(answer)
    assert [view["name"] for view in views] == ["a", "b"]
    assert [piece["id"] for piece in views[0]["pieces"]] == [60, 98, 62]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/../etc/passwd", None, {}, 404),
        ("GET", "/", None, {"Host": "evil.example"}, 421),
        ("POST", "/tokens", b"{}", {**JSON, "Host": "evil.example:80"}, 421),
        ("POST", "/tokens", b"{}", JSON, 400),
        ("POST", "/tokens", b"[" * 100_000, JSON, 400),
        ("POST", "/tokens", b'{"text": 1}', JSON, 400),
        ("POST", "/tokens", b"\xff", JSON, 400),
        ("POST", "/tokens", b'{"text": "x"}', {"Content-Type": "text/plain"}, 415),
        ("POST", "/tokens", b"x", {**JSON, "Content-Length": "-1"}, 411),
        ("POST", "/tokens", b"", {**JSON, "Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
        ("POST", "/", b"{}", JSON, 404),
    ],
)
def test_other_requests_are_refused(
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    assert ask(port, method, path, body, headers)[0] == status
    assert ask(port, "GET", "/")[0] == 200


def test_a_taken_port_is_an_error(port: int) -> None:
    with pytest.raises(UserError, match=f"port {port} cannot be used"):
        make_server({}, port)
