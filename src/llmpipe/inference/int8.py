"""Weights in 8 bits: half the memory of bfloat16, and about half its time where reading them is the limit.

Each row of a matrix is divided by its largest number and rounded to 255 steps; activations stay in bfloat16.
Nothing is calibrated and nothing trained, so a model can be turned into this at load time. Embedding, norms
and biases stay as they are.
"""

# B rows  I in_features  O out_features

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmpipe.model.transformer import Transformer


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and one scale per output.

    Weight `w[o, i]` is kept as `round(w[o, i] / scale[o])` with `scale[o] = max_i |w[o, i]| / 127`, so each is off
    by at most half a step of its own row. The scale is the same for all inputs of an output, so it can be
    multiplied in after the sum: `y[o] = scale[o] * sum_i x[i] * q[o, i]`.

    Attributes:
        weight: `O I`, int8.
        scale: `O`, float32.
        bias: `O`, or None.

    The CPU's kernel is private in torch; where it is missing the weights are converted as they are read.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()  # O I
        scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12)  # O
        self.register_buffer(
            "weight", (weight / scale[:, None]).round().to(torch.int8).contiguous()
        )
        self.register_buffer("scale", scale)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach())
        # torch's kernel reads 16 weights at a time and, past the end of a row that is no multiple of
        # them, whatever lies there: wrong sums, or a crash.
        self._has_kernel = (
            weight.device.type == "cpu"
            and weight.shape[1] % 16 == 0
            and hasattr(torch, "_weight_int8pack_mm")
        )

    def forward(self, x: Float[Tensor, "*rows in_features"]) -> Float[Tensor, "*rows out_features"]:
        """Multiply `x` (bfloat16) with the weights; the result has its type."""
        weight, scale = self.get_buffer("weight"), self.get_buffer("scale")
        if self._has_kernel and x.dtype == torch.bfloat16:
            rows = torch._weight_int8pack_mm(
                x.flatten(0, -2).contiguous(), weight, scale.to(x.dtype)
            )
            y: Tensor = rows.view(*x.shape[:-1], -1)
        else:
            y = F.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)
        return y if self.bias is None else y + self.bias


def quantize_int8(model: Transformer) -> Transformer:
    """Turn the matrices of a model into int8 and everything else into bfloat16, in place.

    It can generate afterwards, and can no longer be trained or saved.
    """
    model.requires_grad_(False)
    model.to(torch.bfloat16)
    for module in list(model.blocks.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    model.head = Int8Linear(model.head)  # type: ignore[assignment]  # a copy if it was tied
    return model
