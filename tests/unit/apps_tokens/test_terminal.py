"""`llmpipe tokens`: pieces, ids, several tokenizers, and what cannot be found."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from llmpipe.apps.tokens.find import find_tokenizer
from llmpipe.apps.tokens.terminal import render, run_conversations, run_tokens
from llmpipe.apps.tokens.view import show, view_tokens
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, UserError
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special

TOKENS = [*(bytes([byte]) for byte in range(256)), b"he", b"ll", b"hell", b"hello", b" w"]
TOKENIZER = Tokenizer(
    {token: i for i, token in enumerate(TOKENS)}, PATTERNS["qwen2"], place_special(len(TOKENS))
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        TOKENIZER.save(tmp_path / "runs" / name / "tokens")
    return tmp_path


def out_of(texts: tuple[str, ...], names: tuple[str, ...], **options: bool) -> str:
    page = io.StringIO()
    explain = options.pop("explain", False)
    run_tokens(texts, names, explain, Console(stdout=page, stderr=io.StringIO(), **options))
    return page.getvalue()


def test_pieces_and_ids_stand_one_above_the_other() -> None:
    text = render([view_tokens("ours", "hello w<|im_end|>", TOKENIZER)], 80, has_color=False)
    assert text.splitlines() == [
        "ours  3 tokens, 5.67 bytes per token",
        "hello|·w|<|im_end|>",
        f"259 260 {TOKENIZER.special['<|im_end|>']}",
    ]


def test_two_tokenizers_stand_side_by_side(folder: Path) -> None:
    names = tuple(str(folder / "runs" / name / "tokens") for name in ("one", "two"))
    lines = out_of(("hello",), names).splitlines()
    assert lines[1].split() == ["hello", "hello"]
    assert lines[2].split() == ["259", "259"]


def test_json_holds_ids_and_pieces(folder: Path) -> None:
    found = json.loads(out_of(("hello\n",), (str(folder / "runs/one/tokens"),), json_output=True))
    assert found[0][0]["ids"] == [259, 10]
    assert found[0][0]["pieces"] == ["hello", "⏎"]


def test_nothing_in_a_text_can_steer_the_terminal() -> None:
    """Escape, bell, right-to-left override, zero width space: all written out."""
    view = view_tokens("ours", "\x1b[2J\x07\u202e\u200b\ud800 é", TOKENIZER)
    assert all(piece.shown.isprintable() for piece in view.pieces)
    assert show(b"\x1b") == "\\x1b"
    assert show("\u202e".encode()) == "\\u202e"
    assert show(b"\xe4\xbd") == "\\xe4\\xbd"


def test_explain_walks_the_first_merges() -> None:
    lines = out_of(("t t t u",), (), explain=True).splitlines()
    # `t ` stands three times, then `t t ` can be made of the first two.
    assert lines[1:3] == ["  7 bytes, 256 symbols", "  116 32 → 256  't '  7 → 4 ids"]


def test_names_are_found(folder: Path) -> None:
    assert find_tokenizer("one", folder).digest == TOKENIZER.digest
    assert find_tokenizer("runs/two/tokens", folder).digest == TOKENIZER.digest
    with pytest.raises(UserError, match="could be that of several runs: one, two"):
        find_tokenizer("ours", folder)
    with pytest.raises(UserError, match="no tokenizer is called `onr`") as error:
        find_tokenizer("onr", folder)
    assert "one" in (error.value.hint or "")


def test_the_one_run_there_is_is_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer of ours"):
        find_tokenizer("ours", tmp_path)
    TOKENIZER.save(tmp_path / "runs/tiny/tokens")
    assert find_tokenizer("ours", tmp_path).digest == TOKENIZER.digest


def test_a_published_vocabulary_is_found_by_its_name(test_data: Path) -> None:
    """Source of the ids: the Tiktokenizer page, cl100k_base."""
    tokenizer = find_tokenizer("cl100k_base", test_data)
    assert tokenizer.encode("hello world") == [15339, 1917]
    assert find_tokenizer("gpt2", test_data).encode("hello world") == [31373, 995]


def test_a_vocabulary_that_is_not_here_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match="`o200k_base` is not on this machine") as error:
        find_tokenizer("o200k_base", tmp_path)
    assert "o200k_base.tiktoken" in (error.value.hint or "")


def test_a_text_too_long_to_look_at_is_refused() -> None:
    with pytest.raises(UserError, match="100,001 characters is too long"):
        out_of(("x" * 100_001,), ())


def test_conversations_of_a_file_show_what_is_trained_of_them(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "ours")
    rows = [
        {
            "messages": [
                {"role": "user", "content": "<|im_end|>"},
                {"role": "assistant", "content": "hello"},
            ]
        },
        {"neither": "nor"},
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, talk = io.StringIO(), io.StringIO()
    run_conversations(path, (str(tmp_path / "ours"),), Console(stdout=page, stderr=talk))
    assert (
        "+'hello'\N{NO-BREAK SPACE}259" in page.getvalue()
    )  # after 256 bytes: he, ll, hell, hello
    assert "2 of them (+) the model is trained to write" in page.getvalue()  # with the stop token
    assert page.getvalue().count("<|im_end|>") == 2  # the typed one stays text, in pieces
    assert "talk.jsonl:2" in talk.getvalue()
    with pytest.raises(InputError, match="no conversation can be read"):
        path.write_text('{"neither": "nor"}\n')
        run_conversations(path, (str(tmp_path / "ours"),), Console(stderr=talk))
