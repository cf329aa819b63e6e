"""The chat page: a few plain files, and what they need to know of the server."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.errors import ApiError, json_response
from llmpipe.apps.serve.preferences import parse_preference
from llmpipe.apps.serve.service import Service
from llmpipe.assistant.frames import can_chat, stop_ids

START = "page.html"

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

_HEADERS = {
    # Everything comes from here, nothing is inline: text of a model that got into the page as markup
    # could still run nothing, load nothing and send nothing elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@lru_cache(maxsize=1)
def page_files() -> dict[str, bytes]:
    """Return the files by name: what is not in here cannot be asked for."""
    folder = files("llmpipe.apps.serve").joinpath("page")
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }


async def page(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Answer with one of the files; they hold no secret and need no key."""
    name = request.path_params.get("name", START)
    data = page_files().get(name)
    if data is None:
        raise ApiError(404, "there is no such file")
    return Response(data, headers=_HEADERS, media_type=_TYPES[name.rpartition(".")[2]])


async def info(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Answer with what the page has to know about the model."""
    special = service.tokenizer.special
    return json_response(
        {
            "model": service.model,
            "max_model_len": service.worker.engine.max_len,
            "can_chat": can_chat(service.tokenizer),
            "tools": list(service.tool_names),
            "special_tokens": dict(special),
            "stop_ids": sorted({*service.stop_ids, *stop_ids(service.tokenizer)}),
            "takes_preferences": service.preferences is not None,
        }
    )


async def preferences(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Write an order of answers down."""
    if service.preferences is None:
        raise ApiError(404, "this server keeps no preferences; start it with `--preferences FILE`")
    line = parse_preference(body, service.model)
    await asyncio.to_thread(service.preferences.append, line)
    return json_response({"written": 1, "file": service.preferences.path.name})
