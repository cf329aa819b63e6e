"""The additions that CONTRIBUTING.md shows, tried on a copy of the package as they stand there: one file and one line each."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmpipe.core.artifact import SCHEMA, publish
from llmpipe.core.metrics import read_metrics
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.special import place_special

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"```python\n# ([^\n]*)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
)
LINE = "one line in "


def addition(name: str) -> dict[str, str]:
    """Path -> text, of the file called `name` and of the line that follows it."""
    i = next(i for i, (path, _) in enumerate(BLOCKS) if Path(path).stem == name)
    return dict(BLOCKS[i : i + 2])


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str], Callable[..., Any]]:
    """Copy the package with an addition, and return what runs its commands."""

    def change(name: str) -> Callable[..., Any]:
        shutil.copytree(
            ROOT / "src",
            tmp_path / "src",
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
        shutil.copytree(ROOT / "configs", tmp_path / "configs")
        for path, text in addition(name).items():
            if path.startswith(LINE):
                table = tmp_path / path.removeprefix(LINE)
                before, brace, after = table.read_text().partition("\n    }\n)\n")
                assert brace, "the table ends there"
                table.write_text(f"{before}\n{text.rstrip()}{brace}{after}")
            else:
                assert not (tmp_path / path).exists()
                (tmp_path / path).write_text(text)
        return lambda *words: llmpipe(tmp_path / "src", *words)

    return change


def llmpipe(source: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the package in `source`, beside it."""
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmpipe", *words]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=env,
        cwd=source.parent if source.parent != ROOT else None,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


def test_additions_are_written_like_everything_else(tmp_path: Path) -> None:
    for path, text in BLOCKS:
        if not path.startswith(LINE):
            (tmp_path / Path(path).name).write_text(text)
    config = ["--config", str(ROOT / "pyproject.toml")]
    for command in (
        ["ruff", "check", "--ignore=INP", *config],
        ["ruff", "format", "--check", *config],
    ):
        result = subprocess.run(
            [sys.executable, "-m", *command, tmp_path], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout


def test_a_filter_is_a_file_and_a_line(changed: Callable[..., Any], tmp_path: Path) -> None:
    rows = [
        {"text": "A quiet sentence about a harbor."},
        {"text": "BUY NOW, and save A LOT OF MONEY"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    old_steps = "data.steps=['exact_dedup', 'pii']"
    plain = ["data", str(tmp_path / "in.jsonl"), "--set", old_steps, "--out", str(tmp_path / "old")]
    assert llmpipe(ROOT / "src", *plain).returncode == 0
    stored = sorted(path.name for path in (tmp_path / ".old.store" / "units").iterdir())

    run = changed("no_shouting")
    assert "old" in run(*plain).stdout and "up to date" in run(*plain).stderr
    assert run(*plain, "--force").returncode == 0
    assert sorted(path.name for path in (tmp_path / ".old.store" / "units").iterdir()) == stored

    steps = "data.steps=['no_shouting']"
    asked = [
        "data",
        "in.jsonl",
        "--set",
        steps,
        "--out",
        "new",
        "--set",
        "data.no_shouting.max_upper=0.4",
    ]
    made = json.loads(run(*asked, "--json").stdout)
    assert (made["stats"]["documents_in"], made["stats"]["documents"]) == (2, 1)
    assert made["config"]["no_shouting"] == {"max_upper": 0.4}
    assert "drop pages that shout" in run(*asked, "--force", "--dry-run").stdout
    assert "no_shouting.max_upper = 0.5" in run("data", "--help").stdout
    assert "did you mean `max_upper`?" in run(*asked[:-1], "data.no_shouting.max_uper=1").stderr
    assert "does not name it" in run(*plain, "--set", "data.no_shouting.max_upper=1").stderr


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    """A chat model that has learned nothing."""
    partial = tmp_path / "made"
    partial.mkdir()
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer(ranks, split_pattern("qwen2"), place_special(256))
    tokenizer.save(partial)
    shape = ModelConfig(
        d_model=32,
        n_layers=1,
        n_heads=2,
        n_kv_heads=2,
        vocab_size=tokenizer.vocab_size,
        max_seq_len=128,
    )
    model = Transformer(shape)
    initialize(model, torch.Generator().manual_seed(1))
    save_model(model, partial)
    manifest = {
        "schema": SCHEMA,
        "kind": "model",
        "stage": "sft",
        "key": "k",
        "stats": {},
        "config": {},
    }
    publish(partial, tmp_path / "model", manifest)
    return tmp_path / "model"


def test_a_task_is_a_file_and_a_line(changed: Callable[..., Any], chat_model: Path) -> None:
    run = changed("capitals")
    values = ("tasks=['capitals']", "name='Pebble'", "max_tokens=4", "tools=[]", "conversation=[]")
    settings = [word for value in values for word in ("--set", f"eval.{value}")]
    made = json.loads(
        run("eval", "--from", f"model={chat_model}", *settings, "--out", "e", "--json").stdout
    )
    assert made["stats"]["scores"]["capitals"]["n"] == 6
    answers = [
        json.loads(line)
        for line in (chat_model.parent / "e" / "answers.jsonl").read_text().splitlines()
    ]
    assert {row["task"] for row in answers} == {"capitals"}
    refused = run("eval", "--set", "eval.tasks=['capital']").stderr
    assert "capitals" in refused


def test_an_optimizer_is_a_file_and_a_line(changed: Callable[..., Any], tmp_path: Path) -> None:
    run = changed("sign_descent")
    draw = random.Random(1)
    words = (ROOT / "src/llmpipe/resources/words/english.txt").read_text().split()[:200]
    texts = [" ".join(draw.choices(words, k=draw.randint(2, 30))) for _ in range(150)]
    rows = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "in.jsonl").write_text("".join(rows))
    small = ["--set", "tokenize.vocab_size=384", "--out", "tokens"]
    assert run("tokenize", "in.jsonl", *small).returncode == 0
    values = (
        "model={d_model=32, n_layers=2, head_dim=16, max_seq_len=32}", "max_tokens=7680", "global_batch_tokens=256",
        "micro_batch_size=2", "eval_tokens=512", "dtype='float32'", "sample_every=30", "sample_tokens=4",
        "optim.kind='sign_descent'", "optim.lr=0.003",
    )  # fmt: skip
    settings = [word for value in values for word in ("--set", f"pretrain.{value}")]
    recipe = tmp_path / "plain.toml"
    recipe.write_text("[pretrain]\n")
    asked = [
        "pretrain",
        str(recipe),
        "--from",
        "tokens=tokens",
        *settings,
        "--out",
        "base",
    ]
    result = run(*asked, "--json", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["config"]["optim"] == {
        "kind": "sign_descent",
        "lr": 0.003,
        "momentum": 0.9,
    }
    losses = [
        row["loss"] for row in read_metrics(tmp_path / "base" / "metrics.jsonl") if "loss" in row
    ]
    assert len(losses) == 30
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    unknown = run("pretrain", str(recipe), "--set", "pretrain.optim.kind='sign_decent'").stderr
    assert (
        "there are muon, adamw, sign_descent" in unknown
        and "did you mean `sign_descent`?" in unknown
    )
    # The settings of all optimizers are read whenever a recipe is, and none may bring torch with it.
    code = "import sys; from llmpipe.stages import schemas; schemas(); print('torch' in sys.modules, *sys.path)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env
    ).stdout
    assert shown.startswith("False") and str(tmp_path / "src") in shown
