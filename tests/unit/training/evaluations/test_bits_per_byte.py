from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmpipe.core.errors import InputError
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.evaluations.bits_per_byte import BitsPerByteEvaluation
from llmpipe.training.evaluations.config import BitsPerByte


def write(folder: Path, name: str, texts: list[str]) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_even_model_needs_the_bits_of_its_ids(
    tmp_path: Path, make_context: Callable[..., EvaluationContext]
) -> None:
    context = make_context(row_tokens=8)
    with torch.no_grad():
        context.model.head.weight.zero_()
    path = write(tmp_path, "even.jsonl", ["xyz" * 20, "uvw"])
    numbers = BitsPerByteEvaluation(BitsPerByte(files=(path,)))(context)
    # one token a byte, and all ids equally likely
    assert numbers == {"bits_per_byte": pytest.approx(math.log2(context.tokenizer.vocab_size))}


def test_each_text_is_scored_once_and_after_what_stands_before_it(
    tmp_path: Path, make_context: Callable[..., EvaluationContext]
) -> None:
    context = make_context(row_tokens=8)
    text = "the old mill, the old river"  # a token a byte: 27 in rows of 8
    path = write(tmp_path, "a.jsonl", [text])
    found = BitsPerByteEvaluation(BitsPerByte(files=(path,)))(context)["bits_per_byte"]
    ids = [context.tokenizer.bos_id, *context.tokenizer.encode(text)]
    nats = 0.0
    for start in range(0, 27, 8):
        row = torch.tensor([ids[start : start + 9]])
        with torch.no_grad():
            logits = context.model(row[:, :-1])
        nats += float(torch.nn.functional.cross_entropy(logits[0], row[0, 1:], reduction="sum"))
    assert found == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)


def test_several_files_are_told_apart_and_summed_up(
    tmp_path: Path, make_context: Callable[..., EvaluationContext]
) -> None:
    files = (
        write(tmp_path, "one/val.jsonl", ["old mill"]),
        write(tmp_path, "two/val.jsonl", ["ééé" * 8]),
        write(tmp_path, "code.txt", []),
    )
    Path(files[2]).write_text("x = 1\n")
    numbers = BitsPerByteEvaluation(BitsPerByte(files=files, name="all"))(make_context())
    sizes = {"one_val": 8, "two_val": 48, "code": 6}
    assert list(numbers) == ["bits_per_byte", *(f"bits_per_byte_{name}" for name in sizes)]
    whole = sum(numbers[f"bits_per_byte_{name}"] * n for name, n in sizes.items())
    assert numbers["bits_per_byte"] == pytest.approx(whole / 62)


def test_no_more_than_the_tokens_asked_for_are_measured(
    tmp_path: Path, make_context: Callable[..., EvaluationContext]
) -> None:
    long, short = (
        write(tmp_path, "long.jsonl", ["xyz" * 100] * 50),
        write(tmp_path, "short.jsonl", ["xyz" * 3 + "x"]),
    )
    cut = BitsPerByteEvaluation(BitsPerByte(files=(long,), max_tokens=10))
    assert sum(len(text) for text in cut.texts[long]) <= 10 * 16 + 300
    whole = BitsPerByteEvaluation(BitsPerByte(files=(short,)))
    assert cut(make_context()) == whole(make_context())


def test_files_without_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"body": "x"}\n')
    with pytest.raises(InputError, match=r"q\.jsonl:1: `text` is no text, it has body"):
        BitsPerByteEvaluation(BitsPerByte(files=(str(path),)))
    assert BitsPerByteEvaluation(BitsPerByte(files=(str(path),), text_field="body")).texts
    path.write_text('{"text": ""}\n')
    with pytest.raises(InputError, match="holds no text"):
        BitsPerByteEvaluation(BitsPerByte(files=(str(path),)))
