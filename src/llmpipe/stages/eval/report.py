"""Numbers of an `eval` artifact to sections of a report."""

from __future__ import annotations

from typing import Any

from llmpipe.core.artifact import Artifact
from llmpipe.core.records.lines import read_objects
from llmpipe.core.report import Block, Cell, Prose, Section, Table, Transcript

N_WRONG_SHOWN = 5


def report(artifact: Artifact) -> list[Section]:
    """Show the scores, some wrong answers, and the conversation."""
    sections = [Section("Scores", [*_scores(artifact.stats["scores"]), *_wrong(artifact)])]
    turns = artifact.stats["conversation"]
    if turns:
        sections.append(Section("A conversation", [Transcript(lay_out(turns))]))
    return sections


def _scores(scores: Any) -> list[Block]:
    rows: list[list[Cell]] = [
        [
            name,
            f"{numbers['correct']} of {numbers['n']}",
            f"{numbers['accuracy']:.1%}",
            f"{numbers['low']:.1%} to {numbers['high']:.1%}",
        ]
        for name, numbers in scores.items()
    ]
    return [
        Prose("All questions were kept from training. The interval is Wilson's, at 95%."),
        Table(["task", "right", "share", "95% interval"], rows),
    ]


def _wrong(artifact: Artifact) -> list[Block]:
    records = read_objects(artifact.file("answers.jsonl"))
    wrong = [record for record in records if not record["right"]]
    if not wrong:
        return [Prose("No answer was wrong.")]
    rows: list[list[Cell]] = [
        [record["question"], record["expected"], record["answer"]]
        for record in wrong[:N_WRONG_SHOWN]
    ]
    return [
        Prose(f"{len(wrong)} answers were wrong; the first of them:"),
        Table(["question", "expected", "answer"], rows),
    ]


def lay_out(turns: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Turn a conversation into (role, text), with tool calls between question and answer."""
    lines = []
    for turn in turns:
        lines.append(("user", turn["question"]))
        lines += [("tool", call) for call in turn["tool_calls"]]
        lines.append(("assistant", turn["answer"]))
    return lines
