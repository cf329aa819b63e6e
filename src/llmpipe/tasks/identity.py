"""Does the assistant know who it is? Questions about itself in wordings that were not trained.

The questions are those under `held_out` in `resources/conversations/identity.toml`; the other ones
are trained.
"""

from __future__ import annotations

import random
import re

from llmpipe.tasks.base import Answer, AssistantFacts, Example, Task
from llmpipe.tasks.templates import load_topics


def identity_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return up to `n` held-out questions about the assistant, over all topics."""
    questions = [question for topic in load_topics("identity") for question in topic.held_out]
    chosen = random.Random(f"identity {seed}").sample(questions, min(n, len(questions)))
    return [Example(question, facts.name) for question in chosen]


def says_the_name(example: Example, answer: Answer) -> bool:
    """Accept an answer in which the expected name stands as a word of its own."""
    return re.search(rf"(?<!\w){re.escape(example.expected)}(?!\w)", answer.text) is not None


IDENTITY = Task(
    name="identity",
    version=1,
    summary="questions about itself in wordings not trained; right if it says its name",
    examples=identity_examples,
    is_right=says_the_name,
)
