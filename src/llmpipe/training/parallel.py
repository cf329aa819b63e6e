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

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import UserError
from llmpipe.core.ranks import Ranks
from llmpipe.model.sharded import is_sharded

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


@contextlib.contextmanager
def summed_gradients(parameters: Sequence[nn.Parameter], runtime: Runtime) -> Iterator[None]:
    """Sum every gradient over all processes, while the backward pass inside still makes others.

    Gradients of the last layers come first, so buckets are filled from the last parameter on, and each
    is sent when it is full. Everyone sends in the same order, whatever comes first. Gradients of earlier
    passes are part of the sum. FSDP's gradients come summed, and are left alone.

    Source: Li et al. 2020, arXiv:2006.15704, section 3.2.3. Torch's own `DistributedDataParallel` wraps
    the model, averages, and knows nothing of the sum below.
    """
    if runtime.ranks.is_alone or any(is_sharded(parameter) for parameter in parameters):
        yield
        return
    buckets = fill_buckets(parameters)
    place = {parameter: i for i, bucket in enumerate(buckets) for parameter in bucket}
    n_missing = [len(bucket) for bucket in buckets]
    sent: list[dist.Work] = []

    def arrived(parameter: Tensor) -> None:
        n_missing[place[parameter]] -= 1  # type: ignore[index]
        while len(sent) < len(buckets) and not n_missing[len(sent)]:
            sent.append(_send(buckets[len(sent)]))

    hooks = [
        parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]
        for parameter in parameters
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    # A bucket with a parameter that no token of this share used is not full, and holds up the next.
    sent += [_send(bucket) for bucket in buckets[len(sent) :]]
    for work in sent:
        work.wait()


def fill_buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Cut the parameters, last one first, into buckets of at least `BUCKET_BYTES`."""
    buckets: list[list[nn.Parameter]] = [[]]
    n_bytes = 0
    for parameter in reversed(parameters):
        if n_bytes >= BUCKET_BYTES:
            buckets.append([])
            n_bytes = 0
        buckets[-1].append(parameter)
        n_bytes += parameter.nbytes
    return buckets


def _send(bucket: list[nn.Parameter]) -> dist.Work:
    """Lay a bucket's gradients into one vector, and begin to sum it."""
    flat = torch.cat(
        [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in bucket]
    )
    parts = torch.split(flat, [parameter.numel() for parameter in bucket])
    for parameter, part in zip(bucket, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    work: dist.Work = dist.all_reduce(flat, async_op=True)
    return work


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
