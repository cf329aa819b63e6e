"""tokenizer.json: written, read, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.errors import InputError
from llmpipe.tokenizer import hf
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.merges import bpe_parts, merges_of
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special

RANKS = {bytes([byte]): byte for byte in range(256)}
RANKS |= {b"th": 256, b"\xc3\xa9": 257, b" th": 258, b"the": 259, b" the": 260}
# " the" is " th" + "e": the pair (" ", "the") never meets, since "th" joins its space first.
MERGES = [(b"t", b"h"), (b"\xc3", b"\xa9"), (b" ", b"th"), (b"th", b"e"), (b" th", b"e")]
TOKENIZER = Tokenizer(RANKS, PATTERNS["qwen2"], place_special(len(RANKS)))


def change(folder: Path, edit: Any) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer_config.json").unlink(missing_ok=True)


def test_ranks_give_merges_and_each_has_two_parts() -> None:
    assert merges_of(RANKS) == MERGES
    assert bpe_parts(RANKS, b" the", below=258) == [b" ", b"th", b"e"]


def test_a_token_that_no_merge_makes_is_taken_for_whole_pieces_only(tmp_path: Path) -> None:
    """As in Llama 3's vocabulary; `ignore_merges` is how the file says it."""
    tokenizer = Tokenizer(RANKS | {b" xyz": 261}, PATTERNS["qwen2"], {"<|bos|>": 262})
    assert tokenizer.merges == MERGES
    tokenizer.save(tmp_path)
    change(tmp_path, lambda content: None)
    assert Tokenizer.load(tmp_path).digest == tokenizer.digest
    assert tokenizer.encode(" xyz") == [261]
    assert tokenizer.encode(" xyzz") == [ord(c) for c in " xyzz"]
    change(tmp_path, _set("model", "ignore_merges", value=False))
    with pytest.raises(InputError, match="no merge makes 1 of the vocabulary's tokens"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("nfc", [False, True])
def test_what_is_saved_comes_back(tmp_path: Path, nfc: bool) -> None:
    tokenizer = Tokenizer(RANKS, PATTERNS["o200k"], place_special(len(RANKS)), nfc)
    tokenizer.save(tmp_path, chat_template="{{ messages }}")
    again = Tokenizer.load(tmp_path)
    assert (again.ranks, again.pattern, again.special, again.nfc, again.digest) == (
        tokenizer.ranks,
        tokenizer.pattern,
        tokenizer.special,
        nfc,
        tokenizer.digest,
    )
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages }}"
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (config["bos_token"], config["pad_token"]) == ("<|bos|>", "<|pad|>")


def test_saving_twice_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        TOKENIZER.save(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (
        tmp_path / "b/tokenizer.json"
    ).read_bytes()


def test_every_byte_has_a_printable_spelling_of_its_own() -> None:
    assert hf.spell(b" the\n") == "ĠtheĊ"
    assert hf.unspell(hf.spell(bytes(range(256)))) == bytes(range(256))


def test_the_older_forms_are_read(tmp_path: Path) -> None:
    """GPT-2's files have the split within ByteLevel, and merges as texts with a space."""
    Tokenizer(RANKS, PATTERNS["gpt2"], {"<|endoftext|>": len(RANKS)}).save(tmp_path)

    def as_gpt2(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False}
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
        content["model"]["vocab"]["<|endoftext|>"] = len(RANKS)

    change(tmp_path, as_gpt2)
    again = Tokenizer.load(tmp_path)
    assert again.ranks == RANKS
    assert again.pattern == PATTERNS["gpt2"]


def _set(*keys: str | int, value: Any) -> Any:
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("model", "type", value="Unigram"), "this is Unigram"),
        (_set("normalizer", value={"type": "Lowercase"}), "this normalizer is not supported"),
        (_set("pre_tokenizer", value={"type": "Metaspace"}), "not known: Metaspace"),
        (_set("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", value=True), "add_prefix"),
        (_set("model", "merges", value=[]), "no merge makes 5 of the vocabulary's tokens"),
        (_set("model", "merges", 3, value=["t", "h"]), "tokens in their order"),
        (_set("model", "merges", 4, value=["Ġ", "the"]), "merges are not in the order"),
        (_set("model", value=3), "not a byte-level BPE tokenizer"),
        (_set("added_tokens", 0, "id", value=7), "special token `<|bos|>` has id 7"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, edit: Any, message: str) -> None:
    TOKENIZER.save(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(InputError) as error:
        Tokenizer.load(tmp_path)
    assert message in str(error.value)


def test_a_missing_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no `tokenizer\.json`"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.load(tmp_path)
