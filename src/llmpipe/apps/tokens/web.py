"""A page that shows text as tokens, several tokenizers beside each other, as you type.

For one person on one machine: it listens on 127.0.0.1 alone, answers only requests that name this
machine as their host (so that no web page elsewhere can reach it under a name of its own), takes
texts up to a limit, and writes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files

from llmpipe.apps.tokens.find import OURS, find_tokenizer
from llmpipe.apps.tokens.view import view_tokens
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError
from llmpipe.tokenizer.bpe import Tokenizer

HOST = "127.0.0.1"
MAX_BODY_BYTES = 200_000
_TIMEOUT_S = 10

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def run_tokens_page(tokenizers: tuple[str, ...], port: int, console: Console) -> None:
    """Serve the page until Ctrl-C.

    Args:
        tokenizers: names, see `find_tokenizer`; none means `ours`.
        port: 0 takes a free one.
        console: says where the page is.

    Raises:
        UserError: if the port is taken.
    """
    loaded = {name: find_tokenizer(name) for name in tokenizers or (OURS,)}
    with make_server(loaded, port) as server:
        console.out(f"http://{HOST}:{server.server_port}/")
        console.info("Ctrl-C ends it")
        server.serve_forever()


def make_server(tokenizers: Mapping[str, Tokenizer], port: int) -> ThreadingHTTPServer:
    """Return a server for these tokenizers, bound but not yet serving."""

    class Handler(_Handler):
        shown = tokenizers

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used: {error.strerror}", "name another with `--port`"
        ) from error
    server.daemon_threads = True
    return server


@lru_cache(maxsize=1)
def _page() -> bytes:
    return files("llmpipe.apps.tokens").joinpath("page.html").read_bytes()


@lru_cache(maxsize=1)
def _policy() -> str:
    """Allow the page's own style and script, known by their hashes, and requests to this server."""
    digests = {}
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _page().decode(), flags=re.DOTALL)
        digests[tag] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digests['style']}'; "
        f"script-src 'sha256-{digests['script']}'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


class _Handler(BaseHTTPRequestHandler):
    shown: Mapping[str, Tokenizer] = {}
    timeout = _TIMEOUT_S
    server_version = "llmpipe"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page."""
        if not self._is_for_here():
            return
        if self.path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", _page())
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is only /")

    def do_POST(self) -> None:
        """Answer with the tokens of the text that was sent."""
        if not self._is_for_here():
            return
        if self.path != "/tokens":
            self._refuse(HTTPStatus.NOT_FOUND, "there is only /tokens")
            return
        # A page of another origin can send a form, but not this type without asking first.
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "application/json is needed")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
        elif int(length) > MAX_BODY_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES:,} bytes are taken"
            )
        else:
            self._show(self.rfile.read(int(length)))

    def _show(self, body: bytes) -> None:
        try:
            text = json.loads(body)["text"]
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST, 'a body like {"text": "…"} is needed')
            return
        views = [asdict(view_tokens(name, text, t)) for name, t in self.shown.items()]
        self._answer(HTTPStatus.OK, "application/json", json.dumps(views).encode())

    def _is_for_here(self) -> bool:
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        if self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to 127.0.0.1 alone")
        return False

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True
        self._answer(status, "application/json", json.dumps({"error": message}).encode())

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", _policy())
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep still: the terminal is for the person's own commands."""
