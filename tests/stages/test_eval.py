"""The eval stage as a whole, on a model of a few thousand random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmpipe.core.artifact import Artifact, hash_file
from llmpipe.core.errors import UserError
from llmpipe.core.stage import Context, Inputs
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_model
from llmpipe.stages.eval.config import EvalConfig
from llmpipe.stages.eval.report import report
from llmpipe.stages.eval.stage import SPEC
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.special import place_special

CONFIG = EvalConfig(examples=4, max_tokens=8, conversation=("Who are you?", "Thanks!"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A chat model that has learned nothing."""
    folder = tmp_path_factory.mktemp("sft")
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer(ranks, split_pattern("qwen2"), place_special(256))
    tokenizer.save(folder)
    shape = ModelConfig(
        d_model=32,
        n_layers=1,
        n_heads=2,
        n_kv_heads=2,
        head_dim=16,
        d_ff=64,
        vocab_size=tokenizer.vocab_size,
        max_seq_len=256,
    )
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    save_model(model, folder)
    config = {"identity": {"name": "Pebble"}}
    manifest = {"id": "x", "kind": "model", "stats": {}, "config": config, "files": {}}
    return Artifact(folder, manifest)


def test_scores_answers_and_conversation(
    model: Artifact, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    inputs = Inputs({"model": model})
    stats = SPEC.run(CONFIG, inputs, tmp_path / "a", make_context(tmp_path / "a"))
    again = SPEC.run(CONFIG, inputs, tmp_path / "b", make_context(tmp_path / "b"))
    assert stats == again
    for name in ("scores.json", "answers.jsonl"):
        assert hash_file(tmp_path / "a" / name) == hash_file(tmp_path / "b" / name)

    scores = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert scores == stats["scores"]
    assert set(scores) == {"arithmetic", "identity", "stops"}
    lines = (tmp_path / "a" / "answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    for name, numbers in scores.items():
        verdicts = [record["right"] for record in answers if record["task"] == name]
        assert (len(verdicts), sum(verdicts)) == (numbers["n"], numbers["correct"])
        assert stats[f"{name}_accuracy"] == numbers["correct"] / numbers["n"]
    assert [turn["question"] for turn in stats["conversation"]] == ["Who are you?", "Thanks!"]
    assert SPEC.headline(stats).startswith("arithmetic 0/4")

    sections = report(Artifact(tmp_path / "a", {**model.manifest, "stats": stats}))
    assert [section.title for section in sections] == ["Scores", "A conversation"]


def test_questions_at_the_same_time_change_nothing(
    model: Artifact, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    found = set()
    for size in (1, 3, 32):
        out = tmp_path / str(size)
        SPEC.run(replace(CONFIG, batch_size=size), Inputs({"model": model}), out, make_context(out))
        found.add((hash_file(out / "scores.json"), hash_file(out / "answers.jsonl")))
    assert len(found) == 1


def test_a_model_without_a_name_needs_one(
    model: Artifact, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    nameless = Artifact(model.path, {**model.manifest, "config": {}})
    with pytest.raises(UserError, match="does not say what the assistant is called"):
        SPEC.run(CONFIG, Inputs({"model": nameless}), tmp_path / "a", make_context(tmp_path / "a"))
