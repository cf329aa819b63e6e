"""The tokenize stage end to end, on text made here."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from steps import Steps, is_alive

from llmpipe.core.artifact import Artifact
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, Stopped, UserError
from llmpipe.core.metrics import Metrics
from llmpipe.core.report import to_html, to_markdown
from llmpipe.core.stage import Context, Inputs
from llmpipe.core.stop import StopFlag
from llmpipe.stages.tokenize.config import CorpusPart, TokenizeConfig
from llmpipe.stages.tokenize.stage import SPEC
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.shards import open_shards

STARTS = ("", "ba", "na", "ké", "li", "drum", "sho", "pri", "cel", "von")
ENDS = ("to", "ken", "s", "the", "qua", "mple", "rift", "gold", "ny", "wa")
WORDS = [a + b for a in STARTS for b in ENDS]
N_DOCUMENTS = 120


def texts() -> list[str]:
    rng = random.Random(7)
    return [
        f"Document {i}: " + " ".join(rng.choices(WORDS, k=rng.randint(5, 200))) + ".\n\n<|bos|> 42"
        for i in range(N_DOCUMENTS)
    ]


@pytest.fixture
def config(tmp_path: Path) -> TokenizeConfig:
    """Settings over three files: plain JSONL cut in several units, and Parquet."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, part in (("a", texts()[:50]), ("b", texts()[50:80])):
        lines = (json.dumps({"id": f"{name}{i}", "text": text}) for i, text in enumerate(part))
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = pa.table({"id": [f"c{i}" for i in range(40)], "text": texts()[80:]})
    pq.write_table(table, folder / "c.parquet", row_group_size=16)
    return TokenizeConfig(
        vocab_size=384, inputs=(str(folder),), val_frac=0.1, unit_bytes=8000, shard_tokens=4000
    )


def run(
    config: TokenizeConfig,
    out: Path,
    workers: int = 1,
    stop: StopFlag | None = None,
    executor: str = "local",
) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(out / "metrics.jsonl")
    ctx = Context("test", 1, Console(quiet=True), metrics, stop or StopFlag(), workers, "cpu")
    ctx.executor = executor
    return SPEC.run(config, Inputs({}), out, ctx)


def contents(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "state" not in path.parts and path.name != "metrics.jsonl"
    }


def decoded(out: Path, split: Any) -> list[str]:
    tokenizer = Tokenizer.load(out)
    shards = open_shards(out, split)
    assert shards.digest == tokenizer.digest
    ids = shards.tokens(0, shards.n_tokens)
    starts = shards.doc_starts
    assert (ids[starts[:-1]] == tokenizer.bos_id).all()
    assert (ids == tokenizer.bos_id).sum() == shards.n_documents  # typed `<|bos|>` is text
    return [tokenizer.decode(ids[a + 1 : b].tolist()) for a, b in itertools.pairwise(starts)]


def test_shards_hold_every_document_once_in_order(config: TokenizeConfig, tmp_path: Path) -> None:
    stats = run(config, tmp_path / "out")
    train, val = decoded(tmp_path / "out", "train"), decoded(tmp_path / "out", "val")
    below = json.loads((tmp_path / "out/shards.json").read_text())["split"]["val_below"]
    is_val = [xxhash.xxh3_64_intdigest(text.encode()) < below for text in texts()]
    assert train == [text for text, v in zip(texts(), is_val, strict=True) if not v]
    assert val == [text for text, v in zip(texts(), is_val, strict=True) if v]
    assert stats["train_documents"] == len(train)
    assert stats["val_documents"] == len(val) > 0
    assert stats["text_bytes"] == sum(len(text.encode()) for text in texts())


def test_the_numbers_agree_with_the_shards(config: TokenizeConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stats = run(config, out)
    train, val = open_shards(out, "train"), open_shards(out, "val")
    assert stats["vocab_size"] == 384
    assert (stats["train_tokens"], stats["val_tokens"]) == (train.n_tokens, val.n_tokens)
    n_text_tokens = train.n_tokens + val.n_tokens - N_DOCUMENTS
    assert stats["bytes_per_token"] == round(stats["text_bytes"] / n_text_tokens, 4)
    counts = np.load(out / "token_counts.npy")
    ids = train.tokens(0, train.n_tokens)
    expected = np.bincount(ids, minlength=384)
    expected[Tokenizer.load(out).bos_id] = 0
    assert counts.tolist() == expected.tolist()
    assert stats["unused_tokens"] == int((counts[256:352] == 0).sum())
    assert SPEC.headline(stats).startswith("384 tokens, ")


@pytest.mark.slow
def test_1_2_and_5_workers_write_the_same_bytes(config: TokenizeConfig, tmp_path: Path) -> None:
    stats = [run(config, tmp_path / f"out{n}", workers=n) for n in (1, 2, 5)]
    one = contents(tmp_path / "out1")
    assert one == contents(tmp_path / "out2") == contents(tmp_path / "out5")
    assert stats[0] == stats[1] == stats[2]
    assert {"tokenizer.json", "shards.json", "train-00001.tok.npy", "val-00000.doc.npy"} <= set(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_cluster_writes_the_same_bytes(
    config: TokenizeConfig, tmp_path: Path, cluster: Callable[[str], Path], name: str
) -> None:
    log = cluster(name)
    few = replace(config, unit_bytes=40_000)  # a task of Slurm starts Python
    stats = run(few, tmp_path / "whole")
    assert run(few, tmp_path / "out", workers=2, executor=name) == stats
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert "lost" in log.read_text()
    # Scan, count and encode, of each unit.
    n_units = len(list((tmp_path / "out/state/encode").glob("*/done.json")))
    assert log.read_text().count("\n") == 3 * n_units + 1


class StopAfter(StopFlag):
    """Is asked to stop when it is looked at for the n-th time."""

    def __init__(self, n_looks: int) -> None:
        super().__init__()
        self._left = n_looks

    @property
    def requested(self) -> bool:
        self._look()
        return super().requested

    def check(self) -> None:
        self._look()
        super().check()

    def _look(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.request()


def test_a_stopped_run_goes_on_and_ends_the_same(config: TokenizeConfig, tmp_path: Path) -> None:
    """Stop again and again, some units further each time."""
    run(config, tmp_path / "whole")
    out, n_stops = tmp_path / "parts", 0
    while True:
        try:
            run(config, out, stop=StopAfter(5))
            break
        except Stopped:
            n_stops += 1
    assert n_stops > 5
    assert contents(out) == contents(tmp_path / "whole")


RUN = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
import test_tokenize as t
if __name__ == "__main__":
    config = t.TokenizeConfig(
        vocab_size=384, inputs=(sys.argv[2],), val_frac=0.1, unit_bytes=8000, shard_tokens=4000
    )
    t.run(config, pathlib.Path(sys.argv[3]), workers=int(sys.argv[4]))
"""


def start(config: TokenizeConfig, out: Path, workers: int, environment: dict[str, str]) -> int:
    """Run the stage by a command of its own; return its exit code."""
    arguments = [str(Path(__file__).parent), config.inputs[0], str(out), str(workers)]
    command = [sys.executable, "-c", RUN, *arguments]
    result = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in result.stderr, result.stderr
    # An end that nobody asked for, such as SIGABRT from a library, is told with what it said.
    assert result.returncode in (0, -signal.SIGKILL), (result.returncode, result.stderr)
    return result.returncode


@pytest.mark.slow
def test_a_run_killed_20_times_ends_the_same(
    config: TokenizeConfig, tmp_path: Path, steps: Steps
) -> None:
    """`kill -9` before chosen steps of the work; every fourth run has two workers."""
    out, n_workers = tmp_path / "killed", itertools.cycle([1, 1, 1, 2])

    def go_on(at: int) -> int:
        return start(config, out, next(n_workers), steps.environment(at))

    assert start(config, tmp_path / "whole", 1, steps.environment()) == 0
    steps.kill_again_and_again(go_on, steps.taken(), 20)
    assert start(config, out, 2, steps.environment()) == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_a_stopped_worker_of_a_killed_run_is_gone_when_the_next_has_ended(
    config: TokenizeConfig, tmp_path: Path, steps: Steps
) -> None:
    assert start(config, tmp_path / "whole", 2, steps.environment()) == 0
    n_steps, n_left = steps.taken(), 0
    for share in (0.2, 0.5, 0.8):
        out, left = tmp_path / f"out{share}", tmp_path / f"left{share}"
        killed = steps.environment(int(share * n_steps), leaves=left)
        assert start(config, out, 2, killed) == -signal.SIGKILL
        assert start(config, out, 2, steps.environment()) == 0
        assert contents(out) == contents(tmp_path / "whole")
        if left.exists():
            n_left += 1
            assert not is_alive(int(left.read_text()))
    assert n_left  # most steps are taken by workers


def test_a_kill_while_shards_are_placed_is_made_good(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(config, out)
    expected = contents(out)
    # As if it had been killed halfway: one shard without its name, one file unfinished.
    (out / "train-00000.tok.npy").unlink()
    (out / "shards.json").unlink()
    (out / ".tmp-shards.json-x").write_text("{")
    run(config, out)
    assert contents(out) == expected


def test_without_hard_links_shards_are_moved_and_their_units_can_be_done_again(
    config: TokenizeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, tmp_path / "linked")

    def link(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # what exFAT answers

    monkeypatch.setattr(os, "link", link)
    for _ in range(2):
        run(config, tmp_path / "moved")
        assert contents(tmp_path / "moved") == contents(tmp_path / "linked")


def test_rows_that_cannot_be_used_are_set_aside_with_place_and_reason(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    lines = ['{"text": "good"}', '{"text": null}', '{"text": "x', "", "[1]", '{"text": "end"}']
    (tmp_path / "in/d.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    stats = run(config, tmp_path / "out")
    rows = [json.loads(x) for x in (tmp_path / "out/set_aside.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in rows] == [
        ("d.jsonl:2", "`text` must be a text, NoneType came"),
        ("d.jsonl:3", "not JSON: Unterminated string starting at"),
        ("d.jsonl:5", "expected an object, got list"),
    ]
    assert stats["documents_set_aside"] == 3
    assert stats["documents"] == N_DOCUMENTS + 2


def test_long_documents_are_set_aside_and_counted(config: TokenizeConfig, tmp_path: Path) -> None:
    (tmp_path / "in/d.jsonl").write_text(json.dumps({"id": "big", "text": "x y " * 2000}))
    stats = run(replace(config, max_document_bytes=5000), tmp_path / "out")
    rows = [json.loads(x) for x in (tmp_path / "out/set_aside.jsonl").read_text().splitlines()]
    assert rows == [{"id": "big", "bytes": 8000, "reason": "longer than allowed"}]
    assert stats["documents_set_aside"] == 1
    assert stats["documents"] == N_DOCUMENTS


def test_empty_texts_and_lone_surrogates_are_counted(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    lines = ['{"text": ""}', '{"text": "half a pair \\ud83d here"}']
    (tmp_path / "in/d.jsonl").write_text("\n".join(lines))
    stats = run(config, tmp_path / "out")
    assert stats["empty_documents"] == 1
    assert stats["lone_surrogates_replaced"] == 1
    both = decoded(tmp_path / "out", "train") + decoded(tmp_path / "out", "val")
    assert "half a pair \ufffd here" in both


def test_documents_are_cut_into_pieces_before_the_split(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    stats = run(replace(config, split_chars=200), tmp_path / "out")
    both = decoded(tmp_path / "out", "train") + decoded(tmp_path / "out", "val")
    assert stats["documents"] == len(both) > 2 * N_DOCUMENTS
    assert max(map(len, both)) <= 200
    assert sum(map(len, both)) == sum(map(len, texts()))


def test_an_existing_tokenizer_is_taken_and_given_the_special_tokens(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    run(config, tmp_path / "first")
    again = replace(config, tokenizer=str(tmp_path / "first"), vocab_size=32_768)
    run(again, tmp_path / "second")
    assert contents(tmp_path / "second") == contents(tmp_path / "first")
    assert str(tmp_path / "first/tokenizer.json") in SPEC.files(again)


def test_a_mixture_repeats_and_thins_its_sources(config: TokenizeConfig, tmp_path: Path) -> None:
    folder = Path(config.inputs[0])
    often = CorpusPart("often", (str(folder / "a.jsonl"),), epochs=2.5)
    rarely = CorpusPart("rarely", (str(folder / "b.jsonl"), str(folder / "c.parquet")), epochs=0.5)
    mixed = replace(config, inputs=(), sources=(often, rarely))
    stats = run(mixed, tmp_path / "out")
    times = Counter(decoded(tmp_path / "out", "train"))
    val = decoded(tmp_path / "out", "val")
    assert set(val) & set(times) == set()
    first = [times[text] for text in texts()[:50] if text not in val]
    second = [times[text] for text in texts()[50:] if text not in val]
    # Half of about 45 and of about 63 documents, by hash: five standard deviations each way.
    assert set(first) == {2, 3}
    assert 0.12 < first.count(3) / len(first) < 0.88
    assert set(second) == {0, 1}
    assert 0.18 < second.count(1) / len(second) < 0.82
    assert stats["sources"]["often"]["documents"] == sum(first)
    assert stats["sources"]["rarely"]["documents"] == sum(second)
    assert stats["train_documents"] == sum(times.values())


def test_sources_and_inputs_exclude_each_other(config: TokenizeConfig, tmp_path: Path) -> None:
    both = replace(config, sources=(CorpusPart("x", config.inputs),))
    with pytest.raises(UserError, match="are both set"):
        run(both, tmp_path / "out")


def test_the_card_compares_vocabularies_by_language_and_domain(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    """A vocabulary compared with itself fits as well, and better than one of bytes alone."""
    rows = [
        {"text": text, "lang": "en" if i % 2 else "fr", "url": f"https://www.s{i % 3}.example/{i}"}
        for i, text in enumerate(texts())
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bytes_only = {bytes([byte]): byte for byte in range(256)}
    Tokenizer(bytes_only, PATTERNS["qwen2"], {"<|bos|>": 256}).save(tmp_path / "bytes")
    asked = replace(config, inputs=(str(path),), val_frac=0.5, compare=(str(tmp_path / "bytes"),))
    stats = run(asked, tmp_path / "out")
    card = stats["card"]
    assert {"all/", "source/all", "language/en", "language/fr", "domain/s0.example"} <= set(card)
    assert card["all/"]["bytes"] == stats["val_text_bytes"]
    assert card["all/"]["bytes"] == card["language/en"]["bytes"] + card["language/fr"]["bytes"]
    n_val_tokens = stats["val_tokens"] - stats["val_documents"]
    assert card["all/"]["this one"] == n_val_tokens < card["all/"]["bytes"]
    text = to_markdown("x", SPEC.report(Artifact(tmp_path / "out", {"stats": stats})))
    assert "language fr" in text
    assert str(tmp_path / "bytes/tokenizer.json") in SPEC.files(asked)


def test_the_card_takes_published_vocabularies_by_name(
    config: TokenizeConfig, tmp_path: Path, test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizers").symlink_to(test_data / "tokenizers")
    stats = run(replace(config, compare=("gpt2",)), tmp_path / "out")
    assert stats["card"]["all/"]["gpt2"] > 0
    assert SPEC.files(replace(config, compare=("gpt2",)))[-1].endswith("r50k_base.tiktoken")


def test_rare_pieces_are_left_out_only_above_the_bound(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    stats = run(config, tmp_path / "all")
    assert (stats["pruned_pieces"], stats["pruned_below"]) == (0, 1)
    few = replace(config, max_pieces=100)
    pruned = run(few, tmp_path / "few")
    assert pruned["pruned_pieces"] > 0
    assert pruned["pruned_below"] > 1
    assert pruned["learned_from_bytes"] == stats["learned_from_bytes"]


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    config = TokenizeConfig(vocab_size=384, inputs=(str(tmp_path / "a.jsonl"),))
    with pytest.raises(InputError, match="the corpus is empty"):
        run(config, tmp_path / "out")


def test_a_corpus_too_small_for_its_vocabulary_is_an_error(
    config: TokenizeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="asks for 32,480 merges") as error:
        run(replace(config, vocab_size=32_768), tmp_path / "out")
    assert "tokenize.vocab_size" in (error.value.hint or "")


def test_a_corpus_artifact_is_read_in_the_order_of_its_parts(
    make_context: Callable[..., Context], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i, part in enumerate((texts()[:60], texts()[60:])):
        pq.write_table(pa.table({"id": part, "text": part}), corpus / f"part-{i:05d}.parquet")
    inputs = Inputs({"corpus": Artifact(corpus, {"kind": "corpus"})})
    config = TokenizeConfig(vocab_size=384, val_frac=0.0)
    assert SPEC.needs(config)["corpus"].kind == "corpus"
    assert SPEC.plan is not None
    assert SPEC.plan(config, inputs)["input"].startswith("2 files, ")
    out = tmp_path / "out"
    SPEC.run(config, inputs, out, make_context(out))
    assert decoded(out, "train") == texts()
    assert decoded(out, "val") == []


def test_the_report_shows_numbers_tokens_and_text(config: TokenizeConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stats = run(config, out)
    sections = SPEC.report(Artifact(out, {"kind": "tokens", "stats": stats}))
    text = to_markdown("tokens", sections)
    assert f"{stats['train_tokens']:,} train" in text
    assert "2|0|2|6" in text
    assert "<|bos|>" in text
    assert "</html>" in to_html("tokens", sections)
