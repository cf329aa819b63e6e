from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llmpipe.core.errors import UserError
from llmpipe.core.metrics import Metrics, make_sinks, read_metrics


class Recorder:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []
        self.is_closed = False

    def log(self, step, values):
        self.rows.append((step, values))

    def close(self):
        self.is_closed = True


def test_lines_reach_file_and_sinks(tmp_path):
    sink = Recorder()
    metrics = Metrics(tmp_path / "metrics.jsonl", [sink])
    metrics.log(1, loss=2.5)
    metrics.log(2, loss=2.0, text="x")
    metrics.close()
    assert read_metrics(metrics.path) == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": 2.0, "text": "x"},
    ]
    assert sink.rows == [(1, {"loss": 2.5}), (2, {"loss": 2.0, "text": "x"})]
    assert sink.is_closed


def test_rewind_drops_later_steps_and_a_torn_line(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in range(5):
        metrics.log(step, loss=step)
    with metrics.path.open("a") as file:
        file.write('{"step": 5, "lo')
    metrics.rewind(2)
    metrics.log(3, loss=30)
    assert [row["step"] for row in read_metrics(metrics.path)] == [0, 1, 2, 3]


def test_other_ranks_write_nothing(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", enabled=False)
    metrics.log(1, loss=1)
    metrics.rewind(0)
    assert not metrics.path.exists()


def test_unknown_sink_is_refused_with_a_suggestion(tmp_path):
    with pytest.raises(UserError) as error:
        make_sinks(["wanbd"], "run", "pretrain", tmp_path, {}, "id")
    assert error.value.hint == "did you mean `wandb`?"


@pytest.mark.slow  # importing either takes seconds
def test_tensorboard_gets_each_stage_in_a_folder_of_its_own(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for stage in ("pretrain", "sft"):
        sinks = make_sinks(["tensorboard"], "tiny", stage, tmp_path, {}, "id")
        metrics = Metrics(tmp_path / f"{stage}.jsonl", sinks)
        metrics.log(1, loss=2.5, skipped="the loss is not finite")
        metrics.log(2, loss=2.0)
        metrics.close()
    (file,) = (tmp_path / "tensorboard" / "pretrain").iterdir()
    values = [
        (event.step, value.tag, value.tensor.float_val[0])
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert values == [(1, "loss", 2.5), (2, "loss", 2.0)]
    assert (tmp_path / "tensorboard" / "sft").is_dir()


@pytest.mark.slow
def test_wandb_gets_the_numbers_and_sends_nothing(tmp_path):
    pytest.importorskip("wandb")
    script = """
from pathlib import Path
from llmpipe.core.metrics import Metrics, make_sinks
for step in (1, 2):  # as if it was resumed
    sinks = make_sinks(["wandb"], "tiny", "pretrain", Path(), {"depth": 4}, "one-id")
    metrics = Metrics(Path("m.jsonl"), sinks)
    metrics.log(step, loss=step + 1.5)
    metrics.close()
"""
    # In a process of its own: wandb starts another and talks to it over a socket.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {run.name for run in runs} == {"run-one-id.wandb"}
    content = b"".join(run.read_bytes() for run in runs)
    assert b"tiny/pretrain" in content
    assert b"depth" in content
    assert b"2.5" in content
    assert b"3.5" in content
