from __future__ import annotations

import pytest

from llmpipe.core.errors import UserError
from llmpipe.core.ranks import Ranks, current_ranks
from llmpipe.training.parallel import my_share


def test_shares_are_even_and_hold_everything_once() -> None:
    shares = [my_share(range(12), Ranks(rank=i, world_size=4)) for i in range(4)]
    assert [list(share) for share in shares] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_uneven_share_is_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="12 micro-batches cannot be dealt to 5 processes"):
        my_share(range(12), Ranks(rank=0, world_size=5))


def test_ranks_are_read_as_torchrun_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert current_ranks() == Ranks(0, 1, 0, 1)
    assert current_ranks().is_main and current_ranks().is_alone
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert current_ranks() == Ranks(9, 16, 1, 8)
    assert not current_ranks().is_main
