"""The `python` tool: the assistant's code, run in another process.

For now "Python" means arithmetic expressions (see `calculator.py`): all that the child process can do
is compute numbers, which is why it needs no isolation from the system beyond resource limits. Running
arbitrary Python takes real isolation by the kernel; until that is there, it is not offered.

The child is started once and kept. One that does not answer in time is killed, and the next call
starts another.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

_CALCULATOR = Path(__file__).with_name("calculator.py")

TIMEOUT_S = 5.0
"""The calculator answers within a millisecond by its own limits. This one is for a child that is
stuck, and generous: on a busy machine it must not change what a model is told."""


class PythonTool:
    """Evaluates expressions in a child process.

    Args:
        timeout_s: seconds a call may take.
        program: what the child runs; it answers JSON lines with JSON lines.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, program: Path = _CALCULATOR) -> None:
        self._timeout_s = timeout_s
        self._program = program
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, text: str) -> str:
        """Return the value of an expression as text, or a line that begins with `error:`."""
        try:
            return self._ask(text)
        except TimeoutError:
            self.close()
            return f"error: no result within {self._timeout_s:g} s"
        except (BrokenPipeError, EOFError, ValueError):
            self.close()
            return "error: the tool has crashed"

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        assert self._child.stdin and self._child.stdout
        self._child.stdin.close()
        self._child.stdout.close()
        self._child = None

    def __enter__(self) -> PythonTool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, text: str) -> str:
        child = self._started()
        assert child.stdin and child.stdout
        # Below 64 kB, the size of a Linux pipe, the write cannot block; the calculator refuses
        # anything that long, whatever it is.
        child.stdin.write(json.dumps(text[:5000]).encode() + b"\n")
        deadline = time.monotonic() + self._timeout_s
        answer = b""
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                raise TimeoutError
            piece = child.stdout.read(1 << 16)
            if not piece:
                raise EOFError
            answer += piece
        return str(json.loads(answer))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = subprocess.Popen(
                # -I: no user folders or environment; -S: no site-packages.
                [sys.executable, "-I", "-S", str(self._program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # a read returns what is there, as `select` promised
                env={},
                start_new_session=True,  # Ctrl-C in the terminal is for the chat
            )
        return self._child
