from __future__ import annotations

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
        make_sinks(["wanbd"], "run", "pretrain", tmp_path, {})
    assert error.value.hint == "did you mean `wandb`?"
