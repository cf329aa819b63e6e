"""Errors in the shape that OpenAI's clients turn into their exceptions."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
        code: a word for programs, such as `context_length_exceeded`.
        param: the field that is wrong.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """Return the answer; a connection whose body was refused is closed."""
        headers = {}
        if self.status == 429:
            headers["retry-after"] = "1"
        if self.status in (408, 413):
            headers["connection"] = "close"
        return json_response(self.body(), self.status, headers)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON in ASCII: lone surrogates that a client sent cannot be written as UTF-8."""
    return Response(json.dumps(value), status, headers, media_type="application/json")
