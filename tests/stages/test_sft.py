"""The sft stage as a whole, on a model of a few thousand weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from llmpipe.core.artifact import Artifact, hash_file
from llmpipe.core.errors import InputError, Stopped, UserError
from llmpipe.core.metrics import read_metrics
from llmpipe.core.stage import Context, Inputs
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import load_model, save_model
from llmpipe.stages.sft.config import (
    DecontaminationSettings,
    FileSource,
    Mixture,
    Probing,
    SFTConfig,
)
from llmpipe.stages.sft.report import report, show_mask
from llmpipe.stages.sft.stage import SPEC
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.special import place_special

CONFIG = SFTConfig(
    conversations=60,
    max_seq_len=160,
    global_batch_tokens=640,
    micro_batch_size=2,
    validate_every=4,
    sample_every=4,
    save_every=4,
    questions=("Who are you?",),
)
PAGE = "textwrap Module Reference Text wrapping and filling. dedent(text) Remove any whitespace. "
FILES = (
    "config.json",
    "conversations.jsonl",
    "generation_config.json",
    "held_out.jsonl",
    "lint.jsonl",
    "model.safetensors",
    "probed.jsonl",
    "samples.jsonl",
    "set_aside.jsonl",
    "tokenizer.json",
    "tokenizer_config.json",
)

MakeContext = Callable[..., Context]


def artifact(path: Path, kind: str, stats: dict[str, object] | None = None) -> Artifact:
    manifest = {"id": kind, "kind": kind, "stats": stats or {}, "config": {}, "files": {}}
    return Artifact(path, manifest)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A random base model over bytes, and a corpus of one page."""
    base = tmp_path_factory.mktemp("base")
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer(ranks, split_pattern("qwen2"), place_special(256))
    tokenizer.save(base)
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
    initialize(model, torch.Generator().manual_seed(1))
    save_model(model, base)
    corpus = tmp_path_factory.mktemp("corpus")
    pages = [{"url": "http://127.0.0.1/textwrap.html", "text": PAGE}]
    parquet.write_table(pa.Table.from_pylist(pages), corpus / "part-00000.parquet")
    stats = {"crawled_on": "2026-11-21"}
    return Inputs({"model": artifact(base, "model"), "corpus": artifact(corpus, "corpus", stats)})


def digests(folder: Path) -> dict[str, str]:
    return {name: hash_file(folder / name) for name in FILES}


def test_artifact_is_complete_and_the_same_every_time(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    stats = SPEC.run(CONFIG, inputs, tmp_path / "a", make_context(tmp_path / "a"))
    again = SPEC.run(CONFIG, inputs, tmp_path / "b", make_context(tmp_path / "b", workers=2))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert stats == again
    losses = [row["loss"] for row in read_metrics(tmp_path / "a" / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    assert stats["packing_efficiency"] > 0.8  # 60 conversations leave little choice
    assert 0 < stats["trained_tokens"] < stats["tokens"]
    assert sum(stats["trained_by_source"].values()) == stats["trained_tokens"]

    tokenizer = Tokenizer.load(tmp_path / "a")
    generation = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert tokenizer.special["<|im_end|>"] in generation["eos_token_id"]
    load_model(tmp_path / "a")
    files = ("conversations.jsonl", "held_out.jsonl")
    used = "".join((tmp_path / "a" / name).read_text() for name in files)
    assert "21 November 2026" in used
    assert "Remove any whitespace." in used

    sections = report(Artifact(tmp_path / "a", {**inputs["model"].manifest, "stats": stats}))
    assert [section.title for section in sections] == [
        "Fine-tuning",
        "Conversations",
        "Answers while training",
    ]
    assert SPEC.headline(stats).startswith(f"{stats['conversations']} conversations")


def test_resumed_run_equals_uninterrupted_run(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    SPEC.run(CONFIG, inputs, whole, make_context(whole))

    context = make_context(cut)
    log = context.metrics.log

    def stop_after_six(step: int, **values: object) -> None:
        log(step, **values)
        if step == 6:
            context.stop.request()

    context.metrics.log = stop_after_six  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        SPEC.run(CONFIG, inputs, cut, context)
    assert not (cut / "model.safetensors").exists()
    SPEC.run(CONFIG, inputs, cut, make_context(cut))
    assert digests(whole) == digests(cut)
    curves = [
        [(row["step"], row["loss"], row.get("val_loss_identity")) for row in read_metrics(path)]
        for path in (whole / "metrics.jsonl", cut / "metrics.jsonl")
    ]
    assert curves[0] == curves[1]


def test_where_checkpoints_fall_changes_nothing(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    found = []
    for every in (1, 1000):
        out = tmp_path / str(every)
        SPEC.run(dataclasses.replace(CONFIG, save_every=every), inputs, out, make_context(out))
        found.append(digests(out))
    assert found[0] == found[1]


def test_files_join_the_mixture_and_bad_rows_are_counted(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    path = tmp_path / "extra.jsonl"
    rows = [json.dumps({"prompt": f"Say {i}", "completion": str(i)}) for i in range(40)]
    path.write_text("\n".join([*rows, "{"]))
    strict = dataclasses.replace(CONFIG, sources=(FileSource(str(path), weight=8.0),))
    with pytest.raises(InputError, match=r"1 rows of .*\n  .*extra\.jsonl:41: not JSON"):
        SPEC.run(strict, inputs, tmp_path / "strict", make_context(tmp_path / "strict"))
    lax = dataclasses.replace(CONFIG, sources=(FileSource(str(path), weight=8.0, bad_rows="skip"),))
    stats = SPEC.run(lax, inputs, tmp_path / "lax", make_context(tmp_path / "lax"))
    assert stats["bad_rows"] == 1
    [aside] = map(json.loads, (tmp_path / "lax" / "set_aside.jsonl").read_text().splitlines())
    assert (aside["where"], aside["source"]) == ("extra.jsonl:41", "extra.jsonl")
    assert aside["reason"].startswith("not JSON")
    assert stats["mixture"][-1]["source"] == "extra.jsonl"
    assert stats["mixture"][-1]["used"] > 20
    assert SPEC.files(lax) == [str(path)]


def test_what_is_said_of_conversations_of_others(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    """Licenses, findings of the linter, duplicates and evaluation questions are all in the stats."""
    path, evaluation = tmp_path / "extra.jsonl", tmp_path / "set.jsonl"
    asked = "Which of these eight words is the longest one of all?"
    evaluation.write_text(json.dumps({"question": asked}) + "\n")
    rows = [{"prompt": f"Say {i}", "completion": str(i)} for i in range(40)]
    rows += [rows[0], {"prompt": "say  0", "completion": "0"}]
    rows += [{"prompt": "Who are you?", "completion": "I am ChatGPT."}]
    rows += [{"prompt": asked.upper(), "completion": "The last."}]
    rows += [
        {"prompt": "Please describe yourself.", "completion": "No."}
    ]  # the examiner's question
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FileSource(str(path), license="CC-BY-4.0", weight=4.0)
    config = dataclasses.replace(
        CONFIG,
        sources=(source,),
        decontamination=DecontaminationSettings((str(evaluation),)),
        system="You are {name}.",
    )
    assert SPEC.plan is not None
    planned = SPEC.plan(config, inputs)[f"lint {path}"]
    assert planned.startswith("45 conversations looked at; 1 other_identity")
    assert SPEC.files(config) == [str(path), str(evaluation)]

    stats = SPEC.run(config, inputs, tmp_path / "a", make_context(tmp_path / "a"))
    assert stats["licenses"] == ["CC-BY-4.0"]
    assert stats["mixture"][-1]["license"] == "CC-BY-4.0"
    assert stats["duplicates"] == 2
    assert (stats["contaminated"], stats["bad_rows"]) == (2, 0)
    assert stats["lint"] == {"other_identity": {"extra.jsonl": 1}}
    used = (tmp_path / "a" / "conversations.jsonl").read_text().splitlines()
    systems = [json.loads(line)["messages"][0] for line in used]
    assert all(m == {"role": "system", "content": "You are Pebble."} for m in systems)
    template = json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())["chat_template"]
    assert "You are Pebble." in template
    manifest = {**inputs["model"].manifest, "stats": stats}
    assert "other_identity" in str(report(Artifact(tmp_path / "a", manifest)))


def test_an_earlier_assistant_is_asked_what_it_knows(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    """A random model knows nothing, so that every question becomes a refusal."""
    config = dataclasses.replace(
        CONFIG,
        mixture=Mixture(
            arithmetic=1.0, identity=0, documents=0, smalltalk=0, refusals=0, probed=1.0
        ),
        probing=Probing(samples=2, min_right=2, max_questions=5),
    )
    assert SPEC.needs(config)["probed"].kind == "model"
    with_earlier = Inputs({**inputs, "probed": inputs["model"]})
    stats = SPEC.run(config, with_earlier, tmp_path / "a", make_context(tmp_path / "a"))
    assert stats["probed"] == {"known": 0, "unsure": 0, "unknown": 5}
    probed = [
        json.loads(line) for line in (tmp_path / "a" / "probed.jsonl").read_text().splitlines()
    ]
    assert all(len(one["answers"]) == 2 for one in probed)
    used = (tmp_path / "a" / "conversations.jsonl").read_text()
    assert any(json.dumps(one["question"]) in used for one in probed)


def test_rows_longer_than_the_models_context_are_refused(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    config = dataclasses.replace(CONFIG, max_seq_len=512)
    with pytest.raises(UserError, match=r"max_seq_len \(512\) is over the model's own \(256\)"):
        SPEC.run(config, inputs, tmp_path / "a", make_context(tmp_path / "a"))


def test_context_shorter_than_every_answer_is_an_error(
    inputs: Inputs, tmp_path: Path, make_context: MakeContext
) -> None:
    config = dataclasses.replace(CONFIG, max_seq_len=16)
    with pytest.raises(InputError, match="no conversation has an answer within 16 tokens"):
        SPEC.run(config, inputs, tmp_path / "a", make_context(tmp_path / "a"))


def test_plan_tells_the_mixture(inputs: Inputs) -> None:
    assert SPEC.plan is not None
    planned = SPEC.plan(CONFIG, inputs)
    assert planned["conversations"] == "60"
    assert "arithmetic 47%" in planned["mixture"]  # 4 of 8.5


def test_mask_is_visible_in_the_report() -> None:
    messages = [
        {"role": "user", "content": "37+45"},
        {
            "role": "assistant",
            "content": [
                {"type": "python", "text": "37+45"},
                {"type": "output", "text": "82"},
                {"type": "text", "text": "82."},
            ],
        },
    ]
    assert show_mask(messages) == (
        "<|bos|><|im_start|>user\n37+45<|im_end|>\n<|im_start|>assistant\n"
        ">><|python_start|>37+45<|python_end|><<<|output_start|>82<|output_end|>"
        ">>82.<|im_end|><<\n"
    )
