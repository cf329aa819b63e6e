"""What a sandboxed program may ask of the kernel, as a table, and as the filter made from it.

Everything that is not in the table is refused: there are some 350 system calls, and the next kernel
brings more. What is left is enough for Python to compute, to import its standard library, to read the
clock and to print. So there are no sockets, no new processes or threads, no signals, nothing that
writes, renames or removes a file, no mounts, namespaces, debugging, keys or io_uring.

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
from dataclasses import dataclass

from llmpipe.core.errors import UserError


@dataclass(frozen=True)
class Call:
    """A system call that is allowed: its number on each architecture, and conditions on one argument.

    Attributes:
        x86_64: None where the call does not exist; numbers are those of the kernel's `unistd_64.h`.
        aarch64: the same for `asm-generic/unistd.h`.
        argument: which one is looked at, counted from 0.
        one_of: the values it may have; empty for any.
        without: bits it must not have.
        null: it must be a null pointer.
    """

    x86_64: int | None
    aarch64: int | None
    argument: int = 0
    one_of: tuple[int, ...] = ()
    without: int = 0
    null: bool = False


# Flags of `open` that could change something: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, __O_TMPFILE.
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
# Of `fcntl`: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. Not F_SETOWN: it sends signals.
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 1030)
# Of `ioctl`: TCGETS (is this a terminal?), FIOCLEX, FIONCLEX.
_IOCTL_COMMANDS = (0x5401, 0x5451, 0x5450)

OPEN_FILE = {"openat": Call(257, 56, argument=2, without=_WRITING)}
"""Allowed only together with Landlock."""

CALLS: dict[str, Call] = {
    # Frequent ones first: the filter is read from the top.
    "read": Call(0, 63),
    "write": Call(1, 64),
    "newfstatat": Call(262, 79),
    "fstat": Call(5, 80),
    "lseek": Call(8, 62),
    "mmap": Call(9, 222),
    "munmap": Call(11, 215),
    "brk": Call(12, 214),
    "mremap": Call(25, 216),
    "mprotect": Call(10, 226),
    "madvise": Call(28, 233),
    "futex": Call(202, 98),
    "close": Call(3, 57),
    # Files, by descriptor or by name, without opening.
    "pread64": Call(17, 67),
    "readv": Call(19, 65),
    "writev": Call(20, 66),
    "getdents64": Call(217, 61),
    "stat": Call(4, None),
    "lstat": Call(6, None),
    "statx": Call(332, 291),
    "access": Call(21, None),
    "faccessat": Call(269, 48),
    "faccessat2": Call(439, 439),
    "readlink": Call(89, None),
    "readlinkat": Call(267, 78),
    "getcwd": Call(79, 17),
    "dup": Call(32, 23),
    "dup2": Call(33, None),
    "dup3": Call(292, 24),
    "fcntl": Call(72, 25, argument=1, one_of=_DESCRIPTOR_COMMANDS),
    "ioctl": Call(16, 29, argument=1, one_of=_IOCTL_COMMANDS),
    # Time and chance.
    "clock_gettime": Call(228, 113),
    "clock_getres": Call(229, 114),
    "clock_nanosleep": Call(230, 115),
    "nanosleep": Call(35, 101),
    "gettimeofday": Call(96, 169),
    "time": Call(201, None),
    "times": Call(100, 153),
    "getrandom": Call(318, 278),
    # Itself.
    "getpid": Call(39, 172),
    "gettid": Call(186, 178),
    "getppid": Call(110, 173),
    "getuid": Call(102, 174),
    "geteuid": Call(107, 175),
    "getgid": Call(104, 176),
    "getegid": Call(108, 177),
    "uname": Call(63, 160),
    "sysinfo": Call(99, 179),
    "sched_getaffinity": Call(204, 123),
    "sched_yield": Call(24, 124),
    "getrusage": Call(98, 165),
    "getrlimit": Call(97, 163),
    "prlimit64": Call(302, 261, argument=2, null=True),  # to read limits, not to set them
    "rt_sigaction": Call(13, 134),
    "rt_sigprocmask": Call(14, 135),
    "rt_sigreturn": Call(15, 139),
    "sigaltstack": Call(131, 132),
    "restart_syscall": Call(219, 128),
    "rseq": Call(334, 293),
    "exit": Call(60, 93),
    "exit_group": Call(231, 94),
}

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
        has_seccomp: filters can be installed, and the architecture is one of the table.
    """

    landlock: int
    has_seccomp: bool
    machine: str = platform.machine()

    @property
    def is_enough(self) -> bool:
        """Whether programs can be shut in. Landlock alone stops neither sockets nor new processes."""
        return self.has_seccomp


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


def require(kernel: Kernel) -> None:
    """Check that programs can be shut in.

    Raises:
        UserError: if not.
    """
    if not kernel.is_enough:
        raise UserError(
            "the python tool needs a sandbox, and this system has no seccomp for it "
            f"({platform.system()}, {platform.machine()})",
            hint="leave the tool out with `--tools none`, or, if what the model writes may do "
            "anything that you may do: `--unsafe-tools`",
        )


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
        machine: as `platform.machine()` says it.
        can_open: files may be opened for reading; Landlock says which.
    """
    calls = CALLS | (OPEN_FILE if can_open else {})
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
