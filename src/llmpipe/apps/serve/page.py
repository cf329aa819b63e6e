"""The chat page and the token page: a few plain files, and the data they ask the server for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.errors import ApiError, json_response
from llmpipe.apps.serve.parse import field
from llmpipe.apps.serve.preferences import parse_preference
from llmpipe.apps.serve.service import Service
from llmpipe.apps.tokens.view import view_tokens
from llmpipe.assistant.frames import can_chat, stop_ids
from llmpipe.tokenizer.bpe import Tokenizer

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
    """Return the files by name; nothing else on the disk can be fetched."""
    folder = files("llmpipe.apps.serve").joinpath("page")
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }


async def page(start: str, request: Request, body: dict[str, Any]) -> Response:
    """Answer with one of the files, `start` by default; they hold no secret and need no key."""
    name = request.path_params.get("name", start)
    data = page_files().get(name)
    if data is None:
        raise ApiError(404, "there is no such file")
    return Response(data, headers=_HEADERS, media_type=_TYPES[name.rpartition(".")[2]])


async def token_views(
    tokenizers: Mapping[str, Tokenizer], request: Request, body: dict[str, Any]
) -> Response:
    """Answer with the tokens of a text in each tokenizer."""
    text = field(body, "text", str, None)
    if text is None:
        raise ApiError(400, 'a body like {"text": "…"} is needed', param="text")

    def views() -> list[dict[str, Any]]:
        return [asdict(view_tokens(name, text, one)) for name, one in tokenizers.items()]

    return json_response(await asyncio.to_thread(views))  # a long text must not hold up answers


async def info(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Answer with the facts about the model that the page needs."""
    return json_response(
        {
            "model": service.model,
            "max_model_len": service.worker.engine.max_len,
            "can_chat": can_chat(service.tokenizer),
            "tools": list(service.tool_names),
            "special_tokens": dict(service.tokenizer.special),
            "stop_ids": sorted({*service.stop_ids, *stop_ids(service.tokenizer)}),
            "takes_preferences": service.preferences is not None,
        }
    )


async def preferences(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Keep an order of answers."""
    if service.preferences is None:
        raise ApiError(404, "this server keeps no preferences; start it with `--preferences FILE`")
    line = parse_preference(body, service.model)
    await asyncio.to_thread(service.preferences.append, line)
    return json_response({"written": 1, "file": service.preferences.path.name})
