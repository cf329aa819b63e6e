"""Settings of the `eval` stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from llmpipe.assistant.tools import ToolName
from llmpipe.core.config import Unkeyed, schema
from llmpipe.tasks.registry import TASKS

if TYPE_CHECKING:
    TaskName = str
else:
    # The names of the table of tasks, so that a recipe is checked against what there is.
    TaskName = Literal[tuple(TASKS)]


@schema
class EvalConfig:
    """What an assistant is asked."""

    tasks: tuple[TaskName, ...] = ("arithmetic", "identity", "stops")
    """Which tasks to run; see `llmpipe/tasks`."""
    examples: Annotated[int, Gt(0)] = 100
    """Questions per task, at most; some tasks have fewer."""
    tools: tuple[ToolName, ...] = ("python",)
    """What the assistant may call; `search` looks through the run's corpus."""
    name: str | None = None
    """What the assistant should call itself; None is the name it was trained with."""
    max_tokens: Annotated[int, Gt(0)] = 80
    """Longest answer, in tokens."""
    batch_size: Annotated[int, Gt(0), Unkeyed()] = 32
    """Questions answered at the same time; does not change the answers."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """0 takes the likeliest token always."""
    conversation: tuple[str, ...] = ("Who are you?", "What is 37 + 45?")
    """Turns of one conversation to hold and show, always with the likeliest tokens."""
