from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmpipe.tasks.base import Answer, AssistantFacts, Example
from llmpipe.tasks.registry import TASKS
from llmpipe.tasks.stops import ended, stop_examples


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer("Hello!", True), True),
        (Answer("Hello!", False), False),
        (Answer("", True), False),
        (Answer(" \n", True), False),
    ],
)
def test_truth_table(answer: Answer, right: bool) -> None:
    assert ended(Example("Hi", "a stop token"), answer) is right


def test_prompts_come_from_held_out_conversations(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Only I am asked."},
        {"role": "assistant", "content": "Yes."},
    ]
    path.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    questions = [
        example.question for example in stop_examples(AssistantFacts("Pebble", path), 5000, 1)
    ]
    assert questions == ["Only I am asked."]
    without = [example.question for example in stop_examples(AssistantFacts("Pebble"), 5000, 1)]
    assert len(without) == len(set(without)) > 100


def test_the_table_names_tasks_by_their_names() -> None:
    assert all(name == task.name and task.version >= 1 for name, task in TASKS.items())
