"""The whole pipeline as a user runs it, made small: it finishes, is then up to date, and survives being killed."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES_AFTER_CRAWL = ["data", "tokenize", "pretrain", "sft", "eval"]

SMALL = [
    "crawl.max_pages=40",
    "tokenize.vocab_size=640",
    "pretrain.max_tokens=30_000",
    "pretrain.model.d_model=32",
    "pretrain.model.n_layers=2",
    "pretrain.model.head_dim=16",
    "pretrain.eval_every=5",
    "pretrain.eval_tokens=2048",
    "pretrain.sample_every=5",
    "pretrain.checkpoint_every_s=0.01",
    "sft.conversations=60",
    "sft.save_every=2",
    "sft.sample_every=5",
    "eval.examples=3",
    "eval.max_tokens=12",
]


def command(run: Path, *more: str) -> list[str]:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    return [sys.executable, "-m", "llmpipe", "run", "tiny", "--out", str(run), *settings, *more]


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *more), capture_output=True, text=True, cwd=ROOT, timeout=300
    )


def ids(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    artifacts = json.loads(result.stdout)["artifacts"]
    return {stage: artifacts[stage]["id"] for stage in STAGES_AFTER_CRAWL}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """An uninterrupted run. Its expectations are those of the full demo, so code 4 is right here."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = run(folder, "--json")
    assert result.returncode == 4, result.stderr
    return folder, ids(result)


@pytest.mark.slow
def test_run_again_is_up_to_date_in_three_seconds(whole):
    folder, expected = whole
    started = time.monotonic()
    result = run(folder, "--json")
    assert time.monotonic() - started < 3
    assert json.loads(result.stdout)["up_to_date"] is True
    assert ids(result) == expected


@pytest.mark.slow
def test_report_holds_every_stage_and_no_path_of_this_machine(whole):
    folder, _ = whole
    page = (folder / "report.html").read_text()
    for heading in ("The pipeline", "A conversation", "Crawl", "Corpus", "Tokens", "Pretraining"):
        assert f">{heading}</h2>" in page
    assert "<script" not in page
    assert str(folder) not in page


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_ids(whole, tmp_path, steps):
    """kill -9 before a chosen step of the work, each time twice as far, until a run gets through."""
    folder, expected = whole
    other = tmp_path / "run"
    other.mkdir()
    shutil.copytree(folder / "crawl", other / "crawl")
    for n_killed in itertools.count():
        result = subprocess.run(
            command(other, "-q", "--json"),
            cwd=ROOT,
            env=steps.environment(at=10 * 2**n_killed),
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in result.stderr, result.stderr
        if result.returncode != -signal.SIGKILL:
            break
    artifacts = json.loads(result.stdout)["artifacts"]
    assert n_killed >= 3  # whatever the machine, a run takes more than 10 + 20 + 40 steps
    assert {stage: artifacts[stage]["id"] for stage in STAGES_AFTER_CRAWL} == expected
    leftovers = [path.name for path in other.iterdir() if path.name.endswith(".partial")]
    assert leftovers == []


@pytest.mark.slow
@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_run_says_how_to_go_on(whole, tmp_path, signum, code):
    folder, _ = whole
    other = tmp_path / "run"
    other.mkdir()
    for stage in ("crawl", "corpus", "tokens"):
        shutil.copytree(folder / stage, other / stage)
    process = subprocess.Popen(
        command(other), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (other / ".base.partial" / "metrics.jsonl").exists():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "nothing is lost" in stderr and "run the same command again" in stderr
    assert "Traceback" not in stderr
