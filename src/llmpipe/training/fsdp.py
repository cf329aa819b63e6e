"""Models that do not fit on one device: each process holds some rows of every weight (FSDP2).

A block's weights are collected when it is its turn and dropped after; gradients come back summed
and cut into rows. The loop stays the same, but for three things:

    * every process must take part in every forward pass, also in samples
    * after a pass without a backward pass the outer weights are still collected: `reshard`
    * what is written to disk is collected tensor by tensor, so files are the same as without
      (`model.weights`, `training.checkpoint`)

A model is spread while it has no values yet (`torch.device("meta")`), and each process then fills in
its rows: nowhere does the whole model have to fit.

Source: torch.distributed.fsdp.fully_shard; Zhao et al. 2023, arXiv:2304.11277.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from llmpipe.core.distributed import Runtime
from llmpipe.model.transformer import Transformer


def shard_model(model: Transformer, runtime: Runtime) -> None:
    """Spread a model over all processes, in place.

    Args:
        model: Made on the device "meta". Afterwards each process has memory for its rows on its
            device, with arbitrary values.
        runtime: The processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(runtime.device.type, (runtime.ranks.world_size,))
    for module in [*model.blocks, model]:
        sharded: Any = fully_shard(module, mesh=mesh)
        # The loss is already divided by the tokens of the whole batch: sum, and not average.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sums
    register_fsdp_forward_method(model, "hidden")
    model.to_empty(device=runtime.device)
    model.tie_head()


def reshard(model: nn.Module) -> None:
    """Drop what a pass without gradients collected; nothing to do for a model that is not sharded."""
    for module in model.modules():
        sharded: Any = module
        if hasattr(module, "reshard"):
            sharded.reshard()
