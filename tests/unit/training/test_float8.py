from __future__ import annotations

import pytest
import torch

from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.training.float8 import FOR_GRADIENTS, FOR_VALUES, Float8Linear, to_float8, use_float8
from llmpipe.training.step import Batch, batch_loss


def rounded(x: torch.Tensor, dtype: torch.dtype, n_bits: int, smallest: int) -> torch.Tensor:
    """Round to `n_bits` behind the point of the number's own power of two, in float64."""
    scale = x.abs().max().double() / torch.finfo(dtype).max
    y = x.double() / scale
    power = y.abs().log2().floor().clamp(min=smallest)
    step = 2.0 ** (power - n_bits)
    return (y / step).round() * step * scale  # round() takes the even one of two, as the hardware


def test_products_are_those_of_the_rounded_numbers() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 32, generator=generator).requires_grad_()
    layer = torch.nn.Linear(32, 64, bias=False)
    layer.__class__ = Float8Linear
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
    grad = torch.randn(48, 64, generator=generator).bfloat16()
    y.backward(grad)
    # 3 bits behind the point down to 2^-6 for values, 2 bits down to 2^-14 for gradients
    x8 = rounded(x.detach().bfloat16(), FOR_VALUES, 3, -6)
    w8 = rounded(layer.weight.detach(), FOR_VALUES, 3, -6)
    g8 = rounded(grad, FOR_GRADIENTS, 2, -14)
    assert x.grad is not None
    assert layer.weight.grad is not None
    for ours, exact in ((y, x8 @ w8.T), (x.grad, g8 @ w8), (layer.weight.grad, g8.T @ x8)):
        # What is left is the rounding of the result to bfloat16: 8 bits.
        torch.testing.assert_close(ours.double(), exact, rtol=2**-7, atol=2e-2)
    assert layer.weight.grad.dtype == torch.float32


def test_scale_uses_the_whole_range_and_survives_zeros() -> None:
    small, scale = to_float8(torch.tensor([1e-6, -3e-6]), FOR_VALUES)
    assert small.float().abs().max() == torch.finfo(FOR_VALUES).max
    torch.testing.assert_close((small.float() * scale)[1], torch.tensor(-3e-6))
    zeros, scale = to_float8(torch.zeros(4), FOR_VALUES)
    assert torch.equal(zeros.float() * scale, torch.zeros(4))


def test_model_learns_in_8_bits_and_keeps_its_names() -> None:
    config = ModelConfig("qwen3", 32, 2, 2, 2, 16, 64, 61, 32)
    model = Transformer(config)
    initialize(model, torch.Generator().manual_seed(1))
    names = [name for name, _ in model.named_parameters()]
    use_float8(model)
    assert [name for name, _ in model.named_parameters()] == names
    n_layers = sum(isinstance(module, Float8Linear) for module in model.modules())
    assert n_layers == 2 * 7  # q, k, v, o, gate, up, down of both blocks; not the head
    ids = torch.randint(61, (2, 17), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = batch_loss(model, Batch(ids[:, :-1], ids[:, 1:]), 1 / 32).total
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(61.0).log().item(), rel=0.02)
    assert losses[-1] < 0.2 * losses[0]
