"""Vocabularies that others trained: tiktoken rank files, GPT-2's two files, Hugging Face's one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmpipe.core.errors import InputError
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.hf import unspell
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.rank_file import read_ranks
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


def vocabulary_files(path: Path) -> list[Path]:
    """Return the files that `load_vocabulary` reads."""
    if path.suffix == ".tiktoken":
        return [path]
    if (path / "tokenizer.json").exists():
        return [path / "tokenizer.json"]
    return [path / "encoder.json", path / "vocab.bpe"]


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
        known = KNOWN[name]
        ranks = _read_rank_file(path)
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


def _read_rank_file(path: Path) -> dict[bytes, int]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return read_ranks(content, str(path))


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
