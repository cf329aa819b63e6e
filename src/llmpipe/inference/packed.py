"""Weights in the order in which a CPU's matrix units read them: for models that only generate.

A matrix multiplication first brings the weights into blocks that fit the caches, and does so at every call. For
few rows, as in decoding, that costs as much as the multiplication. oneDNN can do it once; the results are
the same up to rounding. The operators are those that torch.compile uses, private to torch: where they are
missing or fail, the model stays as it is.
"""

# B rows  I in_features  O out_features

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmpipe.model.transformer import Transformer


class PackedLinear(nn.Module):
    """A linear layer in float32 on a CPU, with its weights reordered."""

    def __init__(self, linear: nn.Linear, n_rows: int) -> None:
        super().__init__()
        weight = linear.weight.detach()
        # A plain attribute: a reordered tensor has no storage that could be moved or saved.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, n_rows)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `x` with the weights."""
        pointwise = torch.ops.mkldnn._linear_pointwise
        y: Tensor = pointwise(x, self._packed, self._bias, "none", [], "")
        return y


def pack(model: Transformer, n_rows: int = 1) -> bool:
    """Reorder the matrices of a float32 model on a CPU, in place; return whether that was possible.

    It can generate afterwards, and can no longer be trained or saved.

    Args:
        model: to change.
        n_rows: sequences of a usual step, for which the order is chosen; any other number works too.
    """
    weight = model.embed.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _works():
        return False
    with torch.no_grad():
        for module in list(model.blocks.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, PackedLinear(child, n_rows))
        model.head = PackedLinear(model.head, n_rows)  # type: ignore[assignment]
    return True


@torch.no_grad()
def _works() -> bool:
    """Try the operators on a small layer."""
    linear, x = nn.Linear(32, 48), torch.ones(1, 3, 32)
    try:
        return torch.allclose(PackedLinear(linear, 1)(x), linear(x), atol=1e-4)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
