"""Numbers of an `sft` artifact to sections of a report."""

from __future__ import annotations

import itertools
from typing import Any

from llmpipe.core.artifact import Artifact
from llmpipe.core.metrics import read_metrics
from llmpipe.core.records.lines import read_json_lines, read_objects, whole
from llmpipe.core.report import Block, Cell, Code, LinePlot, Prose, Section, Table, Transcript


def report(artifact: Artifact) -> list[Section]:
    """Describe how the assistant was made."""
    return [
        Section("Fine-tuning", [_summary(artifact.stats), _curve(artifact)]),
        Section(
            "Conversations", [*_mixture(artifact.stats), *_lint(artifact), *_example(artifact)]
        ),
        Section("Answers while training", _samples(artifact)),
    ]


def _summary(stats: Any) -> Prose:
    trained = stats["trained_tokens"] / stats["tokens"]
    return Prose(
        f"{stats['conversations']:,} conversations in {stats['rows']:,} rows, "
        f"{stats['packing_efficiency']:.1%} of the places filled. {stats['trained_tokens']:,} of "
        f"{stats['tokens']:,} tokens ({trained:.0%}) are the assistant's and were trained on. "
        f"{stats['duplicates']:,} duplicates, {stats['bad_rows']:,} unusable rows and "
        f"{stats['contaminated']:,} conversations that an evaluation holds were left out, "
        f"{stats['cut']:,} conversations cut and {stats['dropped']:,} dropped for their length."
    )


def _curve(artifact: Artifact) -> LinePlot:
    rows = read_metrics(artifact.file("metrics.jsonl"))
    keys = {"trained": "loss"}
    keys |= {f"held out: {name}": f"val_loss_{name}" for name in artifact.stats["val_loss"]}
    series = {
        name: [(float(row["step"]), float(row[key])) for row in rows if key in row]
        for name, key in keys.items()
    }
    return LinePlot("Loss on the assistant's tokens", "step", "nats per token", series)


def _mixture(stats: Any) -> list[Block]:
    sources = [
        [row["source"], row["available"], row["used"], row["epochs"], row.get("license", "")]
        for row in stats["mixture"]
    ]
    tokens = sorted(stats["trained_by_source"].items(), key=lambda item: -item[1])
    return [
        Table(["source", "conversations there are", "used", "epochs", "license"], sources),
        Prose("Some of them were joined into conversations of several turns. Trained tokens:"),
        Table(["source", "trained tokens"], [list(item) for item in tokens]),
    ]


def _lint(artifact: Artifact) -> list[Block]:
    """Show what the linter has found in conversations of others."""
    found = artifact.stats["lint"]
    if not found:
        return []
    findings = read_objects(artifact.file("lint.jsonl"))
    rows: list[list[Cell]] = []
    for rule, by_source in found.items():
        first = next(finding for finding in findings if finding["rule"] == rule)
        rows.append([rule, sum(by_source.values()), ", ".join(by_source), first["excerpt"]])
    return [
        Prose("The linter does not leave anything out; it says what to look at (`lint.jsonl`):"),
        Table(["finding", "times", "in", "for example"], rows),
    ]


def _example(artifact: Artifact) -> list[Block]:
    """Show one conversation as the model sees it; 2 to 5 lines, not the longest."""
    read = whole(read_json_lines(artifact.file("conversations.jsonl")))
    rows = [row for _, row in itertools.islice(read, 200)]
    with_tool = [row for row in rows if row["source"] == "arithmetic" and len(row["messages"]) == 2]
    row = (with_tool or rows)[0]
    return [Code(show_mask(row["messages"]), "One conversation; what is >>trained<< is marked.")]


def show_mask(messages: list[dict[str, Any]]) -> str:
    """Spell out a conversation with its control tokens, the trained parts between >> and <<."""
    text = "<|bos|>"
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text += f"<|im_start|>{message['role']}\n"
        if message["role"] == "assistant":
            text += "".join(_show_part(part) for part in parts) + ">><|im_end|><<\n"
        else:
            text += "".join(part["text"] for part in parts) + "<|im_end|>\n"
    return text.replace("<<>>", "")


def _show_part(part: dict[str, str]) -> str:
    if part["type"] == "text":
        return f">>{part['text']}<<"
    name = "think" if part["type"] == "thought" else part["type"]
    spelled = f"<|{name}_start|>{part['text']}<|{name}_end|>"
    return spelled if part["type"] == "output" else f">>{spelled}<<"


def _samples(artifact: Artifact) -> list[Block]:
    samples = read_objects(artifact.file("samples.jsonl"))
    blocks: list[Block] = []
    for sample in samples[:1] + samples[1:][-1:]:
        turns = []
        for item in sample["answers"]:
            turns += [("user", item["question"]), ("assistant", item["answer"])]
        blocks += [Prose(f"After {sample['step']:,} steps:"), Transcript(turns)]
    return blocks
