"""What processes know of each other from torchrun's variables."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from llmpipe.core import ranks
from llmpipe.core.ranks import is_first_to_say, signature, was_restarted


def be(monkeypatch: pytest.MonkeyPatch, logs: Path, rank: int, attempt: int = 0) -> None:
    folder = logs / f"attempt_{attempt}/{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(ranks, "MAIN_SPEAKS_FIRST_S", 0.0)


def test_one_process_of_a_machine_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, tmp_path, rank=1)
    assert is_first_to_say("a setting is wrong", is_lasting=True)
    assert is_first_to_say("the disk is full", is_lasting=False)
    be(monkeypatch, tmp_path, rank=0)
    assert not is_first_to_say("a setting is wrong", is_lasting=True)
    assert not is_first_to_say("the disk is full", is_lasting=False)
    assert is_first_to_say("another setting is wrong", is_lasting=True)


def test_after_a_restart_only_what_may_have_changed_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attempt, expected in enumerate([True, False]):
        be(monkeypatch, tmp_path, rank=0, attempt=attempt)
        assert is_first_to_say("a setting is wrong", is_lasting=True) is expected
        assert is_first_to_say("a process was lost", is_lasting=False)
        assert was_restarted() is (attempt > 0)


def test_without_torchrun_the_first_process_of_a_machine_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert is_first_to_say("anything", is_lasting=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_to_say("anything", is_lasting=False)


def test_only_processes_besides_the_main_one_give_their_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert signature() == ""
    monkeypatch.setenv("RANK", "3")
    assert signature() == f"[process 3 on {platform.node()}] "
