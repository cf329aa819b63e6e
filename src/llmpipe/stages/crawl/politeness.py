"""Requests that wait their turn, and are repeated only where repeating can help."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llmpipe.stages.crawl.fetch import BodySink, Fetcher, FetchError, Response
from llmpipe.stages.crawl.outcomes import DELAY_TOO_LONG, UNREACHABLE
from llmpipe.stages.crawl.urls import origin

# How long a request to stop may go unnoticed while waiting.
STOP_CHECK_S = 0.1


class PoliteFetcher:
    """Fetches with a pause between two requests to a host, and again after a passing failure.

    Args:
        fetcher: sends single requests.
        delay_s: pause between requests to a host that has none of its own.
        max_delay_s: a host that asks for more is not waited for.
        retries: further attempts after a connection error, 429, or 500 and above.
        backoff_s: pause before the first of them; it doubles with each.
        check_stop: called while waiting; raises to leave.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        delay_s: float,
        max_delay_s: float,
        retries: int,
        backoff_s: float,
        check_stop: Callable[[], None],
    ) -> None:
        self._fetcher = fetcher
        self._delay_s = delay_s
        self._max_delay_s = max(max_delay_s, delay_s)
        self._retries = retries
        self._backoff_s = backoff_s
        self._check_stop = check_stop
        self._delays: dict[str, float] = {}
        self._last_request: dict[str, float] = {}
        self._not_before: dict[str, float] = {}

    def set_delay(self, host: str, seconds: float) -> None:
        """Set the pause between requests to one host (an origin: scheme, name and port)."""
        self._delays[host] = seconds

    def get(
        self,
        url: str,
        content_types: Collection[str] | None = None,
        sink: BodySink | None = None,
    ) -> Response:
        """Fetch a canonical address as `Fetcher.get` does; the response may be of any status.

        Raises:
            FetchError: the last attempt failed, or the host asks for too long a pause.
        """
        for attempt in range(self._retries + 1):
            self._wait_for(origin(url))
            is_last = attempt == self._retries
            backoff = min(self._backoff_s * 2**attempt, self._max_delay_s)
            try:
                response = self._fetcher.get(url, content_types, sink)
            except FetchError as error:
                if is_last or error.outcome != UNREACHABLE:
                    raise
                self._pause(url, backoff)
                continue
            finally:
                self._last_request[origin(url)] = time.monotonic()
            if response.status != 429 and response.status < 500:
                return response
            asked = retry_after_s(response)
            if is_last or asked > self._max_delay_s:
                self._pause(url, asked)
                return response
            self._pause(url, max(asked, backoff))
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, url: str, seconds: float) -> None:
        """Let no request go to a host for some time."""
        self._not_before[origin(url)] = time.monotonic() + seconds

    def _wait_for(self, host: str) -> None:
        usual = self._delays.get(host, self._delay_s)
        free_at = self._last_request.get(host, -usual) + usual
        free_at = max(free_at, self._not_before.get(host, 0))
        if free_at - time.monotonic() > self._max_delay_s:
            raise FetchError(DELAY_TOO_LONG, f"the host asks for more than {self._max_delay_s:g} s")
        while (left := free_at - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(left, STOP_CHECK_S))


def retry_after_s(response: Response) -> float:
    """Return the seconds that a Retry-After header asks for, 0 if there is none that we understand."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
