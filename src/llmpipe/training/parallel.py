"""Data parallelism: every process takes a share of each global batch, and gradients are summed.

The global batch is fixed by the settings, cut into numbered micro-batches, and dealt to the
processes. There are two ways to sum the gradients:

    default  in the order that is fastest; the number of processes changes the order of additions,
             and so the last bits (losses agree to about seven digits)
    exact    over a balanced binary tree whose leaves are the micro-batches; a process owns a whole
             subtree, so the additions are the same ones whatever the number of processes

Rounding makes addition depend on its order, so only the second can end with the same bits on one
process and on eight. It needs a power of two of processes, and moves as many bytes as the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

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


# ---------------------------------------------------------------------------------------------
# The default sum


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


# ---------------------------------------------------------------------------------------------
# The exact sum


def exact_gradients(
    parameters: Sequence[nn.Parameter],
    items: Sequence[T],
    backward: Callable[[T], Tensor],
    runtime: Runtime,
) -> Tensor:
    """Fill every gradient with the tree's sum over all processes' items.

    Args:
        parameters: Their gradients are None before, and the same on every process after.
        items: This process's micro-batches, equally many on each process.
        backward: Leaves an item's gradients in the parameters and returns its loss.
        runtime: The processes.

    Returns:
        The sum of the losses, by the same tree.
    """

    def leaf(item: T) -> Tensor:
        loss = backward(item)
        parts = [
            torch.zeros(p.numel(), device=loss.device) if p.grad is None else p.grad.flatten()
            for p in parameters
        ]
        for parameter in parameters:
            parameter.grad = None
        return torch.cat([*parts, loss.detach().reshape(1)])

    flat = sum_ranks_by_tree(tree_sum(items, leaf), runtime.ranks)
    sizes = [p.numel() for p in parameters]
    *parts, loss = torch.split(flat, [*sizes, 1])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return loss[0]


def tree_sum(items: Sequence[T], leaf: Callable[[T], Tensor]) -> Tensor:
    """Add the leaves' tensors by halves; as many are held at once as the tree is high."""
    if len(items) == 1:
        return leaf(items[0])
    middle = len(items) // 2
    left = tree_sum(items[:middle], leaf)
    return left.add_(tree_sum(items[middle:], leaf))


def sum_ranks_by_tree(flat: Tensor, ranks: Ranks) -> Tensor:
    """Add one vector per process; each process adds a stretch of all, then all share the stretches.

    These are the two halves of an all-reduce, with the addition in our hands.
    """
    n = ranks.world_size
    if n == 1:
        return flat
    sent = flat.new_zeros(-(-len(flat) // n) * n)
    sent[: len(flat)] = flat
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    mine = tree_sum(received.view(n, -1), lambda stretch: stretch)  # type: ignore[arg-type]
    dist.all_gather(list(sent.view(n, -1)), mine)
    return sent[: len(flat)]


# ---------------------------------------------------------------------------------------------
# Tensors of which each process holds some rows (FSDP's DTensor)


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether this process holds only a part of the tensor."""
    return hasattr(tensor, "full_tensor")  # without importing DTensor, which takes a while


def local_part(tensor: Tensor) -> Tensor:
    """Give what this process holds of it."""
    spread: Any = tensor
    return spread.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Collect a tensor from all processes; everyone must ask."""
    spread: Any = tensor
    return spread.full_tensor() if is_sharded(tensor) else tensor


def whole_like(part: Tensor, parameter: Tensor) -> Tensor:
    """Collect a tensor that is spread as `parameter` is, from this process's part."""
    if not is_sharded(parameter):
        return part
    from torch.distributed.tensor import DTensor

    spread: Any = parameter
    return DTensor.from_local(
        part,
        spread.device_mesh,
        spread.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    ).full_tensor()


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Cut out of a whole tensor what this process holds of `parameter`; sends nothing."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    spread: Any = parameter
    return distribute_tensor(
        tensor, spread.device_mesh, spread.placements, src_data_rank=None
    ).to_local()
