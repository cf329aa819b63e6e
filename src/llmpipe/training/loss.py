"""The loss without the logits.

With 32,768 ids, one batch of 8,192 tokens has 1 GiB of float32 logits, and a plain loss keeps them
three times. Here they are made a few tokens at a time, turned into the gradient at once, and
forgotten; the forward pass does the work of the backward pass, which then only scales.
"""

# N tokens  V vocab_size

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORE = -100
"""Target of tokens that are not trained on; torch's `ignore_index`."""

CHUNK_LOGITS = {"cpu": 2**21, "cuda": 2**28}
"""Logits held at once, by device: what stays in a CPU's cache (8 MiB), what fills a GPU (512 MiB in
bfloat16, and as much for their gradient)."""

COMPILED_ON = ("cuda",)
"""Devices on which what happens to a chunk's logits is compiled to one kernel."""

TILE = 256
"""Rows of a matrix product that a GPU works on together; chunks there are whole multiples of it."""


def rows_per_chunk(weight: Tensor) -> int:
    """Count the tokens whose logits are made together."""
    n_rows = max(1, CHUNK_LOGITS.get(weight.device.type, 2**20) // len(weight))
    return n_rows // TILE * TILE or n_rows if weight.is_cuda else n_rows


def logits_to_gradient(
    logits: Float[Tensor, "n rows"],
    index: Int[Tensor, "n 1"],
    counts: Bool[Tensor, " n"] | Float[Tensor, " n"],
    vocab_size: int,
    scale: float | Tensor,
    z_loss: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "n rows"]]:
    """Give the summed loss of a chunk, and the gradient of its scaled sum with respect to its logits.

    Step by step, as below, 46 bytes go through memory for each logit, which a GPU would spend much of a
    small model's step on. Written without changes in place this compiles to one kernel that reads the
    logits once and writes the gradient once: 4 bytes in bfloat16.
    """
    column = torch.arange(logits.shape[1], device=logits.device)
    wide = torch.where(
        column < vocab_size, logits.float(), -torch.inf
    )  # padding is never predicted
    log_sums = wide.logsumexp(dim=-1, keepdim=True)
    of_target = wide.gather(1, index)
    loss = (torch.where(counts != 0, (log_sums - of_target).squeeze(1), 0.0) * counts).sum()
    weight_of_token = counts[:, None] * scale
    # As below: softmax - one_hot, and softmax * 2 z log_sum for z log_sum².
    softmax = (wide - log_sums).exp()
    grad = softmax * (weight_of_token * (1.0 + 2.0 * z_loss * log_sums))
    grad = grad - torch.where(column == index, weight_of_token, 0.0)
    return loss, grad.to(logits.dtype)


@functools.cache
def _one_kernel() -> Callable[..., tuple[Tensor, Tensor]]:
    """Compile `logits_to_gradient` when it is first wanted: the compiler takes seconds to load."""
    return torch.compile(logits_to_gradient)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of `-log p(target)`, with gradients made chunk by chunk in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        vocab_size: int,
        scale: float | Tensor,
        z_loss: float,
    ) -> Tensor:
        """Return the scaled sum and keep both gradients; only they know of `z_loss`."""
        needs_grad = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.zeros_like(hidden if needs_grad else hidden[:0])
        grad_weight = torch.zeros_like(weight if needs_grad else weight[:0], dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        n_rows = rows_per_chunk(weight)
        for start in range(0, len(hidden), n_rows):
            chunk = hidden[start : start + n_rows]
            target = targets[start : start + n_rows]
            trained = target != IGNORE
            index = torch.where(trained, target, 0)[:, None]
            # How much each token counts: yes or no, or by its weight.
            counts = trained if weights is None else trained * weights[start : start + n_rows]
            if hidden.device.type in COMPILED_ON:
                logits = chunk @ weight.T  # N V
                loss, grad = _one_kernel()(logits, index, counts, vocab_size, scale, z_loss)
                total += loss
                if needs_grad:
                    grad_hidden[start : start + n_rows] = grad @ weight
                    grad_weight += grad.T @ chunk
                continue
            logits = (chunk @ weight.T).float()  # N V
            logits[:, vocab_size:] = -torch.inf  # padding rows are never predicted
            top = logits.amax(dim=-1, keepdim=True)
            of_target = logits.gather(1, index)
            exp = logits.sub_(top).exp_()  # in place: these are the largest tensors of the step
            sums = exp.sum(dim=-1, keepdim=True)
            log_sums = sums.log() + top
            losses = (log_sums - of_target).squeeze(1)
            total += (torch.where(counts != 0, losses, 0.0) * counts).sum()
            if not needs_grad:
                continue
            # d loss / d logits = softmax - one_hot, for the trained tokens
            weight_of_token = counts[:, None] * scale
            # ... and softmax * 2 z log_sum for z log_sum²
            grad = exp.mul_(weight_of_token * (1.0 + 2.0 * z_loss * log_sums) / sums)
            grad.scatter_add_(1, index, -weight_of_token.float())
            grad = grad.to(hidden.dtype)
            grad_hidden[start : start + n_rows] = grad @ weight
            if hidden.dtype == torch.float32:
                grad_weight.addmm_(grad.T, chunk)
            else:
                grad_weight += (grad.T @ chunk).float()
        if needs_grad:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass made."""
        grad_hidden, grad_weight = ctx.saved_tensors
        factor = grad_outputs[0]
        return grad_hidden * factor, grad_weight * factor, None, None, None, None, None


def chunked_cross_entropy(
    hidden: Float[Tensor, "batch time d_model"],
    weight: Float[Tensor, "rows d_model"],
    targets: Int[Tensor, "batch time"],
    vocab_size: int,
    scale: float | Tensor = 1.0,
    z_loss: float = 0.0,
    weights: Float[Tensor, "batch time"] | None = None,
) -> Float[Tensor, ""]:
    """Sum the cross-entropy of the trained tokens, in nats, times `scale`.

    Args:
        hidden: What the head reads.
        weight: The head's weights; rows from `vocab_size` on are padding.
        targets: Next tokens; `IGNORE` where there is nothing to learn.
        vocab_size: Number of real ids.
        scale: Usually one over the trained tokens of the whole global batch.
        z_loss: Weight of the squared logarithm of each softmax's sum, which keeps logits from
            drifting; it enters the gradients and not the result. Source: Chowdhery et al. 2022
            (PaLM), section 5.
        weights: What each token's loss is multiplied by; None for 1 each. No gradient goes to them.

    Returns:
        A sum, not a mean: the caller knows over what to average.
    """
    hidden, weight = _as_autocast(hidden, weight)
    flat, flat_targets = hidden.flatten(0, 1), targets.flatten()
    flat_weights = None if weights is None else weights.flatten()
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        flat, weight, flat_targets, flat_weights, vocab_size, scale, z_loss
    )
    return loss


def _as_autocast(*tensors: Tensor) -> Sequence[Tensor]:
    """Bring tensors to the type of autocast, which does not look into a custom function."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


class _ChunkedLogProbs(torch.autograd.Function):
    """`log p(target)` of each token, for any function of it.

    What its gradient will be is not known in the forward pass, so the logits are made once more on the
    way back; kept is one number per token.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int
    ) -> Tensor:
        """Return the log-probabilities, and keep the logarithm of each softmax's sum."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        log_probs = torch.zeros(len(hidden), dtype=dtype, device=hidden.device)
        log_sums = torch.zeros_like(log_probs)
        for rows, trained, index in _chunks(weight, targets):
            logits = _real_logits(hidden[rows], weight, vocab_size, dtype)  # N V
            log_sums[rows] = logits.logsumexp(dim=-1)
            of_target = logits.gather(1, index).squeeze(1)
            log_probs[rows] = torch.where(trained, of_target - log_sums[rows], 0.0)
        ctx.save_for_backward(hidden, weight, targets, log_sums)
        ctx.vocab_size = vocab_size
        return log_probs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Give d log p / d logits = one_hot - softmax, times each token's gradient."""
        hidden, weight, targets, log_sums = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=log_sums.dtype)
        for rows, trained, index in _chunks(weight, targets):
            of_token = torch.where(trained, grad_outputs[0][rows], 0.0)[:, None]
            logits = _real_logits(hidden[rows], weight, ctx.vocab_size, log_sums.dtype)  # N V
            grad = logits.sub_(log_sums[rows, None]).exp_().mul_(-of_token)
            grad = grad.scatter_add_(1, index, of_token).to(hidden.dtype)
            grad_hidden[rows] = grad @ weight
            grad_weight += grad.T @ hidden[rows]
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def _chunks(weight: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Give the tokens whose logits are made together: which, whether trained, and index of the target."""
    n_rows = rows_per_chunk(weight)
    for start in range(0, len(targets), n_rows):
        rows = slice(start, start + n_rows)
        trained = targets[rows] != IGNORE
        yield rows, trained, torch.where(trained, targets[rows], 0)[:, None]


def _real_logits(hidden: Tensor, weight: Tensor, vocab_size: int, dtype: torch.dtype) -> Tensor:
    logits = (hidden @ weight.T).to(dtype)
    logits[:, vocab_size:] = -torch.inf  # padding rows are never predicted
    return logits


def chunked_log_probs(
    hidden: Float[Tensor, "batch time d_model"],
    weight: Float[Tensor, "rows d_model"],
    targets: Int[Tensor, "batch time"],
    vocab_size: int,
) -> Float[Tensor, "batch time"]:
    """Give each target's log-probability in nats, with gradients, without ever holding all logits.

    For losses that are no plain sum of these: ratios of policies, preferences between answers. It takes
    half as long again as `chunked_cross_entropy`, because the logits are made twice.

    Args:
        hidden: What the head reads.
        weight: The head's weights; rows from `vocab_size` on are padding.
        targets: The ids asked about; `IGNORE` for 0 and no gradient.
        vocab_size: Number of real ids.

    Returns:
        In float32 at least.
    """
    hidden, weight = _as_autocast(hidden, weight)
    log_probs: Tensor = _ChunkedLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, 1), weight, targets.flatten(), vocab_size
    )
    return log_probs.view(targets.shape)


def token_losses(
    hidden: Float[Tensor, "batch time d_model"],
    weight: Float[Tensor, "rows d_model"],
    targets: Int[Tensor, "batch time"],
    vocab_size: int,
) -> Float[Tensor, "batch time"]:
    """Give each token's cross-entropy in nats, 0 where the target is `IGNORE`; no gradient."""
    flat, flat_targets = hidden.flatten(0, 1), targets.flatten()
    losses = torch.zeros(len(flat), dtype=torch.float32, device=hidden.device)
    n_rows = rows_per_chunk(weight)
    with torch.no_grad():
        for start in range(0, len(flat), n_rows):
            rows = slice(start, start + n_rows)
            logits = (flat[rows] @ weight.T.to(flat.dtype)).float()[:, :vocab_size]
            losses[rows] = torch.nn.functional.cross_entropy(
                logits, flat_targets[rows], ignore_index=IGNORE, reduction="none"
            )
    return losses.view(targets.shape)
