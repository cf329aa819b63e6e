"""Rotary positions: turn pairs of a query's or key's numbers by an angle that grows with position.

Attention by itself does not know the order of tokens: shuffle the keys, and the sum stays the same. Here
a query at position m is turned by the angle m f and a key at position n by n f. The dot product of two
vectors that are both turned depends only on the difference of their angles, (m - n) f. So a head sees
how far apart two tokens are, wherever in the text they stand, and nothing has to be learned for it.

Each pair i of a head's numbers turns at its own frequency f = theta^(-2i / head_dim), like the hands of a
clock: the first pair makes a full turn in 6 tokens and tells neighbors apart, the last takes tens of
thousands (theta is 10,000 or more) and tells the beginning of a text from its end.

The pairs are `(x[i], x[i + head_dim / 2])`, as in Hugging Face's Llama and Qwen3 weights, and not
neighbours `(x[2i], x[2i + 1])` as in the paper and in Meta's own files: with the wrong choice a
model loads without an error and writes nonsense.

Source: Su et al. 2021, arXiv:2104.09864; the stretching of Llama 3.1 is `rope_scaling` there.
"""

# B batch  T time  H heads  D head_dim

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmpipe.model.config import ModelConfig, RopeScaling

Rotation = tuple[Float[Tensor, "#batch 1 time head_dim"], Float[Tensor, "#batch 1 time head_dim"]]


class Rope(nn.Module):
    """The angles of all positions, computed where they are needed.

    The frequencies are a plain attribute and no buffer, so that `model.to(torch.bfloat16)`
    leaves them in float32: bfloat16 cannot tell position 1000 from 1003.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._frequencies = rope_frequencies(
            config.head_dim, config.rope_theta, config.rope_scaling
        )

    def forward(self, positions: Int[Tensor, "#batch time"], dtype: torch.dtype) -> Rotation:
        """Give the cosines and sines for `rotate`, in `dtype`."""
        if self._frequencies.device != positions.device:
            self._frequencies = self._frequencies.to(positions.device)
        angles = positions.float()[:, None, :, None] * self._frequencies  # B 1 T D/2
        angles = torch.cat((angles, angles), dim=-1)  # B 1 T D
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rope_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> Float[Tensor, " half_head_dim"]:
    """Give the angle per position of each pair, in radians."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    frequencies = 1.0 / theta**exponents
    if scaling is None:
        return frequencies
    # For texts longer than those of training, the slow hands would come to angles never seen. They are
    # slowed down by `factor`; the fast ones, which have made many turns anyway, are left as they are.
    # Share of the unstretched frequency: 1 for short wavelengths, 0 for long ones, linear between.
    turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    share = ((turns - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return share * frequencies + (1.0 - share) * frequencies / scaling.factor


def rotate(
    x: Float[Tensor, "batch heads time head_dim"], rotation: Rotation
) -> Float[Tensor, "batch heads time head_dim"]:
    """Turn the pairs of `x` by the angles of their positions."""
    # The point (a, b) turned by an angle is (a cos - b sin, b cos + a sin), for all pairs at once.
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
