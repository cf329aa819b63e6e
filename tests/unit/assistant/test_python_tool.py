"""The python tool: what programs get back, and what they do not get at."""

from __future__ import annotations

import os
import platform
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmpipe.assistant.tools import attacks, open_tools
from llmpipe.assistant.tools.attacks import (
    ATTACKS,
    REACHED,
    SCRATCH,
    Attack,
    try_attack,
    try_attacks,
)
from llmpipe.assistant.tools.policy import (
    CALLS,
    WITH_LANDLOCK,
    Kernel,
    build_filter,
    examine_kernel,
)
from llmpipe.assistant.tools.python import PythonTool
from llmpipe.core.errors import UserError

KERNEL = examine_kernel()
pytestmark = pytest.mark.skipif(not KERNEL.has_seccomp, reason="this system has no seccomp")


@pytest.fixture(scope="module")
def tool() -> Iterator[PythonTool]:
    with PythonTool(cpu_s=1) as tool:
        yield tool


# -- what a program gets back ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ("37+45", "82"),
        (" 12*12", "144"),
        ("print(1)\nprint('two')", "1\ntwo"),
        ("x = 6\nprint(x)\nx * 7", "6\n42"),
        ("'strawberry'.count('r')", "3"),
        ("'ubiquitous'[2::3]", "'iiu'"),
        ("None", ""),
        ("", ""),
        ("x = 1", ""),
        ("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\n\nf(15)", "610"),
        ("import fractions, math\nfractions.Fraction(1, 3), math.gcd(12, 18)", "(Fraction(1, 3), 6)"),
        ("import sys\nprint('kept')\nsys.exit(3)", "kept"),
        ("print('so far')\n1/0", "so far\nZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')", "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("(", "SyntaxError: '(' was never closed (<program>, line 1)"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("input()", "EOFError: EOF when reading a line"),
        ("\x00", "SyntaxError: source code string cannot contain null bytes"),
        ("'é🙂'", "'é🙂'"),
        ("if __name__ == '__main__': print('main')", "main"),
        ("import os\nos._exit(0)", ""),
        ("def f(x: int): pass\nf.__annotations__", "{'x': <class 'int'>}"),
    ],
)  # fmt: skip
def test_answer_is_what_a_python_prompt_shows(program: str, answer: str, tool: PythonTool) -> None:
    assert tool.run(program) == answer


def test_sets_print_in_the_same_order_every_time() -> None:
    program = "print({'one', 'two', 'three', 'four', 'five'})"
    with PythonTool() as first, PythonTool() as second:
        assert first.run(program) == second.run(program)


def test_random_numbers_differ_between_programs(tool: PythonTool) -> None:
    assert tool.run("import random\nrandom.random()") != tool.run("import random\nrandom.random()")


def test_long_output_is_cut_and_the_process_is_kept(tool: PythonTool) -> None:
    tool.run("1")
    before = tool._fork_server
    answer = tool.run("while True: print('x' * 99)")
    text, _, note = answer.rpartition("\n")
    assert note == "[cut after 4,000 bytes]" and len(text) <= 4000
    assert tool.run("'x' * 3000") == f"'{'x' * 3000}'"
    assert tool._fork_server is before


def test_program_that_is_too_long_is_not_tried(tool: PythonTool) -> None:
    assert tool.run("#" * 64_001) == "error: the program is longer than 64,000 bytes"
    assert tool.run("#" * 63_998 + "\n1") == "1"


def test_program_that_waits_is_ended_by_the_clock() -> None:
    with PythonTool(wall_s=0.3) as tool:
        assert tool.run("import time; time.sleep(60)") == "TimeoutError: no result within 0.3 s"
        tool._wall_s = 30
        assert tool.run("1 + 1") == "2"


def test_crash_is_told_and_the_next_program_runs(tool: PythonTool) -> None:
    assert tool.run("import os; print('so far', flush=True); os.abort()").startswith(
        "so far\nerror: the program crashed"
    )
    assert tool.run("1 + 1") == "2"


def test_fork_server_that_is_gone_is_replaced(tool: PythonTool) -> None:
    tool.run("1")
    assert tool._fork_server
    tool._fork_server._process.kill()
    tool._fork_server._process.wait()
    assert tool.run("1 + 1") == "2"


def test_calls_from_several_threads_get_their_own_answers(tool: PythonTool) -> None:
    answers: dict[int, str] = {}

    def call(i: int) -> None:
        answers[i] = tool.run(f"{i} * {i}")

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: str(i * i) for i in range(8)}


def test_processes_are_gone_after() -> None:
    with PythonTool() as own:
        own.run("1")
        assert own._fork_server
        pid = own._fork_server._process.pid
        assert os.getpgid(pid) == pid  # Ctrl-C in the terminal does not reach it
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_program_ends_when_llmpipe_is_gone(tool: PythonTool) -> None:
    """The fork server sees the other end of its socket close, ends the child and itself."""
    with PythonTool() as own:
        server = own._started()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(server._control, [b"+"], [theirs.fileno()])
            theirs.close()
            ours.sendall(b"import time; print('here', flush=True); time.sleep(60)")
            ours.shutdown(socket.SHUT_WR)
            assert ours.recv(5) == b"here\n"
            server._control.shutdown(socket.SHUT_RDWR)
            assert select.select([ours], [], [], 10)[0] and ours.recv(1) == b""
        server._process.wait(timeout=10)


# -- what it does not get at -------------------------------------------------------------------------


# What the program gets to see, where it is one thing on every kernel.
SEEN = {
    "open a socket": "Operation not permitted",
    "run a program": "Operation not permitted",
    "fork through ctypes": "Operation not permitted",
    "trace the parent": "Operation not permitted",
    "read the parent's memory by system call": "Operation not permitted",
    "memory bomb": "MemoryError",
    "output bomb": "[cut after 4,000 bytes]",
    "endless loop": "within 1 s of computing",
    "endless loop that holds out": "within 1 s of computing",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_attack_of_the_table_is_held(attack: Attack, tool: PythonTool) -> None:
    finding = try_attack(attack, tool)
    assert finding.held, finding
    assert SEEN.get(attack.name, "") in finding.detail


def test_nothing_is_left_for_the_next_program(tool: PythonTool, monkeypatch: Any) -> None:
    monkeypatch.setattr(attacks, "ATTACKS", ())
    [finding] = try_attacks(tool)
    assert finding.held and finding.detail == "nothing"


def test_computing_is_bounded_apart_from_waiting(tool: PythonTool) -> None:
    assert tool.run("print('so far', flush=True)\nwhile True: pass") == (
        "so far\nTimeoutError: no result within 1 s of computing"
    )


def test_without_landlock_no_file_can_be_opened_and_every_attack_is_held() -> None:
    loops = ("endless loop", "endless loop that holds out")  # end in the same way
    with PythonTool(kernel=Kernel(0, True)) as tool:
        assert "seccomp" in tool.in_force() and "Landlock" not in tool.in_force()
        tried = [try_attack(attack, tool) for attack in ATTACKS if attack.name not in loops]
        assert [finding for finding in tried if not finding.held] == []
        assert tool.run("import math, re\nre.sub('a', 'b', 'banana'), math.pi").startswith(
            "('bbnbnb'"
        )
        assert "PermissionError" in tool.run("import os\nopen(os.__file__)")


def test_no_system_call_but_those_of_the_table_is_let_through(tool: PythonTool) -> None:
    """Every number is tried, with arguments that do nothing where the call exists."""
    calls = (CALLS | WITH_LANDLOCK).values()
    known = {c.x86_64 if platform.machine() == "x86_64" else c.aarch64 for c in calls} - {None}
    # uretprobe and uprobe of x86_64: the kernel shows them to no filter (since 6.14), and ends with
    # SIGILL whoever calls them from elsewhere than a probe.
    left_out = known | {335, 336}
    program = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        refused = 0
        for number in set(range(1024)) - {left_out}:
            ctypes.set_errno(0)
            result = libc.syscall(number, -1, 0, 0, 0, 0, 0)
            if (result, ctypes.get_errno()) != (-1, 1):  # EPERM
                print("let through:", number)
            refused += 1
        refused"""
    assert tool.run(program) == str(1024 - len(left_out))


@pytest.mark.parametrize(
    "name",
    [
        "read /etc/passwd", "write outside", "remove or empty a file", "run a program",
        "fork through ctypes", "start a thread", "list processes", "signal the parent",
        "read the parent's environment", "signal through a descriptor",
    ],
)  # fmt: skip
def test_attacks_are_real_ones(name: str, tmp_path: Path) -> None:
    """Without a sandbox they reach what they try: the table would be worth nothing otherwise."""
    (tmp_path / "file").write_text("here")
    [attack] = [attack for attack in ATTACKS if attack.name == name]
    with PythonTool(unsafe=True) as tool:
        assert tool.in_force() == "nothing"
        assert REACHED in tool.run(attack.program.replace(SCRATCH, str(tmp_path)))


def test_standard_library_is_readable_and_installed_packages_are_not(tool: PythonTool) -> None:
    assert tool.run("import os\nlen(open(os.__file__).read()) > 1000") == "True"
    assert tool.run("import numpy") == "ModuleNotFoundError: No module named 'numpy'"
    packages = Path(os.__file__).parent / "site-packages"
    if packages.is_dir() and (file := next(packages.rglob("*.py"), None)):
        assert tool.run(f"open({str(file)!r})").startswith("PermissionError")
    assert tool.run(f"open({__file__!r})").startswith("PermissionError")
    assert tool.run("import os\nos.environ") == "environ({})"


def test_system_without_a_sandbox_refuses_unless_told_otherwise() -> None:
    with pytest.raises(UserError, match="needs a sandbox") as error:
        PythonTool(kernel=Kernel(7, False))
    assert error.value.hint and "--unsafe-tools" in error.value.hint
    with PythonTool(kernel=Kernel(0, False), unsafe=True) as tool:
        assert tool.run("1 + 1") == "2"
        assert tool.run("bytearray(1 << 40)") == "MemoryError"


def test_sandbox_that_cannot_be_set_up_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["ff", "no version", "0", "1", ""]
    monkeypatch.setattr(PythonTool, "_arguments", lambda self: arguments)
    with PythonTool() as tool, pytest.raises(UserError, match="cannot be set up: no answer"):
        tool.run("1")
    # A filter that the kernel refuses: the child is there, and ends before the program.
    monkeypatch.setattr(
        PythonTool, "_arguments", lambda self: ["ff" * 8, "0", "268435456", "1", ""]
    )
    with PythonTool() as tool:
        assert tool.run("print('ran')") == "error: the program crashed (70)"


@pytest.mark.parametrize(
    ("machine", "header", "spelling"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)"),
        ("aarch64", "/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
    ],
)
def test_numbers_are_those_of_the_kernel(machine: str, header: str, spelling: str) -> None:
    if not Path(header).is_file():
        pytest.skip(f"no {header} here")
    known = {name: int(n) for name, n in re.findall(spelling, Path(header).read_text())}
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", -1))
    for name, call in (CALLS | WITH_LANDLOCK).items():
        number = call.x86_64 if machine == "x86_64" else call.aarch64
        assert number is None or number == known[name], name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_decides_as_the_table_says(machine: str) -> None:
    """A slow reading of the filter, instruction by instruction, over every call and its edges."""
    program = build_filter(machine, can_open=True)
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    architecture = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    allowed = {
        number: call
        for call in (CALLS | WITH_LANDLOCK).values()
        if (number := call.x86_64 if machine == "x86_64" else call.aarch64) is not None
    }
    for number in [*range(600), 0x40000000, 0x40000001]:
        call = allowed.get(number)
        for value in (0, 1, 2, 3, 4, 8, 0x241, 0x80000, 1030, 0x5401, 0x5412, 1 << 32):
            low = value & 0xFFFFFFFF
            expected = refuse
            if call:
                is_fine = not call.one_of or low in call.one_of
                is_fine &= not low & call.without and not (call.null and value)
                expected = allow if is_fine else refuse
            arguments = [0] * 6
            arguments[call.argument if call else 0] = value
            assert run_filter(program, architecture, number, arguments) == expected, (number, value)
    assert run_filter(program, 0x40000003, 1, [0] * 6) == kill  # i386
    closed = build_filter(machine, can_open=False)
    number = (
        WITH_LANDLOCK["openat"].x86_64 if machine == "x86_64" else WITH_LANDLOCK["openat"].aarch64
    )
    assert number and run_filter(closed, architecture, number, [0] * 6) == refuse


def run_filter(program: bytes, architecture: int, number: int, arguments: list[int]) -> int:
    data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
    data += b"".join(argument.to_bytes(8, "little") for argument in arguments)
    at, value = 0, 0
    while True:
        code = int.from_bytes(program[at : at + 2], "little")
        if_true, if_false = program[at + 2], program[at + 3]
        k = int.from_bytes(program[at + 4 : at + 8], "little")
        at += 8
        if code == 0x20:
            value = int.from_bytes(data[k : k + 4], "little")
        elif code == 0x06:
            return k
        else:
            holds = value == k if code == 0x15 else bool(value & k)
            at += 8 * (if_true if holds else if_false)


# -- all tools together ------------------------------------------------------------------------------


def test_tools_open_by_name() -> None:
    with open_tools(["python"]) as tools:
        assert list(tools) == ["python"]
        assert tools["python"].run("6 * 7") == "42"
    with open_tools([]) as tools:
        assert tools == {}
    with pytest.raises(UserError, match="unknown tool `pyhton`"), open_tools(["pyhton"]):
        pass


def test_tools_load_no_torch() -> None:
    code = "import sys, llmpipe.assistant.tools.attacks, llmpipe.assistant.tools.python; print('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"False\n"
