"""Does the assistant end its answers? A model that was not trained on the stop token never does.

The prompts are the first questions of conversations that were kept from training, or where there are
none those of other tasks; the verdict looks only at how the answer ended.
"""

from __future__ import annotations

import random

from llmpipe.tasks.arithmetic import sum_examples
from llmpipe.tasks.base import Answer, AssistantFacts, Example, Task
from llmpipe.tasks.held_out import held_out_conversations
from llmpipe.tasks.identity import identity_examples


def stop_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return up to `n` held-out prompts of all kinds, none twice."""
    prompts = {kept.question for kept in held_out_conversations(facts)} - {""}
    if not prompts:
        examples = sum_examples(facts, n, seed) + identity_examples(facts, n, seed)
        prompts = {example.question for example in examples}
    chosen = random.Random(f"stops {seed}").sample(sorted(prompts), min(n, len(prompts)))
    return [Example(question, "a stop token") for question in chosen]


def ended(example: Example, answer: Answer) -> bool:
    """Accept an answer that ended by itself and is not empty."""
    return answer.stopped and answer.text.strip() != ""


STOPS = Task(
    name="stops",
    version=2,
    summary="held-out prompts of all kinds; right if the answer ends with the stop token",
    examples=stop_examples,
    is_right=ended,
)
