"""The process group of a run: the same settings, inputs and code on every rank, and one folder to write to.

On several machines each process is started by a command of its own. A difference between them would
not fail by itself: the run would hang, or train a model that nobody asked for. So the ranks compare
before they start to work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llmpipe
from llmpipe.core.artifact import START_RECORD
from llmpipe.core.config import diff_identities, digest
from llmpipe.core.errors import UserError

if TYPE_CHECKING:
    from llmpipe.core.distributed import Runtime
    from llmpipe.core.stage import Context

FOLDER_WAIT_S = 30.0
"""How long a file of the main process may take to be seen; NFS keeps what it knows for 3 to 60 s."""

# Of torch.OutOfMemoryError and other errors of CUDA, of torch's allocator on a CPU, and of C++.
NO_MEMORY = ("out of memory", "allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "bad_alloc")
"""What errors of torch say where memory is not enough; on a CPU they have no class of their own."""


@dataclass(frozen=True)
class Traits:
    """What has to be the same everywhere, in short."""

    host: str
    work: str
    """Digest of settings and inputs."""
    code: str
    """Digest of llmpipe's source files."""
    torch: str


@contextlib.contextmanager
def process_group(
    ctx: Context,
    out: Path,
    is_exact: bool = False,
    timeout_s: float | None = None,
    less_memory: str | None = None,
) -> Iterator[Runtime]:
    """Set up device, threads and processes as `distributed.open_runtime` does, and see that all are alike.

    Args:
        out: Folder of unfinished work.
        is_exact: Let results depend on nothing but seed and settings.
        timeout_s: How long a process waits for another before it takes it for lost.
        less_memory: What to do where the memory is not enough.

    Raises:
        UserError: the processes differ, or one ran out of memory.
    """
    from llmpipe.core.distributed import PEER_TIMEOUT_S, open_runtime

    peer_s = timeout_s or PEER_TIMEOUT_S
    # Outermost, because a process that runs out of memory leaves alone, and cannot wait for the others.
    with (
        naming_lack_of_memory(less_memory),
        open_runtime(ctx.device, is_exact, peer_s, ctx.stop) as runtime,
    ):
        check_alike(runtime, ctx.identity, out)
        yield runtime


@contextlib.contextmanager
def naming_lack_of_memory(hint: str | None) -> Iterator[None]:
    """Let the errors of memory that is not enough, of the device or of the machine, read as what they are.

    Raises:
        UserError: in place of such an error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(words in text for words in NO_MEMORY):
            raise
        reason = text.split("\n", 1)[0] or "an allocation failed"
        raise UserError(f"out of memory: {reason}", hint) from error


def check_alike(runtime: Runtime, identity: Mapping[str, Any], out: Path) -> None:
    """Compare every rank with rank 0. A collective: all ranks must call it.

    Args:
        identity: What decides the result, as JSON values.
        out: Folder of unfinished work, with the record of this start.

    Raises:
        UserError: naming the first process that differs, its machine, and in what.
    """
    if runtime.ranks.is_alone:
        return
    own = Traits(platform.node(), digest(dict(identity)), code_digest(), version("torch"))
    everyone = runtime.gather(own)
    main = everyone[0]
    for rank, other in enumerate(everyone):
        who = f"process {rank} on `{other.host}`"
        if other.code != main.code or other.torch != main.torch:
            versions = f"torch {other.torch}" if other.torch != main.torch else "source files"
            raise UserError(
                f"{who} runs another version of llmpipe or torch than process 0 on `{main.host}`: "
                f"it has other {versions}",
                hint="install the same environment on every machine, or share one",
            )
        if other.work != main.work:
            identities = runtime.gather(dict(identity))
            differing = diff_identities(identities[0], identities[rank])
            lines = "\n".join(f"    {line}" for line in differing)
            raise UserError(
                f"{who} has other settings or inputs than process 0 on `{main.host}`:\n{lines}",
                hint="give every machine the same command, recipe and input folders",
            )
    _check_shared(runtime, [traits.host for traits in everyone], out)


def _check_shared(runtime: Runtime, hosts: list[str], out: Path) -> None:
    """Check that every rank sees what rank 0 wrote."""
    expected = runtime.share(_read(out))
    deadline = time.monotonic() + FOLDER_WAIT_S
    while True:
        sees = runtime.gather(_read(out) == expected)
        is_late = runtime.any(time.monotonic() > deadline)
        if all(sees):
            return
        if is_late:
            rank = sees.index(False)
            raise UserError(
                f"process {rank} on `{hosts[rank]}` does not see `{out}` as process 0 on "
                f"`{hosts[0]}` wrote it",
                hint="all machines write into one folder: put it on a file system that they share, "
                "with --runs or --out",
            )
        time.sleep(0.5)


def _read(out: Path) -> bytes | None:
    try:
        return (out / START_RECORD).read_bytes()
    except OSError:
        return None


def code_digest() -> str:
    """Return a digest of all source files of the package."""
    root = Path(llmpipe.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(json.dumps([path.relative_to(root).as_posix(), content]).encode())
    return total.hexdigest()
