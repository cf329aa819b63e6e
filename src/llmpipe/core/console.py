"""The only file that writes to the screen: results on stdout, talk on stderr.

Three manners: for people at a terminal (one line that is rewritten), for people reading a log (a line every 10
seconds), and for programs (`--json`: one document on stdout, progress as JSON lines on stderr). `-q` keeps the result
and errors, `-v` adds debug lines. Color is never the only carrier of meaning, and NO_COLOR switches it off.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

LOG_EVERY_S = 10.0
REDRAW_EVERY_S = 0.1


class Console:
    """Where a command talks and answers.

    Args:
        quiet: keep results and errors, drop the rest.
        verbose: show debug lines.
        json_output: one JSON document on stdout, progress as JSON lines on stderr.
        enabled: False on ranks other than 0, which stay silent except for errors.
    """

    def __init__(
        self,
        quiet: bool = False,
        verbose: bool = False,
        json_output: bool = False,
        enabled: bool = True,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.json_output = json_output
        self.enabled = enabled
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._bar: Progress | None = None
        is_terminal = self._stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.is_live = is_terminal and not json_output and not quiet
        self.has_colour = is_terminal and not os.environ.get("NO_COLOR")

    # -- results ------------------------------------------------------------

    def out(self, text: str = "") -> None:
        """Write a line of the result to stdout."""
        self.write(text + "\n")

    def write(self, text: str) -> None:
        """Write raw text to stdout at once, for streaming."""
        if self.enabled:
            self._clear_bar()
            self._stdout.write(text)
            self._stdout.flush()

    def document(self, value: Any) -> None:
        """Write the one JSON document of `--json` to stdout."""
        self.out(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    def result(self, document: Any, lines: Iterable[str]) -> None:
        """Write a result: the document for programs, the lines for people."""
        if self.json_output:
            self.document(document)
            return
        for line in lines:
            self.out(line)

    # -- talk ------------------------------------------------------------

    def info(self, text: str) -> None:
        """Say something that is not the result."""
        if not self.quiet:
            self._say(text, "info")

    def debug(self, text: str) -> None:
        """Say something that only `-v` shows."""
        if self.verbose:
            self._say(text, "debug")

    def warn(self, text: str) -> None:
        """Say something that needs attention but stops nothing."""
        self._say(
            text if self.json_output else f"{self._paint('warning:', '33')} {text}", "warning"
        )

    def error(self, message: str, hint: str | None = None) -> None:
        """Say why the command ends, and what to do next."""
        if self.json_output:
            self.event("error", message=message, hint=hint)
            return
        self._clear_bar()
        self._stderr.write(f"{self._paint('error:', '31;1')} {message}\n")
        if hint:
            self._stderr.write(f"{self._paint('hint:', '36')} {hint}\n")
        self._stderr.flush()

    def _say(self, text: str, level: str) -> None:
        if not self.enabled:
            return
        if self.json_output:
            self.event(level, message=text)
            return
        self._clear_bar()
        self._stderr.write(text + "\n")
        if self._bar and self.is_live:  # a log has its own line every 10 s
            self._bar.draw(force=True)
        self._stderr.flush()

    def event(self, kind: str, **values: Any) -> None:
        """Write one line of JSON to stderr, for programs that watch."""
        self._stderr.write(json.dumps({"type": kind, **values}) + "\n")
        self._stderr.flush()

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colour else text

    def _clear_bar(self) -> None:
        if self._bar and self.is_live:
            self._stderr.write("\r\x1b[K")

    # -- progress ------------------------------------------------------------

    @contextlib.contextmanager
    def progress(
        self, title: str, total: int | None = None, unit: str = "step"
    ) -> Iterator[Progress]:
        """Show how far a long piece of work is; `update` takes the absolute count done."""
        outer, self._bar = self._bar, Progress(self, title, total, unit)
        try:
            yield self._bar
        finally:
            self._bar.close()
            self._bar = outer


class Progress:
    """One line: title, count, share, headline number, speed and time left."""

    def __init__(self, console: Console, title: str, total: int | None, unit: str) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._unit = unit
        self._started = time.monotonic()
        self._first_done: int | None = None
        self._done = 0
        self._headline = ""
        self._speed = ""
        self._drawn = 0.0 if console.is_live else self._started

    def update(self, done: int, headline: str = "", speed: str = "") -> None:
        """Set the count done so far and the numbers beside it; cheap enough for every step."""
        if self._first_done is None:
            self._first_done = done  # a resumed run starts above 0: time left counts from here
        self._done = done
        self._headline = headline or self._headline
        self._speed = speed or self._speed
        self.draw()

    def draw(self, force: bool = False) -> None:
        """Write the line if it is time to."""
        console = self._console
        if console.quiet or not console.enabled:
            return
        now = time.monotonic()
        if not force and now - self._drawn < (REDRAW_EVERY_S if console.is_live else LOG_EVERY_S):
            return
        self._drawn = now
        stream = console._stderr
        if console.json_output:
            count = {"title": self._title, "done": self._done, "total": self._total}
            console.event("progress", **count, headline=self._headline, speed=self._speed)
        elif console.is_live:
            width = shutil.get_terminal_size().columns
            stream.write("\r\x1b[K" + self.line(now)[: width - 1])
        else:
            stream.write(self.line(now) + "\n")
        stream.flush()

    def line(self, now: float) -> str:
        """Return the text of the line at monotonic time `now`."""
        if self._total:
            count = f"{self._unit} {self._done:,}/{self._total:,}"
            parts = [f"{self._title}  {count}  {self._done / self._total:4.0%}"]
        else:
            parts = [f"{self._title}  {self._done:,} {self._unit}"]
        parts += [part for part in (self._headline, self._speed) if part]
        since_first = self._done - (self._first_done or 0)
        if self._total and since_first > 0:
            left = (now - self._started) / since_first * (self._total - self._done)
            parts.append(f"{format_duration(left)} left")
        return "  ".join(parts)

    def close(self) -> None:
        """Remove the live line."""
        if self._console.is_live:
            self._console._stderr.write("\r\x1b[K")
            self._console._stderr.flush()


# ------------------------------------------------------------------------------------------
# Numbers for people


def format_duration(seconds: float) -> str:
    """Return a time span in the two units that matter: `8 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_bytes(n: float) -> str:
    """Return a size with decimal units: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def format_count(n: float) -> str:
    """Return a count in short form: `950`, `12.3k`, `1.10M`, `4.50B`."""
    for size, unit, decimals in ((1, "", 0), (1e3, "k", 1), (1e6, "M", 2), (1e9, "B", 2)):
        if abs(n) < 1000 * size:
            return f"{n / size:.{decimals}f}{unit}"
    return f"{n / 1e12:.2f}T"
