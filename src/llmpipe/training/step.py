"""One update: gradients over all micro-batches, one sum over processes, one guarded step.

The loss of every token weighs the same, whatever micro-batch and process it lands in: the sum is
divided by the trained tokens of the *whole* global batch, which is known before the first forward
pass. (Averaging per micro-batch would give tokens of short answers more weight.)
"""

# B batch  T time

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmpipe.core.distributed import Runtime
from llmpipe.model.attention import Documents
from llmpipe.model.sharded import whole
from llmpipe.model.transformer import Transformer
from llmpipe.training.loss import IGNORE, chunked_cross_entropy
from llmpipe.training.optim import Optimizer
from llmpipe.training.parallel import exact_gradients, summed_gradients


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together."""

    ids: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    """The next token of each; `IGNORE` (-100) where there is nothing to learn."""
    segments: Int[Tensor, "batch time"] | None = None
    """Number of the document each token is of; tokens then attend only within their own."""
    starts: Int[Tensor, " documents_and_one"] | None = None
    """Where the documents start, for the kernel that needs no mask; made on the way to a GPU."""
    trained: Int[Tensor, " trained"] | None = None
    """Which tokens of the rows laid end to end are trained on; made on the way to a GPU."""

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device."""
        batch = self.counted() if device.type == "cuda" else self
        return batch._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """Copy to memory that a GPU reads by itself, so that `to` does not wait."""
        return self.counted()._each(lambda tensor: tensor.pin_memory())

    def counted(self) -> "Batch":
        """Find what only the CPU can find without waiting: how many things there are of a kind."""
        if self.segments is None or self.starts is not None or self.segments.device.type != "cpu":
            return self
        starts, trained = document_starts(self.segments), trained_tokens(self.targets)
        return replace(self, starts=starts, trained=trained)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = (self.ids, self.targets, self.segments, self.starts, self.trained)
        return Batch(*(None if tensor is None else change(tensor) for tensor in tensors))  # type: ignore[arg-type]


@dataclass(frozen=True)
class StepResult:
    """What one update was like, over all micro-batches and processes."""

    loss: float
    """Mean cross-entropy per trained token, in nats."""
    grad_norm: float
    """Norm of all gradients together, before clipping."""
    n_trained: int
    """Tokens the loss is over."""
    skipped: str | None
    """Why the update was left out, or None."""


LOSS_RIPPLE = 0.02
"""Standard deviation, in parts of the mean, below which a run of losses does not count as even."""

NORM_RIPPLE = 0.25
"""The same for gradient norms. A norm half as large again as usual is what small batches bring: with 0.01
in its place the guard skipped 12 of 600 harmless updates (docs/results/novels.md)."""


@dataclass
class SpikeGuard:
    """Notices updates that would do harm: not finite, or far outside what is usual.

    Far outside is more than `n_sigma` standard deviations above the mean of the last `window`
    good steps. Source: `SkipStepAdamW` of allenai/OLMo-core (6 sigma, 128 steps).

    What is usual is known before a step, so the device can decide by itself (`limits`) and nothing
    waits for the answer; `judge` says afterwards, from the same numbers, what was decided.
    """

    n_sigma: float | None = 6.0
    """None: only losses and gradients that are not finite are caught."""
    window: int = 128
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    n_skipped: int = 0
    n_in_a_row: int = 0

    def limits(self) -> tuple[float, float]:
        """Give the largest loss and the largest gradient norm that the next step may have."""
        if self.n_sigma is None or len(self.losses) < self.window // 2:
            return sys.float_info.max, sys.float_info.max
        return (
            _limit(self.losses, self.n_sigma, LOSS_RIPPLE),
            _limit(self.norms, self.n_sigma, NORM_RIPPLE),
        )

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Say why an update was to be skipped, or None; and remember it."""
        reason = self._reason(loss, grad_norm)
        if reason is None:
            self.losses = [*self.losses, loss][-self.window :]
            self.norms = [*self.norms, grad_norm][-self.window :]
            self.n_in_a_row = 0
        else:
            self.n_skipped += 1
            self.n_in_a_row += 1
        return reason

    def _reason(self, loss: float, grad_norm: float) -> str | None:
        for name, value, limit, usual in zip(
            ("loss", "gradient"),
            (loss, grad_norm),
            self.limits(),
            (self.losses, self.norms),
            strict=True,
        ):
            if not math.isfinite(value):
                return f"the {name} is not finite"
            if value > limit:
                return f"the {name} is {value:.4g}, and {_mean(usual):.4g} is usual"
        return None

    def state(self) -> dict[str, Any]:
        """Give what a resumed run needs, as JSON values."""
        return {
            "losses": self.losses,
            "norms": self.norms,
            "n_skipped": self.n_skipped,
            "n_in_a_row": self.n_in_a_row,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.losses, self.norms = list(state["losses"]), list(state["norms"])
        self.n_skipped, self.n_in_a_row = state["n_skipped"], state["n_in_a_row"]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _limit(usual: Sequence[float], n_sigma: float, ripple: float) -> float:
    mean = _mean(usual)
    sigma = math.sqrt(_mean([(x - mean) ** 2 for x in usual]))
    return mean + n_sigma * max(sigma, ripple * abs(mean))


def document_mask(segments: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch 1 time time"]:
    """Let each token attend to itself and to earlier tokens of its own document."""
    same = segments[:, None, :, None] == segments[:, None, None, :]  # B 1 T T
    return same.tril()


def document_starts(segments: Int[Tensor, "batch time"]) -> Int[Tensor, " documents_and_one"]:
    """Find where documents start in the rows laid end to end, and where the last one ends."""
    is_first = torch.ones_like(segments, dtype=torch.bool)
    is_first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = is_first.flatten().nonzero()[:, 0]
    return torch.cat((starts, torch.tensor([segments.numel()]))).int()


def trained_tokens(targets: Int[Tensor, "batch time"]) -> Int[Tensor, " trained"]:
    """Number the tokens that are trained on, in the rows laid end to end."""
    return (targets != IGNORE).flatten().nonzero()[:, 0]


def document_positions(segments: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Count each token's place within its own document, from 0."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    is_first = torch.ones_like(segments, dtype=torch.bool)
    is_first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(is_first, index, 0).cummax(dim=1).values


def hidden_of(model: Transformer, batch: Batch) -> Float[Tensor, "batch time d_model"]:
    """Run a batch up to the head; with segments, each document as if it stood alone."""
    if batch.segments is None:
        return model.hidden(batch.ids)
    positions = document_positions(batch.segments)
    if batch.starts is not None and torch.is_autocast_enabled(batch.ids.device.type):
        documents = Documents(batch.starts, longest=batch.ids.shape[1])
        return model.hidden(batch.ids, positions=positions, mask=documents)
    return model.hidden(batch.ids, positions=positions, mask=document_mask(batch.segments))


def batch_loss(
    model: Transformer, batch: Batch, scale: float | Tensor = 1.0, z_loss: float = 0.0
) -> Tensor:
    """Sum the cross-entropy over the trained tokens of one micro-batch, times `scale`."""
    hidden, targets = hidden_of(model, batch), batch.targets
    if batch.segments is not None:
        # Rows of conversations are mostly not trained on: the head, the dearest part of a small
        # model, reads only what is.
        trained = trained_tokens(targets) if batch.trained is None else batch.trained
        hidden = hidden.flatten(0, 1).index_select(0, trained)[None]
        targets = targets.flatten().index_select(0, trained)[None]
    weight = model.head.weight
    return chunked_cross_entropy(hidden, weight, targets, model.config.vocab_size, scale, z_loss)


def train_step(
    model: Transformer,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    lr_factor: float,
    guard: SpikeGuard,
    runtime: Runtime,
    dtype: torch.dtype = torch.float32,
    is_exact: bool = False,
    z_loss: float = 0.0,
) -> StepResult:
    """Update `model` once, from this process's micro-batches and everyone else's.

    Args:
        model: On the device; its gradients are None before and after.
        optimizer: Of this model.
        batches: This process's share of the global batch (`parallel.my_share`), on the CPU or on
            the device.
        lr_factor: What the schedule says (`schedule.lr_factor`).
        guard: Decides whether the update is taken; its memory is part of the run's state.
        runtime: Device and processes.
        dtype: Matrix products are computed in this type; weights and sums are as the model's.
        is_exact: Sum in an order that does not depend on the number of processes.
        z_loss: See `loss.chunked_cross_entropy`.
    """
    # Nothing below waits for the device until the update is under way.
    device = runtime.device
    n_mine = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    n_trained = runtime.add(torch.tensor(float(n_mine), dtype=torch.float64, device=device))
    scale = (1.0 / n_trained.clamp(min=1.0)).float()

    def backward(batch: Batch) -> Tensor:
        with runtime.autocast(dtype):
            loss = batch_loss(model, batch.to(device), scale, z_loss)
        torch.autograd.backward(loss)
        return loss.detach()

    parameters = list(model.parameters())
    if is_exact:
        mean_loss = exact_gradients(parameters, batches, backward, runtime).double()
    else:
        total = torch.zeros((), device=device)
        for batch in batches[:-1]:
            total += backward(batch)
        with summed_gradients(parameters, runtime):
            for batch in batches[-1:]:  # none, where there are more processes than micro-batches
                total += backward(batch)
        mean_loss = runtime.add(total.double())
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients)).double()

    measured = torch.stack([mean_loss, norm])
    limits = torch.tensor(guard.limits(), dtype=torch.float64).to(device, non_blocking=True)
    optimizer.clip()
    with runtime.autocast(dtype):  # for Muon's matrix products
        optimizer.step(lr_factor, (measured <= limits).all())  # false for NaN as well
    for parameter in parameters:
        parameter.grad = None
    loss, grad_norm, n_tokens = torch.stack([mean_loss, norm, n_trained]).tolist()
    return StepResult(loss, grad_norm, int(n_tokens), guard.judge(loss, grad_norm))
