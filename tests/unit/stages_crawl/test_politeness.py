"""Pauses and repeats, on a clock that only moves when someone sleeps."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from urllib3 import HTTPHeaderDict

from llmpipe.core.errors import Stopped
from llmpipe.stages.crawl import politeness
from llmpipe.stages.crawl.fetch import FetchError, Response
from llmpipe.stages.crawl.outcomes import DELAY_TOO_LONG, TIMEOUT, UNREACHABLE
from llmpipe.stages.crawl.politeness import PoliteFetcher, retry_after_s

A, B = "http://a.example/", "http://b.example/"
Answer = int | tuple[int, str] | FetchError
"""A status, a status with a Retry-After, or a failure."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def respond(status: int, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(A, status, HTTPHeaderDict(named), b"", b"", b"", b"", "", datetime.now(UTC))


class FakeFetcher:
    """Gives prepared answers, then 200 forever; each takes two seconds."""

    def __init__(self, clock: Clock, answers: list[Answer]) -> None:
        self.clock = clock
        self.answers = answers
        self.times: list[float] = []

    def get(self, url: str, content_types: Collection[str] | None, sink: None) -> Response:
        self.times.append(self.clock.now - 1000)
        self.clock.now += 2
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, FetchError):
            raise answer
        if isinstance(answer, tuple):
            return respond(answer[0], retry_after=answer[1])
        return respond(answer)


class Setup:
    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, answers: list[Answer], **settings: float
    ) -> None:
        self.clock = Clock()
        monkeypatch.setattr(politeness, "time", self.clock)
        self.fake = FakeFetcher(self.clock, answers)
        self.stopped = False
        settings = {"delay_s": 5, "max_delay_s": 30, "retries": 2, "backoff_s": 10, **settings}
        self.polite = PoliteFetcher(self.fake, check_stop=self._check, **settings)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.stopped:
            raise Stopped("stopped")


def test_pause_lies_between_the_end_of_a_request_and_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch, [])
    for _ in range(3):
        setup.polite.get(A)
    assert setup.fake.times == pytest.approx([0, 7, 14])


def test_each_host_has_its_own_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, [])
    setup.polite.set_delay("http://b.example", 20)
    for url in (A, B, A, B):
        setup.polite.get(url)
    # B may go on 20 s after the end of its first request, at 4 s.
    assert setup.fake.times == pytest.approx([0, 2, 7, 24])


def test_passing_failures_are_repeated_after_doubling_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch, [503, FetchError(UNREACHABLE, ""), 200])
    assert setup.polite.get(A).status == 200
    # ends at 2, waits 10; ends at 14, waits 20
    assert setup.fake.times == pytest.approx([0, 12, 34])


def test_last_answer_counts_when_repeating_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, [500, 502, 503, 200])
    assert setup.polite.get(A).status == 503
    assert len(setup.fake.times) == 3


@pytest.mark.parametrize("answer", [404, 301, 403, FetchError(TIMEOUT, "")])
def test_lasting_failures_are_not_repeated(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    setup = Setup(monkeypatch, [answer])
    if isinstance(answer, FetchError):
        with pytest.raises(FetchError):
            setup.polite.get(A)
    else:
        assert setup.polite.get(A).status == answer
    assert len(setup.fake.times) == 1


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, [(429, "25"), 200])
    assert setup.polite.get(A).status == 200
    assert setup.fake.times == pytest.approx([0, 27])


def test_host_that_wants_a_long_rest_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, [(503, "3600"), 200])
    assert setup.polite.get(A).status == 503
    with pytest.raises(FetchError) as caught:
        setup.polite.get(A)
    assert caught.value.outcome == DELAY_TOO_LONG
    assert setup.polite.get(B).status == 200
    assert len(setup.fake.times) == 2


def test_crawl_delay_over_the_limit_ends_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, [])
    setup.polite.get(A)  # robots.txt
    setup.polite.set_delay("http://a.example", 31)
    with pytest.raises(FetchError) as caught:
        setup.polite.get(A)
    assert caught.value.outcome == DELAY_TOO_LONG


def test_own_delay_may_be_longer_than_what_hosts_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, [], delay_s=60)
    setup.polite.get(A)
    setup.polite.get(A)
    assert setup.fake.times == pytest.approx([0, 62])


def test_stop_is_noticed_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, [])
    setup.polite.get(A)
    setup.stopped = True
    with pytest.raises(Stopped):
        setup.polite.get(A)
    assert setup.clock.now - 1000 < 2 + 0.2


def test_retry_after_is_read_as_seconds_or_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100))
    assert retry_after_s(respond(503, retry_after="7")) == 7
    assert retry_after_s(respond(503, retry_after=date)) == pytest.approx(100, abs=5)
    assert retry_after_s(respond(503, retry_after="Mon, 01 Jan 2001 00:00:00 GMT")) == 0
    assert retry_after_s(respond(503, retry_after="soon")) == 0
    assert retry_after_s(respond(503)) == 0
