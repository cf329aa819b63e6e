"""Documents tell the truth: files they name exist, commands they show parse, generated pages are current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llmpipe.cli.app import TWO_WORD_COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def commands(text: str) -> list[str]:
    """The `$ …` lines of console blocks, joined over line ends, comments removed."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        joined = block.replace("\\\n", " ")
        found += [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
    return found


README_COMMANDS = commands((ROOT / "README.md").read_text())


def test_readme_shows_the_two_commands_first():
    assert README_COMMANDS[0].startswith("make demo")
    assert README_COMMANDS[1].startswith("make test")


@pytest.mark.parametrize("command", [c for c in README_COMMANDS if "llmpipe" in c.split()])
def test_every_llmpipe_command_of_the_readme_is_accepted(command, tmp_path):
    """Each command is run with --help in place of its end: unknown commands and options are refused even so."""
    words = shlex.split(command, comments=True)
    words = words[words.index("llmpipe") + 1 :]
    n_name = 2 if " ".join(words[:2]) in TWO_WORD_COMMANDS else 1
    result = subprocess.run(
        [sys.executable, "-m", "llmpipe", *words[:n_name], "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    for word in words[n_name:]:
        if word.startswith("--"):
            assert word.split("=")[0] in result.stdout, f"{command}: {word}"
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("command", [c for c in README_COMMANDS if c.startswith("make")])
def test_every_make_target_of_the_readme_exists(command):
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


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
