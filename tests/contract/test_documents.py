"""Documents tell the truth: files they name exist, commands they show parse, generated pages are current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from llmpipe.cli.app import TWO_WORD_COMMANDS, app, run_main
from llmpipe.stages import STAGES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


PLACEHOLDERS = {"RECIPE": "configs/tiny.toml", "MODEL": "runs/tiny/sft"}
OPERATORS = ("|", "<", ">", "&", ";")


def console_commands(text: str) -> list[list[str]]:
    """The words of each command in a document's blocks, joined over line ends and open quotes, comments removed."""
    found = []
    for block in re.findall(r"```(?:console|bash|sh|)\n(.*?)```", text, re.DOTALL):
        waiting = ""
        for line in block.replace("\\\n", " ").splitlines():
            waiting = f"{waiting}\n{line}" if waiting else line.removeprefix("$ ")
            try:
                words = shlex.split(waiting, comments=True)
            except ValueError:  # a quotation that goes on in the next line
                continue
            waiting = ""
            found.append(words)
    return found


def inline_commands(text: str) -> list[list[str]]:
    """The words of commands that stand in sentences."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = re.findall(r"`((?:torchrun .*)?llmpipe [^`\n]+|make [^`\n]+)`", prose)
    return [shlex.split(span) for span in spans if "(" not in span and "…" not in span]


def of_program(program: str, commands: list[list[str]]) -> list[tuple[str, ...]]:
    """What follows the program's name, up to what is the shell's."""
    found = []
    for words in commands:
        if words[:1] == [program] or ({"-m", "|"} & set(words) and program in words):
            rest = words[words.index(program) + 1 :]
            end = next((i for i, word in enumerate(rest) if word in OPERATORS), len(rest))
            found.append(tuple(PLACEHOLDERS.get(word, word) for word in rest[:end]))
    return found


TEXTS = [
    path.read_text() for path in DOCUMENTS if path.name != "commands.md"
]  # that is help itself
WHOLE = [words for text in TEXTS for words in console_commands(text)]
MENTIONED = [words for text in TEXTS for words in inline_commands(text)]
EPILOGS = [
    shlex.split(example)
    for one in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    for example in (one.epilog or "").partition(":  ")[2].split("    |    ")
]


def parse(words: tuple[str, ...]) -> None:
    """Have a command read without running it."""
    words = tuple(word for word in words if word != "--help")
    n_name = 2 if " ".join(words[:2]) in TWO_WORD_COMMANDS else 1
    group: Any = typer.main.get_command(app)
    command = group.commands[" ".join(words[:n_name])]
    once = {flag for p in command.params for flag in p.opts if not getattr(p, "multiple", True)}
    for flag in once:
        assert words.count(flag) <= 1, f"{flag} counts once, and the last one wins"
    command.make_context(command.name, list(words[n_name:]))


def check_plan(words: tuple[str, ...], folder: Path) -> None:
    """Plan a stage, or a run, without doing it: 3 is for inputs that are not here."""
    runs = [] if "--runs" in words else ["--runs", str(folder)]
    assert run_main([*words, "--dry-run", *runs]) in (0, 3)


def is_planned(words: tuple[str, ...]) -> bool:
    return words[0] in (*STAGES, "run") and " ".join(words[:2]) not in TWO_WORD_COMMANDS


def test_readme_shows_the_two_commands_first():
    shown = console_commands((ROOT / "README.md").read_text())
    assert shown[0][:2] == ["make", "demo"]
    assert shown[1][:2] == ["make", "test"]


@pytest.mark.parametrize(
    "words", sorted(set(of_program("llmpipe", [*WHOLE, *EPILOGS]))), ids=" ".join
)
def test_every_command_that_is_shown_is_accepted(words, tmp_path, monkeypatch, capsys):
    """Of all documents, and of the examples in the help. What a stage would do is planned, which reads recipes and settings too."""
    monkeypatch.chdir(ROOT)
    parse(words)
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word
    if is_planned(words):
        check_plan(words, tmp_path)
    assert "error: 1 problem" not in capsys.readouterr().err


@pytest.mark.parametrize("words", sorted(set(of_program("llmpipe", MENTIONED))), ids=" ".join)
def test_every_command_that_is_mentioned_is_one(words, tmp_path, monkeypatch):
    """In sentences, what a command needs may be left out; what is said must be right."""
    monkeypatch.chdir(ROOT)
    if words[0].startswith("--"):
        return
    try:
        parse(words)
    except typer.BadParameter as error:
        assert type(error).__name__ == "MissingParameter", error
    if is_planned(words) and "--set" in words:
        check_plan(words, tmp_path)


@pytest.mark.parametrize(
    "words", sorted(set(of_program("make", [*WHOLE, *MENTIONED]))), ids=" ".join
)
def test_every_make_target_that_is_shown_exists(words):
    if not all("=" in word for word in words[1:]):
        return  # a sentence that begins so
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words[1:]:
        if word.startswith("BENCH="):
            assert (ROOT / "bench" / f"{word.removeprefix('BENCH=')}.py").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_named_files_exist(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
    for name in re.findall(r"`((?:src|configs|tests|tools|bench|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(
        r"`((?:core|cli|stages|model|training|tokenizer|inference|assistant|tasks)/[\w/]+\.py)`",
        text,
    ):
        assert (ROOT / "src" / "llmpipe" / name).exists(), name


def test_reference_is_current():
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "docs.py", "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_an_option_that_counts_once_is_not_shown_twice():
    with pytest.raises(AssertionError, match="counts once"):
        parse(("tokens", "text", "--tokenizer", "gpt2", "--tokenizer", "ours"))
