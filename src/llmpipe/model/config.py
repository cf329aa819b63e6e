"""The shape of a model, and the numbers that follow from it. Loads without torch.

One class describes three families, because they differ in few choices:

    family   norm       positions   feed-forward   biases   extra
    gpt2     LayerNorm  learned     GELU (tanh)    yes      tied embeddings, as many KV heads as heads
    llama    RMSNorm    rotary      SwiGLU         no       rope scaling (Llama 3.1 and later)
    qwen3    RMSNorm    rotary      SwiGLU         no       RMSNorm on every query and key

The default is `qwen3`: of the architectures that transformers, vLLM, llama.cpp and mlx-lm all
read, it is the most modern one, and QK-norm keeps training stable at high learning rates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from llmpipe.core.config import schema
from llmpipe.core.errors import UserError

Family = Literal["gpt2", "llama", "qwen3"]


@schema
class RopeScaling:
    """How Llama 3.1 and later stretch the rotary wavelengths to longer texts.

    Source: `rope_scaling` of meta-llama/Llama-3.1-8B, config.json.
    """

    factor: Annotated[float, Ge(1)] = 8.0
    """Long wavelengths are multiplied by this."""
    low_freq_factor: Annotated[float, Gt(0)] = 1.0
    """Wavelengths above `original_max_seq_len` divided by this are stretched fully."""
    high_freq_factor: Annotated[float, Gt(0)] = 4.0
    """Wavelengths below `original_max_seq_len` divided by this are left alone."""
    original_max_seq_len: Annotated[int, Gt(0)] = 8192
    """Longest text, in tokens, that the model was first trained on."""


@schema
class ModelConfig:
    """Everything that decides the shape of a `Transformer`; the defaults are GPT-2's 124M size."""

    family: Family = "qwen3"
    """Which parts the model is built of; see the table in `llmpipe/model/config.py`."""
    d_model: Annotated[int, Gt(0)] = 768
    """Width of the residual stream."""
    n_layers: Annotated[int, Gt(0)] = 12
    """Number of blocks."""
    n_heads: Annotated[int, Gt(0)] = 12
    """Query heads per block."""
    n_kv_heads: Annotated[int, Gt(0)] = 12
    """Key and value heads per block; fewer than `n_heads` is grouped-query attention."""
    head_dim: Annotated[int, Gt(0)] = 64
    """Width of one head; need not be `d_model / n_heads`."""
    d_ff: Annotated[int, Gt(0)] = 2048
    """Width inside the feed-forward part."""
    vocab_size: Annotated[int, Gt(0)] = 50304
    """Number of token ids."""
    max_seq_len: Annotated[int, Gt(0)] = 1024
    """Longest sequence, in tokens, the model is meant for."""
    rope_theta: Annotated[float, Gt(0)] = 10_000.0
    """Base of the rotary wavelengths (llama, qwen3)."""
    rope_scaling: RopeScaling | None = None
    """Stretched wavelengths (llama, qwen3); None leaves them alone."""
    norm_eps: Annotated[float, Gt(0)] = 1e-6
    """Added inside the square root of every norm."""
    tied_embeddings: bool = False
    """Use the embedding matrix as the head too."""
    pad_vocab_to: Annotated[int, Gt(0)] = 1
    """Round the rows of embedding and head up to a multiple of this (64 or 128 is faster on GPUs).
    The extra rows are never trained on, never predicted, and never written to a file."""

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"n_heads ({self.n_heads}) must be divisible by n_kv_heads ({self.n_kv_heads})"
            )
        if self.family == "gpt2":
            self._check_gpt2()
        elif self.head_dim % 2:
            raise UserError(f"head_dim ({self.head_dim}) must be even for rotary positions")

    def _check_gpt2(self) -> None:
        if self.n_kv_heads != self.n_heads:
            raise UserError(
                f"gpt2 has as many KV heads as heads: n_heads is {self.n_heads}, "
                f"n_kv_heads is {self.n_kv_heads}"
            )
        if self.n_heads * self.head_dim != self.d_model:
            raise UserError(
                f"gpt2 needs n_heads * head_dim ({self.n_heads} * {self.head_dim}) "
                f"to be d_model ({self.d_model})"
            )
        if not self.tied_embeddings:
            raise UserError("gpt2 needs tied_embeddings = true")
        if self.rope_scaling is not None:
            raise UserError("gpt2 has learned positions: rope_scaling has no effect")

    @property
    def has_bias(self) -> bool:
        """Whether the linear layers have biases."""
        return self.family == "gpt2"

    @property
    def has_qk_norm(self) -> bool:
        """Whether queries and keys are normalized per head."""
        return self.family == "qwen3"

    @property
    def n_embedding_rows(self) -> int:
        """Rows of the embedding and the head in memory: `vocab_size`, padded."""
        return -(-self.vocab_size // self.pad_vocab_to) * self.pad_vocab_to


def n_matmul_parameters(config: ModelConfig) -> int:
    """Count the weights that every token is multiplied with: the blocks' matrices and the head."""
    attention = config.d_model * config.head_dim * (2 * config.n_heads + 2 * config.n_kv_heads)
    n_feed_forward = 2 if config.family == "gpt2" else 3
    feed_forward = n_feed_forward * config.d_model * config.d_ff
    return config.n_layers * (attention + feed_forward) + config.vocab_size * config.d_model


def n_parameters(config: ModelConfig) -> int:
    """Count all weights, by formula (no model is built); padding rows are not counted."""
    d = config.d_model
    total = n_matmul_parameters(config)
    if not config.tied_embeddings:
        total += config.vocab_size * d
    if config.family == "gpt2":
        # Norms have weight and bias; linear layers q, k, v, o, up, down have biases.
        per_block = 4 * d + 4 * d + config.d_ff + d
        return total + config.n_layers * per_block + 2 * d + config.max_seq_len * d
    per_block = 2 * d + (2 * config.head_dim if config.has_qk_norm else 0)
    return total + config.n_layers * per_block + d


def default_d_ff(family: Family, d_model: int) -> int:
    """Give the usual feed-forward width: 4 d for GELU, 8/3 d for SwiGLU (the same weights).

    SwiGLU's width is rounded up to a multiple of 64, for the matrix units.
    Source: Shazeer 2020, arXiv:2002.05202, section 3.
    """
    if family == "gpt2":
        return 4 * d_model
    return -(-(8 * d_model) // (3 * 64)) * 64


def _gpt2(d_model: int, n_layers: int, n_heads: int) -> ModelConfig:
    """Build a GPT-2 shape. Source: Radford et al. 2019, table 2, and the released config.json's."""
    return ModelConfig(
        family="gpt2",
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=64,
        d_ff=4 * d_model,
        vocab_size=50257,
        max_seq_len=1024,
        norm_eps=1e-5,
        tied_embeddings=True,
    )


# Shapes of published models, from their config.json on the Hugging Face hub.
PRESETS: dict[str, ModelConfig] = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "llama-1b": ModelConfig(  # meta-llama/Llama-3.2-1B
        family="llama",
        d_model=2048,
        n_layers=16,
        n_heads=32,
        n_kv_heads=8,
        head_dim=64,
        d_ff=8192,
        vocab_size=128256,
        max_seq_len=131072,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=32.0),
        norm_eps=1e-5,
        tied_embeddings=True,
    ),
    "llama-8b": ModelConfig(  # meta-llama/Llama-3.1-8B
        family="llama",
        d_model=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        d_ff=14336,
        vocab_size=128256,
        max_seq_len=131072,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=8.0),
        norm_eps=1e-5,
    ),
    "llama-405b": ModelConfig(  # meta-llama/Llama-3.1-405B
        family="llama",
        d_model=16384,
        n_layers=126,
        n_heads=128,
        n_kv_heads=8,
        head_dim=128,
        d_ff=53248,
        vocab_size=128256,
        max_seq_len=131072,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=8.0),
        norm_eps=1e-5,
    ),
    "qwen3-0.6b": ModelConfig(  # Qwen/Qwen3-0.6B
        family="qwen3",
        d_model=1024,
        n_layers=28,
        n_heads=16,
        n_kv_heads=8,
        head_dim=128,
        d_ff=3072,
        vocab_size=151936,
        max_seq_len=40960,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        tied_embeddings=True,
    ),
}
