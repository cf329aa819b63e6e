"""The norm that we wrote for CPUs, beside torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmpipe.model.norm import RMSNorm


def make(dtype: torch.dtype) -> tuple[RMSNorm, Tensor]:
    generator = torch.Generator().manual_seed(1)
    norm = RMSNorm(6, eps=1e-3).to(dtype)
    norm.weight.data.normal_(generator=generator)
    return norm, torch.randn(3, 4, 2, 6, generator=generator, dtype=dtype, requires_grad=True)


def test_derivatives_equal_differences() -> None:
    norm, x = make(torch.float64)
    assert torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_turned", [False, True])
def test_it_rounds_no_more_than_torchs(dtype: torch.dtype, is_turned: bool) -> None:
    norm, x = make(dtype)
    turned = x.transpose(1, 2) if is_turned else x
    ours = norm(turned)
    exact = F.rms_norm(turned.double(), (6,), norm.weight.double(), norm.eps)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, exact.to(dtype))
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    grads = torch.autograd.grad(ours, (x, norm.weight), weights)
    expected = torch.autograd.grad(exact, (x, norm.weight), weights.double())
    torch.testing.assert_close(grads, expected)


def test_under_autocast_it_gives_what_matrix_products_read() -> None:
    norm, x = make(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, norm(x).bfloat16())
    (grad,) = torch.autograd.grad(y.float().sum(), x)
    assert grad.dtype == torch.float32
