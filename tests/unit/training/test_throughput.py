from __future__ import annotations

import pytest
import torch

from llmpipe.model.config import PRESETS
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


def test_speed_is_over_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 50.0, 52.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    speed = Speedometer(flops_per_token=1e6, peak_flops=1e9)
    assert speed.tokens_per_s == 0.0
    for _ in range(2):
        speed.start()
        assert speed.stop(300) == 2.0
    assert speed.tokens_per_s == 150.0
    assert speed.mfu(n_devices=3) == pytest.approx(0.05)


def test_cpu_has_no_known_peak_but_a_memory() -> None:
    assert peak_flops(torch.device("cpu")) is None
    assert Speedometer(1e6, None).mfu(1) is None
    assert peak_memory_bytes(torch.device("cpu")) > 10_000_000
