"""Our optimizers against slow ones that follow the papers line by line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmpipe.training.config import AdamW, Muon
from llmpipe.training.optim import POLAR_EXPRESS, MuonOptimizer, build_optimizer, orthogonalize

RATES = [0.5, 1.0, 1.0, 0.7, 0.3, 0.1]


class Toy(nn.Module):
    """Parameters with the names and kinds that a model has."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.embed, self.head = nn.Module(), nn.Module()
        self.embed.weight, self.head.weight = weight(11, 6), weight(11, 6)
        self.blocks = nn.ModuleList(nn.Module() for _ in range(2))
        for block in self.blocks:
            block.q, block.up, block.down = weight(6, 6), weight(10, 6), weight(6, 10)
            block.norm = weight(6)


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_adamw_equals_torchs() -> None:
    config = AdamW(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.3, max_norm=2.0)
    ours, theirs = Toy(), Toy()
    optimizer = build_optimizer(ours, config)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim == 2], "weight_decay": 0.3},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(0.8, 0.9), eps=1e-6, foreach=False)
    for step, rate in enumerate(RATES):
        for model in (ours, theirs):
            set_gradients(model, step)
        optimizer.clip()
        optimizer.step(rate)
        nn.utils.clip_grad_norm_(theirs.parameters(), 2.0)
        for group in reference.param_groups:
            group["lr"] = 0.01 * rate
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def slow_adam(p: torch.Tensor, gradients: list[torch.Tensor], rates: list[float]) -> torch.Tensor:
    """Kingma and Ba 2015, algorithm 1, with Muon's betas and eps for all that is no matrix."""
    p, m, v = p.clone(), torch.zeros_like(p), torch.zeros_like(p)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g * g
        p -= lr * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-10)
    return p


def slow_muon(p: torch.Tensor, gradients: list[torch.Tensor], rates: list[float]) -> torch.Tensor:
    """Jordan 2024, one matrix at a time, in float64, the polynomial on the singular values."""
    p, momentum = p.double(), torch.zeros_like(p, dtype=torch.float64)
    for g, lr in zip(gradients, rates, strict=True):
        momentum = 0.95 * momentum + 0.05 * g.double()
        u, s, v = torch.linalg.svd(0.05 * g.double() + 0.95 * momentum, full_matrices=False)
        s = s / (s.norm() * 1.02 + 1e-6)
        for a, b, c in POLAR_EXPRESS:
            s = a * s + b * s**3 + c * s**5
        p = p * (1 - lr * 0.1) - lr * max(1.0, p.shape[0] / p.shape[1]) ** 0.5 * (u * s) @ v
    return p


def test_muon_and_its_adamw_equal_slow_references() -> None:
    model = Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, Muon(lr=0.05, weight_decay=0.1))
    gradients: dict[str, list[torch.Tensor]] = {name: [] for name in before}
    for step, rate in enumerate(RATES):
        set_gradients(model, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradients[name].append(parameter.grad.clone())
        optimizer.step(rate)
    for name, parameter in model.named_parameters():
        if name.startswith("blocks.") and parameter.ndim == 2:
            expected = slow_muon(before[name], gradients[name], [0.05 * r for r in RATES])
        else:
            peak = {"embed.weight": 0.2, "head.weight": 0.004}.get(name, 0.004)
            expected = slow_adam(before[name], gradients[name], [peak * r for r in RATES])
        torch.testing.assert_close(
            parameter.detach(),
            expected.float(),
            atol=1e-4,
            rtol=1e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 40, 16), (2, 16, 40)])
def test_orthogonalized_matrices_have_singular_values_near_1(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(matrices, 5))
    assert values.min() > 0.85
    assert values.max() < 1.15


def test_under_autocast_products_are_in_bfloat16() -> None:
    matrices = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        update = orthogonalize(matrices, 5)
    assert update.dtype == torch.bfloat16
    torch.testing.assert_close(update.float(), orthogonalize(matrices, 5), atol=0.02, rtol=0)


def test_batched_matrices_equal_single_ones() -> None:
    matrices = torch.randn(4, 12, 20, generator=torch.Generator().manual_seed(1))
    together = orthogonalize(matrices, 5)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], orthogonalize(matrices[i : i + 1], 5))


def test_width_scale_is_for_embedding_and_head_alone() -> None:
    plain, scaled = (build_optimizer(Toy(), Muon(width_lr_scale=scale)) for scale in (None, 0.25))
    assert isinstance(plain, MuonOptimizer) and isinstance(scaled, MuonOptimizer)
    rates, slower = (
        {name: rate for (rate, _), names in o.adamw.groups.items() for name in names}
        for o in (plain, scaled)
    )
    matrices = {"embed.weight", "head.weight"}
    assert slower == {n: rate / 4 if n in matrices else rate for n, rate in rates.items()}
    assert matrices < rates.keys()


def test_missing_gradient_leaves_a_fresh_matrix_in_place() -> None:
    model = Toy()
    before = model.blocks[0].q.detach().clone()  # type: ignore[union-attr, operator]
    set_gradients(model, 0)
    model.blocks[0].q.grad = None  # type: ignore[union-attr]
    build_optimizer(model, Muon()).step(1.0)
    assert torch.equal(model.blocks[0].q, before)  # type: ignore[arg-type]
