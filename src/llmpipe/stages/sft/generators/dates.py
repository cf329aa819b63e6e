"""Questions about dates, answered through Python's `datetime`.

Dates stand as 2026-03-05 in question and call, so that there is nothing to do but copy.
"""

from __future__ import annotations

import random
from datetime import date, timedelta

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import PythonCall, Text, ToolOutput
from llmpipe.stages.sft.generators import Pool, draw_pool

FIRST, N_DAYS = date(1950, 1, 1), 150 * 365
HELD_OUT_EVERY = 10
"""Of ten days in a row, the first is never trained."""

WEEKDAY = ("Which day of the week is {a}?", "What weekday is {a}?", "On which day does {a} fall?")
LATER = ("Which date is {n} days after {a}?", "What is {a} plus {n} days?", "Add {n} days to {a}.")
BETWEEN = ("How many days are between {a} and {b}?", "How many days is it from {a} to {b}?")
_IMPORT = "from datetime import date, timedelta\n"
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def make_dates(n: int, n_held_out: int, rng: random.Random) -> Pool:
    """Draw `n` questions to train on, and `n_held_out` about days that are never trained."""

    def next_conversation(held_out: bool) -> Conversation | None:
        number = rng.randrange(N_DAYS)
        if (number % HELD_OUT_EVERY == 0) != held_out:
            return None
        return _ask(FIRST + timedelta(number), rng)

    return draw_pool(next_conversation, n, n_held_out)


def _ask(a: date, rng: random.Random) -> Conversation:
    n = rng.randrange(1, 400)
    b = a + timedelta(n)
    kind = rng.randrange(3)
    if kind == 0:
        question = rng.choice(WEEKDAY)
        code, result = f'date.fromisoformat("{a}").strftime("%A")', _DAYS[a.weekday()]
        words = f"'{result}' is the day."
        result = f"'{result}'"
    elif kind == 1:
        question = rng.choice(LATER)
        code = f'str(date.fromisoformat("{a}") + timedelta({n}))'
        result = f"'{b}'"
        words = f"{result} is the date."
    else:
        question = rng.choice(BETWEEN)
        code = f'(date.fromisoformat("{b}") - date.fromisoformat("{a}")).days'
        result = str(n)
        words = f"{result} days."
    answer = (PythonCall(_IMPORT + code), ToolOutput(result), Text(words))
    return ask(question.format(a=a, b=b, n=n), answer, "dates")
