"""`llmpipe tokens --rows`: the rows of a run, while it is under way and after."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmpipe.stages.pretrain.loop as loop
from llmpipe.apps.tokens.rows import read_rows, run_rows
from llmpipe.core.artifact import SCHEMA, publish
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.stage import Request, plan_stage, run_stage
from llmpipe.stages.pretrain.config import Corpus, ModelSettings, PretrainConfig
from llmpipe.stages.pretrain.stage import SPEC
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.shards import ShardWriter, write_index
from llmpipe.tokenizer.special import place_special

CONFIG = PretrainConfig(
    model=ModelSettings(d_model=16, n_layers=1, head_dim=16, max_seq_len=32),
    max_tokens=4 * 64,
    global_batch_tokens=64,
    micro_batch_size=1,
    eval_tokens=32,
    sample_every=None,
    dtype="float32",
    compile="never",
)


def write_tokens(folder: Path, word: str) -> Path:
    """Write a byte-level tokenizer and shards of a few texts."""
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer(ranks, PATTERNS["gpt2"], place_special(256))
    partial = folder.parent / f".{folder.name}.partial"
    partial.mkdir(parents=True)
    tokenizer.save(partial)
    shards = []
    for split, n_documents in (("train", 20), ("val", 2)):
        with ShardWriter(
            partial, f"{split}-00000", tokenizer.vocab_size, tokenizer.bos_id
        ) as writer:
            for i in range(n_documents):
                text = f"{word} {split} {i}: " + "\x1b" * i
                writer.add(np.array(tokenizer.encode(text), dtype=np.uint32), len(text))
            shards.append(writer.finish(split))  # type: ignore[arg-type]
    write_index(partial, shards, tokenizer.digest, vocab_size=tokenizer.vocab_size)
    publish(partial, folder, {"schema": SCHEMA, "kind": "tokens", "key": "k", "stats": {}})
    return folder


@pytest.mark.parametrize("is_mixture", [False, True])
def test_rows_are_those_that_were_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mixture: bool
) -> None:
    config = CONFIG
    if is_mixture:
        config = replace(CONFIG, mixture=(Corpus("old", 3.0), Corpus("new", 1.0)))
    for name in ("old", "new") if is_mixture else ("tokens",):
        write_tokens(tmp_path / "run" / name, word=name)
    base = tmp_path / "run" / "base"
    trained: list[list[int]] = []
    under_way: list[Any] = []
    train_step = loop.train_step

    def note_and_train(model: Any, optimizer: Any, batches: Any, *rest: Any) -> Any:
        for batch in batches:
            trained.extend(
                row[where].tolist()
                for row, where in zip(batch.ids, batch.targets >= 0, strict=True)
            )
        if not under_way:
            under_way.append(list(read_rows(base, 0, 8)))
        return train_step(model, optimizer, batches, *rest)

    monkeypatch.setattr(loop, "train_step", note_and_train)
    request = Request(spec=SPEC, config=config, final=base, seed=5, device="cpu")
    run_stage(plan_stage(request), Console(quiet=True))
    rows = list(read_rows(base, 0, 8))
    assert rows == under_way[0]
    assert [row for row, _ in rows] == list(range(8))
    assert [[i for piece in pieces for i in piece.ids] for _, pieces in rows] == trained
    bos = Tokenizer.load(base).bos_id
    assert all((piece.ids[0] == bos) == piece.is_beginning for _, ps in rows for piece in ps)
    if is_mixture:
        words = [piece.text for _, pieces in rows for piece in pieces if piece.is_beginning]
        assert sum("old" in word for word in words) > sum("new" in word for word in words) > 0

    page = io.StringIO()
    run_rows("2:4", base, Console(stdout=page, stderr=io.StringIO()))
    assert "=== row 2: 32 tokens" in page.getvalue() and "=== row 3: 32" in page.getvalue()
    assert "train" in page.getvalue()
    assert "\x1b" not in page.getvalue()
    page = io.StringIO()
    run_rows("3", base, Console(stdout=page, stderr=io.StringIO(), json_output=True))
    (row,) = json.loads(page.getvalue())
    assert [i for piece in row["pieces"] for i in piece["ids"]] == trained[3]


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    write_tokens(tmp_path / "run" / "tokens", word="tokens")
    base = tmp_path / "run" / "base"
    console = Console(quiet=True)
    with pytest.raises(InputError, match="there is no run at"):
        run_rows("3", base, console)
    run_stage(plan_stage(Request(spec=SPEC, config=CONFIG, final=base, device="cpu")), console)
    with pytest.raises(UserError, match="names no rows"):
        run_rows("first", base, console)
    with pytest.raises(UserError, match="the run has rows 0 to 7, and none are 7 to 8"):
        run_rows("7:9", base, console)
    record = json.loads((base / "manifest.json").read_text())
    record["asked"]["inputs"]["tokens"] = "another"
    (base / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"is not what .* was trained on"):
        run_rows("3", base, console)
    record["asked"]["stage"] = "sft"
    (base / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="was made by `sft`"):
        run_rows("3", base, console)
