"""Tensors of which each process holds some rows: FSDP's weights, and what is kept beside them.

All of it works on plain tensors too, which every process holds whole; then there is nothing to collect.

Source: torch.distributed.tensor.DTensor.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


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


def spread_like(part: Tensor, parameter: Tensor) -> Tensor:
    """Say of this process's part that it belongs to a tensor that is spread as `parameter` is.

    The result shares the part's memory. Sends nothing.
    """
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
    )


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Cut out of a whole tensor what this process holds of `parameter`; sends nothing."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    spread: Any = parameter
    return distribute_tensor(
        tensor, spread.device_mesh, spread.placements, src_data_rank=None
    ).to_local()
