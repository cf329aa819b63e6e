"""Orders of answers, from best to worst, kept for training a reward model.

Each line of the file is one JSON object:

    schema     "llmpipe.preferences/1"
    created    when, in UTC
    model      whose answers they are
    messages   the conversation that was answered, as in OpenAI's API; or
    prompt     the text that was gone on with
    answers    two or more objects, the best one first, each with its `content`, and where they are known
               with `reasoning_content`, `tool_runs`, `token_ids` (of the whole turn) and `seed`
    sampling   the settings they were written with
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.parse import field

SCHEMA = "llmpipe.preferences/1"

_ANSWER_FIELDS = ("content", "reasoning_content", "tool_runs", "token_ids", "seed")
_MAX_ANSWERS = 64


class Preferences:
    """A file that orders are appended to.

    Args:
        path: made at the first order, readable by its owner alone: it holds conversations.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, line: dict[str, Any]) -> None:
        """Append one order and wait until it is safe on the disk.

        Raises:
            ApiError: if the file cannot be written.
        """
        data = json.dumps(line).encode() + b"\n"
        try:
            owners = partial(os.open, mode=0o600)
            with self._lock, open(self.path, "ab", opener=owners) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            message = f"the file of preferences cannot be written: {error.strerror}"
            raise ApiError(500, message) from None


def parse_preference(body: dict[str, Any], model: str) -> dict[str, Any]:
    """Check an order that a client has sent; return the line to write.

    Raises:
        ApiError: naming the field that is wrong.
    """
    messages, prompt = field(body, "messages", list, None), field(body, "prompt", str, None)
    if (messages is None) == (prompt is None):
        raise ApiError(400, "one of `messages` and `prompt` is needed", param="messages")
    for i, message in enumerate(messages or ()):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, f"messages[{i}] needs a role", param=f"messages[{i}]")
    answers = field(body, "answers", list, [])
    if not 2 <= len(answers) <= _MAX_ANSWERS:
        message = f"`answers` holds {len(answers)}, and an order has 2 to {_MAX_ANSWERS}"
        raise ApiError(400, message, param="answers")
    for i, answer in enumerate(answers):
        if not isinstance(answer, dict) or not isinstance(answer.get("content"), str):
            raise ApiError(400, f"answers[{i}] needs its content", param=f"answers[{i}]")
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        **({"prompt": prompt} if messages is None else {"messages": messages}),
        "answers": [
            {name: answer[name] for name in _ANSWER_FIELDS if name in answer} for answer in answers
        ],
        "sampling": field(body, "sampling", dict, {}),
    }
