"""How fast training is, how near to what the device can do, and what to expect before it starts.

Loads without torch, because `--dry-run` estimates with it.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmpipe.model.config import ModelConfig, n_matmul_parameters, n_parameters

if TYPE_CHECKING:
    import torch

# Dense bfloat16 FLOP/s without sparsity, by a part of the name that torch gives the device.
# Source: NVIDIA's datasheets of each product (SXM versions where there are several).
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "T4": 65e12,
}

CPU_FLOPS_PER_S = 45e9
"""Training FLOP/s of one core, for time estimates only: models of 2M to 5M parameters ran at 40e9
to 50e9 on each of two shared AMD EPYC cores with AVX-512."""
GPU_MFU = 0.4
"""Share of a GPU's peak, for time estimates only: between the 37% and 50% that modded-nanogpt's
plain model and nanochat reach on H100s."""


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Count the multiplications and additions of forward and backward pass, per token.

    6 for each weight that is multiplied with (2 forward, 4 backward), and 12 for each key in each
    head dimension and layer. The causal half that is not computed is counted, as everyone does.
    Source: Chowdhery et al. 2022 (PaLM), appendix B.
    """
    attention = 12 * config.n_layers * config.n_heads * config.head_dim * seq_len
    return 6.0 * n_matmul_parameters(config) + attention


def peak_flops(device: torch.device) -> float | None:
    """Give the device's bfloat16 peak in FLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


def state_bytes(config: ModelConfig) -> int:
    """Count weights, gradients and two moments, in float32; Muon has one only."""
    return 16 * n_parameters(config)


def checkpoint_bytes(config: ModelConfig) -> int:
    """Count a checkpoint: weights and two moments, in float32."""
    return 12 * n_parameters(config)


KEPT_NUMBERS = {"gpt2": (8, 2), "llama": (10.5, 3), "qwen3": (13, 3)}
"""What a block keeps per token for its backward pass, in widths `d_model` and `d_ff`: counted on a CPU
(tests/unit/training/test_throughput.py). Compiled blocks keep less."""

KEPT_BYTES = {"float32": 4.0}
"""Of one such number; in any other `dtype` some are float32 and most are not, which makes 2.5."""


def training_bytes(
    config: ModelConfig, micro_batch_tokens: int, is_recomputed: bool = False, dtype: str = "auto"
) -> int:
    """Estimate the memory of training: weights, gradients, two moments, and kept activations.

    Recomputed, a block keeps its input, and one block at a time has the rest.
    """
    of_width, of_feed_forward = KEPT_NUMBERS[config.family]
    in_block = of_width * config.d_model + of_feed_forward * config.d_ff
    per_token = config.n_layers * in_block
    if is_recomputed:
        per_token = config.n_layers * config.d_model + in_block
    n_bytes = KEPT_BYTES.get(dtype, 2.5) * per_token * micro_batch_tokens
    return state_bytes(config) + round(n_bytes)


def memory_bytes(device: torch.device) -> int:
    """Give how much memory the device has, or this machine for a CPU."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_bytes()


def machine_bytes() -> int:
    """Give how much memory this machine has, GPUs aside."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory_bytes(device: torch.device) -> int:
    """Give the most memory held so far: the device's, or this process's on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Speedometer:
    """Tokens per second, over the training steps alone: not over evaluation, samples and saves.

    The first step is left out once there are others: in it blocks are compiled, which takes a minute.
    """

    flops_per_token: float
    peak_flops: float | None
    n_steps: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    _started: float = field(default=0.0, repr=False)

    def start(self) -> None:
        """Begin a step."""
        self._started = time.monotonic()

    def stop(self, n_tokens: int) -> float:
        """End a step; return its seconds."""
        seconds = time.monotonic() - self._started
        if self.n_steps == 1:
            self.n_tokens, self.seconds = 0, 0.0
        self.n_steps += 1
        self.n_tokens += n_tokens
        self.seconds += seconds
        return seconds

    @property
    def tokens_per_s(self) -> float:
        """Mean speed since the start, over all processes."""
        return self.n_tokens / self.seconds if self.seconds else 0.0

    def mfu(self, tokens_per_s: float, n_devices: int) -> float | None:
        """Give the share of the devices' peak that the model's own FLOPs make up at a speed, 0..1."""
        if self.peak_flops is None:
            return None
        return tokens_per_s * self.flops_per_token / (self.peak_flops * n_devices)
