"""The feed-forward part of a block: GELU for GPT-2, SwiGLU for Llama and Qwen3.

It widens each position's vector, bends the result, and narrows it again. Without the bend (the
activation) the two matrices would be worth one. SwiGLU has a second widened copy that decides, number by
number, how much of the first gets through. It has three matrices, so it is made two thirds as wide.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmpipe.model.config import ModelConfig


class GeluMLP(nn.Module):
    """Widen, GELU in its tanh form (`gelu_new` in Hugging Face's names), narrow."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(
        self, x: Float[Tensor, "batch time d_model"]
    ) -> Float[Tensor, "batch time d_model"]:
        """Transform each position on its own."""
        y: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return y


class SwiGLU(nn.Module):
    """Widen twice, gate one with the SiLU of the other, narrow.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time d_model"]
    ) -> Float[Tensor, "batch time d_model"]:
        """Transform each position on its own."""
        y: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return y


def build_mlp(config: ModelConfig) -> nn.Module:
    """Build the feed-forward part of the family."""
    return GeluMLP(config) if config.family == "gpt2" else SwiGLU(config)
