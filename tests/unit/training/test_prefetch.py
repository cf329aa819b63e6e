from __future__ import annotations

import threading

import pytest
import torch

from llmpipe.training.prefetch import prefetch
from llmpipe.training.step import Batch


def batch(step: int) -> Batch:
    return Batch(torch.full((1, 2), step), torch.full((1, 2), step))


def test_gives_each_step_once_and_in_order() -> None:
    steps = [int(batches[0].ids[0, 0]) for batches in prefetch(lambda i: [batch(i)], 3, 7)]
    assert steps == [3, 4, 5, 6]


def test_cuts_the_next_step_while_this_one_computes() -> None:
    cut = [threading.Event() for _ in range(3)]

    def make(step: int) -> list[Batch]:
        cut[step].set()
        return [batch(step)]

    coming = prefetch(make, 0, 3)
    next(coming)
    assert cut[1].wait(timeout=5)  # nobody has asked for it yet
    assert not cut[2].is_set()  # one step ahead, and no more
    coming.close()


def test_error_of_the_thread_reaches_the_loop() -> None:
    def make(step: int) -> list[Batch]:
        raise ValueError("the shard is gone")

    with pytest.raises(ValueError, match="the shard is gone"):
        next(prefetch(make, 0, 2))
