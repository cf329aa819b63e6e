from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import PythonCall, SearchCall, Text, Thought, ToolOutput
from llmpipe.core.errors import InputError
from llmpipe.stages.sft.generators.arithmetic import solve
from llmpipe.stages.sft.generators.documents import read_pages
from llmpipe.stages.sft.sources import read_conversations, source_files
from llmpipe.tasks.arithmetic import Calculation

MESSAGES = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
}
SHARE_GPT = {
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
}
ALPACA = {"instruction": "Hi", "input": "", "output": "Hello!"}
COMPLETION = {"prompt": "Hi", "completion": "Hello!"}


HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Bah.",
}
OPENAI_PAIR = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Bah."}
MESSAGE_PAIR = {
    "chosen": MESSAGES["messages"],
    "rejected": [*MESSAGES["messages"][:1], {"role": "assistant", "content": "Bah."}],
}
REPEATED = {"prompt": MESSAGES["messages"][:1], **MESSAGE_PAIR}
SHARE_GPT_PAIR = {
    "conversations": SHARE_GPT["conversations"][:1],
    "chosen": SHARE_GPT["conversations"][1],
    "rejected": {"from": "gpt", "value": "Bah."},
}
NAMED_PAIR = {"chosen_messages": MESSAGES["messages"], "rejected_messages": []}
SELF_INSTRUCT = {"instruction": "Hi", "instances": [{"input": "", "output": "Hello!"}]}
DIALOGUE = {
    "turns": [{"speaker": "USER", "utterance": "Hi"}, {"speaker": "SYSTEM", "utterance": "Hello!"}]
}
MESSAGE_COMPLETION = {"prompt": MESSAGES["messages"][:1], "completion": MESSAGES["messages"][1:]}
SHAPES = [
    MESSAGES, SHARE_GPT, ALPACA, COMPLETION, HH, OPENAI_PAIR, MESSAGE_PAIR, REPEATED,
    SHARE_GPT_PAIR, NAMED_PAIR, SELF_INSTRUCT, DIALOGUE, MESSAGE_COMPLETION,
]  # fmt: skip


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in conversation.messages]


@pytest.mark.parametrize("row", SHAPES)
def test_all_shapes_say_the_same(row: object, tmp_path: Path) -> None:
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
    halves = [zstandard.compress(half.encode()) for half in lines.splitlines(keepends=True)]
    (tmp_path / "d.jsonl.zst").write_bytes(b"".join(halves))
    columns = {key: None for row in rows for key in row}  # a table has all of them in every row
    table = [{**columns, **row} for row in rows]
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "e.parquet")
    datasets.Dataset.from_list(table).save_to_disk(tmp_path / "f")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(table)}).save_to_disk(tmp_path / "g")
    names = ["a.jsonl", "b.json", "c.jsonl.gz", "d.jsonl.zst", "e.parquet", "f", "g"]
    read = [read_conversations(tmp_path / name, "x") for name in names]
    assert all(one == read[0] for one in read)
    assert len(read[0][0]) == 2


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json.gz"):
        data = (json.dumps({"prompt": name, "completion": "x"}) + "\nno").encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (tmp_path / "README.md").write_text("not rows")
    conversations, errors = read_conversations(tmp_path, "x")
    assert [c.messages[0].text for c in conversations] == ["a.json.gz", "b.jsonl"]
    assert [error.where for error in errors] == [f"{tmp_path}/a.json.gz:2", f"{tmp_path}/b.jsonl:2"]
    assert source_files(str(tmp_path)) == [
        str(tmp_path / n) for n in ("README.md", "a.json.gz", "b.jsonl")
    ]


def test_rows_of_tables_are_named_by_their_number(tmp_path: Path) -> None:
    rows = [COMPLETION, {"prompt": "Hi", "completion": None}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    _, [error] = read_conversations(tmp_path / "a.parquet", "x")
    assert error.where == f"{tmp_path}/a.parquet: row 2"


def test_a_missing_split_and_a_folder_without_rows_are_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"test": datasets.Dataset.from_list([ALPACA])}).save_to_disk(
        tmp_path / "g"
    )
    with pytest.raises(InputError, match="has no split `train`, only test"):
        read_conversations(tmp_path / "g", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no input"):
        read_conversations(tmp_path / "empty", "x")


def read_one(row: object, tmp_path: Path) -> Conversation:
    (tmp_path / "one.json").write_text(json.dumps([row]))
    [conversation], errors = read_conversations(tmp_path / "one.json", "x")
    assert errors == []
    return conversation


def test_tool_calls_become_parts_of_one_turn(tmp_path: Path) -> None:
    def call(name: str, arguments: object) -> dict[str, object]:
        return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}

    row = {
        "tools": json.dumps([{"type": "function", "function": {"name": "get_weather"}}]),
        "messages": [
            {"role": "user", "content": "Weather in Oslo and Rome?"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Two calls.",
                "tool_calls": [
                    call("get_weather", {"city": c, "now": True}) for c in ("Oslo", "Rome")
                ],
            },
            {"role": "tool", "content": "rain"},
            {"role": "tool", "content": "sun"},
            {"role": "assistant", "content": "Rain and sun."},
        ],
    }
    system, _, turn = read_one(row, tmp_path).messages
    assert system.text == "Tools: get_weather."
    assert turn.parts == (
        Thought("Two calls."),
        PythonCall("get_weather(city='Oslo', now=True)\nget_weather(city='Rome', now=True)"),
        ToolOutput("rain\nsun"),
        Text("Rain and sun."),
    )


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("python", {"code": "1+1"}, PythonCall("1+1")),
        ("search", {"query": "llamas"}, SearchCall("llamas")),
        ("calendar.add-event", {"on day": 3}, PythonCall("calendar_add_event(on_day=3)")),
        ("stop", {}, PythonCall("stop()")),
    ],
)
def test_known_tools_get_their_own_calls(
    name: str, arguments: object, part: object, tmp_path: Path
) -> None:
    said = json.dumps({"name": name, "arguments": arguments})
    row = {
        "conversations": [
            {"from": "human", "value": "Do it."},
            {"from": "function_call", "value": said},
            {"from": "observation", "value": "done"},
            {"from": "gpt", "value": "Done."},
        ]
    }
    parts = read_one(row, tmp_path).messages[1].parts
    assert parts == (part, ToolOutput("done"), Text("Done."))


def test_turns_of_no_weight_are_not_trained(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "a", "loss_weight": 0.0},
            {"role": "assistant", "content": "b", "loss_weight": 0.0},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d", "loss_weight": 1.0},
        ]
    }
    conversation = read_one(row, tmp_path)
    assert [m.is_trained for m in conversation.messages] == [True, False, True, True]
    assert '"content": "b", "loss_weight": 0}' in conversation.to_json()


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
    ('{"prompt": "Hi", "completion": "Bah", "label": false}', "marked as a bad answer"),
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
        assert reason in error.said


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
    written = [
        solve(Calculation(37, 45), "What is 37 + 45?"),
        ask("Hi\u2028", "Hello!", "arithmetic"),
    ]
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
        ("conversations/llamafactory/alpaca_en_demo.json.gz", 999, 0),
        ("conversations/llamafactory/alpaca_zh_demo.json.gz", 1000, 0),
        ("conversations/llamafactory/glaive_toolcall_en_demo.json.gz", 300, 0),
        ("conversations/llamafactory/reason_tool_use_demo_50.jsonl.gz", 50, 0),
        ("conversations/llamafactory/v1_sft_demo.jsonl.gz", 500, 0),
        ("conversations/llamafactory/identity.json.gz", 91, 0),
        ("conversations/self-instruct/seed_tasks.jsonl.gz", 175, 0),
        ("conversations/sgd/train_sample_utterances.jsonl.gz", 6000, 0),
        ("conversations/sgd/original_format_dev_dialogues_001.json.gz", 128, 0),
        ("preferences/hh-rlhf/harmless-base-test-part1.jsonl.gz", 1730, 4),  # empty answers
        ("preferences/llamafactory/dpo_en_demo.json.gz", 300, 0),
        ("preferences/llamafactory/kto_en_demo.json.gz", 150, 150),  # half are bad answers
        ("preferences/llamafactory/v1_dpo_demo.jsonl.gz", 10, 0),
    ],
)
def test_published_files(test_data: Path, name: str, n_good: int, n_bad: int) -> None:
    conversations, errors = read_conversations(test_data / name, name)
    assert (len(conversations), len(errors)) == (n_good, n_bad)


def test_a_flipped_bit_in_a_table_is_an_error_and_no_other_text(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    rows = [
        {"url": name, "text": "Hi", "prompt": name, "completion": "x"}
        for name in ("a", "lamb", "z")
    ]
    parquet.write_table(
        pa.Table.from_pylist(rows), path, compression="none", use_dictionary=False,
        write_page_checksum=True,
    )  # fmt: skip
    assert [url for url, _ in read_pages(tmp_path)] == ["a", "lamb", "z"]
    path.write_bytes(path.read_bytes().replace(b"lamb", b"lama"))
    with pytest.raises(InputError, match=r"part-00000\.parquet` cannot be read: .*CRC"):
        read_conversations(path, "x")
    with pytest.raises(InputError, match=r"part-00000\.parquet` cannot be read: .*CRC"):
        list(read_pages(tmp_path))
