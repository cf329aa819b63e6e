"""Blocks compiled by torch.compile, on a CPU: the same numbers, one graph for all, and no second compilation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from llmpipe.core.distributed import Runtime
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.training.config import Muon
from llmpipe.training.evaluate import evaluate
from llmpipe.training.float8 import use_float8
from llmpipe.training.optim import build_optimizer
from llmpipe.training.step import Batch, SpikeGuard, train_step

pytestmark = [
    pytest.mark.slow,  # a compilation takes ten seconds
    pytest.mark.filterwarnings("ignore"),  # the compiler's own, which it hides from its users
]
ALONE = Runtime(Ranks(), torch.device("cpu"))
# More blocks than torch compiles a function for anew (8), after which it would go on uncompiled.
CONFIG = ModelConfig("qwen3", 32, 10, 2, 1, 16, 64, 61, 32)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches(step: int, with_documents: bool) -> list[Batch]:
    """Two micro-batches, whose documents end elsewhere at every step."""
    made = []
    for i in range(2):
        draw = torch.Generator().manual_seed(2 * step + i)
        ids = torch.randint(61, (2, 33), generator=draw)
        segments = (torch.arange(32) > 5 + step).long().expand(2, 32) if with_documents else None
        made.append(Batch(ids[:, :-1], ids[:, 1:], segments))
    return made


def run(is_compiled: bool, kind: str) -> list[float]:
    """Train four steps; from the second on nothing may be compiled again. Then evaluate."""
    import torch._dynamo

    model = Transformer(CONFIG)
    initialize(model, torch.Generator().manual_seed(1))
    model.is_recomputed = kind == "recompute"
    dtype = torch.bfloat16 if kind == "float8" else torch.float32
    if kind == "float8":
        use_float8(model)
    if is_compiled:
        for block in model.blocks:
            block.compile()
    optimizer, guard = build_optimizer(model, Muon()), SpikeGuard()
    losses = []
    for step in range(4):
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            of_step = batches(step, kind == "documents")
            result = train_step(model, optimizer, of_step, 1.0, guard, ALONE, dtype)
        losses.append(result.loss)
    val_loss, _ = evaluate(model, batches(9, kind == "documents"), torch.ones(61), ALONE, dtype)
    return [*losses, val_loss]


@pytest.mark.parametrize("kind", ["documents", "recompute", "float8"])
def test_compiled_blocks_learn_the_same_and_compile_once(kind: str) -> None:
    from torch._dynamo.utils import counters

    expected = run(False, kind)
    counters.clear()
    compiled = run(True, kind)
    # In fewer bits, a kernel that keeps more of them between two operations rounds less often.
    tolerance = 2e-3 if kind == "float8" else 1e-5
    assert compiled == pytest.approx(expected, rel=tolerance)
    assert not counters["graph_break"]
    # One graph for ten blocks in training, and one without gradients for evaluation.
    assert counters["stats"]["unique_graphs"] == 2
