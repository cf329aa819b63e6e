"""The first weights, each choice with its source.

Every output projection starts at zero, so each block starts as the identity and the first step
is well behaved at any depth. The other matrices keep the size of their input.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from llmpipe.model.transformer import Transformer


def initialize(model: Transformer, generator: torch.Generator) -> None:
    """Fill all weights of `model` in place, from `generator` alone.

    Sources:
        Zero output projections, embedding and head: karpathy/nanochat `nanochat/gpt.py`,
        `init_weights`. The 0.02 of tied embeddings and of learned positions: Radford et al. 2019.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            nn.init.ones_(module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)

    for name, module in model.blocks.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if name.endswith((".attn.o", ".mlp.down")):
            nn.init.zeros_(module.weight)
        else:  # uniform with a standard deviation of 1 / sqrt(d_in)
            bound = math.sqrt(3 / module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)

    tied = model.config.tied_embeddings
    nn.init.normal_(model.embed.weight, std=0.02 if tied else 1.0, generator=generator)
    if not tied:
        nn.init.normal_(model.head.weight, std=0.001, generator=generator)
    if model.position is not None:
        nn.init.normal_(model.position.weight, std=0.02, generator=generator)
    with torch.no_grad():  # padding rows take no part in anything
        model.embed.weight[model.config.vocab_size :] = 0
        model.head.weight[model.config.vocab_size :] = 0
