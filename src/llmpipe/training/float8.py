"""Matrix products in 8 bits, for GPUs that have them (Hopper and later): `dtype = "float8"`.

The blocks' linear layers multiply numbers of 8 bits and add up in float32. Every tensor is scaled so that its
largest value is the largest that 8 bits can hold; the scale is found anew at each step. Values and weights
have 3 bits behind the point (e4m3), gradients 2 and a wider range (e5m2). Weights, their updates, the
embedding and the head stay as they are.

Our own in place of torchao's `Float8Linear`, which is a tensor subclass and several thousand lines for more
ways of scaling: this is one way, in one file, and runs wherever `torch._scaled_mm` does.

Source: Micikevicius et al. 2022, arXiv:2209.05433 (the two formats and which is for what).
"""

# N rows  I in_features  O out_features

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmpipe.model.transformer import Transformer

FOR_VALUES = torch.float8_e4m3fn
FOR_GRADIENTS = torch.float8_e5m2

MULTIPLE = 16
"""Sides of the matrices must be multiples of this. Source: torch._scaled_mm, cuBLASLt."""


def to_float8(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Float[Tensor, ""]]:
    """Scale a tensor into the range of an 8-bit type; return it with what to multiply it by."""
    largest = x.abs().amax().float().clamp(min=1e-12)
    scale = largest / torch.finfo(dtype).max
    return (x.float() / scale).to(dtype), scale


def _product(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype, is_rough: bool = False
) -> Tensor:
    """Multiply `a` [N I] with `b` [I O]; the kernel wants rows of the first and columns of the second.

    A rough product adds up in the matrix unit's own registers, about 14 bits, without going to float32
    in between: faster on Hopper, and enough for values. Gradients are added up in full. Source: torchao's
    `Float8LinearConfig` and karpathy/nanochat `nanochat/fp8.py`, which choose the same.
    """
    (left, left_scale), (right, right_scale) = a, b
    right = right.t().contiguous().t()
    return torch._scaled_mm(
        left.contiguous(),
        right,
        scale_a=left_scale,
        scale_b=right_scale,
        out_dtype=dtype,
        use_fast_accum=is_rough,
    )


class _Linear(torch.autograd.Function):
    """`x @ weight.T` with all three products of forward and backward pass in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "n i"], weight: Float[Tensor, "o i"]) -> Tensor:
        values, matrix = to_float8(x, FOR_VALUES), to_float8(weight, FOR_VALUES)
        ctx.save_for_backward(*values, *matrix)
        ctx.weight_dtype = weight.dtype
        return _product(values, (matrix[0].t(), matrix[1]), x.dtype, is_rough=True)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        x, x_scale, weight, weight_scale = ctx.saved_tensors
        grad = to_float8(grad_outputs[0], FOR_GRADIENTS)
        dtype = grad_outputs[0].dtype
        of_x = _product(grad, (weight, weight_scale), dtype)
        of_weight = _product((grad[0].t(), grad[1]), (x, x_scale), dtype)
        return of_x, of_weight.to(ctx.weight_dtype)


class Float8Linear(nn.Linear):
    """A linear layer whose products are in 8 bits in training, and as autocast says otherwise."""

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """Multiply `x` with the weights."""
        if not (torch.is_grad_enabled() and torch.is_autocast_enabled(x.device.type)):
            return super().forward(x)
        dtype = torch.get_autocast_dtype(x.device.type)
        flat = x.flatten(0, -2).to(dtype)
        y: Tensor = _Linear.apply(flat, self.weight)  # type: ignore[no-untyped-call]
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(dtype)


def use_float8(model: Transformer) -> None:
    """Let the blocks' linear layers compute in 8 bits; names and weights stay what they are."""
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear) and not any(n % MULTIPLE for n in module.weight.shape):
            module.__class__ = Float8Linear
