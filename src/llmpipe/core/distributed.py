"""Device, number types and the group of processes. The only file of core that imports torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from llmpipe.core.errors import LlmpipeError, Stopped, UserError
from llmpipe.core.machine import n_usable_cores
from llmpipe.core.ranks import Ranks, current_ranks
from llmpipe.core.rendezvous import agree_on_name
from llmpipe.core.stop import StopFlag

T = TypeVar("T")

# With float8 the blocks' products are in 8 bits (`training.float8`), and everything else as with bfloat16.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8": torch.bfloat16}

PEER_TIMEOUT_S = 600.0
"""Longer than anything that one process does alone. Source: torch's own for NCCL."""

# Numbers of glibc's `mallopt`. Source: malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30
"""Blocks up to this size are kept when they are freed, and as much may lie unused at the end."""


@dataclass(frozen=True)
class Runtime:
    """Where this process computes, and who else does."""

    ranks: Ranks
    device: torch.device
    timeout_s: float = PEER_TIMEOUT_S
    """How long a process waits for another before it takes it for lost."""

    @property
    def is_cuda(self) -> bool:
        """Whether the device is an NVIDIA GPU."""
        return self.device.type == "cuda"

    def autocast(self, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
        """Compute matrix products in `dtype`; weights stay as they are. float32 changes nothing.

        bfloat16 has the range of float32 with 8 bits of precision instead of 24. A product of matrices loses little by that
        and takes a fraction of the time; weights keep float32, or a small update would be rounded away.
        """
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def sum(self, values: list[float]) -> list[float]:
        """Add numbers over all processes, in float64; every process gets the same result."""
        if self.ranks.is_alone:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def add(self, value: torch.Tensor) -> torch.Tensor:
        """Add a tensor over all processes, in place, on the device; nothing waits for the result.

        This "all-reduce" is what makes many GPUs one trainer: each adds up the gradients of its own rows, and all add up theirs.
        """
        if not self.ranks.is_alone:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on at least one process."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """Give every process the values of all, in their order."""
        values = [value] * self.ranks.world_size
        if not self.ranks.is_alone:
            dist.all_gather_object(values, value)
        return values

    def share(self, value: T) -> T:
        """Give every process the main one's value."""
        if self.ranks.is_alone:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.sum([0.0])


def resolve_device(name: str, ranks: Ranks) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into this process's device.

    Raises:
        UserError: if `cuda` is asked for and there is none, or fewer GPUs than processes.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise UserError(f"device is `{name}`, expected auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    n_gpus = torch.cuda.device_count()
    if ranks.local_rank >= n_gpus:
        raise UserError(
            f"process {ranks.local_rank} of this machine has no GPU: there are {n_gpus}",
            hint=f"start at most {n_gpus} processes, or use `--set device=cpu`"
            if n_gpus
            else "use device cpu",
        )
    return torch.device("cuda", ranks.local_rank)


def resolve_dtype(name: str, device: torch.device, is_fast_on_cpu: bool = False) -> torch.dtype:
    """Turn `auto`, `float32`, `bfloat16` or `float8` into the type of autocast.

    Args:
        name: As in the settings; auto is bfloat16 where the device computes with it faster.
        is_fast_on_cpu: Let auto be bfloat16 also on a CPU that has instructions for it.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported()
    else:
        # AVX512-BF16, or AMX, which implies it: other CPUs multiply bfloat16 slower than float32.
        is_fast = is_fast_on_cpu and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if is_fast else torch.float32


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones.

    Otherwise it hands large blocks back to the system in every step and gets them anew, page by page:
    5 to 10 % of a step's time. Other C libraries have no such switch, and are left alone.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, KEPT_BYTES)
        set_option(M_TRIM_THRESHOLD, KEPT_BYTES)


@contextlib.contextmanager
def open_runtime(
    device: str,
    is_exact: bool = False,
    timeout_s: float = PEER_TIMEOUT_S,
    stop: StopFlag | None = None,
) -> Iterator[Runtime]:
    """Set up device, threads and process group; take the group down at the end.

    gloo carries CPU runs and NCCL GPU runs. The number of threads is set here and not left to
    torch, because every process of a machine would otherwise take all of its cores. It is the one
    thing besides seed and settings that CPU results depend on, to the last bit.

    Args:
        is_exact: Let results depend on nothing but seed and settings: one thread on a CPU, and
            kernels whose additions have a fixed order on a GPU.
        stop: Lets signals end the process while it waits for the others to come.

    Raises:
        UserError: the processes did not find each other.
        Stopped: one of them was lost.
    """
    ranks = current_ranks()
    chosen = resolve_device(device, ranks)
    if chosen.type == "cpu":
        keep_freed_memory()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
        if is_exact:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch's manual asks
            torch.use_deterministic_algorithms(True, warn_only=True)
            # A check for reads of what nothing wrote, and a slow one.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    elif is_exact:
        torch.set_num_threads(1)
    elif "OMP_NUM_THREADS" not in os.environ or not ranks.is_alone:
        torch.set_num_threads(max(1, n_usable_cores() // ranks.local_world_size))
    if ranks.is_alone:
        yield Runtime(ranks, chosen, timeout_s)
        return
    with stop.leaving_at_once() if stop else contextlib.nullcontext():
        _meet(ranks, chosen, timeout_s)
    try:
        yield Runtime(ranks, chosen, timeout_s)
    except Exception as error:
        # Where not all processes leave together, taking the group down would wait for the others.
        if isinstance(error, LlmpipeError):
            dist.destroy_process_group()
        if not _is_lost_peer(error):
            raise
        waited = f"it did not answer for {timeout_s:.0f} s" if "imed out" in str(error) else ""
        raise Stopped(
            f"another process of this run was lost{waited and ': ' + waited}",
            hint="if it said why, see above; the same command goes on from the last checkpoint",
        ) from error
    dist.destroy_process_group()


def _meet(ranks: Ranks, device: torch.device, timeout_s: float) -> None:
    """Make the group of all processes, or say why there is none.

    Raises:
        UserError: with what to look at.
    """
    is_cuda = device.type == "cuda"
    try:
        timeout = timedelta(seconds=timeout_s)
        store, _, _ = next(rendezvous("env://", ranks.rank, ranks.world_size, timeout=timeout))
        name = agree_on_name(store, ranks, timeout_s)
        dist.init_process_group(
            "nccl" if is_cuda else "gloo",
            store=PrefixStore(name, store),
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timeout,
            # With it NCCL connects here, and not in the first step.
            device_id=device if is_cuda else None,
        )
        dist.barrier()  # gloo notices only here whom it cannot reach
    except (RuntimeError, ValueError) as error:  # UserErrors pass
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        variable = "NCCL_SOCKET_IFNAME" if is_cuda else "GLOO_SOCKET_IFNAME"
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"{ranks.world_size} processes did not come together at {where}: {reason}",
            hint="if none of them failed, see that the machines reach each other, and name the "
            f"network to use with {variable}=eth0",
        ) from error


def _is_lost_peer(error: Exception) -> bool:
    """Tell whether an error comes of another process that is gone, and not of this one."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    if isinstance(error, dist.DistBackendError):  # NCCL's, which has other errors as well
        words = ("ncclRemoteError", "ncclSystemError", "imed out", "Connection ")
        return any(word in str(error) for word in words)
    return isinstance(error, RuntimeError) and "gloo/" in str(error)
