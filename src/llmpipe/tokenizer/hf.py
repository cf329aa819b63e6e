"""Hugging Face's `tokenizer.json` and `tokenizer_config.json`, written and read.

The form that `tokenizers`, `transformers`, vLLM and llama.cpp's converter open: a `Split` by our
pattern, then `ByteLevel`, which spells each byte as a printable character. No normalizer and no
template: bytes in are bytes out, and sequences are put together by our own code.

Careful with these files elsewhere: `tokenizers` turns special tokens typed in plain text into
control tokens unless `encode_special_tokens` is set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import write_atomic
from llmpipe.core.errors import InputError
from llmpipe.tokenizer.merges import Merge
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import BOS, IM_END, PAD

FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True)
class Parts:
    """What a `tokenizer.json` says, in bytes."""

    ranks: dict[bytes, int]
    merges: list[Merge]
    pattern: str
    special: dict[str, int]
    nfc: bool = False
    ignore_merges: bool = False
    """Whether a piece that is a token as a whole becomes it without merging."""
    digest: str | None = None
    """The digest that our writer put into `tokenizer_config.json`."""


_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = sorted({*range(0x100)} - _PRINTABLE)
_SPELL = "".join(chr(b if b in _PRINTABLE else 0x100 + _OTHERS.index(b)) for b in range(256))
"""The character that stands for each byte in these files: printable ASCII and Latin-1 for
themselves, U+0100 onwards for the other 68, so a space is written as U+0120 (`Ġ`).
Source: openai/gpt-2 src/encoder.py, `bytes_to_unicode`."""

_UNSPELL = {char: byte for byte, char in enumerate(_SPELL)}


def spell(token: bytes) -> str:
    """Write a token's bytes with one printable character each."""
    return token.decode("latin-1").translate(_SPELL)


def unspell(text: str) -> bytes:
    """Read what `spell` wrote. Raises KeyError on a character that stands for no byte."""
    return bytes([_UNSPELL[char] for char in text])


def write(folder: Path, parts: Parts, chat_template: str | None = None) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    by_id = sorted(parts.special.items(), key=lambda item: item[1])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    split = {"type": "Split", "pattern": {"Regex": parts.pattern}, "behavior": "Isolated"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags, "special": True} for name, i in by_id],
        "normalizer": {"type": "NFC"} if parts.nfc else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, byte_level | {"use_regex": False}],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": parts.ignore_merges,
        },
    }
    write_atomic(folder / FILE, _tokenizer_json(content, parts))
    config = json.dumps(_config(parts, chat_template), ensure_ascii=False, indent=1)
    write_atomic(folder / CONFIG_FILE, config + "\n")


def _config(parts: Parts, chat_template: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "llmpipe_digest": parts.digest,
    }
    for key, name in (("bos_token", BOS), ("eos_token", IM_END), ("pad_token", PAD)):
        if name in parts.special:
            config[key] = name
    if chat_template is not None:
        config["chat_template"] = chat_template
    return config


def _tokenizer_json(content: dict[str, Any], parts: Parts) -> str:
    """Write the file with one token and one merge a line, so that people can read and diff it.

    `json` writes a whole document with line breaks at a tenth of this speed.
    """
    quote = json.JSONEncoder(ensure_ascii=False).encode
    by_id = sorted(parts.ranks, key=parts.ranks.__getitem__)
    quoted = {token: quote(spell(token)) for token in by_id}
    vocab = ",\n   ".join([f"{text}: {i}" for i, text in enumerate(quoted.values())])
    merges = ",\n   ".join([f"[{quoted[a]}, {quoted[b]}]" for a, b in parts.merges])
    head, tail = json.dumps(content, ensure_ascii=False, indent=1).split('"model": {', 1)
    return f'{head}"model": {{\n  "vocab": {{{vocab}}},\n  "merges": [{merges}],{tail}\n'


def read(folder: Path) -> Parts:
    """Read `tokenizer.json` in `folder`, ours or one of GPT-2's, Llama 3's and Qwen's kind.

    Raises:
        InputError: if it is missing, not JSON, or holds another kind of tokenizer.
    """
    path = folder / FILE
    content = _load_json(path)
    try:
        model = content["model"]
        if model["type"] != "BPE" or model.get("byte_fallback"):
            raise InputError(f"{path}: byte-level BPE is needed, this is {model['type']}")
        vocab: dict[str, int] = model["vocab"]
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        merges = [(unspell(left), unspell(right)) for left, right in pairs]
        special = {token["content"]: token["id"] for token in content["added_tokens"]}
        ranks = {unspell(text): i for text, i in vocab.items() if text not in special}
        pattern = _read_pattern(content["pre_tokenizer"], path)
        nfc = _read_normalizer(content["normalizer"], path)
        ignore_merges = bool(model.get("ignore_merges"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: not a byte-level BPE tokenizer ({type(error).__name__}: {error})"
        ) from error
    _check_merges(ranks, merges, ignore_merges, path)
    digest = None
    if (folder / CONFIG_FILE).exists():
        digest = _load_json(folder / CONFIG_FILE).get("llmpipe_digest")
    return Parts(ranks, merges, pattern, special, nfc, ignore_merges, digest)


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path.parent} holds no `{path.name}`") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object is needed")
    return content


def _read_pattern(pre_tokenizer: dict[str, Any], path: Path) -> str:
    """Return the split pattern: a `Split` before `ByteLevel`, or GPT-2's within `ByteLevel`."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    match [step["type"] for step in steps]:
        case ["ByteLevel"] if steps[0].get("use_regex", True):
            pattern = PATTERNS["gpt2"]
        case ["Split", "ByteLevel"] if (
            steps[0]["behavior"] == "Isolated"
            and not steps[0].get("invert", False)
            and not steps[1]["use_regex"]
        ):
            pattern = steps[0]["pattern"]["Regex"]
        case kinds:
            raise InputError(f"{path}: this kind of split is not known: {', '.join(kinds)}")
    if steps[-1].get("add_prefix_space"):
        raise InputError(f"{path}: `add_prefix_space` changes the text, and is not supported")
    return str(pattern)


def _read_normalizer(normalizer: dict[str, Any] | None, path: Path) -> bool:
    """Return whether text is brought to NFC; other normalizers are refused."""
    if normalizer is None:
        return False
    steps = normalizer.get("normalizers", [normalizer])
    if [step["type"] for step in steps] != ["NFC"]:
        raise InputError(f"{path}: this normalizer is not supported: {normalizer}")
    return True


def _check_merges(
    ranks: dict[bytes, int], merges: list[Merge], ignore_merges: bool, path: Path
) -> None:
    """Check that the merges make tokens in the order of their ids, and all but the bytes.

    A token may be made in several ways, as in Llama 3's file; with `ignore_merges` in none.
    """
    made = [ranks.get(left + right, -1) for left, right in merges]
    if -1 in made or made != sorted(made):
        raise InputError(f"{path}: the merges do not make the vocabulary's tokens in their order")
    n_missing = sum(len(token) > 1 for token in ranks) - len(set(made))
    if n_missing and not ignore_merges:
        raise InputError(f"{path}: no merge makes {n_missing} of the vocabulary's tokens")
