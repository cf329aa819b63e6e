"""The table of tools, and the places that cannot be made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmpipe.assistant.conversation import PART_TYPES, ask
from llmpipe.assistant.render import Text, Thought, ToolOutput, part_ids
from llmpipe.assistant.tool_list import TOOLS, called, signatures
from llmpipe.assistant.tools import TOOL_NAMES, ToolName, parse_tool_names
from llmpipe.cli.app import app
from llmpipe.core.errors import UserError
from llmpipe.tokenizer.bpe import Tokenizer

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", TOOL_NAMES)
def test_a_call_is_rendered_and_written_down_as_the_table_says(
    tokenizer: Tokenizer, name: ToolName
) -> None:
    form = TOOLS[name]
    part = form.part("x y")
    assert called(part) == (name, "x y")
    ids = [tokenizer.special[form.start], *tokenizer.encode("x y"), tokenizer.special[form.end]]
    assert part_ids(part, tokenizer) == ids
    assert PART_TYPES[name]("x y") == part
    assert f'{{"type": "{name}", "text": "x y"}}' in ask("Hi", (part,), "test").to_json()


def test_other_parts_call_nothing() -> None:
    assert tuple(TOOLS) == TOOL_NAMES
    assert [called(part) for part in (Text("a"), Thought("a"), ToolOutput("a"))] == [None] * 3


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_help_and_guide_name_every_tool(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert all(name in shown for name in TOOL_NAMES)
    guide = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
    assert all(f"`{signature}`" in guide for signature in signatures().split(", "))


def test_names_come_in_the_order_of_the_table() -> None:
    assert parse_tool_names("search, python,python") == ("python", "search")
    assert parse_tool_names("none") == ()
    with pytest.raises(UserError, match="unknown tool `pyton`") as caught:
        parse_tool_names("pyton")
    assert caught.value.hint == "did you mean `python`?"
