from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from llmpipe.core.errors import InputError
from llmpipe.export.import_model import import_model
from llmpipe.model.weights import load_model


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


def test_a_folder_in_the_layout_of_the_hubs_cache_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder: Callable[..., Path]
) -> None:
    """Links to files that are named by their hashes: `snapshots/COMMIT/NAME` -> `blobs/HASH`."""
    folder = make_folder("llama", pattern="llama3")
    cache = tmp_path / "hub" / "models--somebody--llama"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (blobs / digest).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / digest)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    asked = Path("somebody/llama")
    fetched = import_model(asked, tmp_path / "fetched")
    direct = import_model(folder, tmp_path / "direct")
    assert fetched.id == direct.id
    assert fetched.manifest["asked"]["files"] == direct.manifest["asked"]["files"]
    assert not any(path.is_symlink() for path in fetched.path.rglob("*"))
    for ours, theirs in zip(
        load_model(fetched.path).blocks.parameters(),
        load_model(folder).blocks.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


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
