"""Does the assistant end its answers? A model that was not trained on the stop token never does.

The prompts are those of the other tasks and the first questions of conversations that were kept
from training; the verdict looks only at how the answer ended.
"""

from __future__ import annotations

import json
import random

from llmpipe.tasks.arithmetic import sum_examples
from llmpipe.tasks.base import Answer, Example, Facts, Task
from llmpipe.tasks.identity import identity_examples


def stop_examples(facts: Facts, n: int, seed: int) -> list[Example]:
    """Return up to `n` held-out prompts of all kinds, none twice."""
    prompts = [example.question for example in sum_examples(facts, n, seed)]
    prompts += [example.question for example in identity_examples(facts, n, seed)]
    if facts.conversations is not None:
        with facts.conversations.open(encoding="utf-8") as lines:
            prompts += [_first_question(json.loads(line)) for line in lines]
    unique = sorted(set(prompts) - {""})
    chosen = random.Random(f"stops {seed}").sample(unique, min(n, len(unique)))
    return [Example(question, "a stop token") for question in chosen]


def _first_question(row: dict[str, list[dict[str, object]]]) -> str:
    for message in row["messages"]:
        if message["role"] == "user" and isinstance(message["content"], str):
            return message["content"]
    return ""


def ended(example: Example, answer: Answer) -> bool:
    """Accept an answer that ended by itself and is not empty."""
    return answer.stopped and answer.text.strip() != ""


STOPS = Task(
    name="stops",
    version=1,
    summary="held-out prompts of all kinds; right if the answer ends with the stop token",
    examples=stop_examples,
    is_right=ended,
)
