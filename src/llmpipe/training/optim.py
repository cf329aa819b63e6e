"""Optimizers: Muon for the matrices inside the blocks with AdamW for the rest, or AdamW alone.

Which parameter goes where follows from its name and shape, so there is nothing to configure per
layer. An optimizer here is plain state and a `step(lr_factor)`: the schedule is a factor from
outside that multiplies all learning rates alike.
"""

# N matrices of one shape  R rows  C columns

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmpipe.core.errors import InputError
from llmpipe.training.config import AdamW, Muon, OptimConfig


@runtime_checkable
class Optimizer(Protocol):
    """What a training loop needs of an optimizer."""

    def step(self, lr_factor: float) -> None:
        """Update all parameters from their gradients, with all rates times `lr_factor`."""
        ...

    def clip(self) -> None:
        """Scale down the gradients that are to be clipped."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Give everything a resumed run needs, by name."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take what `state` gave."""
        ...


# ---------------------------------------------------------------------------------------------
# AdamW


class AdamWOptimizer:
    """AdamW with a learning rate per parameter, and state by parameter name.

    Written out here because building torch's own imports its compiler, which takes seconds.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self, named: dict[str, nn.Parameter], config: AdamW | Muon, rates: dict[str, float]
    ) -> None:
        self.named = named
        self.config = config
        self.n_steps = 0
        self.means = {name: torch.zeros_like(p.data) for name, p in named.items()}
        self.squares = {name: torch.zeros_like(p.data) for name, p in named.items()}
        # Parameters of one rate and one decay are updated together.
        self.groups: dict[tuple[float, float], list[str]] = {}
        for name, parameter in named.items():
            # Muon's decay is for its own matrices; what is left to AdamW then does without.
            decays = isinstance(config, AdamW) and parameter.ndim >= 2
            decay = config.weight_decay if decays else 0.0
            self.groups.setdefault((rates[name], decay), []).append(name)

    @torch.no_grad()
    def step(self, lr_factor: float) -> None:
        """Update all parameters."""
        self.n_steps += 1
        beta1, beta2 = self.config.beta1, self.config.beta2
        # Both memories start at 0 and are too small by these factors.
        mean_so_far = 1 - beta1**self.n_steps
        square_so_far = 1 - beta2**self.n_steps
        for (rate, decay), names in self.groups.items():
            lr = rate * lr_factor
            parameters = [self.named[name].data for name in names]
            gradients = [_gradient(self.named[name]) for name in names]
            means = [self.means[name] for name in names]
            squares = [self.squares[name] for name in names]
            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            sizes = torch._foreach_sqrt(squares)
            torch._foreach_div_(sizes, square_so_far**0.5)
            torch._foreach_add_(sizes, self.config.eps)
            torch._foreach_mul_(parameters, 1 - lr * decay)
            torch._foreach_addcdiv_(parameters, means, sizes, -lr / mean_so_far)

    def clip(self) -> None:
        """Clip the norm of all gradients together."""
        if self.config.max_norm is not None:
            nn.utils.clip_grad_norm_(self.named.values(), self.config.max_norm)

    def state(self) -> dict[str, Tensor]:
        """Give both memories of each parameter, and the number of steps."""
        return (
            {f"{name}.mean": value for name, value in self.means.items()}
            | {f"{name}.square": value for name, value in self.squares.items()}
            | {"n_steps": torch.tensor(self.n_steps)}
        )

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take what `state` gave."""
        for name, value in self.state().items():
            if name not in state or state[name].shape != value.shape:
                raise InputError(f"the optimizer's state has no `{name}` that fits the model")
            value.copy_(state[name])
        self.n_steps = int(state["n_steps"])


def build_adamw(model: nn.Module, config: AdamW) -> Optimizer:
    """Build AdamW over all parameters."""
    named = dict(model.named_parameters())
    return AdamWOptimizer(named, config, dict.fromkeys(named, config.lr))


# ---------------------------------------------------------------------------------------------
# Muon

# Polar Express: the polynomials that bring singular values in (1e-3, 1) closest to 1, one per
# step. Source: Amsel et al. 2025, arXiv:2505.16932, algorithm 1; the values are those of
# karpathy/nanochat `nanochat/optim.py` (5 steps, safety factor 2e-2, cushion 2).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(
    matrices: Float[Tensor, "n rows columns"], n_steps: int
) -> Float[Tensor, "n rows columns"]:
    """Bring all singular values near 1 and leave the singular vectors, for many matrices at once.

    On CUDA this runs in bfloat16, which is exact enough: the result is an update's direction.
    """
    dtype = torch.bfloat16 if matrices.is_cuda else matrices.dtype
    is_tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if is_tall else matrices  # the smaller product is the cheaper one
    x = x.to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS[:n_steps]:
        gram = x @ x.mT  # N R R
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    x = x.mT if is_tall else x
    return x.to(matrices.dtype)


class MuonOptimizer:
    """Muon for the matrices inside blocks, `AdamWOptimizer` for all else.

    Matrices of one shape share one momentum tensor and one batched Newton-Schulz.
    """

    def __init__(self, model: nn.Module, config: Muon) -> None:
        self.config = config
        named = dict(model.named_parameters())
        self.by_shape: dict[torch.Size, dict[str, nn.Parameter]] = {}
        for name, parameter in named.items():
            if is_muon_matrix(name, parameter):
                self.by_shape.setdefault(parameter.shape, {})[name] = parameter
        rates = {
            name: _adamw_rate(name, parameter, named, config)
            for name, parameter in named.items()
            if not is_muon_matrix(name, parameter)
        }
        self.adamw = AdamWOptimizer({name: named[name] for name in rates}, config, rates)
        self.momenta = {
            shape: torch.zeros(len(group), *shape, device=next(iter(group.values())).device)
            for shape, group in self.by_shape.items()
        }

    @torch.no_grad()
    def step(self, lr_factor: float) -> None:
        """Update all parameters."""
        self.adamw.step(lr_factor)
        lr = self.config.lr * lr_factor
        for shape, group in self.by_shape.items():
            gradient = torch.stack([_gradient(p) for p in group.values()])  # N R C
            momentum = self.momenta[shape]
            momentum.lerp_(gradient, 1 - self.config.momentum)
            # Nesterov: look one step ahead.
            gradient.lerp_(momentum, self.config.momentum)
            update = orthogonalize(gradient, self.config.n_newton_schulz)
            # A tall matrix of size 1 per direction changes its output less than a wide one.
            size = max(1.0, shape[0] / shape[1]) ** 0.5
            parameters = [p.data for p in group.values()]
            torch._foreach_mul_(parameters, 1 - lr * self.config.weight_decay)
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-lr * size)

    def clip(self) -> None:
        """Clip AdamW's gradients only: Muon's updates have a fixed size whatever the gradient's."""
        self.adamw.clip()

    def state(self) -> dict[str, Tensor]:
        """Give AdamW's moments and each matrix's momentum, by parameter name."""
        return self.adamw.state() | {
            f"{name}.momentum": momentum for name, momentum in self._momentum_by_name()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take what `state` gave."""
        self.adamw.load_state(state)
        for name, momentum in self._momentum_by_name():
            saved = state.get(f"{name}.momentum")
            if saved is None or saved.shape != momentum.shape:
                raise InputError(f"the optimizer's state has no momentum that fits `{name}`")
            momentum.copy_(saved)

    def _momentum_by_name(self) -> Iterator[tuple[str, Tensor]]:
        for shape, group in self.by_shape.items():
            yield from zip(group, self.momenta[shape], strict=True)


def is_muon_matrix(name: str, parameter: Tensor) -> bool:
    """Tell whether Muon updates it: a matrix inside a block."""
    return name.startswith("blocks.") and parameter.ndim == 2


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _adamw_rate(
    name: str, parameter: Tensor, named: dict[str, nn.Parameter], config: Muon
) -> float:
    if parameter.ndim < 2:
        return config.vector_lr
    is_tied = "head.weight" not in named
    # A tied model starts with small embeddings, for which the rate of an untied one is far too high.
    return config.head_lr if is_tied or name == "head.weight" else config.embedding_lr


def build_muon(model: nn.Module, config: Muon) -> Optimizer:
    """Build Muon with AdamW beside it."""
    return MuonOptimizer(model, config)


OPTIMIZERS: dict[str, Callable[[nn.Module, Any], Optimizer]] = {
    "muon": build_muon,
    "adamw": build_adamw,
}


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Build the optimizer that `config.kind` names."""
    return OPTIMIZERS[config.kind](model, config)
