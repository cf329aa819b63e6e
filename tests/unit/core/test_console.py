from __future__ import annotations

import io
import json

import pytest

from llmpipe.core import console as module
from llmpipe.core.console import Console, format_bytes, format_count, format_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make(**kwargs):
    out, err = io.StringIO(), kwargs.pop("stderr", io.StringIO())
    return Console(stdout=out, stderr=err, **kwargs), out, err


def test_results_go_to_stdout_and_talk_to_stderr():
    console, out, err = make()
    console.out("result")
    console.info("talk")
    console.warn("careful")
    console.error("wrong", "do this")
    assert out.getvalue() == "result\n"
    assert err.getvalue() == "talk\nwarning: careful\nerror: wrong\nhint: do this\n"


def test_quiet_keeps_results_warnings_and_errors():
    console, out, err = make(quiet=True)
    console.out("result")
    console.info("talk")
    with console.progress("x", 2) as bar:
        bar.update(1)
        bar.draw(force=True)
    assert out.getvalue() == "result\n"
    assert err.getvalue() == ""


def test_json_progress_and_errors_are_lines_of_json():
    console, out, err = make(json_output=True)
    with console.progress("train", 10) as bar:
        bar.update(4, "loss 3.4", "1k tok/s")
        bar.draw(force=True)
    console.error("wrong", None)
    console.document({"a": 1})
    lines = [json.loads(line) for line in err.getvalue().splitlines()]
    assert lines[-2] == {
        "type": "progress", "title": "train", "done": 4, "total": 10, "headline": "loss 3.4", "speed": "1k tok/s",
    }  # fmt: skip
    assert lines[-1] == {"type": "error", "message": "wrong", "hint": None}
    assert json.loads(out.getvalue()) == {"a": 1}


def test_log_gets_a_line_every_ten_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    console, _, err = make()
    with console.progress("train", 100) as bar:
        for step in range(100):
            now[0] += 0.5
            bar.update(step)
    assert len(err.getvalue().splitlines()) == 5


def test_line_has_share_headline_speed_and_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    console, _, _ = make()
    with console.progress("train", 1200) as bar:
        bar.update(200)  # resumed at 200
        now[0] = 50.0
        bar.update(700, "loss 3.41", "38.1k tok/s")
        assert bar.line(now[0]) == "train  step 700/1,200   58%  loss 3.41  38.1k tok/s  50 s left"


def test_live_line_is_cleared_before_other_output(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console, _, err = make(stderr=Terminal())
    with console.progress("train", 3) as bar:
        bar.update(1)
        console.info("note")
    assert "\r\x1b[Knote\n" in err.getvalue()
    assert err.getvalue().endswith("\r\x1b[K")


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console, _, err = make(stderr=Terminal())
    console.error("wrong", "do this")
    assert err.getvalue() == "error: wrong\nhint: do this\n"


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (8.25, "8.2 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    "n, text", [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (12_300_000, "12.3 MB")]
)
def test_sizes(n, text):
    assert format_bytes(n) == text


@pytest.mark.parametrize(
    "n, text", [(950, "950"), (12_340, "12.3k"), (1_100_000, "1.10M"), (4.5e9, "4.50B")]
)
def test_counts(n, text):
    assert format_count(n) == text
