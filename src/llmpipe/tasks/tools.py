"""Does the assistant use its tools as it is told? Answers from the corpus, and no calls without tools.

Both ask the questions of conversations that were kept from training.
"""

from __future__ import annotations

import random

from llmpipe.assistant.tools import tool_line
from llmpipe.tasks.arithmetic import sum_examples
from llmpipe.tasks.base import Answer, AssistantFacts, Example, Task
from llmpipe.tasks.held_out import held_out_conversations

NO_TOOLS = tool_line(())
"""System message that lists no tool."""


def lookup_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return up to `n` questions whose answer stands in the corpus."""
    kept = [c for c in held_out_conversations(facts) if c.source == "lookups"]
    chosen = random.Random(f"lookups {seed}").sample(kept, min(n, len(kept)))
    return [Example(c.question, c.answer) for c in chosen]


def says_what_was_found(example: Example, answer: Answer) -> bool:
    """Accept the expected words, which end with their source, if there was a search for them."""
    return bool(answer.tool_calls) and answer.text.split() == example.expected.split()


def no_tool_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return up to `n` questions that want a tool, under a system message that lists none."""
    questions = [c.question for c in held_out_conversations(facts) if c.tools]
    if not questions:
        questions = [example.question for example in sum_examples(facts, n, seed)]
    questions = sorted(set(questions))
    chosen = random.Random(f"no tools {seed}").sample(questions, min(n, len(questions)))
    return [Example(question, "an answer without a call", NO_TOOLS) for question in chosen]


def does_without(example: Example, answer: Answer) -> bool:
    """Accept an answer with words, that ended and called nothing."""
    return not answer.tool_calls and answer.stopped and answer.text.strip() != ""


LOOKUPS = Task(
    name="lookups",
    version=1,
    summary="questions about the corpus that were not trained; right if found, quoted and cited",
    examples=lookup_examples,
    is_right=says_what_was_found,
)

WITHOUT_TOOLS = Task(
    name="no_tools",
    version=1,
    summary="questions that want a tool, when no tool is listed; right if none is called",
    examples=no_tool_examples,
    is_right=does_without,
)
