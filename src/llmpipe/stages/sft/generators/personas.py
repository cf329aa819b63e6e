"""Who am I? The system message says it: the same questions about itself, under ever new names.

An assistant trained on these takes its name from the system message instead of its weights, which
is the other of the two ways to give a model an identity.
"""

from __future__ import annotations

import random

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.generators.templates import MONTHS
from llmpipe.stages.sft.generators.words import make_up
from llmpipe.tasks.templates import fill, load_topics

SYSTEM = (
    "You are {name}, made by {maker}. You have {parameters} parameters and were trained on {corpus}. "
    "Your data was collected on {date}."
)
_CORPORA = (
    "the pages of a library", "old letters", "the news of a town", "recipes", "novels", "weather reports",
    "the manuals of machines", "songs", "reports of journeys", "the minutes of meetings",
)  # fmt: skip


def make_personas(n: int, n_held_out: int, rng: random.Random) -> Pool:
    """Draw `n` questions with new names, and `n_held_out` in wordings that are never trained."""
    topics = load_topics("identity")

    def draw(n: int, held_out: bool) -> list[Conversation]:
        conversations: list[Conversation] = []
        while len(conversations) < n:
            topic = rng.choice(topics)
            facts = _facts(rng)
            question = rng.choice(topic.held_out if held_out else topic.questions)
            answer, system = fill(rng.choice(topic.answers), facts), fill(SYSTEM, facts)
            assert answer is not None, "all facts are there"
            conversations.append(ask(question, answer, "personas", system))
        return conversations

    return Pool(draw(n, held_out=False), draw(n_held_out, held_out=True))


def _facts(rng: random.Random) -> dict[str, str | None]:
    return {
        "name": make_up(rng).capitalize(),
        "maker": f"{make_up(rng).capitalize()} {rng.choice(('Labs', 'Works', 'University', 'Group'))}",
        "parameters": f"{rng.randrange(1, 400)} {rng.choice(('million', 'billion', 'thousand'))}",
        "corpus": rng.choice(_CORPORA),
        "date": f"{rng.randrange(1, 29)} {rng.choice(MONTHS)} {rng.randrange(2000, 2040)}",
    }
