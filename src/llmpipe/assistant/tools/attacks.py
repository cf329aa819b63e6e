"""The attacks on the sandbox (`resources/sandbox/attacks.toml`), for `llmpipe doctor --sandbox` and the tests.

Each program prints `REACHED` if it got where it should not. A few cannot say so themselves, such as one
that never ends: those are held if an answer comes at all, and a short one.
"""

from __future__ import annotations

import os
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from llmpipe.assistant.tools import Tool
from llmpipe.assistant.tools.python import CPU_S, MAX_RESULT_BYTES, WALL_S

REACHED = "REACHED"
SCRATCH = "SCRATCH"
"""Stands in the programs for a folder that may be damaged, with a file `file` in it."""

_CUT_NOTE_BYTES = 100  # what the tool adds to output that was cut, at most


@dataclass(frozen=True)
class Attack:
    """One attempt: what it is called, and the program."""

    name: str
    program: str


def _program(attack: dict[str, Any]) -> str:
    """Return the program of an attack in one of the three forms of the file."""
    if "call" in attack:
        before, call = attack.get("before", ""), attack["call"]
        return (
            f"import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n{before}\nresult = {call}\n"
            f"print({REACHED!r}, result) if result >= 0 else print(os.strerror(ctypes.get_errno()))"
        )
    if "try" in attack:
        lines = [attack.get("first", "import os"), "failure = ''"]
        for attempt in attack["try"]:
            lines += [
                "try:",
                f"    {attempt}",
                f"    print({REACHED!r}, {attempt!r})",
                "except Exception as e:",
                "    failure = f'{type(e).__name__}: {e}'",
            ]
        return "\n".join([*lines, "print(failure)"])
    program: str = attack["program"]
    return program


_FILE = files("llmpipe") / "resources" / "sandbox" / "attacks.toml"
ATTACKS = tuple(
    Attack(attack["name"], _program(attack))
    for attack in tomllib.loads(_FILE.read_text(encoding="utf-8"))["attack"]
)


@dataclass(frozen=True)
class AttackOutcome:
    """How one attack went; `detail` is the last line that the program printed."""

    name: str
    held: bool
    detail: str
    seconds: float


def try_attacks(tool: Tool) -> Iterator[AttackOutcome]:
    """Yield how each attack went, and at last whether anything was left for a later program."""
    for attack in ATTACKS:
        yield try_attack(attack, tool)
    yield _judge("leave something for the next program", partial(_left_behind, tool))


def try_attack(attack: Attack, tool: Tool) -> AttackOutcome:
    """Run one attack, with a scratch folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "file").write_text("kept")
        program = attack.program.replace(SCRATCH, scratch)
        return _judge(attack.name, partial(tool.run, program))


def _judge(name: str, run: Callable[[], str]) -> AttackOutcome:
    started = time.monotonic()
    answer = run()
    seconds = time.monotonic() - started
    is_bounded = (
        len(answer.encode("utf-8", "replace")) <= MAX_RESULT_BYTES + _CUT_NOTE_BYTES
        and seconds < WALL_S + CPU_S
    )
    lines = answer.splitlines() or [""]
    return AttackOutcome(name, is_bounded and REACHED not in answer, lines[-1][:100], seconds)


def _left_behind(tool: Tool) -> str:
    """Return what a second program finds of what a first one has left in every place it can reach."""
    mark = f"LEFT{os.getpid()}"
    tool.run(f"import builtins, sys, os\nbuiltins.{mark} = sys.{mark} = os.environ['{mark}'] = '1'")
    found = tool.run(
        "import builtins, sys, os\n"
        f"hasattr(builtins, '{mark}') or hasattr(sys, '{mark}') or '{mark}' in os.environ"
    )
    return "nothing" if found == "False" else REACHED
