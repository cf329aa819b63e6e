from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmpipe.core.console import Console
from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import Stopped
from llmpipe.core.ranks import Ranks
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.evaluations.base import Evaluation, EvaluationContext
from llmpipe.training.evaluations.build import Scheduled
from llmpipe.training.evaluations.hook import EvaluationHook, check_numbers


@pytest.fixture
def make_hook(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> Callable[..., EvaluationHook]:
    """Build the hook of a run of 10 steps; what is said can be read in `hook.console`."""

    def make(**evaluations: Evaluation) -> EvaluationHook:
        return EvaluationHook(
            [Scheduled(name, 4, False, call) for name, call in evaluations.items()],
            model,
            tokenizer,
            Runtime(Ranks(), torch.device("cpu")),
            torch.float32,
            n_steps=10,
            row_tokens=32,
            batch_tokens=64,
            is_compiled=False,
            console=Console(stderr=io.StringIO()),
            error_file=tmp_path / "logs" / "errors.txt",
        )

    return make


def said(hook: EvaluationHook) -> str:
    stream: Any = hook.console._stderr
    return str(stream.getvalue())


def test_numbers_have_the_evaluations_name_and_the_last_ones_are_kept(
    make_hook: Callable[..., EvaluationHook],
) -> None:
    hook = make_hook(
        a=lambda context: {"x": torch.tensor(context.step / 2), "n": np.int64(3)},
        b=lambda context: {"x": 1},
    )
    assert hook.run(3) == {}
    numbers = hook.run(4)
    assert numbers.pop("a/seconds") >= 0 and numbers.pop("b/seconds") >= 0
    assert numbers == {"a/x": 2.0, "a/n": 3.0, "b/x": 1.0}
    hook.run(10)
    assert hook.stats() == {"a/x": 5.0, "a/n": 3.0, "b/x": 1.0, "failed_evaluations": 0}
    assert "step 4: a: x 2, n 3\n" in said(hook)
    assert make_hook().stats() == {}


def test_last_numbers_outlive_a_stop_and_those_of_other_evaluations_do_not(
    make_hook: Callable[..., EvaluationHook],
) -> None:
    hook = make_hook(a=lambda context: {"x": 1}, b=lambda context: {"x": 2})
    hook.run(4)
    hook.n_failed = 3
    resumed = make_hook(a=lambda context: {})
    resumed.load_state(hook.state())
    assert resumed.stats() == {"a/x": 1.0, "failed_evaluations": 3}


def test_no_trace_is_left(make_hook: Callable[..., EvaluationHook], model: Transformer) -> None:
    def messy(context: EvaluationContext) -> dict[str, float]:
        assert not context.model.training
        assert not torch.is_grad_enabled()
        random.random(), np.random.rand(), torch.rand(1)
        with torch.enable_grad():
            context.model(torch.tensor([[1, 2]])).sum().backward()
        raise RuntimeError("and then it fails")

    model.train()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_hook(messy=messy).run(4)
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected
    assert model.training and torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_error_is_warned_of_written_down_and_counted_and_the_others_go_on(
    make_hook: Callable[..., EvaluationHook],
) -> None:
    def fails(context: EvaluationContext) -> dict[str, float]:
        raise ValueError("no luck")

    hook = make_hook(fails=fails, works=lambda context: {"x": 1})
    assert hook.run(4).keys() == {"works/x", "works/seconds"}
    assert hook.run(8).keys() == {"works/x", "works/seconds"}
    assert hook.stats() == {"works/x": 1.0, "failed_evaluations": 2}
    assert (
        "warning: step 4: evaluation `fails` left out: ValueError: no luck "
        "(see logs/errors.txt)\n" in said(hook)
    )
    text = hook.error_file.read_text()
    assert text.count('raise ValueError("no luck")') == 2
    assert "step 8, evaluation fails, process 0\n" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped("stopped"), SystemExit])
def test_wish_to_stop_goes_through(
    make_hook: Callable[..., EvaluationHook], error: BaseException | type[BaseException]
) -> None:
    def stops(context: EvaluationContext) -> dict[str, float]:
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        make_hook(stops=stops).run(4)


@pytest.mark.parametrize(
    "found, message",
    [
        (None, "returns numbers by name, got NoneType"),
        (0.5, "returns numbers by name, got float"),
        ({"x": "high"}, "returns numbers, `x` is 'high'"),
        ({"x": torch.ones(2)}, "returns numbers, `x` is tensor"),
    ],
)
def test_what_is_no_number_is_refused(found: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_numbers(found)


def test_shares_are_equally_long_and_count_each_item_once() -> None:
    for n_items in (1, 5, 6, 7):
        counted: list[int] = []
        lengths = set()
        for rank in range(3):
            runtime = Runtime(Ranks(rank, 3), torch.device("cpu"))
            nothing: Any = None
            context = EvaluationContext(nothing, nothing, runtime, torch.float32, 0, 8, 8)
            share = context.share(list(range(n_items)))
            lengths.add(len(share))
            counted += [item for item, counts in share if counts]
        assert sorted(counted) == list(range(n_items))
        assert lengths == {-(-n_items // 3)}


def test_evaluation_is_anything_that_can_be_called() -> None:
    class Mine:
        def __call__(self, context: EvaluationContext, /) -> Mapping[str, float]:
            return {}

    evaluation: Evaluation = Mine()
    assert callable(evaluation)
