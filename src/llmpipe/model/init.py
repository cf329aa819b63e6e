"""The first weights, each choice with its source.

Every output projection starts at zero, so each block starts as the identity and the first step
is well behaved at any depth. The other matrices keep the size of their input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llmpipe.model.sharded import local_part, part_like
from llmpipe.model.transformer import Transformer


def initialize(model: Transformer, generator: torch.Generator) -> None:
    """Fill all weights of `model` in place, from `generator` alone.

    Values are drawn on the CPU, one whole tensor at a time, so they are the same on every device and
    whatever the number of processes the model is spread over.

    Sources:
        Zero output projections, embedding and head: karpathy/nanochat `nanochat/gpt.py`,
        `init_weights`. The 0.02 of tied embeddings and of learned positions: Radford et al. 2019.
    """
    n_ids = model.config.vocab_size
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            _put(torch.ones(module.weight.shape), module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            _put(torch.zeros(bias.shape), bias)

    for name, module in model.blocks.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        values = torch.zeros(module.weight.shape)
        if not name.endswith((".attn.o", ".mlp.down")):
            # uniform with a standard deviation of 1 / sqrt(d_in)
            bound = math.sqrt(3 / module.in_features)
            values.uniform_(-bound, bound, generator=generator)
        _put(values, module.weight)

    def put_normal(weight: Tensor, std: float) -> None:
        values = torch.empty(weight.shape).normal_(std=std, generator=generator)
        if weight is not getattr(model.position, "weight", None):
            values[n_ids:] = 0  # padding rows take no part in anything
        _put(values, weight)

    tied = model.config.tied_embeddings
    put_normal(model.embed.weight, 0.02 if tied else 1.0)
    if not tied:
        put_normal(model.head.weight, 0.001)
    if model.position is not None:
        put_normal(model.position.weight, 0.02)


@torch.no_grad()
def _put(values: Tensor, parameter: Tensor) -> None:
    """Give a parameter its values, or this process's rows of them."""
    mine = part_like(values.to(parameter.device, parameter.dtype), parameter)
    local_part(parameter.data).copy_(mine)
