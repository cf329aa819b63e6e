"""Checks the JSON that a client sent: settings within their limits, or an error that names the field."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmpipe.apps.serve.errors import ApiError
from llmpipe.core.errors import LlmpipeError
from llmpipe.inference.sampling import Sampling

MAX_TOP_LOGPROBS = 20  # Source: OpenAI's API reference, `top_logprobs`

_SHARED = {
    "model", "stream", "stream_options", "n", "seed", "stop", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "user",
    "return_token_ids", "return_token_strs",
}  # fmt: skip
CHAT_FIELDS = _SHARED | {
    "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "response_format",
    "add_generation_prompt", "continue_final_message", "parallel_tool_calls",
    "continue_token_ids", "echo",
}  # fmt: skip
_FLOATS = {"temperature": 1.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}  # fmt: skip
COMPLETION_FIELDS = _SHARED | {"prompt", "echo", "best_of", "suffix"}


@dataclass(frozen=True)
class RequestLimits:
    """What one client may ask for, so that some is left for the others; more gets 400, 408, 413 or 429.

    Attributes:
        max_body_bytes: of a request; the context of most models fits into it many times.
        max_requests: answers being written or waiting, over all clients; more get 429.
        max_choices: prompts times `n` in one request.
        max_stops: stop strings, of at most `max_stop_chars` characters. Source: OpenAI allows 4.
        header_timeout_s: from the first byte (or the connection) to the end of the headers.
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


@dataclass(frozen=True)
class Settings:
    """The settings that both kinds of completion share.

    Attributes:
        samplings: one per answer to a prompt; the seeds count up from the one asked for.
        stream: whether tokens are sent as they come.
        include_usage: whether the stream ends with token counts.
        ignored: fields that are not known here.
        wants_ids: whether token ids are sent with the text.
        wants_strings: whether they are spelled out as well.
    """

    samplings: list[Sampling]
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    ignored: list[str]
    wants_ids: bool
    wants_strings: bool


def field(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """Return a field of the right type; null is the same as absent."""
    value = body.get(name)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join({float: "number", int: "integer"}.get(k, k.__name__) for k in kinds)
        raise ApiError(400, f"`{name}` must be of type {expected}", "invalid_type", name)
    return value


def refuse(body: Mapping[str, Any], name: str, *allowed: Any, why: str = "") -> None:
    """Refuse a field that asks for something this server does not do."""
    if body.get(name) not in (None, *allowed):
        message = f"this `{name}` is not supported" + (f": {why}" if why else "")
        raise ApiError(400, message, "unsupported_value", name)


def parse_settings(
    body: Mapping[str, Any],
    known: set[str],
    limits: RequestLimits,
    max_tokens: int,
    n_logprobs: int | None,
) -> Settings:
    """Read the fields that both kinds share.

    Args:
        body: of the request.
        known: names of all fields of the kind.
        limits: what a client may ask for.
        max_tokens: of an answer.
        n_logprobs: of `Sampling`; each kind of completion asks for it in another way.
    """
    n = field(body, "n", int, 1)
    if not 1 <= n <= limits.max_choices:
        raise ApiError(400, f"`n` is {n} and must be 1 to {limits.max_choices}", param="n")
    seed = field(body, "seed", int, None)
    first = secrets.randbits(48) if seed is None else seed % 2**62
    if n_logprobs is not None and not 0 <= n_logprobs <= MAX_TOP_LOGPROBS:
        message = f"at most {MAX_TOP_LOGPROBS} log-probabilities per token, and {n_logprobs} came"
        raise ApiError(400, message, param="logprobs")
    try:
        sampling = Sampling(
            top_k=field(body, "top_k", int, None),
            top_p=field(body, "top_p", (int, float), None),
            min_p=field(body, "min_p", (int, float), None),
            **{name: float(field(body, name, (int, float), own)) for name, own in _FLOATS.items()},
            logit_bias=_logit_bias(field(body, "logit_bias", dict, {})),
            n_logprobs=n_logprobs,
            seed=first,
            max_tokens=max_tokens,
        )
    except (LlmpipeError, OverflowError) as error:
        raise ApiError(400, str(error), param=str(error).split(" ")[0]) from None
    options = field(body, "stream_options", dict, {})
    return Settings(
        samplings=[replace(sampling, seed=first + i) for i in range(n)],
        stops=_stops(body, limits),
        stream=field(body, "stream", bool, False),
        include_usage=field(options, "include_usage", bool, False),
        ignored=sorted(str(name)[:40] for name in body.keys() - known),
        wants_ids=field(body, "return_token_ids", bool, False),
        wants_strings=field(body, "return_token_strs", bool, False),
    )


def _logit_bias(values: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    try:
        pairs = tuple((int(id), float(bias)) for id, bias in values.items())
    except (TypeError, ValueError):
        raise ApiError(400, "`logit_bias` maps token ids to numbers", param="logit_bias") from None
    if len(pairs) > 1024 or any(not -100 <= bias <= 100 for _, bias in pairs):
        message = "`logit_bias` holds up to 1024 numbers in -100 to 100"
        raise ApiError(400, message, param="logit_bias")
    # -100 and 100 "should result in a ban or exclusive selection". Source: OpenAI's API reference.
    return tuple((id, float("-inf") if bias == -100 else bias) for id, bias in pairs)


def _stops(body: Mapping[str, Any], limits: RequestLimits) -> tuple[str, ...]:
    stops = field(body, "stop", (str, list), [])
    stops = [stops] if isinstance(stops, str) else stops
    most, longest = limits.max_stops, limits.max_stop_chars
    are_fine = (isinstance(stop, str) and 0 < len(stop) <= longest for stop in stops)
    if len(stops) > most or not all(are_fine):
        message = f"`stop` is a string or up to {most} of them, of 1 to {longest} characters"
        raise ApiError(400, message, param="stop")
    return tuple(stops)


def token_ids(body: Mapping[str, Any], name: str, n_ids: int) -> list[int]:
    """Return a list of ids, each below `n_ids`."""
    ids: list[int] = field(body, name, list, [])
    if not all(type(id) is int and 0 <= id < n_ids for id in ids):
        raise ApiError(400, f"token ids are 0 to {n_ids - 1}", param=name)
    return ids


def answer_tokens(body: Mapping[str, Any], default: int, *names: str) -> int:
    """Return the limit on an answer's tokens: the first of the fields `names` that was sent."""
    for name in names:
        value = field(body, name, int, None)
        if value is not None:
            if value < 0:
                raise ApiError(400, f"`{name}` is {value} and must be 0 or more", param=name)
            return int(value)
    return default
