"""Models that do not fit on one device: each process holds some rows of every weight (FSDP2).

A block's weights are collected when it is its turn and dropped after; gradients come back summed
and cut into rows. The loop stays the same, but for three things:

    * every process must take part in every forward pass, also in samples
    * after a pass without a backward pass the outer weights are still collected: `reshard`
    * what is written to disk is collected first (`gather_model`), so files are the same as without

The whole model stands on each device once, at the start, where it is initialized.

Source: torch.distributed.fsdp.fully_shard; Zhao et al. 2023, arXiv:2304.11277.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llmpipe.core.distributed import Runtime
from llmpipe.model.transformer import Transformer
from llmpipe.training.parallel import is_sharded, whole


def shard_model(model: Transformer, runtime: Runtime) -> None:
    """Spread the weights of `model` over all processes, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(runtime.device.type, (runtime.ranks.world_size,))
    for module in [*model.blocks, model]:
        sharded: Any = fully_shard(module, mesh=mesh)
        # The loss is already divided by the tokens of the whole batch: sum, and not average.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sums
    register_fsdp_forward_method(model, "hidden")


def reshard(model: nn.Module) -> None:
    """Drop what a pass without gradients collected; nothing to do for a model that is not sharded."""
    for module in model.modules():
        sharded: Any = module
        if hasattr(module, "reshard"):
            sharded.reshard()


def gather_model(model: Transformer, runtime: Runtime) -> Transformer:
    """Collect a whole copy on the main process's CPU; others get one without values."""
    if not any(is_sharded(p) for p in model.parameters()):
        return model
    with torch.device("meta"):
        copy = Transformer(model.config)
    values = {}
    for name, parameter in model.named_parameters():
        value = whole(parameter.detach())  # one at a time, so that no device holds all of them
        if runtime.ranks.is_main:
            values[name] = value.cpu()
    if runtime.ranks.is_main:
        copy.load_state_dict(values, strict=False, assign=True)
        copy.tie_head()
    return copy
