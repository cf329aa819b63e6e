"""Conversations from the template files of the package: about itself, small talk, refusals.

A question meets every answer of its topic once, so that a wording is not tied to one answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import Message
from llmpipe.stages.sft.generators import Pool
from llmpipe.tasks.templates import fill, load_dialogues, load_topics


def make_from_templates(name: str, facts: Mapping[str, str | None]) -> Pool:
    """Pair the questions of `resources/conversations/<name>.toml` with their answers.

    Args:
        name: The file, and the source that the conversations will bear.
        facts: What to put into the places of the answers. An answer with a place that is None is
            left out, and so is a topic without any answer.
    """
    pool = Pool([], [])
    for topic in load_topics(name):
        answers = [text for answer in topic.answers if (text := fill(answer, facts)) is not None]
        pool.train.extend(ask(q, answer, name) for answer in answers for q in topic.questions)
        pool.held_out.extend(ask(q, answer, name) for answer in answers[:1] for q in topic.held_out)
    for turns in load_dialogues(name):
        filled = [fill(turn, facts) for turn in turns]
        said = [turn for turn in filled if turn is not None]
        if len(said) == len(turns):
            messages = [Message("assistant" if i % 2 else "user", t) for i, t in enumerate(said)]
            pool.train.append(Conversation(tuple(messages), name))
    return pool


def say_date(iso: str | None) -> str | None:
    """Write `2026-11-21` as `21 November 2026`."""
    if iso is None:
        return None
    year, month, day = iso[:10].split("-")
    return f"{int(day)} {MONTHS[int(month) - 1]} {year}"


def say_count(n: int) -> str:
    """Write a number of parameters the way it is spoken: `2.6 million`."""
    for size, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if n >= size:
            return f"{n / size:.3g} {word}"
    return str(n)


# Not `strftime("%B")`, whose words depend on the machine's locale.
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
