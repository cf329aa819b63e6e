"""The table of tasks."""

from __future__ import annotations

from llmpipe.tasks.arithmetic import ARITHMETIC
from llmpipe.tasks.base import Task
from llmpipe.tasks.identity import IDENTITY
from llmpipe.tasks.stops import STOPS

TASKS: dict[str, Task] = {task.name: task for task in (ARITHMETIC, IDENTITY, STOPS)}
