"""The norm of a family, chosen when the model is built."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmpipe.model.config import ModelConfig


class RMSNorm(nn.RMSNorm):
    """torch's, with the weight in the input's type.

    Under autocast the input can be bfloat16 while the weight is float32, for which torch has no
    fused kernel. Hugging Face's models multiply in the input's type as well.
    """

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Divide by the root of the mean square, and scale."""
        weight = self.weight.to(x.dtype)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            y: Tensor = _RMSNormOnCPU.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
            return y
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class _RMSNormOnCPU(torch.autograd.Function):
    """The same in fewer passes over memory, which is what a norm costs.

    For CPUs torch has no kernel: it strings a dozen operations together, forward and back, and
    takes more than twice as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Give x w / r, with r the root of the mean square of x."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
        inverse = (length.square() / x.shape[-1] + eps).rsqrt()  # 1 / r
        ctx.save_for_backward(x, weight, inverse)
        # Matrix products follow, each of which would round a float32 for itself.
        is_rounded = torch.is_autocast_enabled("cpu")
        y: Tensor = (x * inverse).mul_(weight)
        return y.to(torch.get_autocast_dtype("cpu") if is_rounded else x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        """Give g w / r - x (g w · x) / (n r³), and for the weight the sum of g x / r."""
        x, weight, inverse = ctx.saved_tensors
        grad = grad_outputs[0].to(inverse.dtype)
        product = (grad * x).flatten(0, -2)  # (batch ...) width
        along = (product @ weight.to(product.dtype)).view_as(inverse)
        grad_weight = inverse.flatten() @ product
        grad_x = (grad * weight).mul_(inverse).addcmul_(x, along * inverse**3 / -x.shape[-1])
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


def build_norm(config: ModelConfig) -> nn.Module:
    """Build the norm over `d_model`: LayerNorm with a bias for GPT-2, RMSNorm for the others."""
    if config.family == "gpt2":
        return nn.LayerNorm(config.d_model, eps=config.norm_eps)
    return RMSNorm(config.d_model, eps=config.norm_eps)
