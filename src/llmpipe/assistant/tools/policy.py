"""What a sandboxed program may ask of the kernel, as a table, and as the filter made from it.

Everything that is not in the table (`resources/sandbox/system_calls.toml`) is refused: there are some
350 system calls, and the next kernel brings more. What is left is enough for Python to compute, to
import its standard library, to read the clock and to print. So there are no sockets, no new processes
or threads, no signals, nothing that writes, renames or removes a file, no mounts, namespaces,
debugging, keys or io_uring.

The filter (seccomp-bpf) sees the numbers given to a system call, not the memory they point to: it
can tell how a file is opened, not which one. The second is Landlock's part (`fork_server.py`). Where a kernel has
no Landlock, no file can be opened at all, and the modules a program may import are loaded before.

This file imports no torch and starts in the process of llmpipe; `fork_server.py` gets the finished filter.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Call:
    """A system call that is allowed: its number on each architecture, and conditions on one argument.

    The file says what each field means.
    """

    x86_64: int | None = None
    aarch64: int | None = None
    argument: int = 0
    one_of: Sequence[int] = ()
    without: int = 0
    null: bool = False


_FILE = files("llmpipe") / "resources" / "sandbox" / "system_calls.toml"
CALLS, WITH_LANDLOCK = (
    {name: Call(**fields) for name, fields in table.items()}
    for table in tomllib.loads(_FILE.read_text(encoding="utf-8")).values()
)
"""The calls that are always allowed, and those that are allowed only together with Landlock."""

# -- the kernel's side ---------------------------------------------------------------------------

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h

_LANDLOCK_CREATE_RULESET = 444  # the same number on every architecture
_LANDLOCK_VERSION = 1  # the flag that asks for the version
_PR_GET_SECCOMP = 21


@dataclass(frozen=True)
class Kernel:
    """What this kernel offers for a sandbox.

    Attributes:
        landlock: version of the interface, 0 if there is none.
        has_seccomp: filters can be installed, and the architecture is one of the table. Without it there
            is no sandbox: Landlock alone stops neither sockets nor new processes.
    """

    landlock: int
    has_seccomp: bool
    machine: str = platform.machine()


def examine_kernel() -> Kernel:
    """Ask the kernel; changes nothing."""
    if sys.platform != "linux":
        return Kernel(0, False)
    libc = ctypes.CDLL(None, use_errno=True)
    landlock = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    has_seccomp = (
        platform.machine() in _ARCHITECTURES
        and libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0
        and "errno" in _seccomp_actions()
    )
    return Kernel(max(landlock, 0), has_seccomp)


def _seccomp_actions() -> str:
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        # Not there in every container; the kernel says no when the filter is installed, if it must.
        return "errno"


# -- the filter ----------------------------------------------------------------------------------

# Of linux/bpf_common.h and linux/seccomp.h.
_LOAD, _EQUAL, _HAS_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
# Of struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6].
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16


def build_filter(machine: str, can_open: bool) -> bytes:
    """Return the filter as an array of `struct sock_filter`.

    A refused call fails with EPERM, so that a program gets an ordinary `PermissionError`. Calls by
    another architecture's numbers (32-bit calls on x86_64) end the program.

    Args:
        machine: as in `platform.machine()`.
        can_open: files may be opened for reading; Landlock says which.
    """
    calls = CALLS | (WITH_LANDLOCK if can_open else {})
    program = [
        _instruction(_LOAD, _AT_ARCHITECTURE),
        _instruction(_EQUAL, _ARCHITECTURES[machine], if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _AT_NUMBER),
    ]
    for call in calls.values():
        number = call.x86_64 if machine == "x86_64" else call.aarch64
        if number is not None:
            body = _verdict(call)
            program.append(_instruction(_EQUAL, number, if_false=len(body)))
            program += body
    program.append(_instruction(_RETURN, _REFUSE))
    return b"".join(program)


def _verdict(call: Call) -> list[bytes]:
    """Return what follows once the number has been recognized; ends in a return on every way."""
    low = _AT_ARGUMENTS + 8 * call.argument  # both architectures are little-endian
    allow, refuse = _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)
    if call.one_of:
        tests = [
            _instruction(_EQUAL, value, if_true=len(call.one_of) - i)
            for i, value in enumerate(call.one_of)
        ]
        return [_instruction(_LOAD, low), *tests, refuse, allow]
    if call.without:
        return [
            _instruction(_LOAD, low),
            _instruction(_HAS_BITS, call.without, if_true=1),
            allow,
            refuse,
        ]
    if call.null:
        return [
            _instruction(_LOAD, low),
            _instruction(_EQUAL, 0, if_false=3),
            _instruction(_LOAD, low + 4),
            _instruction(_EQUAL, 0, if_false=1),
            allow,
            refuse,
        ]
    return [allow]


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)
