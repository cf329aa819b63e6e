from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llmpipe.core.errors import InputError
from llmpipe.stages.sft.conversation import Conversation, ask
from llmpipe.stages.sft.generators.arithmetic import solve
from llmpipe.stages.sft.sources import read_conversations
from llmpipe.tasks.arithmetic import Problem

MESSAGES = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
}
SHARE_GPT = {
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
}
ALPACA = {"instruction": "Hi", "input": "", "output": "Hello!"}
COMPLETION = {"prompt": "Hi", "completion": "Hello!"}


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in conversation.messages]


@pytest.mark.parametrize("row", [MESSAGES, SHARE_GPT, ALPACA, COMPLETION])
def test_four_shapes_say_the_same(row: object, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    [conversation], errors = read_conversations(path, "rows")
    assert turns(conversation) == [("user", "Hi"), ("assistant", "Hello!")]
    assert errors == []


def test_alpaca_input_follows_the_instruction(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "Sum up.", "input": "Text", "output": "T"}]))
    [conversation], _ = read_conversations(path, "rows")
    assert turns(conversation)[0] == ("user", "Sum up.\n\nText")


def test_array_and_lines_and_gzip_are_read_alike(tmp_path: Path) -> None:
    rows = [MESSAGES, ALPACA]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    read = [read_conversations(tmp_path / n, "x") for n in ("a.jsonl", "b.json", "c.jsonl.gz")]
    assert read[0] == read[1] == read[2]
    assert len(read[0][0]) == 2


BAD_ROWS = [
    ('{"messages": [', "not JSON"),
    ("[1]", "expected an object, got list"),
    ('{"text": "x"}', "no known shape among the keys text"),
    ('{"messages": []}', "`messages` must be a list with messages"),
    ('{"messages": [{"role": "user", "content": "Hi"}]}', "no message of the assistant"),
    ('{"messages": [{"role": "boss", "content": "Hi"}]}', "unknown role `boss`"),
    ('{"prompt": "Hi", "completion": " "}', "message 2: the assistant says nothing"),
    ('{"prompt": "Hi", "completion": 3}', "`completion` must be a text"),
    ('{"instruction": "", "output": "x"}', "nobody asks anything"),
    ('{"conversations": [{"from": "alien", "value": "x"}]}', "unknown speaker `alien`"),
    (
        '{"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}]}',
        "unknown type of part `image`",
    ),
]


def test_bad_rows_are_named_with_their_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(MESSAGES), *(row for row, _ in BAD_ROWS), "", json.dumps(ALPACA)]
    path.write_text("\n".join(lines), encoding="utf-8")
    conversations, errors = read_conversations(path, "rows")
    assert len(conversations) == 2
    assert len(errors) == len(BAD_ROWS)
    for number, (error, (_, reason)) in enumerate(zip(errors, BAD_ROWS, strict=True), start=2):
        assert error.where == f"{path}:{number}"
        assert reason in error.reason


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x1f\x8bnot gzip"])
def test_a_file_that_is_no_text_is_one_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        read_conversations(path, "rows")


def test_a_broken_array_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"prompt": "a",\n"completion": }]')
    with pytest.raises(InputError, match=r"rows\.json:2: not JSON"):
        read_conversations(path, "rows")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = [solve(Problem(37, 45), "What is 37 + 45?"), ask("Hi\u2028", "Hello!", "arithmetic")]
    path = tmp_path / "conversations.jsonl"
    path.write_text("".join(c.to_json() + "\n" for c in written), encoding="utf-8")
    read, errors = read_conversations(path, "arithmetic")
    assert errors == []
    assert [[m.parts for m in c.messages] for c in read] == [
        [m.parts for m in c.messages] for c in written
    ]


@pytest.mark.parametrize(
    ("name", "n_good", "n_bad"),
    [
        ("llamafactory/alpaca_en_demo.json.gz", 999, 0),
        ("llamafactory/v1_sft_demo.jsonl.gz", 500, 0),
        ("llamafactory/identity.json.gz", 91, 0),
        ("sgd/train_sample_utterances.jsonl.gz", 6000, 0),
    ],
)
def test_published_files(test_data: Path, name: str, n_good: int, n_bad: int) -> None:
    conversations, errors = read_conversations(test_data / "conversations" / name, name)
    assert (len(conversations), len(errors)) == (n_good, n_bad)
