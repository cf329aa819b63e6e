"""The table of tasks."""

from __future__ import annotations

from llmpipe.core.registry import Registry
from llmpipe.tasks.base import Task

TASKS: Registry[Task] = Registry(
    {
        "arithmetic": "llmpipe.tasks.arithmetic:ARITHMETIC",
        "identity": "llmpipe.tasks.identity:IDENTITY",
        "stops": "llmpipe.tasks.stops:STOPS",
        "multiplication": "llmpipe.tasks.arithmetic:MULTIPLICATION",
        "letters": "llmpipe.tasks.words:LETTERS",
        "characters": "llmpipe.tasks.words:CHARACTERS",
        "lookups": "llmpipe.tasks.tools:LOOKUPS",
        "no_tools": "llmpipe.tasks.tools:WITHOUT_TOOLS",
    }
)
