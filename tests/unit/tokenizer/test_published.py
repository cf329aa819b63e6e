"""Where published vocabularies are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmpipe.core.errors import InputError
from llmpipe.tokenizer.vocabularies import files_of


def test_vocabulary_is_found_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "llmpipe" / "tokenizers" / "r50k_base.tiktoken"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files_of("gpt2", here=tmp_path) == [file]


def test_user_without_a_home_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(InputError, match="`gpt2` is not on this machine"):
        files_of("gpt2", here=tmp_path)
