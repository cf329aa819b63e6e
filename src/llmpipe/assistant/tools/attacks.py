"""What a sandbox has to hold, as programs that try it: for `llmpipe doctor --sandbox` and the tests.

Each program prints `REACHED` if it got where it should not. A few cannot say so themselves, such as one
that never ends: those are held if an answer comes at all, and a short one. No program does harm where
it succeeds: what it writes, removes or mounts lies in a scratch folder.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmpipe.assistant.tools import Tool
from llmpipe.assistant.tools.python import CPU_S, MAX_RESULT_BYTES, WALL_S

REACHED = "REACHED"
SCRATCH = "SCRATCH"
"""Stands in the programs for a folder that is there to be damaged, with a file `file` in it."""

_CUT_NOTE_BYTES = 100  # what the tool adds to output that was cut, at most

# Calls into the C library: what Python's own functions refuse, or do not offer.
_LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def _try_each(*attempts: str, first: str = "import os") -> str:
    """Return a program that makes several attempts and prints the last failure, or REACHED."""
    lines = [first, "failure = ''"]
    for attempt in attempts:
        lines += [
            "try:",
            f"    {attempt}",
            f"    print({REACHED!r}, {attempt!r})",
            "except Exception as e:",
            "    failure = f'{type(e).__name__}: {e}'",
        ]
    return "\n".join([*lines, "print(failure)"])


def _succeeds(call: str, before: str = "") -> str:
    """Return a program that makes a call of the C library, which fails with -1."""
    return (
        f"{_LIBC}{before}\nresult = {call}\n"
        f"print({REACHED!r}, result) if result >= 0 else print(os.strerror(ctypes.get_errno()))"
    )


@dataclass(frozen=True)
class Attack:
    """One attempt: what it is called, and the program."""

    name: str
    program: str


ATTACKS: tuple[Attack, ...] = (
    Attack(
        "open a socket",
        _try_each(
            "socket.socket()",
            "socket.socket(socket.AF_UNIX)",
            "socket.socketpair()",
            "socket.create_connection(('127.0.0.1', 22), 1)",
            first="import socket",
        ),
    ),
    Attack("read /etc/passwd", _try_each("open('/etc/passwd').read()", "os.listdir('/etc')")),
    Attack(
        "write outside",
        _try_each(
            "open('SCRATCH/new', 'w')",
            "open('SCRATCH/file', 'r+')",
            "open('SCRATCH/file', 'a')",
            "os.mkdir('SCRATCH/folder')",
            "os.symlink('/', 'SCRATCH/link')",
            "os.link('SCRATCH/file', 'SCRATCH/second')",
            "os.chmod('SCRATCH/file', 0o777)",
            "os.utime('SCRATCH/file')",
            "os.memfd_create('x')",
        ),
    ),
    Attack(
        "remove or empty a file",
        _try_each(
            "os.open('SCRATCH/file', os.O_RDONLY | os.O_TRUNC)",
            "os.truncate('SCRATCH/file', 0)",
            "os.rename('SCRATCH/file', 'SCRATCH/other')",
            "os.remove('SCRATCH/file')",
        ),
    ),
    Attack(
        "run a program",
        _try_each(
            "print(subprocess.run(['true']))",
            "os.posix_spawn('/bin/echo', ['echo', 'REACHED'], {})",
            "os.execv('/bin/echo', ['echo', 'REACHED'])",  # has the last word where it succeeds
            first="import os, subprocess",
        ),
    ),
    Attack("fork through ctypes", _succeeds("libc.fork()")),
    Attack("clone through ctypes", _succeeds("libc.syscall(56, 17, 0, 0, 0, 0)")),
    Attack(
        "start a thread", _try_each("_thread.start_new_thread(len, ('',))", first="import _thread")
    ),
    Attack(
        "list processes",
        _try_each("os.listdir('/proc')", "open('/proc/self/status').read()", "os.listdir('/sys')"),
    ),
    Attack(
        "memory bomb",
        f"blocks = []\nfor i in range(64):\n    blocks.append(bytearray(64 << 20))\nprint({REACHED!r})",
    ),
    Attack("output bomb", "while True: print('x' * 10_000)"),
    Attack("endless loop", "while True: pass"),
    Attack(
        "endless loop that holds out",
        "\n".join(
            (
                "import signal",
                "for number in range(1, 32):",
                "    try: signal.signal(number, signal.SIG_IGN)",
                "    except (OSError, ValueError): pass",
                "while True:",
                "    try:",
                "        while True: pass",
                "    except BaseException: pass",
            )
        ),
    ),
    Attack(
        "signal the parent",
        _try_each("os.kill(os.getppid(), 0)", "os.kill(-1, 0)", "os.killpg(0, 0)"),
    ),
    Attack(
        "signal through a descriptor",
        _try_each("fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", first="import fcntl, os"),
    ),
    Attack(
        "read the parent's environment",
        _try_each(
            "open(f'/proc/{os.getppid()}/environ').read()", "open('/proc/self/environ').read()"
        ),
    ),
    Attack(
        "read the parent's memory", _try_each("open(f'/proc/{os.getppid()}/mem', 'rb').read(1)")
    ),
    Attack(
        "read the parent's memory by system call",
        _succeeds(
            "libc.process_vm_readv(os.getppid(), vec, 1, vec, 1, 0)",
            "data = ctypes.create_string_buffer(8)\nvec = (ctypes.c_void_p * 2)(ctypes.addressof(data), 8)",
        ),
    ),
    Attack("trace the parent", _succeeds("libc.ptrace(16, os.getppid(), 0, 0)")),
    Attack(
        "raise its limits",
        _try_each(
            "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
            "resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
            first="import resource",
        ),
    ),
    Attack("mount", _succeeds("libc.mount(b'none', b'SCRATCH', b'tmpfs', 0, None)")),
    Attack("make a namespace", _succeeds("libc.unshare(0x10000000)")),
    Attack("change its root", _succeeds("libc.chroot(b'/usr')")),
    Attack(
        "io_uring, bpf, userfaultfd, keyctl",
        _succeeds(
            "max(libc.syscall(n, 1, 0, 0, 0, 0) for n in numbers)",
            # keyctl 0 is asked about -3, the session keyring.
            "numbers = (425, 323, 321, 250) if os.uname().machine == 'x86_64' else (425, 282, 280, 219)",
        ),
    ),
    Attack(
        "use what llmpipe has open",
        "import os, stat, sys\n"
        "found = []\n"
        "for fd in range(3, 1024):\n"
        "    try: found.append((fd, os.fstat(fd)))\n"
        "    except OSError: pass\n"
        f"print({REACHED!r} if found or os.environ or sys.argv[1:] or os.read(0, 1) else 'nothing')",
    ),
    Attack(
        "32-bit system calls",
        # mov eax, 20 (getpid); int 0x80; ret. Elsewhere than on x86_64 there are none.
        "import ctypes, mmap, os\n"
        "if os.uname().machine != 'x86_64': raise OSError('not on this architecture')\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        f"print({REACHED!r}, ctypes.CFUNCTYPE(ctypes.c_int)(address)())",
    ),
)


@dataclass(frozen=True)
class AttackOutcome:
    """How one attack went.

    Attributes:
        held: the sandbox stopped it.
        detail: what the program got to see last.
        seconds: until the answer.
    """

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
