"""One dial, `depth`: what follows from it, each by a rule with its source.

    width and heads   64 per block, heads of 64
    tokens            12 for each weight that tokens are multiplied with
    batch             524,288 tokens for the run of depth 12, growing as (tokens of the run)^0.383,
                      to a power of two; never so large that the run has under 400 steps
    learning rates    as the square root of the batch, but never less than half the rates that are
                      right for 524,288 tokens
    of embedding      beside Muon, also as one over the root of the width, from 768 on; not more
    and head          below

The bounds are for small runs. Square roots would cut the rates of a small batch to a twentieth: side
by side on a CPU, uncut rates are better by 0.2 nats (docs/results/pretrain.md). And they would raise
those of narrow models above what they were tuned for, where nobody has looked.

Source: karpathy/nanochat 92d63d4, scripts/base_train.py (lines 260 to 304; the exponent is from
Bergsma et al. 2025, arXiv:2505.13738) and nanochat/gpt.py (line 433: the width). The bounds are ours.
Not taken over: heads of 128, and a weight decay that depends on batch and tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace

from llmpipe.core.errors import UserError
from llmpipe.model.config import ModelConfig, n_matmul_parameters
from llmpipe.stages.pretrain.config import ModelSettings, PretrainConfig
from llmpipe.training.config import Muon, OptimConfig

TOKENS_PER_PARAMETER = 12
REFERENCE_DEPTH = 12
REFERENCE_BATCH = 2**19
BATCH_EXPONENT = 0.383
MIN_STEPS = 400
MIN_LR_SCALE = 0.5
REFERENCE_WIDTH = 768
PLAIN_BATCH = 65_536
"""Tokens per update without `depth`."""


def fill_in(
    config: PretrainConfig, vocab_size: int, start: ModelConfig | None = None
) -> tuple[PretrainConfig, ModelConfig]:
    """Work out every setting that was left open, and the model's shape.

    Args:
        config: As given.
        vocab_size: Number of token ids.
        start: Shape of the model or checkpoint that training goes on from, if it does.

    Raises:
        UserError: if settings contradict each other.
    """
    says_shape = config.depth is not None or config.model != ModelSettings()
    if config.start == "model" and start is not None and says_shape:
        raise UserError(
            '`start = "model"` takes the shape of that model, and `depth` or `model` ask for another',
            hint="leave them out; `pretrain.row_tokens` sets the length of the rows",
        )
    # With a checkpoint the settings of its run are said again; `extend` compares what they give.
    resolve = config.model.resolve
    shape = start if start and not says_shape else resolve(vocab_size, config.depth)
    row_tokens = config.row_tokens or shape.max_seq_len
    if row_tokens > shape.max_seq_len:
        raise UserError(
            f"row_tokens is {row_tokens}, and the model holds {shape.max_seq_len} tokens at most"
        )
    config = replace(config, row_tokens=row_tokens)
    if config.depth is None:
        batch, scale = config.global_batch_tokens or PLAIN_BATCH, config.lr_scale or 1.0
        return replace(config, global_batch_tokens=batch, lr_scale=scale), shape
    n_tokens = config.max_tokens or TOKENS_PER_PARAMETER * n_matmul_parameters(shape)
    micro_tokens = row_tokens * config.micro_batch_size
    batch = config.global_batch_tokens or derive_batch(n_tokens, vocab_size, micro_tokens)
    scale = config.lr_scale or max(MIN_LR_SCALE, math.sqrt(batch / REFERENCE_BATCH))
    filled = replace(
        config,
        max_tokens=n_tokens,
        global_batch_tokens=batch,
        lr_scale=scale,
        optim=scale_by_width(config.optim, shape.d_model),
    )
    return filled, shape


def scale_by_width(optim: OptimConfig, d_model: int) -> OptimConfig:
    """Lower the rates of embedding and head in wide models, where that was left open."""
    if not isinstance(optim, Muon) or optim.width_lr_scale is not None:
        return optim
    return replace(optim, width_lr_scale=min(1.0, (d_model / REFERENCE_WIDTH) ** -0.5))


def derive_batch(n_tokens: int, vocab_size: int, micro_tokens: int) -> int:
    """Give the tokens per update: micro-batches times a power of two, so that processes can share."""
    reference = ModelSettings().resolve(vocab_size, REFERENCE_DEPTH)
    ratio = n_tokens / (TOKENS_PER_PARAMETER * n_matmul_parameters(reference))
    wanted = min(REFERENCE_BATCH * ratio**BATCH_EXPONENT, n_tokens / MIN_STEPS)
    # Round to the nearest power of two, but not up where that would make too few steps.
    n_micro = max(1.0, wanted / micro_tokens)
    power = round(math.log2(n_micro))
    while power > 0 and micro_tokens * 2**power > n_tokens / MIN_STEPS:
        power -= 1
    return micro_tokens * int(2**power)
