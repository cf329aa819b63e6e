from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmpipe.model.config import PRESETS
from llmpipe.model.transformer import Transformer
from llmpipe.training.throughput import (
    Speedometer,
    flops_per_token,
    peak_flops,
    peak_memory_bytes,
    training_bytes,
)


def test_flops_of_gpt2_are_the_known_ones() -> None:
    # 6 * (12 layers * 12 * 768^2 + 50257 * 768) + 12 * 12 * 768 * 1024: the 0.85 GFLOP of nanoGPT's
    # `estimate_mfu` for 124M parameters
    assert flops_per_token(PRESETS["gpt2"], 1024) == 6 * (84_934_656 + 38_597_376) + 113_246_208


def test_training_memory_holds_weights_gradients_and_two_moments() -> None:
    small, large = (training_bytes(PRESETS["gpt2"], n) for n in (0, 1024))
    assert small == 16 * 124_439_808
    assert large > small


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "llama-1b", "qwen3-0.6b"])
def test_kept_activations_are_about_what_autograd_keeps(name: str, dtype: str) -> None:
    ids = torch.zeros(4, 64, dtype=torch.long)
    kept = []
    for n_layers in (1, 2):
        config = replace(PRESETS[name], n_layers=n_layers, vocab_size=64)
        model = Transformer(config)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        storages: dict[int, torch.Tensor] = {}  # held, so that no address comes twice

        def keep(
            tensor: torch.Tensor,
            weights: set[int] = weights,
            storages: dict[int, torch.Tensor] = storages,
        ) -> torch.Tensor:
            address = tensor.untyped_storage().data_ptr()
            is_cast_weight = tensor.ndim == 2 and len(tensor) != ids.numel()
            if address not in weights and not is_cast_weight:
                storages[address] = tensor
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
        ):
            model.hidden(ids)
        kept.append(sum(tensor.untyped_storage().nbytes() for tensor in storages.values()))
    one = replace(PRESETS[name], n_layers=1)
    no_tokens, some = (training_bytes(one, n, dtype=dtype) for n in (0, ids.numel()))
    assert some - no_tokens == pytest.approx(kept[1] - kept[0], rel=0.25)


def test_speed_is_over_steps_alone_and_not_over_the_one_that_compiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 40.0, 50.0, 52.0, 60.0, 61.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    speed = Speedometer(flops_per_token=1e6, peak_flops=1e9)
    assert speed.tokens_per_s == 0.0
    seen = []
    for seconds in (30.0, 2.0, 1.0):
        speed.start()
        assert speed.stop(300) == seconds
        seen.append(speed.tokens_per_s)
    assert seen == [10.0, 150.0, 200.0]  # 300 / 30; then 300 / 2, and 600 / 3


def test_mfu_is_the_models_flops_over_the_peak_of_all_devices() -> None:
    speed = Speedometer(flops_per_token=1e6, peak_flops=1e9)
    assert speed.mfu(150.0, n_devices=3) == pytest.approx(0.05)  # 150e6 of 3e9


def test_cpu_has_no_known_peak_but_a_memory() -> None:
    assert peak_flops(torch.device("cpu")) is None
    assert Speedometer(1e6, None).mfu(100.0, 1) is None
    assert peak_memory_bytes(torch.device("cpu")) > 10_000_000
