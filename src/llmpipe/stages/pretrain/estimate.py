"""What a run will take, in words: memory, time, cost, and what follows from settings that were left open."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from llmpipe.core.console import format_bytes, format_duration
from llmpipe.model.config import ModelConfig
from llmpipe.stages.pretrain.config import EstimateConfig, PretrainConfig
from llmpipe.training import throughput
from llmpipe.training.config import Muon


def derived(asked: PretrainConfig, filled: PretrainConfig, shape: ModelConfig) -> str:
    """List what was left open and has been worked out, by the keys that set it otherwise."""
    values: dict[str, Any] = {
        f"model.{field.name}": getattr(shape, field.name)
        for field in fields(asked.model)
        if field.name != "preset" and getattr(asked.model, field.name) is None
    }
    for name in ("row_tokens", "max_tokens", "global_batch_tokens", "lr_scale"):
        if getattr(asked, name) is None and getattr(filled, name) is not None:
            values[name] = getattr(filled, name)
    if filled.optim != asked.optim and isinstance(filled.optim, Muon):
        values["optim.width_lr_scale"] = filled.optim.width_lr_scale
    return ", ".join(f"{key} = {_word(value)}" for key, value in values.items())


def memory(config: PretrainConfig, model: ModelConfig, row_tokens: int) -> str:
    """Estimate the memory of one process, and say what there is here without looking at GPUs."""
    micro_tokens = config.micro_batch_size * row_tokens
    needed = throughput.training_bytes(model, micro_tokens, config.recompute, config.dtype)
    here = f"; this machine has {format_bytes(throughput.machine_bytes())}, GPUs aside"
    if config.parallel == "replicate":
        return f"about {format_bytes(needed)} per process{here}"
    state, n = throughput.state_bytes(model), config.estimate.n_gpus
    return f"about {format_bytes(needed - state + state / n)} per process, with {n} of them{here}"


def time(flops: float, estimate: EstimateConfig) -> str:
    """Estimate the time on this project's smallest machine, on one GPU, and on all."""
    on_cores = flops / (2 * throughput.CPU_FLOPS_PER_S)
    on_one = flops / _flops_per_s(estimate)
    text = f"about {format_duration(on_cores)} on 2 CPU cores, {format_duration(on_one)} on one "
    text += f"{estimate.gpu} at {throughput.GPU_MFU:.0%} of its peak"
    if estimate.n_gpus > 1:
        text += f", {format_duration(on_one / estimate.n_gpus)} on {estimate.n_gpus}"
    return text


def cost(flops: float, estimate: EstimateConfig) -> str:
    """Estimate the cost, which is the same on one GPU and on many."""
    hours = flops / _flops_per_s(estimate) / 3600
    return (
        f"about ${hours * estimate.usd_per_gpu_hour:,.2f}: {hours:,.3g} {estimate.gpu}-hours "
        f"at ${estimate.usd_per_gpu_hour:.2f}"
    )


def _flops_per_s(estimate: EstimateConfig) -> float:
    return throughput.PEAK_FLOPS[estimate.gpu] * throughput.GPU_MFU


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
