"""Questions and answers written for this project, as TOML files that come with the package.

One file holds topics; a topic holds wordings of one question, ways to answer it, and wordings that
are never trained, for examining. A file may also hold dialogues of several turns. The makers of
training conversations and the examiners both read them here, so the two cannot disagree about what
is held out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Topic:
    """Wordings of one question and ways to answer it."""

    name: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    answers: tuple[str, ...]
    """May have places such as `{name}`, to be filled by `fill`."""


def load_topics(name: str) -> tuple[Topic, ...]:
    """Read `resources/conversations/<name>.toml`."""
    return tuple(
        Topic(
            topic["name"],
            _expand(topic["questions"], topic.get("values", {})),
            tuple(topic["held_out"]),
            tuple(topic["answers"]),
        )
        for topic in load_file(name)["topic"]
    )


def load_dialogues(name: str) -> tuple[tuple[str, ...], ...]:
    """Read the dialogues of the same file: what the user and the assistant say, in turn."""
    return tuple(tuple(dialogue["turns"]) for dialogue in load_file(name).get("dialogue", ()))


def load_file(name: str) -> dict[str, Any]:
    """Read all that `resources/conversations/<name>.toml` holds."""
    path = files("llmpipe") / "resources" / "conversations" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _expand(questions: list[str], values: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Ask a question that has a place once with each value of that place."""
    expanded: list[str] = []
    for question in questions:
        place = _PLACE.search(question)
        if place is None:
            expanded.append(question)
        else:
            expanded += [question.replace(place[0], value) for value in values[place[1]]]
    return tuple(expanded)


def fill(text: str, facts: Mapping[str, str | None]) -> str | None:
    """Put facts into the places of a text; None if it needs one that is not known.

    What stands first gets a capital letter: "the project made me" begins a sentence.
    """
    if any(facts.get(place) is None for place in _PLACE.findall(text)):
        return None
    filled = _PLACE.sub(lambda place: str(facts[place[1]]), text)
    return filled[:1].upper() + filled[1:]
