"""The routes, and what every request passes first: host check, key, limits, errors in one shape."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmpipe.apps.serve.chat import chat_completions, read_prompt
from llmpipe.apps.serve.completions import completions
from llmpipe.apps.serve.errors import ApiError, json_response
from llmpipe.apps.serve.logprobs import token_strings
from llmpipe.apps.serve.page import info, page, preferences, token_views
from llmpipe.apps.serve.parse import RequestLimits, field, token_ids
from llmpipe.apps.serve.service import Counters, Service
from llmpipe.assistant.frames import can_chat, frame_for
from llmpipe.assistant.template import chat_template
from llmpipe.tokenizer.bpe import Tokenizer

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

Handler = Callable[[Request, dict[str, Any]], Awaitable[Response]]
"""Answers a request; gets the JSON of its body, which is empty for GET."""

_Routes = Sequence[tuple[str, str, Handler]]
"""Of each the method, the path, and who answers."""


def build_app(
    service: Service, key: str | None = None, hosts: Collection[str] | None = LOOPBACK_NAMES
) -> ASGIApp:
    """Return the application.

    Args:
        service: the model.
        key: that clients must send; None lets everyone in.
        hosts: names this server may be called by; None allows all. A page of a foreign site whose
            name points to this machine (DNS rebinding) sends its own name.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    of_model = (
        ("GET", "/health", _health),
        ("GET", "/metrics", _metrics),
        ("GET", "/v1/models", _models),
        ("GET", "/v1/models/{id:path}", _model),
        ("POST", "/v1/chat/completions", chat_completions),
        ("POST", "/v1/completions", completions),
        ("POST", "/tokenize", _tokenize),
        ("POST", "/detokenize", _detokenize),
        ("GET", "/tokenizer_info", _tokenizer_info),
        ("GET", "/info", info),
        ("POST", "/preferences", preferences),
    )
    routes: list[tuple[str, str, Handler]] = [
        (method, path, partial(handler, service)) for method, path, handler in of_model
    ]
    routes += _page_routes("page.html", {service.model: service.tokenizer})
    return _Guard(_application(routes, service.limits, service.metrics, lifespan), key, hosts)


def build_tokens_app(tokenizers: Mapping[str, Tokenizer], limits: RequestLimits) -> ASGIApp:
    """Return an application that has no model and only shows texts as tokens."""
    routes = _page_routes("tokenizer.html", tokenizers)
    return _Guard(_application(routes, limits, Counters()), None, LOOPBACK_NAMES)


def _page_routes(start: str, tokenizers: Mapping[str, Tokenizer]) -> _Routes:
    return [
        ("GET", "/", partial(page, start)),
        ("GET", "/page/{name}", partial(page, start)),
        ("GET", "/tokens", partial(page, "tokenizer.html")),
        ("POST", "/tokens", partial(token_views, tokenizers)),
    ]


def _application(
    routes: _Routes, limits: RequestLimits, counters: Counters, lifespan: Any = None
) -> Starlette:
    """Return the application in which every route reads its body, answers errors, and is counted."""

    def route(method: str, path: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                body = await _read_json(request, limits) if request.method == "POST" else {}
                response = await handler(request, body)
            except ApiError as error:
                response = error.response()
            # The pattern and not the path: a path could hold anything.
            counters.request(path, response.status_code)
            return response

        return Route(path, endpoint, methods=[method])

    return Starlette(
        routes=[route(*one) for one in routes],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )


class _Guard:
    """Checks host, origin and key before anything else, even for unknown routes."""

    def __init__(self, app: ASGIApp, key: str | None, hosts: Collection[str] | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._error(scope)):
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _error(self, scope: Scope) -> ApiError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = _without_port(headers.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and host not in self._hosts:
            return ApiError(403, "this server is not called by that name", "host_not_allowed")
        # A browser names the site that sends a request. Foreign ones cannot read the answer, and
        # shall not make the model work, run tools or write preferences either.
        origin = headers.get(b"origin")
        if scope["method"] == "POST" and origin is not None:
            _, _, sender = origin.rpartition(b"//")
            if sender.lower() != headers.get(b"host", b"").lower():
                return ApiError(403, "this page may not use this server", "origin_not_allowed")
        if self._key is not None and not _is_open(scope["method"], scope["path"]):
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, self._key):
                return ApiError(401, "the API key is missing or wrong", "invalid_api_key")
        return None


def _is_open(method: str, path: str) -> bool:
    """Tell whether a request needs no key: health, and the pages, which ask for the key."""
    return method != "POST" and (path in ("/health", "/", "/tokens") or path.startswith("/page/"))


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


async def _read_json(request: Request, limits: RequestLimits) -> dict[str, Any]:
    """Return the JSON object in a request's body, read within the limits on its size and time."""
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            data = await _read_body(request, limits.max_body_bytes)
    except TimeoutError:
        message = f"the body did not come within {limits.body_timeout_s:g} s"
        raise ApiError(408, message) from None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    return value


async def _read_body(request: Request, most: int) -> bytes:
    too_large = ApiError(413, f"the body is larger than {most} bytes", "body_too_large")
    stated = request.headers.get("content-length", "0")
    if not stated.isascii() or not stated.isdigit() or int(stated) > most:
        raise too_large
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise too_large
    return bytes(data)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, str(error.detail)).response()


async def _health(service: Service, request: Request, body: dict[str, Any]) -> Response:
    return json_response({"status": "ok"})


async def _metrics(service: Service, request: Request, body: dict[str, Any]) -> Response:
    text = service.metrics.text(service.worker)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _card(service: Service) -> dict[str, Any]:
    return {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "llmpipe",
        "max_model_len": service.worker.engine.max_len,
    }


async def _models(service: Service, request: Request, body: dict[str, Any]) -> Response:
    return json_response({"object": "list", "data": [_card(service)]})


async def _model(service: Service, request: Request, body: dict[str, Any]) -> Response:
    service.check_model(request.path_params["id"])
    return json_response(_card(service))


async def _tokenize(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Return, in vLLM's JSON, the ids of a conversation, or of a text, where special tokens are plain characters.

    `mask` says which tokens of a conversation a model is trained to write.
    """
    service.check_model(body.get("model"))
    tokenizer = service.tokenizer
    messages, text = field(body, "messages", list, None), field(body, "prompt", str, None)
    answer: dict[str, Any] = {}
    if messages is not None:
        rendered, _ = read_prompt(body, tokenizer, service.tool_names)
        tokens, answer["mask"] = rendered.ids, rendered.mask
    elif text is not None:
        tokens = tokenizer.encode(text)
        if field(body, "add_special_tokens", bool, True):
            tokens = [tokenizer.bos_id, *tokens]
    else:
        raise ApiError(400, "`prompt` or `messages` is missing", param="prompt")
    room = service.worker.engine.max_len
    answer |= {"tokens": tokens, "count": len(tokens), "max_model_len": room}
    if field(body, "return_token_strs", bool, False):
        answer["token_strs"] = token_strings(tokens, tokenizer)
    return json_response(answer)


async def _tokenizer_info(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Return the names of control tokens and the chat template: lm-eval asks for them."""
    tokenizer = service.tokenizer
    names = {id: name for name, id in tokenizer.special.items()}
    answer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[tokenizer.bos_id],
        "eos_token": names.get(service.stop_ids[0]) if service.stop_ids else None,
        "chat_template": chat_template(frame_for(tokenizer)) if can_chat(tokenizer) else None,
    }
    return json_response(answer)


async def _detokenize(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Return the text of ids."""
    service.check_model(body.get("model"))
    ids = token_ids(body, "tokens", service.tokenizer.vocab_size)
    return json_response({"prompt": service.tokenizer.decode(ids)})
