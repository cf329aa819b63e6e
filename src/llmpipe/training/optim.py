"""Optimizers: Muon for the matrices inside the blocks with AdamW for the rest, or AdamW alone.

Which parameter goes where follows from its name and shape, so there is nothing to configure per
layer. An optimizer here is plain state and a `step(lr_factor)`: the schedule is a factor from
outside that multiplies all learning rates alike.
"""

# N matrices of one shape  R rows  C columns

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmpipe.core.ranks import Ranks
from llmpipe.core.registry import load
from llmpipe.model.sharded import is_sharded, local_part, part_like, spread_like, whole
from llmpipe.training.config import AdamW, Muon, OptimConfig


@runtime_checkable
class Optimizer(Protocol):
    """What a training loop needs of an optimizer."""

    def step(self, lr_factor: float, is_usable: Bool[Tensor, ""] | None = None) -> None:
        """Update all parameters from their gradients, with all rates times `lr_factor`.

        Where `is_usable`, on the device, is false, nothing changes, whatever the gradients hold; and
        nothing waits to find out.
        """
        ...

    def clip(self) -> None:
        """Scale down the gradients that are to be clipped."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Give everything a resumed run needs, by name: the tensors themselves, to be read or written into.

        What is spread over the processes is a DTensor, what one process alone keeps is named by that
        one only, and everything else is the same on all.
        """
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
        device = next(iter(named.values())).device
        self._n_steps = torch.zeros((), dtype=torch.float32, device=device)
        self.means = {name: torch.zeros_like(local_part(p.data)) for name, p in named.items()}
        self.squares = {name: torch.zeros_like(local_part(p.data)) for name, p in named.items()}
        # Parameters of one rate and one decay are updated together.
        self.groups: dict[tuple[float, float], list[str]] = {}
        for name, parameter in named.items():
            # Muon's decay is for its own matrices; what is left to AdamW then does without.
            decays = isinstance(config, AdamW) and parameter.ndim >= 2
            decay = config.weight_decay if decays else 0.0
            self.groups.setdefault((rates[name], decay), []).append(name)

    @torch.no_grad()
    def step(self, lr_factor: float, is_usable: Bool[Tensor, ""] | None = None) -> None:
        """Update all parameters, or none."""
        # Both moments start at 0, for which the kernel makes up with the number of steps (bias correction).
        self._n_steps += 1 if is_usable is None else is_usable
        found_inf = None if is_usable is None else (~is_usable).float()  # the kernel's word for it
        for (rate, decay), names in self.groups.items():
            # One pass over memory instead of eight: this is what an update of embeddings costs.
            torch._fused_adamw_(
                [local_part(self.named[name].data) for name in names],
                [_gradient(self.named[name]) for name in names],
                [self.means[name] for name in names],
                [self.squares[name] for name in names],
                [],
                [self._n_steps] * len(names),
                lr=rate * lr_factor,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                weight_decay=decay,
                eps=self.config.eps,
                amsgrad=False,
                maximize=False,
                found_inf=found_inf,
            )

    def clip(self) -> None:
        """Clip the norm of all gradients together."""
        if self.config.max_norm is not None:
            nn.utils.clip_grad_norm_(self.named.values(), self.config.max_norm)

    def state(self) -> dict[str, Tensor]:
        """Give both moments of each parameter, and the number of steps."""
        state = {"n_steps": self._n_steps.view(1)}
        for name, parameter in self.named.items():
            state[f"{name}.mean"] = spread_like(self.means[name], parameter)
            state[f"{name}.square"] = spread_like(self.squares[name], parameter)
        return state


def build_adamw(model: nn.Module, config: AdamW, ranks: Ranks) -> Optimizer:
    """Build AdamW over all parameters."""
    named = dict(model.named_parameters())
    return AdamWOptimizer(named, config, dict.fromkeys(named, config.lr))


# ---------------------------------------------------------------------------------------------
# Muon
#
# The gradient of a matrix is mostly a few directions: its largest singular values are far above the others.
# Following it, those few directions learn and the many small ones hardly move. Muon keeps the directions and
# makes all of them equally long: with the momentum's singular value decomposition U S V^T, the update is
# U V^T. (Adam evens out single numbers, whatever matrix they stand in.)
#
# A singular value decomposition is slow on a GPU, and matrix products are fast. An odd polynomial of a matrix,
# a X + b (X X^T) X + c (X X^T)^2 X, changes its singular values s to a s + b s^3 + c s^5 and leaves U and V alone.
# A few such polynomials in a row, chosen to push every s in (0, 1] towards 1, are as good (Newton-Schulz).
#
# Embeddings, the head, and vectors are no maps between two spaces of features; AdamW updates those.
#
# Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

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


MATRICES_PER_BATCH = 4
"""Enough to keep a GPU busy at small widths, and few enough that 8 processes get even shares."""


def orthogonalize(
    matrices: Float[Tensor, "n rows columns"], n_steps: int
) -> Float[Tensor, "n rows columns"]:
    """Bring all singular values near 1 and leave the singular vectors, for many matrices at once.

    The result is an update's direction, for which bfloat16 is exact enough (`direction_type`).
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if is_tall else matrices  # the smaller product is the cheaper one
    # The Frobenius norm is at least the largest singular value, so now all of them are in (0, 1).
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-6)
    x = x.to(direction_type(matrices))
    for a, b, c in POLAR_EXPRESS[:n_steps]:
        # (b gram + c gram^2) x + a x: three products, two of them of the smaller size
        gram = x @ x.mT  # N R R
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram²
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT.contiguous() if is_tall else x


def direction_type(like: Tensor) -> torch.dtype:
    """Give the type that updates are made orthogonal in: bfloat16 on CUDA, and under autocast."""
    return torch.bfloat16 if like.is_cuda or torch.is_autocast_enabled("cpu") else like.dtype


@dataclass(frozen=True)
class MatrixBatch:
    """Matrices of one shape that are made orthogonal together, by one process for all."""

    named: dict[str, nn.Parameter]
    owner: int
    """Number of that process."""


class MuonOptimizer:
    """Muon for the matrices inside blocks, `AdamWOptimizer` for all else.

    Matrices go in batches of one shape through Newton-Schulz, and the batches are dealt to the
    processes: each keeps the momentum of its own ones, works out their update, and sends it to the
    others. Batches are the same whatever the number of processes, and so are the results' bits.
    """

    def __init__(self, model: nn.Module, config: Muon, ranks: Ranks) -> None:
        self.config = config
        self.ranks = ranks
        self.device = next(model.parameters()).device
        named = dict(model.named_parameters())
        matrices = {name: p for name, p in named.items() if is_muon_matrix(name, p)}
        rates = {
            name: _adamw_rate(name, parameter, named, config)
            for name, parameter in named.items()
            if name not in matrices
        }
        self.adamw = AdamWOptimizer({name: named[name] for name in rates}, config, rates)
        self.batches = deal_matrices(matrices, ranks.world_size)
        # With FSDP every process has rows of every matrix, and keeps the same rows of its momentum.
        self.is_sharded = any(is_sharded(p) for p in matrices.values())
        self.momenta = {
            name: torch.zeros_like(local_part(parameter.data))
            for batch in self.batches
            if self._keeps(batch)
            for name, parameter in batch.named.items()
        }

    @torch.no_grad()
    def step(self, lr_factor: float, is_usable: Bool[Tensor, ""] | None = None) -> None:
        """Update all parameters, or none."""
        if is_usable is None:
            is_usable = torch.ones((), dtype=torch.bool, device=self.device)
        # What is sent travels during what follows: all of it, or little at a time where the whole model
        # does not fit.
        n_ahead = self.ranks.world_size if self.is_sharded else len(self.batches)
        sent = deque(self._share_update(batch, is_usable) for batch in self.batches[:n_ahead])
        following = iter(self.batches[n_ahead:])
        self.adamw.step(lr_factor, is_usable)
        lr = self.config.lr * lr_factor * is_usable  # on the device: 0 leaves everything as it is
        for batch in self.batches:
            update, work = sent.popleft()
            if work is not None:
                work.wait()
            n_rows, n_columns = update.shape[1:]
            # A tall matrix of size 1 per direction changes its output less than a wide one.
            size = max(1.0, n_rows / n_columns) ** 0.5
            parameters = list(batch.named.values())
            change = update.float().mul_(-lr * size)
            parts = [part_like(c, p) for c, p in zip(change.unbind(), parameters, strict=True)]
            mine = [local_part(p.data) for p in parameters]
            if self.config.weight_decay:
                torch._foreach_mul_(mine, 1 - lr * self.config.weight_decay)
            torch._foreach_add_(mine, parts)
            sent.extend(self._share_update(later, is_usable) for later in islice(following, 1))

    def _share_update(
        self, batch: MatrixBatch, is_usable: Bool[Tensor, ""]
    ) -> tuple[Tensor, dist.Work | None]:
        """Work out a batch's update or receive it; it is whole when the work is done."""
        ahead = self._look_ahead(batch, is_usable) if self._keeps(batch) else None
        if batch.owner == self.ranks.rank and ahead is not None:
            update = orthogonalize(ahead, self.config.n_newton_schulz)
        else:
            first = next(iter(batch.named.values()))
            shape = (len(batch.named), *first.shape)
            update = torch.empty(shape, dtype=direction_type(first), device=first.device)
        if self.ranks.is_alone:
            return update, None
        return update, dist.broadcast(update, src=batch.owner, async_op=True)

    def _look_ahead(
        self, batch: MatrixBatch, is_usable: Bool[Tensor, ""]
    ) -> Float[Tensor, "n rows columns"]:
        """Remember the gradients, and give them one step ahead (Nesterov)."""
        momenta = [self.momenta[name] for name in batch.named]
        # Momentum averages the gradients of the last updates, so that what only one batch asks for cancels out.
        # Nesterov looks at where the momentum with the newest gradient in it would lead.
        # In place of a gradient that is not usable the momentum itself, which leaves it as it is.
        gradients = [
            torch.where(is_usable, _gradient(p), m)
            for p, m in zip(batch.named.values(), momenta, strict=True)
        ]
        torch._foreach_lerp_(momenta, gradients, 1 - self.config.momentum)
        ahead = torch._foreach_lerp(gradients, momenta, self.config.momentum)
        parameters = batch.named.values()
        return torch.stack(
            [whole(spread_like(x, p)) for x, p in zip(ahead, parameters, strict=True)]
        )

    def _keeps(self, batch: MatrixBatch) -> bool:
        return self.is_sharded or batch.owner == self.ranks.rank

    def clip(self) -> None:
        """Clip AdamW's gradients only: Muon's updates have a fixed size whatever the gradient's."""
        self.adamw.clip()

    def state(self) -> dict[str, Tensor]:
        """Give AdamW's moments, and the momentum of each matrix that this process keeps."""
        parameters = {name: p for batch in self.batches for name, p in batch.named.items()}
        momenta = {
            f"{name}.momentum": spread_like(momentum, parameters[name])
            for name, momentum in self.momenta.items()
        }
        return self.adamw.state() | momenta


def deal_matrices(matrices: dict[str, nn.Parameter], n_processes: int) -> list[MatrixBatch]:
    """Batch matrices by shape, and give each batch to the process with the least work so far."""
    by_shape: dict[torch.Size, list[str]] = {}
    for name, parameter in matrices.items():
        by_shape.setdefault(parameter.shape, []).append(name)
    batches = [
        {name: matrices[name] for name in names[i : i + MATRICES_PER_BATCH]}
        for names in by_shape.values()
        for i in range(0, len(names), MATRICES_PER_BATCH)
    ]
    load = [0] * n_processes
    dealt = []
    for named in sorted(batches, key=_newton_schulz_cost, reverse=True):
        owner = load.index(min(load))
        load[owner] += _newton_schulz_cost(named)
        dealt.append(MatrixBatch(named, owner))
    return dealt


def _newton_schulz_cost(named: dict[str, nn.Parameter]) -> int:
    """Count the multiplications of one step of a batch."""
    short, long = sorted(next(iter(named.values())).shape)
    return len(named) * (2 * short * short * long + short**3)


def is_muon_matrix(name: str, parameter: Tensor) -> bool:
    """Tell whether Muon updates it: a matrix inside a block."""
    return name.startswith("blocks.") and parameter.ndim == 2


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Give what this process holds of the gradient."""
    if parameter.grad is None:
        return torch.zeros_like(local_part(parameter.data))
    return local_part(parameter.grad)


def _adamw_rate(
    name: str, parameter: Tensor, named: dict[str, nn.Parameter], config: Muon
) -> float:
    if parameter.ndim < 2:
        return config.vector_lr
    is_tied = "head.weight" not in named
    # A tied model starts with small embeddings, for which the rate of an untied one is far too high.
    rate = config.head_lr if is_tied or name == "head.weight" else config.embedding_lr
    return rate * (config.width_lr_scale or 1.0)


def build_optimizer(model: nn.Module, config: OptimConfig, ranks: Ranks | None = None) -> Optimizer:
    """Build the optimizer that the settings are of; with `ranks`, Muon's work is dealt to them."""
    optimizer: Optimizer = load(config.builder)(model, config, ranks or Ranks())
    return optimizer
