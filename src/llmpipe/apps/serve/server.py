"""`llmpipe serve`: loading the model, opening the socket, stopping in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmpipe.apps.load import load
from llmpipe.apps.serve.app import LOOPBACK_NAMES, build_app, build_tokens_app
from llmpipe.apps.serve.options import LOOPBACK, ServeOptions, is_loopback
from llmpipe.apps.serve.parse import RequestLimits
from llmpipe.apps.serve.preferences import Preferences
from llmpipe.apps.serve.service import Service, ToolRunner
from llmpipe.apps.serve.worker import Worker
from llmpipe.assistant.tools import ToolName, open_tools
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError
from llmpipe.tokenizer.bpe import Tokenizer

PREFERENCES_FILE = "preferences.jsonl"
MAX_BATCH = 16
"""Answers written at the same time, unless the command says otherwise."""


def serve(options: ServeOptions, console: Console) -> None:
    """Serve a model until SIGTERM or Ctrl-C; answers that are being written are finished first.

    The console is told the address, and never a prompt or an answer.

    Raises:
        UserError: if the address is not loopback and there is no key, or the port is taken.
    """
    folder, host = options.folder, options.host
    limits = RequestLimits()
    is_local = is_loopback(host)
    options.check_key()
    names = options.tool_names
    if names is None:
        tools = default_tools(folder, console) if is_local else None
    else:
        tools = _tool_runner(folder, names)
    run = folder.resolve().parent
    with listen(host, options.port) as listener:
        max_batch = options.max_batch or MAX_BATCH
        loaded = load(folder, options.device, max_batch, options.max_len, warn=console.warn)
        service = Service(
            model=options.model_name,
            tokenizer=loaded.tokenizer,
            worker=Worker(loaded.engine),
            stop_ids=loaded.stop_ids,
            limits=limits,
            tools=tools,
            preferences=Preferences(options.preferences or run / PREFERENCES_FILE),
        )
        # With a key, a foreign page that gets here by rebinding a name has nothing to show.
        own_names = {*LOOPBACK_NAMES, *options.allowed_hosts}
        hosts = own_names if is_local or options.allowed_hosts else None
        address = f"http://{host}:{listener.getsockname()[1]}"
        console.info(f"{service.model}: chat at {address}/, API at {address}/v1; Ctrl-C ends")
        _run(build_app(service, options.key, hosts), limits, listener)
    console.info("all answers are finished")


def serve_tokens(tokenizers: Mapping[str, Tokenizer], port: int, console: Console) -> None:
    """Serve the page of tokens on this machine until SIGTERM or Ctrl-C, without a model.

    Raises:
        UserError: if the port is taken.
    """
    limits = RequestLimits(max_body_bytes=200_000)
    with listen(LOOPBACK, port) as listener:
        console.out(f"http://{LOOPBACK}:{listener.getsockname()[1]}/")
        console.info("Ctrl-C ends it")
        _run(build_tokens_app(tokenizers, limits), limits, listener)


def _run(app: ASGIApp, limits: RequestLimits, listener: socket.socket) -> None:
    # It would warn about every client that leaves in the middle of an answer.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    asyncio.run(make_server(app, limits).serve(sockets=[listener]))


def default_tools(folder: Path, console: Console) -> ToolRunner | None:
    """Return Python, or warn why it is missing: a machine without a sandbox can still serve."""
    try:
        return _tool_runner(folder, ("python",))
    except UserError as error:
        console.warn(f"no tools: {error}")
        return None


def _tool_runner(folder: Path, names: tuple[ToolName, ...]) -> ToolRunner | None:
    """Return what runs the tools; `search` looks through the corpus of the model's run.

    Raises:
        UserError: if a tool cannot work here.
    """
    if not names:
        return None
    run = folder.resolve().parent
    with open_tools(names, run):  # says what is missing now, and not in the middle of an answer
        pass
    return ToolRunner(lambda wanted: open_tools(wanted, run), names)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that connections can be made to.

    Raises:
        UserError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off for connections that have it:
    # an answer in two packets would wait 40 ms for the client's acknowledgment of the first.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="name another `--port`"
        ) from None
    return listener


def make_server(app: Any, limits: RequestLimits) -> uvicorn.Server:
    """Return a server that logs no requests and drops connections that are too slow."""

    class Protocol(_DeadlineProtocol):
        header_timeout_s = limits.header_timeout_s

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=64 * 1024,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=limits.shutdown_timeout_s,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Ends with exit code 0 after SIGTERM; uvicorn itself would raise the signal again."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let answers in progress finish; a second signal ends them at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


class _DeadlineProtocol(H11Protocol):
    """uvicorn's HTTP, which also closes connections whose headers do not arrive in time.

    uvicorn has no such limit: sockets that send a byte now and then stay open for ever.
    """

    header_timeout_s: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        """Start the clock while waiting for headers, and stop it when they have arrived."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_timeout_s, self._close_late)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_late(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()
