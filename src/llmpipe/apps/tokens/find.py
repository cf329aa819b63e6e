"""Finds a tokenizer by what a person calls it. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from llmpipe.core.errors import InputError, UserError, did_you_mean
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.vocabularies import KNOWN, load_vocabulary, open_vocabulary

OURS = "ours"


def find_tokenizer(name: str, here: Path = Path()) -> Tokenizer:
    """Return the tokenizer that `name` stands for.

    Args:
        name: a folder or file; a run's name or `ours` (the tokens of the one run there is); or a
            published vocabulary, such as `cl100k_base`, whose file lies in `tokenizers/`, in
            `~/.cache/llmpipe/tokenizers/` or where tiktoken keeps what it downloaded.
        here: the folder that relative paths start from.

    Raises:
        UserError: if nothing has that name.
        InputError: if what has that name is no tokenizer.
    """
    path = here / name
    if path.is_dir() or path.is_file():
        return load_vocabulary(path)
    run = here / "runs" / name / "tokens"
    if run.is_dir():
        return Tokenizer.load(run)
    if name == OURS:
        return Tokenizer.load(_only_run(here))
    if name in KNOWN:
        return open_vocabulary(name, here)
    known = [OURS, *KNOWN, *(p.parent.name for p in here.glob("runs/*/tokens"))]
    hint = (
        did_you_mean(name, known) or f"name a folder with `tokenizer.json`, or: {', '.join(known)}"
    )
    raise UserError(f"no tokenizer is called `{name}`", hint)


def _only_run(here: Path) -> Path:
    found = sorted(here.glob("runs/*/tokens/tokenizer.json"))
    if not found:
        raise InputError(
            "there is no tokenizer of ours under runs/",
            "train one with `llmpipe run tiny`, or name another with `--tokenizer NAME`",
        )
    if len(found) > 1:
        names = ", ".join(path.parts[-3] for path in found)
        raise UserError(
            f"`{OURS}` could be that of several runs: {names}",
            f"name one, as in `--tokenizer {found[0].parts[-3]}`",
        )
    return found[0].parent
