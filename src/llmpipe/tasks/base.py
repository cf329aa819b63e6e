"""What a task is: questions made here, answers judged here, a share with its interval as the score.

A task knows nothing of models. It makes examples from a seed, and later sees for each one the text
that came back, which tools were called, and whether the answer ended by itself. So every judgement
is a pure function that a truth table can test. Wherever a change gives other questions or other
verdicts, the task's `version` is raised: scores of two versions do not compare.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Z_95 = 1.959964  # two-sided 95% of the normal distribution


def is_in_share(key: str | bytes, frac: float) -> bool:
    """Tell whether a key falls into a share of all keys, decided by its hash alone.

    Whatever else there is, in whatever order: what was held out once stays held out.
    """
    hashed = hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
    return int.from_bytes(hashed[:8], "big") < frac * 2**64


@dataclass(frozen=True)
class AssistantFacts:
    """What a task may know of the assistant it examines."""

    name: str
    """What the assistant should call itself."""
    conversations: Path | None = None
    """A JSONL file of held-out conversations that the assistant was not trained on, if there is one."""


@dataclass(frozen=True)
class Example:
    """One question and what counts as right, in the task's own terms."""

    question: str
    expected: str
    system: str | None = None
    """System message of the conversation."""


@dataclass(frozen=True)
class Answer:
    """What an assistant gave back to one question."""

    text: str
    """The words meant for the reader, without tool calls and their outputs."""
    stopped: bool
    """True if it ended with a stop token, not at the limit of tokens."""
    tool_calls: tuple[str, ...] = ()
    """The code of each call, in order."""


@dataclass(frozen=True)
class Task:
    """A named set of questions with a verdict."""

    name: str
    version: int
    summary: str
    examples: Callable[[AssistantFacts, int, int], list[Example]]
    """(facts, n, seed) -> up to n examples, the same for the same arguments."""
    is_right: Callable[[Example, Answer], bool]


@dataclass(frozen=True)
class Score:
    """How many of n answers were right, with the interval in which the true share lies."""

    n: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share.

        The usual `p +- 1.96 sqrt(p (1 - p) / n)` has no width at 0 and 1, where small models and
        small tests often are; Wilson's does.

        Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
        """
        n, p, z2 = self.n, self.accuracy, Z_95**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)
