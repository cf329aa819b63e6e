"""Vocabularies that others trained: tiktoken rank files, GPT-2's two files, Hugging Face's one."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmpipe.core.errors import InputError
from llmpipe.core.machine import cache_folder
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.hf import unspell
from llmpipe.tokenizer.merges import read_ranks
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import extend_special


@dataclass(frozen=True)
class Known:
    """What a published rank file does not say itself."""

    pattern: str
    special: dict[str, int]


_GPT2 = Known("gpt2", {"<|endoftext|>": 50256})

KNOWN: dict[str, Known] = {
    # Source of all: openai/tiktoken tiktoken_ext/openai_public.py.
    "gpt2": _GPT2,
    "r50k_base": _GPT2,
    "cl100k_base": Known(
        "cl100k",
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": Known("o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
}


_FILES = {"gpt2": "r50k_base"}  # the same vocabulary by its other name
_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def open_vocabulary(name: str, here: Path = Path()) -> Tokenizer:
    """Load a folder, a file, or a published vocabulary by its name.

    Args:
        name: a path that `load_vocabulary` takes, or a name from `KNOWN`, whose file lies in
            `tokenizers/`, in `~/.cache/llmpipe/tokenizers/` or where tiktoken keeps its downloads.
            Nothing is downloaded here.
        here: the folder that relative paths start from.

    Raises:
        InputError: if it is not there, or broken.
    """
    path = _locate(name, here)
    return load_vocabulary(path, known_as=name if path.is_file() and name in KNOWN else None)


def files_of(name: str, here: Path = Path()) -> list[Path]:
    """Return the files that `open_vocabulary` reads."""
    path = _locate(name, here)
    if path.is_file() or path.suffix == ".tiktoken":
        return [path]
    if (path / "tokenizer.json").exists():
        return [path / "tokenizer.json"]
    return [path / "encoder.json", path / "vocab.bpe"]


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


def load_vocabulary(path: Path, known_as: str | None = None) -> Tokenizer:
    """Load a vocabulary with the special tokens it came with.

    Args:
        path: a `.tiktoken` file of a known name (see `KNOWN`), a folder with `tokenizer.json`,
            or a folder with GPT-2's `encoder.json` and `vocab.bpe`.
        known_as: the name of a rank file that is called something else.

    Raises:
        InputError: if it is missing, broken or of an unknown kind.
    """
    if path.suffix == ".tiktoken" or known_as:
        name = known_as or path.stem
        if name not in KNOWN:
            raise InputError(
                f"{path}: a rank file does not say its split pattern, and only "
                f"{', '.join(KNOWN)} are known by name"
            )
        try:
            ranks = read_ranks(path.read_bytes(), str(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        known = KNOWN[name]
        return Tokenizer(ranks, PATTERNS[known.pattern], known.special, is_merged=True)
    if (path / "tokenizer.json").exists():
        return Tokenizer.load(path)
    if (path / "vocab.bpe").exists():
        return _load_gpt2(path)
    raise InputError(
        f"{path} holds no tokenizer: `tokenizer.json`, `encoder.json` with `vocab.bpe`, or a "
        "`.tiktoken` file is needed"
    )


def with_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Add the special tokens of this project to a vocabulary that lacks them."""
    special = extend_special(len(tokenizer.ranks), dict(tokenizer.special))
    return tokenizer.with_special(special)


def _load_gpt2(folder: Path) -> Tokenizer:
    """Read GPT-2's own files; the merges give the order, `encoder.json` the ids."""
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    known = KNOWN["gpt2"]
    ranks = {unspell(text): i for text, i in vocab.items() if text not in known.special}
    tokenizer = Tokenizer(ranks, PATTERNS[known.pattern], known.special)
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()
    merges = [tuple(map(unspell, line.split(" "))) for line in lines[1:] if line]
    if merges != tokenizer.merges:
        raise InputError(f"{folder}: `vocab.bpe` and `encoder.json` do not belong together")
    return tokenizer
