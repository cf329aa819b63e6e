"""The recipes in examples/, from the commands that stand at their tops to what they promise in `[expect]`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.training


def accuracies(run: Path) -> dict[str, float]:
    scores = json.loads((run / "eval" / "scores.json").read_text())
    return {name: numbers["accuracy"] for name, numbers in scores.items()}


@pytest.fixture(scope="session")
def tools(llmpipe, demo: Path) -> Path:
    """The assistant of examples/tools.toml."""
    inputs = ("--from", f"model={demo}/base", "--from", f"corpus={demo}/corpus")
    llmpipe("sft", f"{EXAMPLES}/tools.toml", *inputs)
    return llmpipe.folder / "runs" / "tools"


def test_numbers_letters_and_characters_through_python(llmpipe, tools: Path) -> None:
    llmpipe("eval", f"{EXAMPLES}/tools.toml")
    reached = accuracies(tools)
    assert reached["multiplication"] >= 0.98
    assert min(reached["letters"], reached["characters"]) >= 0.95


def test_three_digit_products_are_not_learned_without_the_tool(llmpipe, demo: Path) -> None:
    changes = ["sft.use_tools=false", "sft.conversations=6000", "sft.mixture.letters=0"]
    changes += ["sft.mixture.characters=0", 'eval.tasks=["multiplication"]']
    options = [word for change in changes for word in ("--set", change)]
    inputs = ("--from", f"model={demo}/base", "--from", f"corpus={demo}/corpus")
    llmpipe("sft", f"{EXAMPLES}/tools.toml", "--out", "runs/direct/sft", *inputs, *options)
    command = [sys.executable, "-m", "llmpipe", "eval", f"{EXAMPLES}/tools.toml", *options]
    where = ["--out", "runs/direct/eval", "--from", "model=runs/direct/sft"]
    # It misses what the recipe expects, which is the point.
    done = subprocess.run([*command, *where], cwd=llmpipe.folder, capture_output=True, check=False)
    assert done.returncode == 4
    assert accuracies(llmpipe.folder / "runs" / "direct")["multiplication"] <= 0.02


def test_who_it_is(llmpipe, demo: Path) -> None:
    inputs = ("--from", f"model={demo}/base", "--from", f"corpus={demo}/corpus")
    llmpipe("sft", f"{EXAMPLES}/identity.toml", *inputs)
    llmpipe("eval", f"{EXAMPLES}/identity.toml")
    run = llmpipe.folder / "runs" / "identity"
    scores = json.loads((run / "eval" / "scores.json").read_text())
    assert scores["identity"]["n"] >= 50
    assert scores["identity"]["accuracy"] >= 0.95
    assert scores["stops"]["accuracy"] == 1.0


def test_looked_up_with_the_source_and_only_where_allowed(llmpipe, tools: Path) -> None:
    script = EXAMPLES / "search" / "make_corpus.py"
    subprocess.run([sys.executable, script, "places.jsonl"], cwd=llmpipe.folder, check=True)
    llmpipe("data", f"{EXAMPLES}/search.toml")
    llmpipe("sft", f"{EXAMPLES}/search.toml", "--from", f"model={tools}/sft")
    llmpipe("eval", f"{EXAMPLES}/search.toml")
    reached = accuracies(llmpipe.folder / "runs" / "search")
    assert reached["lookups"] >= 0.9
    assert reached["no_tools"] >= 0.95
    assert reached["stops"] == 1.0
