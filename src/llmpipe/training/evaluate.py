"""Validation: bits per byte, which unlike loss per token compares models across tokenizers."""

# B batch  T time

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from llmpipe.core.distributed import Runtime
from llmpipe.model.transformer import Transformer
from llmpipe.training.loss import IGNORE, token_losses
from llmpipe.training.step import Batch, hidden_of


@torch.no_grad()
def evaluate(
    model: Transformer,
    batches: Sequence[Batch],
    bytes_of_id: Int[Tensor, " vocab_size"],
    runtime: Runtime,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, float]:
    """Measure `model` on this process's batches and everyone else's.

    Args:
        model: On the device.
        batches: This process's share.
        bytes_of_id: Bytes each token stands for; 0 for special tokens, whose loss does not count
            towards bits per byte.
        runtime: Device and processes.
        dtype: Matrix products are computed in this type.

    Returns:
        Mean loss per token in nats, and bits per byte.
    """
    sums = [0.0, 0.0, 0.0, 0.0]  # all nats, tokens, nats of text, bytes of text
    bytes_of_id = bytes_of_id.to(runtime.device)
    for batch in batches:
        batch = batch.to(runtime.device)
        with runtime.autocast(dtype):
            hidden = hidden_of(model, batch)
        size = model.config.vocab_size
        nats = token_losses(hidden, model.head.weight, batch.targets, size).double()  # B T
        trained = batch.targets != IGNORE
        n_bytes = torch.where(trained, bytes_of_id[batch.targets.clamp(min=0)], 0)
        sums[0] += float(nats.sum())
        sums[1] += float(trained.sum())
        sums[2] += float(nats[n_bytes > 0].sum())
        sums[3] += float(n_bytes.sum())
    all_nats, n_tokens, text_nats, n_text_bytes = runtime.sum(sums)
    bits_per_byte = text_nats / math.log(2) / n_text_bytes if n_text_bytes else math.nan
    return all_nats / max(1.0, n_tokens), bits_per_byte
