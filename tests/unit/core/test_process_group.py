"""Processes that differ are told before work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core import process_group
from llmpipe.core.artifact import START_RECORD
from llmpipe.core.errors import UserError
from llmpipe.core.process_group import Traits, check_alike, code_digest
from llmpipe.core.ranks import Ranks

IDENTITY = {"stage": "pretrain", "seed": 1, "config": {"optim": {"lr": 0.02}}}


class Others:
    """A runtime of two processes, the other of which answers as told."""

    def __init__(self, **other: Any) -> None:
        self.ranks = Ranks(0, 2)
        self.other = other

    def gather(self, value: Any) -> list[Any]:
        if isinstance(value, Traits):
            changed = {k: v for k, v in self.other.items() if k in ("work", "code", "torch")}
            return [value, dataclasses.replace(value, host="node-b", **changed)]
        if isinstance(value, dict):
            return [value, self.other["identity"]]
        return [value, self.other.get("sees", True)]

    def share(self, value: Any) -> Any:
        return value

    def any(self, flag: bool) -> bool:
        return flag


def check(out: Path, **other: Any) -> None:
    check_alike(Others(**other), IDENTITY, out)  # type: ignore[arg-type]


def test_alike_processes_pass(tmp_path: Path) -> None:
    (tmp_path / START_RECORD).write_text("{}")
    check(tmp_path)


def test_other_settings_are_named_with_process_and_machine(tmp_path: Path) -> None:
    other = {**IDENTITY, "config": {"optim": {"lr": 0.03}}, "seed": 2}
    with pytest.raises(UserError, match="process 1 on `node-b` has other settings") as error:
        check(tmp_path, work="other", identity=other)
    assert error.value.message.splitlines()[1:] == [
        "    pretrain.optim.lr: 0.02 -> 0.03",
        "    seed: 1 -> 2",
    ]


@pytest.mark.parametrize(("trait", "what"), [("torch", "torch 0.1"), ("code", "source files")])
def test_other_versions_are_named(tmp_path: Path, trait: str, what: str) -> None:
    with pytest.raises(UserError, match=f"process 1 on `node-b` runs .* it has other {what}"):
        check(tmp_path, **{trait: "0.1"})


def test_folder_that_is_not_shared_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "FOLDER_WAIT_S", -1.0)
    with pytest.raises(UserError, match="process 1 on `node-b` does not see"):
        check(tmp_path, sees=False)


def test_digest_of_the_code_is_the_same_twice() -> None:
    assert code_digest() == code_digest()
