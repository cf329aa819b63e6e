"""What one client may ask of the server, so that it cannot take it from the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RequestLimits:
    """Bounds on requests; the answer to more is 400, 408, 413 or 429.

    Attributes:
        max_body_bytes: of a request; the context of most models fits into it many times.
        max_requests: answers being written or waiting, over all clients; more get 429.
        max_choices: prompts times `n` in one request.
        max_stops: stop strings, of at most `max_stop_chars` characters. Source: OpenAI allows 4.
        max_stop_chars: see `max_stops`.
        header_timeout_s: from the first byte (or the connection) to the end of the headers.
        body_timeout_s: for the body.
        answer_timeout_s: from the whole request to the whole answer.
        shutdown_timeout_s: how long answers may go on after SIGTERM.
    """

    max_body_bytes: int = 4 * 2**20
    max_requests: int = 256
    max_choices: int = 64
    max_stops: int = 16
    max_stop_chars: int = 256
    header_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    answer_timeout_s: float = 600.0
    shutdown_timeout_s: int = 30
