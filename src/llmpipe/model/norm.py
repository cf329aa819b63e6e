"""The norm of a family, chosen when the model is built."""

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
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def build_norm(config: ModelConfig) -> nn.Module:
    """Build the norm over `d_model`: LayerNorm with a bias for GPT-2, RMSNorm for the others."""
    if config.family == "gpt2":
        return nn.LayerNorm(config.d_model, eps=config.norm_eps)
    return RMSNorm(config.d_model, eps=config.norm_eps)
