"""Data parallelism: every process has the whole model and a share of each global batch.

The global batch is fixed by the settings, cut into numbered micro-batches, and dealt to the
processes; gradients are summed once per step. So the number of processes changes the speed and
the order of additions, and nothing else: losses agree to about seven digits.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import UserError
from llmpipe.core.ranks import Ranks

T = TypeVar("T")

BUCKET_BYTES = 25 * 2**20
"""Gradients are sent in pieces of about this size. Source: torch DDP's `bucket_cap_mb`."""


def my_share(items: Sequence[T], ranks: Ranks) -> Sequence[T]:
    """Give this process's micro-batches: equally many for each, neighbours together.

    Raises:
        UserError: if the items cannot be dealt evenly.
    """
    if len(items) % ranks.world_size:
        raise UserError(
            f"{len(items)} micro-batches cannot be dealt to {ranks.world_size} processes evenly",
            hint="make global_batch_tokens / (micro_batch_size * sequence length) a multiple of "
            "the number of processes",
        )
    n = len(items) // ranks.world_size
    return items[ranks.rank * n : (ranks.rank + 1) * n]


def sum_gradients(parameters: Iterable[nn.Parameter], runtime: Runtime) -> None:
    """Replace every gradient by its sum over all processes, in place."""
    if runtime.ranks.is_alone:
        return
    bucket: list[Tensor] = []
    n_bytes = 0
    for parameter in parameters:
        if parameter.grad is None:  # a parameter no token of this share used
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        n_bytes += parameter.grad.nbytes
        if n_bytes >= BUCKET_BYTES:
            _sum_bucket(bucket)
            bucket, n_bytes = [], 0
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, summed in zip(tensors, torch.split(flat, sizes), strict=True):
        tensor.copy_(summed.view_as(tensor))
