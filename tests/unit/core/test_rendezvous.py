"""Processes find each other, also where others met before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from llmpipe.core.errors import UserError
from llmpipe.core.ranks import Ranks
from llmpipe.core.rendezvous import agree_on_name


class DictStore:
    """What torch's store does, within one process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str, /) -> None:
        self.values[key] = value.encode()

    def get(self, key: str, /) -> bytes:
        return self.values[key]

    def check(self, keys: list[str], /) -> bool:
        return all(key in self.values for key in keys)


def meet(store: DictStore, order: list[int]) -> set[str]:
    with ThreadPoolExecutor(len(order)) as threads:
        results = [
            threads.submit(agree_on_name, store, Ranks(rank, len(order)), 10.0) for rank in order
        ]
        return {result.result() for result in results}


def test_every_meeting_in_one_store_has_a_name_of_its_own() -> None:
    store = DictStore()
    names = [meet(store, order) for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2])]
    assert [len(name) for name in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


def test_a_process_does_not_take_what_an_earlier_main_one_left_behind() -> None:
    store = DictStore()
    meet(store, [0, 1])
    with pytest.raises(UserError, match="process 0 of 2 did not come within 0 s"):
        agree_on_name(store, Ranks(1, 2), 0.1)


def test_those_who_do_not_come_are_named() -> None:
    with pytest.raises(UserError, match="processes 1, 2 of 3 did not come") as error:
        agree_on_name(DictStore(), Ranks(0, 3), 0.1)
    assert error.value.hint is not None and "on every machine" in error.value.hint
