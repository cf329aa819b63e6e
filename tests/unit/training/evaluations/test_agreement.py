from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from llmpipe.core.distributed import Runtime
from llmpipe.core.ranks import Ranks
from llmpipe.model.transformer import Transformer
from llmpipe.training.evaluations.agreement import (
    Agreement,
    CheckedRuntime,
    Doing,
    NotTogether,
    passes_agreed_on,
)


@dataclass(frozen=True)
class Group(Runtime):
    """Process 1 of 3; what the other two are about to do is given, meeting by meeting."""

    others: list[tuple[Doing, Doing]] = field(default_factory=list)
    collectives: list[list[float]] = field(default_factory=list)

    def sum(self, values: list[float]) -> list[float]:
        self.collectives.append(values)
        first, last = self.others.pop(0)
        return [values[0] + first, values[1], values[2] + last]


def group(*others: tuple[Doing, Doing]) -> Group:
    return Group(Ranks(1, 3), torch.device("cpu"), others=list(others))


def test_all_go_on_where_all_are_about_to_do_the_same() -> None:
    runtime = group((Doing.SUM, Doing.SUM), (Doing.RETURN, Doing.RETURN))
    agreement = Agreement(runtime)
    agreement.agree(Doing.SUM)
    agreement.agree(Doing.RETURN)
    assert runtime.collectives == [[0, Doing.SUM, 0], [0, Doing.RETURN, 0]]
    assert not agreement.is_over


@pytest.mark.parametrize(
    "others, message",
    [
        ((Doing.FAIL, Doing.SUM), "it failed on process 0"),
        ((Doing.FAIL, Doing.FAIL), "it failed on process 0, 2"),
        ((Doing.SUM, Doing.RETURN), "do not take part alike: 2 exchange numbers, 1 are done"),
        ((Doing.PASS, Doing.PASS), "alike: 1 exchange numbers, 2 go through the model"),
    ],
)
def test_all_leave_where_one_fails_or_does_something_else(
    others: tuple[Doing, Doing], message: str
) -> None:
    runtime = group(others)
    agreement = Agreement(runtime)
    with pytest.raises(NotTogether, match=message):
        agreement.agree(Doing.SUM)
    # Who swallows that and goes on meets nobody, and neither does the farewell of the hook.
    with pytest.raises(NotTogether, match="have parted before"):
        agreement.agree(Doing.RETURN)
    agreement.fail()
    assert len(runtime.collectives) == 1


def test_process_that_fails_tells_the_others_once() -> None:
    runtime = group((Doing.SUM, Doing.RETURN))
    agreement = Agreement(runtime)
    agreement.fail()
    agreement.fail()
    assert runtime.collectives == [[0, Doing.FAIL, 0]]


def test_process_alone_meets_nobody(model: Transformer) -> None:
    alone = Runtime(Ranks(), torch.device("cpu"))
    agreement = Agreement(alone)
    runtime = CheckedRuntime(alone.ranks, alone.device, agreement=agreement)
    assert runtime.sum([1.0, 2.0]) == [1.0, 2.0]
    assert runtime.any(True) and runtime.share("x") == "x"
    agreement.fail()
    assert not agreement.is_over


def test_passes_are_agreed_on_only_meanwhile(model: Transformer) -> None:
    ids = torch.tensor([[1, 2]])
    same = (Doing.PASS, Doing.PASS)
    # `forward` goes through `hidden`, and FSDP collects weights for both: two collectives
    runtime = group(same, same, same, (Doing.PASS, Doing.FAIL))
    before = model.hidden
    with passes_agreed_on(model, Agreement(runtime)):
        model.hidden(ids)
        model(ids)
        assert len(runtime.collectives) == 3
        with pytest.raises(NotTogether):
            model.hidden(ids)
    assert model.hidden == before
    model(ids)
    assert len(runtime.collectives) == 4
