"""The errors a person can act on, and the exit code of each.

    LlmpipeError
    ├── UserError         2    usage or settings
    ├── InputError        3    an input artifact is missing or invalid, or data is damaged
    ├── ExpectationError  4    a number that the recipe expects was not reached
    ├── Stopped          75    stopped by SIGTERM, a full disk or a lost process; the same command resumes
    └── Interrupted     130    stopped by Ctrl-C; the same command resumes

Any other exception is a bug and exits with 1. 75 is EX_TEMPFAIL of sysexits.h, which schedulers requeue on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_CODES: dict[int, str] = {
    0: "done, or already up to date",
    1: "a bug in llmpipe",
    2: "wrong usage or settings",
    3: "an input is missing, of the wrong kind, or damaged",
    4: "finished, but an expected number was not reached",
    75: "stopped by SIGTERM, a full disk or a lost process; the same command resumes",
    130: "stopped by Ctrl-C; the same command resumes",
}
"""Every exit code of the command and its meaning; docs/reference/exit-codes.md is generated from it."""


class LlmpipeError(Exception):
    """An error with a message for people and, where there is one, the next thing to do.

    Args:
        message: what was wrong, where, what was expected and what came; lower case, no full stop.
        hint: the next step, as a command if possible.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(LlmpipeError):
    """Wrong usage or settings."""

    exit_code = 2


class InputError(LlmpipeError):
    """An input is missing, of the wrong kind, or damaged."""

    exit_code = 3


class ExpectationError(LlmpipeError):
    """A number that the recipe states in `[expect]` was not reached."""

    exit_code = 4


class Stopped(LlmpipeError):
    """Stopped at a safe point; the same command resumes."""

    exit_code = 75


class Interrupted(Stopped):
    """Stopped by Ctrl-C at a safe point; the same command resumes."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint naming the closest of `known`, or None when nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else None
