"""One update: gradients over all micro-batches, one sum over processes, one guarded step.

The loss of every token weighs the same, whatever micro-batch and process it lands in: the sum is
divided by the trained tokens of the *whole* global batch, which is known before the first forward
pass. (Averaging per micro-batch would give tokens of short answers more weight.)

What is learned is the loss's affair: `train_step` is handed a function from a micro-batch to a sum. The
one of pretraining and SFT is `batch_loss`. With the log-probabilities of given tokens (`log_probs`) others
are a few lines, such as REINFORCE with the advantages as the weights of tokens:

    def policy_loss(model, batch, scale):
        chosen = log_probs(model, batch)  # B T
        return BatchLoss(-(batch.weights * chosen).sum() * scale, {"log_prob": chosen.sum()})

    train_step(..., loss=policy_loss, logged=("log_prob",))
"""

# B batch  T time

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmpipe.core.distributed import Runtime
from llmpipe.model.attention import Documents
from llmpipe.model.sharded import whole
from llmpipe.model.transformer import Transformer
from llmpipe.training.loss import IGNORE, chunked_cross_entropy, chunked_log_probs
from llmpipe.training.optim import Optimizer
from llmpipe.training.parallel import exact_gradients, summed_gradients


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together.

    A loss that needs more of each token (the log-probabilities of an older policy, say) makes a
    subclass with more tensors, which travel with the others.
    """

    ids: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    """The next token of each; `IGNORE` (-100) where there is nothing to learn."""
    segments: Int[Tensor, "batch time"] | None = None
    """Number of the document each token is of; tokens then attend only within their own."""
    starts: Int[Tensor, " documents_and_one"] | None = None
    """Where the documents start, for the kernel that needs no mask; made on the way to a GPU."""
    trained: Int[Tensor, " trained"] | None = None
    """Which tokens of the rows laid end to end are trained on; made on the way to a GPU."""
    weights: Float[Tensor, "batch time"] | None = None
    """What each token's loss is multiplied by: an advantage, a share, 0 for no part; None for 1 each."""

    def to(self, device: torch.device) -> Self:
        """Copy to a device."""
        batch = self.counted() if device.type == "cuda" else self
        return batch._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """Copy to memory that a GPU reads by itself, so that `to` does not wait."""
        return self.counted()._each(lambda tensor: tensor.pin_memory())

    def counted(self) -> Self:
        """Find what only the CPU can find without waiting: how many things there are of a kind."""
        if self.segments is None or self.starts is not None or self.segments.device.type != "cpu":
            return self
        starts, trained = document_starts(self.segments), trained_tokens(self.targets)
        return replace(self, starts=starts, trained=trained)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{k: change(x) for k, x in tensors.items() if x is not None})


class BatchLoss(NamedTuple):
    """What a loss function makes of one micro-batch."""

    total: Float[Tensor, ""]
    """Sum over the micro-batch's tokens (or rows, or pairs), times the scale that the function was given."""
    numbers: Mapping[str, Tensor] = {}
    """More to log, each a sum over the same things, and not scaled."""


LossFunction = Callable[[Transformer, Batch, Tensor], BatchLoss]
"""From the model, a micro-batch on its device, and one over what the global batch's sum is divided by."""


@dataclass(frozen=True)
class StepResult:
    """What one update was like, over all micro-batches and processes."""

    loss: float
    """The loss's sum over its normalizer: mean cross-entropy per trained token in nats, if not told otherwise."""
    grad_norm: float
    """Norm of all gradients together, before clipping."""
    n_trained: int
    """Tokens the loss is over."""
    skipped: str | None
    """Why the update was left out, or None."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the loss function gave to log, over the same normalizer."""


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


def read_by_head(
    model: Transformer, batch: Batch
) -> tuple[Float[Tensor, "batch time d_model"], Int[Tensor, " trained"] | None]:
    """Run a batch up to the head; of packed rows give only what is trained on, as one row, and where it is.

    Rows of conversations are mostly not trained on, and the head is the dearest part of a small model.
    """
    hidden = hidden_of(model, batch)
    if batch.segments is None:
        return hidden, None
    trained = trained_tokens(batch.targets) if batch.trained is None else batch.trained
    return hidden.flatten(0, 1).index_select(0, trained)[None], trained


def batch_loss(
    model: Transformer, batch: Batch, scale: float | Tensor = 1.0, z_loss: float = 0.0
) -> BatchLoss:
    """Sum the cross-entropy over the trained tokens of one micro-batch, each by its weight, times `scale`."""
    hidden, trained = read_by_head(model, batch)
    targets, weights = batch.targets, batch.weights
    if trained is not None:
        targets = targets.flatten().index_select(0, trained)[None]
        weights = None if weights is None else weights.flatten().index_select(0, trained)[None]
    head, n_ids = model.head.weight, model.config.vocab_size
    return BatchLoss(
        chunked_cross_entropy(hidden, head, targets, n_ids, scale, z_loss, weights=weights)
    )


def log_probs(model: Transformer, batch: Batch) -> Float[Tensor, "batch time"]:
    """Give the log-probability of each target in nats, with gradients; 0 where there is nothing to learn."""
    hidden, trained = read_by_head(model, batch)
    head, n_ids, targets = model.head.weight, model.config.vocab_size, batch.targets
    if trained is None:
        return chunked_log_probs(hidden, head, targets, n_ids)
    chosen = targets.flatten().index_select(0, trained)[None]
    found = chunked_log_probs(hidden, head, chosen, n_ids)[0]
    return found.new_zeros(targets.numel()).index_copy(0, trained, found).view(targets.shape)


def n_trained(batch: Batch) -> float:
    """Count a micro-batch's trained tokens."""
    return float((batch.targets != IGNORE).sum())


def sum_of_weights(batch: Batch) -> float:
    """Add the weights of a micro-batch's trained tokens."""
    if batch.weights is None:
        return n_trained(batch)
    return float(batch.weights[batch.targets != IGNORE].sum(dtype=torch.float64))


def train_step(
    model: Transformer,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    lr_factor: float,
    guard: SpikeGuard,
    runtime: Runtime,
    dtype: torch.dtype = torch.float32,
    is_exact: bool = False,
    loss: LossFunction = batch_loss,
    normalizer: Callable[[Batch], float] = n_trained,
    logged: Sequence[str] = (),
) -> StepResult:
    """Update `model` once, from this process's micro-batches and everyone else's.

    Args:
        model: On the device; its gradients are None before and after.
        optimizer: Of this model.
        batches: This process's share of the global batch (`parallel.my_share`), on the CPU or on
            the device.
        lr_factor: What the schedule says (`schedule.lr_factor`).
        guard: Decides whether the update is taken; what it remembers is part of the run's state.
        runtime: Device and processes.
        dtype: Matrix products are computed in this type; weights and sums are as the model's.
        is_exact: Sum in an order that does not depend on the number of processes.
        loss: What is learned: from a micro-batch to a sum.
        normalizer: A micro-batch's share of what the sum is divided by, at least 0: its trained tokens,
            or `sum_of_weights`, or its answers. Where all of them together are 0, nothing is learned.
        logged: Names of the numbers of `loss`; told here, because a process without a micro-batch
            does not see them.
    """
    # One update, in five parts: count, go forward and back, measure, update, read the results.
    #
    # A GPU is given work ahead of time, and asking it for a number makes Python wait until all of that is
    # done. So nothing below asks before the update is under way: even the decision to skip is the GPU's.
    device = runtime.device
    mine = [sum(map(count, batches)) for count in (n_trained, normalizer)]
    n_tokens, divisor = runtime.add(torch.tensor(mine, dtype=torch.float64, device=device))
    # Gradients add up over micro-batches, so dividing each loss by the whole batch's count makes the sum
    # of gradients the gradient of the mean.
    share = torch.where(divisor > 0, 1.0 / divisor, 0.0)
    scale = share.float()
    sums = torch.zeros(len(logged), dtype=torch.float64, device=device)

    def backward(batch: Batch) -> Tensor:
        # Forward: the weights stay in float32; autocast rounds them for each matrix product only. Backward:
        # autograd walks the same operations in reverse, and adds to each weight's `grad` how much the loss
        # would grow if that weight did.
        with runtime.autocast(dtype):
            found = loss(model, batch.to(device), scale)
        torch.autograd.backward(found.total)
        for i, name in enumerate(logged):
            sums[i] += found.numbers[name].detach()
        return found.total.detach()

    parameters = list(model.parameters())
    if is_exact:
        mean_loss = exact_gradients(parameters, batches, backward, runtime).double()
    else:
        total = torch.zeros((), device=device)
        # More rows than fit into memory at once take turns. Only with the last of them are the gradients
        # whole, so only then are they sent, the last layers' first, while the first layers' are computed.
        for batch in batches[:-1]:
            total += backward(batch)
        with summed_gradients(parameters, runtime):
            for batch in batches[-1:]:  # none, where there are more processes than micro-batches
                total += backward(batch)
        mean_loss = runtime.add(total.double())
    # The length of all gradients as one vector: where it leaps, the batch is broken or the model about to be.
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients)).double()

    measured = torch.stack([mean_loss, norm])
    limits = torch.tensor(guard.limits(), dtype=torch.float64).to(device, non_blocking=True)
    optimizer.clip()  # a long gradient is shortened: it says where to go, and less well how far
    with runtime.autocast(dtype):  # for Muon's matrix products
        optimizer.step(lr_factor, (measured <= limits).all())  # false for NaN as well
    for parameter in parameters:
        parameter.grad = None
    if logged:
        sums = runtime.add(sums) * share
    mean, grad_norm, n, *values = torch.cat(
        [torch.stack([mean_loss, norm, n_tokens]), sums]
    ).tolist()
    numbers = dict(zip(logged, values, strict=True))
    return StepResult(mean, grad_norm, int(n), guard.judge(mean, grad_norm), numbers)
