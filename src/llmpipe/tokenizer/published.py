"""Finds published vocabularies on this machine by the names that tiktoken gives them.

Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from llmpipe.core.errors import InputError
from llmpipe.core.machine import cache_folder
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.vocabularies import KNOWN, load_vocabulary, vocabulary_files

_FILES = {"gpt2": "r50k_base"}  # the same vocabulary by its other name
_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def open_vocabulary(name: str, here: Path = Path()) -> Tokenizer:
    """Load a folder, a file, or a published vocabulary by its name.

    Args:
        name: a path that `load_vocabulary` takes, or a name from `KNOWN`, whose file lies in
            `tokenizers/`, in `~/.cache/llmpipe/tokenizers/` or where tiktoken keeps what it
            downloaded.
        here: the folder that relative paths start from.

    Raises:
        InputError: if it is not there, or broken.
    """
    path = _locate(name, here)
    return load_vocabulary(path, known_as=name if path.is_file() and name in KNOWN else None)


def files_of(name: str, here: Path = Path()) -> list[Path]:
    """Return the files that `open_vocabulary` reads."""
    path = _locate(name, here)
    return [path] if path.is_file() else vocabulary_files(path)


def _locate(name: str, here: Path) -> Path:
    if name not in KNOWN or (here / name).exists():
        return here / name
    stem = _FILES.get(name, name)
    url = _URL.format(stem)
    # tiktoken names a downloaded file by the hash of where it came from.
    digest = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    folders = [folder / "tokenizers" for folder in (here, cache_folder()) if folder is not None]
    candidates = [folder / f"{stem}.tiktoken" for folder in folders]
    candidates.append(Path(tempfile.gettempdir()) / "data-gym-cache" / digest)
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(
        f"the vocabulary `{name}` is not on this machine",
        f"download {url} into `tokenizers/`, or name its file",
    )
