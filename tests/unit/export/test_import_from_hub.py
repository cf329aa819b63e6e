from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from llmpipe.core.errors import InputError
from llmpipe.export.import_model import import_model


def test_a_name_that_is_no_folder_is_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def give(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    with pytest.raises(InputError, match=r"cache.*tokenizer\.json"):  # it went on with that folder
        import_model(Path("openai-community/gpt2"), tmp_path / "out")
    assert asked == [
        ("openai-community/gpt2", ["*.json", "*.safetensors", "*.jinja", "merges.txt"])
    ]


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match="gpt2 is no folder here, and the Hugging Face hub cannot"):
        import_model(Path("openai-community/gpt2"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_does_not_exist_is_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a/b holds no `tokenizer\.json`"):
        import_model(tmp_path / "a" / "b", tmp_path / "out")
