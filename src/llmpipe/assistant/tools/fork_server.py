"""The process that programs of the model are forked from; runs alone, as `python -S fork_server.py ...`.

It gives up what it does not need (files, network, capabilities, memory), says on its socket what is in
force, and waits. Every byte that comes in brings a descriptor along: the socket of one program. A child is forked
for it, limits itself further, installs the system call filter, and only then runs what it reads from
that socket. Starting Python takes some 20 ms, a fork less than one.

The fork server itself never sees a program or its output, so that one program cannot find in memory what
another has left. It imports little, and nothing of llmpipe, because every import is waited for.

Arguments: the filter in hexadecimal digits (empty: none), the version of Landlock (0: none), bytes of
memory, seconds of computing, modules to load beforehand, joined by commas.
"""

# pathlib alone takes as long to import as everything here:
# ruff: noqa: PTH112, PTH113, PTH118

from __future__ import annotations

import _ast
import _signal
import _socket
import ctypes
import os
import resource
import select
import sys

# Arguments of system calls, from the kernel's header files.
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWUTS, CLONE_NEWIPC = 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
LINUX_CAPABILITY_VERSION_3 = 0x20080522
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3  # LANDLOCK_ACCESS_FS_*

CONTROL = 0  # the descriptor of the socket to llmpipe
CRASHED = 70  # exit status of a child that came to no end

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """Return what the C library returned, unless that was an error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


# -- giving up -------------------------------------------------------------------------------------


def leave_namespaces() -> bool:
    """Move into namespaces of its own, without network; not allowed everywhere, and not relied on."""
    flags = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if libc.unshare(flags) != 0:
        return False
    libc.sethostname(b"sandbox", 7)
    return True


def drop_capabilities() -> None:
    """Give up what makes root (of the system, or of its own namespace) more than a user."""
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    checked(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def restrict_files(version: int) -> None:
    """Leave Python's standard library and shared libraries to read, and nothing to write.

    Everything the kernel's version of Landlock knows is forbidden first: all rights on files, TCP
    from version 4, signals and abstract sockets from version 6.
    """
    n_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    rules = (ctypes.c_uint64 * 3)(
        (1 << n_rights) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0
    )
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(24), 0)
    checked(ruleset, "landlock_create_ruleset")
    for path, rights in readable():
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not on this system
        # struct landlock_path_beneath_attr: u64 rights, s32 descriptor, packed
        rule = rights.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        added = libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        checked(added, f"landlock_add_rule {path}")
        os.close(fd)
    checked(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def readable() -> list[tuple[str, int]]:
    """Return the paths that stay readable, with the rights on each and on what lies beneath."""
    paths = [
        (folder, READ_FILE | READ_DIR) for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
    ]
    paths.append(("/etc/ld.so.cache", READ_FILE))
    for folder in sys.path:  # the standard library: `-S` leaves out installed packages
        if os.path.isfile(folder):
            paths.append((folder, READ_FILE))
        elif os.path.isdir(folder):
            paths.append((folder, READ_DIR))
            paths += [
                (entry.path, READ_FILE)
                for entry in os.scandir(folder)
                if entry.name not in ("site-packages", "dist-packages")
            ]
    libraries = os.path.join(sys.base_prefix, "lib")
    if os.path.isdir(libraries):
        paths += [(e.path, READ_FILE) for e in os.scandir(libraries) if ".so" in e.name]
    return paths


def limit(memory_bytes: int, cpu_s: int) -> None:
    """Set the limits of the process that runs a program."""
    for name, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


class SockFprog(ctypes.Structure):
    """`struct sock_fprog`: a filter and its number of instructions."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(program: bytes) -> None:
    """Let the kernel refuse all system calls but those the filter allows, for good."""
    fprog = SockFprog(len(program) // 8, program)
    result = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0)
    checked(result, "seccomp")


# -- running programs ------------------------------------------------------------------------------


def run(source: str) -> None:
    """Run a program; print, as a Python prompt would, the value of an expression that ends it."""
    only_parse: int = _ast.PyCF_ONLY_AST
    # True: this file's `from __future__` is not the program's.
    tree = compile(source, "<program>", "exec", only_parse, True)
    tail = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], _ast.Expr) else []
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(tree, "<program>", "exec", 0, True), names)
    if tail:
        exec(compile(_ast.Interactive(tail), "<program>", "single", 0, True), names)


def last_line(error: BaseException) -> str:
    """Return the last line of the error's traceback."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    text = " ".join(str(error).split())
    return f"{name}: {text}" if text else name


def be_child(program_socket: int, filter_program: bytes, memory_bytes: int, cpu_s: int) -> None:
    """Run the program that comes through a socket, and print into it; does not return."""
    status = CRASHED
    try:
        os.dup2(2, CONTROL)  # 2 is /dev/null
        os.dup2(program_socket, 1)
        os.closerange(3, 256)
        source = b""
        while piece := os.read(1, 1 << 16):
            source += piece
        limit(memory_bytes, cpu_s)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)  # printing to nobody ends the program
        if filter_program:
            install_filter(filter_program)
        try:
            run(source.decode("utf-8", "surrogatepass"))
        except SystemExit:
            pass
        except BaseException as error:
            sys.stdout.write(last_line(error) + "\n")
        sys.stdout.flush()
        status = 0
    finally:
        os._exit(status)


def serve(filter_program: bytes, memory_bytes: int, cpu_s: int) -> None:
    """Fork a child for every program until llmpipe is gone; report how each child ended."""
    control = _socket.socket(fileno=CONTROL)
    while True:
        message, ancillary, _, _ = control.recvmsg(1, 64)
        if not message:
            return
        program_socket = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        pid = os.fork()
        if pid == 0:
            be_child(program_socket, filter_program, memory_bytes, cpu_s)
        os.close(program_socket)
        wait_for(pid)
        _, status = os.waitpid(pid, 0)
        control.send(b"%d\n" % os.waitstatus_to_exitcode(status))


def wait_for(pid: int) -> None:
    """Wait until a child ends; if llmpipe goes before, end it."""
    try:
        child = os.pidfd_open(pid)
    except OSError:  # refused in some containers: an orphan then lives until its limits end it
        return
    events = select.poll()
    events.register(child, select.POLLIN)
    events.register(CONTROL, 0)  # reports only that the other side has closed
    if all(fd != child for fd, _ in events.poll()):
        os.kill(pid, 9)
    os.close(child)


def main() -> None:
    """Shut itself in, say so, and serve."""
    filter_hex, landlock, memory_bytes, cpu_s, modules = sys.argv[1:]
    del sys.argv[1:]
    os.environ.clear()
    for module in filter(None, modules.split(",")):
        __import__(module)
    try:
        in_force = []
        if filter_hex:
            os.chdir("/")
            if leave_namespaces():
                in_force.append("namespaces")
            drop_capabilities()
            checked(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
            checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
            if int(landlock):
                restrict_files(int(landlock))
                in_force.append(f"Landlock {landlock}")
            in_force.append("seccomp")
        hello = "ready: " + (", ".join(in_force) or "nothing")
    except OSError as error:
        hello = f"failed: {error.strerror}"
    os.write(CONTROL, hello.encode() + b"\n")
    if hello.startswith("ready"):
        serve(bytes.fromhex(filter_hex), int(memory_bytes), int(cpu_s))


if __name__ == "__main__":
    main()
