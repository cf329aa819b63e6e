"""One update: gradients over all micro-batches, one sum over processes, one guarded step.

The loss of every token weighs the same, whatever micro-batch and process it lands in: the sum is
divided by the trained tokens of the *whole* global batch, which is known before the first forward
pass. (Averaging per micro-batch would give tokens of short answers more weight.)
"""

# B batch  T time

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmpipe.core.distributed import Runtime
from llmpipe.model.transformer import Transformer
from llmpipe.training.loss import IGNORE, chunked_cross_entropy
from llmpipe.training.optim import Optimizer
from llmpipe.training.parallel import exact_gradients, is_sharded, sum_gradients, whole


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together."""

    ids: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    """The next token of each; `IGNORE` (-100) where there is nothing to learn."""
    segments: Int[Tensor, "batch time"] | None = None
    """Number of the document each token is of; tokens then attend only within their own."""

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device."""
        segments = None if self.segments is None else self.segments.to(device, non_blocking=True)
        return Batch(
            self.ids.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            segments,
        )

    def pinned(self) -> "Batch":
        """Copy to memory that a GPU reads by itself, so that `to` does not wait."""
        segments = None if self.segments is None else self.segments.pin_memory()
        return Batch(self.ids.pin_memory(), self.targets.pin_memory(), segments)


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


@dataclass
class SpikeGuard:
    """Notices updates that would do harm: not finite, or far outside what is usual.

    Far outside is more than `n_sigma` standard deviations above the mean of the last `window`
    good steps. Source: `SkipStepAdamW` of allenai/OLMo-core (6 sigma, 128 steps).
    """

    n_sigma: float | None = 6.0
    """None: only losses and gradients that are not finite are caught."""
    window: int = 128
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    n_skipped: int = 0
    n_in_a_row: int = 0

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Say why an update should be skipped, or None; and remember it."""
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
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(grad_norm):
            return "the gradient is not finite"
        if self.n_sigma is None or len(self.losses) < self.window // 2:
            return None
        for name, value, usual in (
            ("loss", loss, self.losses),
            ("gradient", grad_norm, self.norms),
        ):
            mean = math.fsum(usual) / len(usual)
            sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in usual) / len(usual))
            # A hundredth of the mean keeps a very even run from calling a ripple a spike.
            if value > mean + self.n_sigma * max(sigma, 0.01 * abs(mean)):
                return f"the {name} is {value:.4g}, and {mean:.4g} is usual"
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


def document_mask(segments: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch 1 time time"]:
    """Let each token attend to itself and to earlier tokens of its own document."""
    same = segments[:, None, :, None] == segments[:, None, None, :]  # B 1 T T
    return same.tril()


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
    positions, mask = document_positions(batch.segments), document_mask(batch.segments)
    return model.hidden(batch.ids, positions=positions, mask=mask)


def batch_loss(model: Transformer, batch: Batch, scale: float = 1.0) -> Tensor:
    """Sum the cross-entropy over the trained tokens of one micro-batch, times `scale`."""
    hidden, targets = hidden_of(model, batch), batch.targets
    if batch.segments is not None:
        # Rows of conversations are mostly not trained on: the head, the dearest part of a small
        # model, reads only what is.
        trained = targets != IGNORE
        hidden, targets = hidden[trained][None], targets[trained][None]
    weight = model.head.weight
    return chunked_cross_entropy(hidden, weight, targets, model.config.vocab_size, scale)


def train_step(
    model: Transformer,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    lr_factor: float,
    guard: SpikeGuard,
    runtime: Runtime,
    dtype: torch.dtype = torch.float32,
    is_exact: bool = False,
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
    """
    n_mine = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    n_trained = int(runtime.sum([float(n_mine)])[0])
    scale = 1.0 / max(1, n_trained)

    def backward(batch: Batch) -> Tensor:
        with runtime.autocast(dtype):
            loss = batch_loss(model, batch.to(runtime.device), scale)
        torch.autograd.backward(loss)
        return loss.detach()

    parameters = list(model.parameters())
    if is_exact:
        mean_loss = float(exact_gradients(parameters, batches, backward, runtime))
    else:
        total = torch.zeros((), device=runtime.device)
        for batch in batches:
            total += backward(batch)
        if not any(is_sharded(p) for p in parameters):  # else the backward pass has summed them
            sum_gradients(parameters, runtime)
        mean_loss = runtime.sum([float(total)])[0]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(whole(torch.nn.utils.get_total_norm(gradients)))

    skipped = guard.judge(mean_loss, norm)
    if skipped is None:
        optimizer.clip()
        optimizer.step(lr_factor)
    for parameter in parameters:
        parameter.grad = None
    return StepResult(mean_loss, norm, n_trained, skipped)
