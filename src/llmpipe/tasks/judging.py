"""Putting questions to an assistant and judging its answers: many at once, or one after the other for a talk.

The verdict itself is the task's (`base.py`), which sees words, calls and whether the answer ended. Here replies are
made, reduced to that, and counted. Stages, and later rewards, use this; it knows nothing of artifacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmpipe.assistant.conversation import forget_oldest
from llmpipe.assistant.frames import frame_for
from llmpipe.assistant.generate import Tools, answer_many
from llmpipe.assistant.render import Message, render
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.tool_list import called
from llmpipe.core.errors import UserError
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.tasks.base import Answer, Example, Score, Task
from llmpipe.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Assistant:
    """All that is needed to get an answer."""

    engine: Engine
    tokenizer: Tokenizer
    sampling: Sampling
    tools: Tools

    def answer(self, conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        """Answer many conversations at once."""
        return answer_many(self.engine, self.tokenizer, conversations, self.sampling, self.tools)


def run_task(
    task: Task, examples: Sequence[Example], assistant: Assistant
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ask all examples of a task.

    Raises:
        UserError: there is no example.

    Returns:
        The task's score, and one record per question with the answer and the verdict.
    """
    if not examples:
        raise UserError(
            f"the task `{task.name}` has no questions for this assistant",
            "its questions are held-out conversations of a source that was not trained",
        )
    conversations = [
        [
            *([] if example.system is None else [Message("system", example.system)]),
            Message("user", example.question),
        ]
        for example in examples
    ]
    records: list[dict[str, Any]] = []
    verdicts: list[bool] = []
    for example, reply in zip(examples, assistant.answer(conversations), strict=True):
        answer = judgeable(reply)
        verdicts.append(task.is_right(example, answer))
        records.append(
            {
                "task": task.name,
                "question": example.question,
                "expected": example.expected,
                "answer": answer.text,
                "tool_calls": list(answer.tool_calls),
                "stopped": answer.stopped,
                "right": verdicts[-1],
            }
        )
    result = Score(n=len(verdicts), correct=sum(verdicts))
    low, high = result.interval
    numbers = {
        "version": task.version,
        "n": result.n,
        "correct": result.correct,
        "accuracy": round(result.accuracy, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }
    return numbers, records


def judgeable(reply: Reply) -> Answer:
    """Reduce a reply to what tasks look at.

    Only the token that ends a turn counts as having stopped: a model that begins another turn or document is
    stopped by the engine, but has not ended its own.
    """
    message, tokenizer = reply.message, reply.tokenizer
    return Answer(
        text=message.text,
        stopped=reply.ids[-1:] == [tokenizer.special[frame_for(tokenizer).end]],
        tool_calls=tuple(call[1] for part in message.parts if (call := called(part))),
    )


def hold_conversation(questions: Sequence[str], assistant: Assistant) -> list[dict[str, Any]]:
    """Ask questions one after the other in one conversation; return its turns.

    What no longer fits into the context is forgotten, oldest turns first.
    """
    messages: list[Message] = []
    turns = []
    room = assistant.engine.max_len - assistant.sampling.max_tokens
    for question in questions:
        messages.append(Message("user", question))
        forget_oldest(messages, lambda: n_prompt_tokens(messages, assistant.tokenizer) <= room)
        [reply] = assistant.answer([messages])
        messages.append(reply.message)
        answer = judgeable(reply)
        turns.append(
            {"question": question, "answer": answer.text, "tool_calls": list(answer.tool_calls)}
        )
    return turns


def n_prompt_tokens(messages: Sequence[Message], tokenizer: Tokenizer) -> int:
    """Count the tokens of a conversation with the opening of the next answer."""
    return len(render(messages, tokenizer, add_generation_prompt=True).ids)
