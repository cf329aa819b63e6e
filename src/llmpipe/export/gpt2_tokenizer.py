"""The tokenizer of a Hugging Face folder, also of one that has GPT-2's first two files only.

`vocab.json` and `merges.txt` say what `tokenizer.json` does, except for how text is cut, which for these
files is always GPT-2's way.
"""

from __future__ import annotations

from pathlib import Path

from llmpipe.core.errors import InputError
from llmpipe.export.hugging_face import read_json
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.hf import FILE, unspell
from llmpipe.tokenizer.patterns import PATTERNS

VOCABULARY, MERGES = "vocab.json", "merges.txt"
END_OF_TEXT = "<|endoftext|>"


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that hold the tokenizer of a folder."""
    has_old_form = (folder / VOCABULARY).is_file() and (folder / MERGES).is_file()
    return (VOCABULARY, MERGES) if has_old_form and not (folder / FILE).is_file() else (FILE,)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder.

    Raises:
        InputError: if it is missing, broken, or of another kind.
    """
    if FILE in tokenizer_files(folder):
        return Tokenizer.load(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "gpt2":
        raise InputError(
            f"{folder} holds no `{FILE}`, and how a {kind} cuts text is not in its other files",
            hint="save the tokenizer again with transformers, which writes that file",
        )
    vocabulary: dict[str, int] = read_json(folder / VOCABULARY)
    special = {name: id for name, id in vocabulary.items() if name == END_OF_TEXT}
    special |= read_json(folder / "added_tokens.json")
    try:
        ranks = {unspell(text): id for text, id in vocabulary.items() if text not in special}
        merges = [_merge(line) for line in _merge_lines(folder / MERGES)]
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder}: not GPT-2's kind of tokenizer ({error})") from None
    tokenizer = Tokenizer.from_ranks(ranks, PATTERNS["gpt2"], special)
    if tokenizer.merges != merges:
        raise InputError(f"{folder / MERGES}: these merges do not make the tokens of {VOCABULARY}")
    return tokenizer


def _merge_lines(path: Path) -> list[str]:
    """Return the lines that hold a merge: the first may tell the version of the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for i, line in enumerate(lines) if line and not (i == 0 and line[0] == "#")]


def _merge(line: str) -> tuple[bytes, bytes]:
    left, right = line.split(" ")
    return unspell(left), unspell(right)
