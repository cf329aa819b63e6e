"""The table of tasks."""

from __future__ import annotations

from llmpipe.tasks.arithmetic import ARITHMETIC, MULTIPLICATION
from llmpipe.tasks.base import Task
from llmpipe.tasks.identity import IDENTITY
from llmpipe.tasks.stops import STOPS
from llmpipe.tasks.tools import LOOKUPS, WITHOUT_TOOLS
from llmpipe.tasks.words import CHARACTERS, LETTERS

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ARITHMETIC,
        IDENTITY,
        STOPS,
        MULTIPLICATION,
        LETTERS,
        CHARACTERS,
        LOOKUPS,
        WITHOUT_TOOLS,
    )
}
