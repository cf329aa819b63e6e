from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.errors import InputError
from llmpipe.core.records.lines import whole
from llmpipe.core.records.rows import read_rows
from llmpipe.training.evaluations.questions import Question, parse_question, read_questions

ICL = {"query": "The sky is", "choices": ["blue", "loud"], "gold": 0}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "row, expected",
    [
        (ICL, Question(("The sky is",) * 2, ("blue", "loud"), 0, False)),
        (
            {"context_options": ["Ann so Ann", "Ann so Eve"], "continuation": "won.", "gold": 1},
            Question(("Ann so Ann", "Ann so Eve"), ("won.", "won."), 1, False),
        ),
        (
            {
                "ctx_a": "A man stands [header] high.",
                "ctx_b": "he",
                "activity_label": "Jumping",
                "endings": ["falls [step] down.", " flies. [title] So"],
                "label": "1",
            },
            # what stands in brackets goes, and `ctx_b` begins a sentence
            Question(
                ("Jumping: A man stands high. He",) * 2, ("falls down.", "flies.. So"), 1, False
            ),
        ),
        (
            {
                "question": "Why?",
                "choices": {"text": ["so", "no", "yes"], "label": ["1", "2", "3"]},
                "answerKey": "3",
            },
            Question(("Question: Why?",) * 3, ("so", "no", "yes"), 2, True),
        ),
        (
            {"question_stem": "Why", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}
            | {"answerKey": "A"},
            Question(("Question: Why",) * 2, ("a", "b"), 0, True),
        ),
        (
            {"question": "2+2", "choices": ["3", "4"], "answer": 1, "subject": "x"},
            Question(("Question: 2+2",) * 2, ("3", "4"), 1, True),
        ),
        (
            {"question": "2+2", "answer": "D"} | {f"choice{i}": str(i + 1) for i in range(4)},
            Question(("Question: 2+2",) * 4, ("1", "2", "3", "4"), 3, True),
        ),
    ],
    ids=["icl", "schema", "hellaswag", "arc", "openbookqa", "mmlu", "mmlu csv"],
)
def test_each_published_form_is_read(row: dict[str, Any], expected: Question) -> None:
    assert parse_question(row) == expected


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"gold": 2}, "answer 2 is the right one, and there are 2"),
        ({"choices": ["blue"]}, "expected two answers or more, got 1"),
        ({"gold": None}, "int"),
    ],
)
def test_damaged_row_is_refused_with_file_and_line(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = write_lines(tmp_path / "q.jsonl", [ICL, ICL | changed])
    with pytest.raises(InputError, match=rf"q\.jsonl:2: .*{message}"):
        read_questions(path)


def test_unknown_form_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", [{"context": "a", "answer": "b"}])
    with pytest.raises(InputError, match=r"it has context, answer, and known are .*choices, gold"):
        read_questions(path)


def test_rows_with_an_empty_answer_are_left_out(tmp_path: Path) -> None:
    rows = [ICL | {"choices": ["", "loud"]}, ICL]
    assert len(read_questions(write_lines(tmp_path / "q.jsonl", rows))) == 1
    with pytest.raises(InputError, match="holds no questions"):
        read_questions(write_lines(tmp_path / "empty.jsonl", rows[:1]))


def test_files_are_read_whatever_they_are_packed_with(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    lines = "".join(json.dumps(ICL | {"gold": i % 2}) + "\n\n" for i in range(3)).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    pq.write_table(
        pa.Table.from_pylist([ICL | {"gold": i % 2} for i in range(3)]), tmp_path / "a.parquet"
    )
    (tmp_path / "a.csv").write_text(
        "question,choice0,choice1,choice2,choice3,answer\n"
        '"two\nlines, quoted",1,2,3,4,0\nx,1,2,3,4,1\ny,1,2,3,4,0\n'
    )
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.csv"):
        assert [q.gold for q in read_questions(tmp_path / name)] == [0, 1, 0], name
    assert read_questions(tmp_path / "a.csv")[0].stems[0] == "Question: two\nlines, quoted"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b'{"a": 1}\n{"a"', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: expected an object, got list"),
        ("a.jsonl.gz", b"\xff gzip", r"a\.jsonl\.gz` cannot be read"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd zstd", r"a\.jsonl\.zst` cannot be read"),
        ("a.parquet", b"no parquet", r"a\.parquet` cannot be read"),
        ("a.txt", b"\xff", r"a\.txt` cannot be read"),
        ("a.xlsx", b"", r"kinds of file read here are \.jsonl"),
    ],
)
def test_unreadable_file_is_refused_and_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(whole(read_rows(tmp_path / name)))
    with pytest.raises(InputError, match=r"nowhere\.jsonl` cannot be read"):
        list(whole(read_rows(tmp_path / "nowhere.jsonl")))


def test_published_sets_are_read_whole(test_data: Path) -> None:
    """Counts as in the inventory of the data; 28 rows of the Polish set have an empty answer."""
    folder = test_data / "eval"
    counts = {
        "llm-foundry/world_knowledge/arc_easy.jsonl.gz": 2376,
        "llm-foundry/language_understanding/winogrande.jsonl.gz": 1267,
        "llm-foundry/commonsense_reasoning/copa.jsonl.gz": 100,
        "mmlu/test/anatomy_test.csv.gz": 135,
        "polish/hellaswag_PL_2k.jsonl.gz": 2020,
    }
    assert {name: len(read_questions(folder / name)) for name in counts} == counts
