"""The `python` tool: programs the assistant writes, run where they can do no harm.

A model spends the same small amount of computing on every token, so a long sum done in its head is a
guess. A few tokens of code and an interpreter get it right.

`policy.py` says what a program may do, `fork_server.py` is the process it is forked from, and this file
talks to that process. A call is answered with what the program printed and, as at a Python prompt, the
value of an expression that ends it; an error comes as the last line of its traceback. Nothing is kept
from one call to the next.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

from llmpipe.assistant.tools.policy import Kernel, build_filter, examine_kernel
from llmpipe.core.errors import UserError

_FORK_SERVER = Path(__file__).with_name("fork_server.py")
_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
"""Of its Python. -S: no site-packages; -P and -s: no modules of the user's."""

CPU_S = 5.0
"""Of computing by one program."""

WALL_S = 15.0
"""From a call to its answer, for programs that wait. Generous beside `CPU_S`: on a busy machine it must
not change what a model is told."""

START_S = 30.0
"""For the first answer of a new process, which has to load Python."""

MEMORY_BYTES = 256 << 20
"""Of address space; Python itself takes about 30 MB of it."""

MAX_PROGRAM_BYTES = 64_000
MAX_RESULT_BYTES = 4_000
"""Some 1,000 tokens; `rules.py` cuts further to what the context has room for."""

# Without Landlock no file can be opened, so what programs like to import is loaded beforehand.
_LOADED_BEFOREHAND = (
    "bisect,calendar,cmath,collections,copy,dataclasses,datetime,decimal,enum,fractions,functools,"
    "heapq,itertools,json,math,operator,random,re,statistics,string,textwrap,time,typing,unicodedata"
)


class PythonTool:
    """Runs programs in a sandbox; may be called from several threads.

    Args:
        cpu_s: seconds of computing a program may take.
        wall_s: seconds a call may take.
        unsafe: run programs without a sandbox, with limits on time and memory only.
        kernel: what the system offers; found out by default.

    Raises:
        UserError: if the system has nothing to build a sandbox from.
    """

    def __init__(
        self,
        cpu_s: float = CPU_S,
        wall_s: float = WALL_S,
        unsafe: bool = False,
        kernel: Kernel | None = None,
    ) -> None:
        self._cpu_s = cpu_s
        self._wall_s = wall_s
        self._kernel = kernel or examine_kernel()
        self._unsafe = unsafe
        if not unsafe and not self._kernel.has_seccomp:
            raise UserError(
                "the python tool needs a sandbox, and this system has no seccomp for it "
                f"({platform.system()}, {platform.machine()})",
                hint="leave the tool out with `--tools none`, or, if what the model writes may do "
                "anything that you may do: `--unsafe-tools`",
            )
        self._fork_server: _ForkServer | None = None
        self._lock = threading.Lock()

    def run(self, text: str) -> str:
        """Return what a program prints, in bounded time and length."""
        program = textwrap.dedent(text).encode("utf-8", "surrogatepass")
        if len(program) > MAX_PROGRAM_BYTES:
            return f"error: the program is longer than {MAX_PROGRAM_BYTES:,} bytes"
        with self._lock:
            server = self._started()
            try:
                output, exit_code = server.run(program, self._wall_s)
            except TimeoutError:
                self._stop()
                return f"TimeoutError: no result within {self._wall_s:g} s"
            except OSError:
                self._stop()
                return "error: the tool has crashed"
        return self._answer(output, exit_code)

    def in_force(self) -> str:
        """Start the process and return what it says shuts programs in."""
        with self._lock:
            return self._started().in_force

    def __enter__(self) -> PythonTool:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._stop()

    def _answer(self, output: bytes, exit_code: int) -> str:
        text = output[:MAX_RESULT_BYTES].decode("utf-8", "replace").rstrip("\n")
        if len(output) > MAX_RESULT_BYTES:
            return f"{text}\n[cut after {MAX_RESULT_BYTES:,} bytes]"
        ending = ""
        if exit_code in (-9, -24):  # SIGKILL, SIGXCPU
            ending = f"TimeoutError: no result within {self._cpu_s:g} s of computing"
        elif exit_code:
            ending = f"error: the program crashed ({exit_code})"
        return f"{text}\n{ending}".strip("\n") if ending else text

    def _started(self) -> _ForkServer:
        if self._fork_server is None or not self._fork_server.is_alive:
            self._stop()
            self._fork_server = _ForkServer(self._arguments())
        return self._fork_server

    def _arguments(self) -> list[str]:
        filter_hex, landlock = "", 0
        if not self._unsafe:
            landlock = self._kernel.landlock
            filter_hex = build_filter(self._kernel.machine, can_open=landlock > 0).hex()
        modules = "" if landlock or self._unsafe else _LOADED_BEFOREHAND
        cpu_s = str(max(1, round(self._cpu_s)))  # the kernel counts whole seconds
        return [filter_hex, str(landlock), str(MEMORY_BYTES), cpu_s, modules]

    def _stop(self) -> None:
        if self._fork_server:
            self._fork_server.close()
            self._fork_server = None


class _ForkServer:
    """The process that forks: its socket, and one program after the other."""

    def __init__(self, arguments: list[str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *_FLAGS, str(_FORK_SERVER), *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},  # sets print in the same order every time
                start_new_session=True,  # Ctrl-C in the terminal is for the chat
            )
        try:
            hello = self._line(time.monotonic() + START_S).decode()
        except OSError:  # a TimeoutError among them
            hello = ""
        kind, _, self.in_force = hello.strip().partition(": ")
        if kind != "ready":
            self.close()
            raise UserError(
                f"the sandbox of the python tool cannot be set up: {self.in_force or 'no answer'}",
                hint="`llmpipe doctor --sandbox` says what this system offers",
            )

    @property
    def is_alive(self) -> bool:
        # Not `poll`: that would give the number free while a child of the group may live on.
        return not select.select([self._control], [], [], 0)[0]

    def run(self, program: bytes, wall_s: float) -> tuple[bytes, int]:
        """Return a program's output, cut one byte behind `MAX_RESULT_BYTES`, and how it ended.

        Raises:
            TimeoutError: if it takes longer than `wall_s`.
            OSError: if the fork server is gone.
        """
        deadline = time.monotonic() + wall_s
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            # The fork server may be gone or the program may not wait to be read: both show below.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                ours.sendall(program)
                ours.shutdown(socket.SHUT_WR)
            output = b""
            while len(output) <= MAX_RESULT_BYTES and (
                piece := _receive(ours, deadline, MAX_RESULT_BYTES + 1 - len(output))
            ):
                output += piece
        # The socket is closed now, so a program that prints on is ended by SIGPIPE.
        ended = self._line(deadline)
        if not ended:
            raise OSError("the fork server is gone")
        return output, int(ended)

    def close(self) -> None:
        """End the fork server and its child."""
        if self._process.returncode is None:  # until it is waited for, its number is its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._control.close()

    def _line(self, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            piece = _receive(self._control, deadline, 1 << 10)
            if not piece:
                return b""
            line += piece
        return line


def _receive(connection: socket.socket, deadline: float, n: int) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0 or not select.select([connection], [], [], left)[0]:
        raise TimeoutError
    try:
        return connection.recv(n)
    except ConnectionResetError:
        return b""
