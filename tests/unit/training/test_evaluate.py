from __future__ import annotations

import math

import pytest
import torch

from llmpipe.core.distributed import Runtime
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.training.evaluate import evaluate
from llmpipe.training.loss import IGNORE
from llmpipe.training.sample import sample_ids
from llmpipe.training.step import Batch

ALONE = Runtime(Ranks(), torch.device("cpu"))
CONFIG = ModelConfig("qwen3", 32, 1, 2, 2, 16, 48, 64, 16)


def make_model(head_scale: float) -> Transformer:
    model = Transformer(CONFIG)
    initialize(model, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.head.weight *= head_scale
    return model


def test_even_model_needs_its_log2_per_token() -> None:
    model = make_model(head_scale=0.0)  # 64 equally likely ids: 6 bits each
    ids = torch.randint(1, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[0, :2] = IGNORE
    targets[1, 3] = 0  # a special token: no bytes, so it counts for loss and not for bits per byte
    bytes_of_id = torch.full((64,), 3)
    bytes_of_id[0] = 0
    loss, bits_per_byte = evaluate(model, [Batch(ids[:, :-1], targets)], bytes_of_id, ALONE)
    assert loss == pytest.approx(math.log(64))
    assert bits_per_byte == pytest.approx(6 / 3)


def test_nothing_to_measure_is_not_a_number() -> None:
    _, bits_per_byte = evaluate(make_model(1.0), [], torch.zeros(64, dtype=torch.long), ALONE)
    assert math.isnan(bits_per_byte)


def test_samples_follow_from_the_seed_and_stop_where_told() -> None:
    model = make_model(head_scale=100.0)
    one, same, other = (sample_ids(model, [1, 2], 10, 1.0, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 10
    assert len(sample_ids(model, [1, 2], 99, 1.0, 1)) == 14  # the model's limit of 16
    assert sample_ids(model, [1, 2], 10, 1.0, 1, stop_id=one[4]) == one[: one.index(one[4])]
    greedy = sample_ids(model, [1, 2], 3, 0.0, 1)
    with torch.no_grad():
        assert greedy[0] == int(model(torch.tensor([[1, 2]]))[0, -1].argmax())
