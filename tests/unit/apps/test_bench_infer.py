"""`llmpipe bench infer`: what it reports, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmpipe.apps import bench_infer
from llmpipe.apps.bench_infer import parse_batches, run_bench_infer
from llmpipe.core.errors import UserError
from llmpipe.tokenizer.bpe import Tokenizer


@pytest.fixture(autouse=True)
def _small_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_infer, "_STREAM_BYTES", 400_000)
    monkeypatch.setattr(bench_infer, "N_REPEATS", 1)


def test_document_has_a_speed_per_batch(model_folder: Path, json_screen: Any) -> None:
    options = {"batches": (1, 3), "n_prompt": 4, "n_new": 5, "peers": False}
    run_bench_infer(model_folder, **options, console=json_screen.console)
    found = json.loads(json_screen.stdout.getvalue())
    assert [(of["program"], of["batch"]) for of in found["speeds"]] == [
        ("llmpipe", 1),
        ("llmpipe", 3),
    ]
    for of in found["speeds"]:
        assert of["first_token_s"] > 0 and of["tokens_per_s"] > 0 and of["memory_bytes"] > 0
    # q, o: 16*16; k, v: 16*8; gate, up, down: 16*32; norms: 16 + 16 + 8 + 8; and the head.
    n_block = 2 * 256 + 2 * 128 + 3 * 512 + 48
    n_rows = Tokenizer.load(model_folder).vocab_size
    assert found["weight_bytes"] == 4 * (n_block + 16 * n_rows)


def test_a_peer_that_fails_is_named_and_the_table_is_still_there(
    model_folder: Path, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    asked = []

    @contextmanager
    def works():  # type: ignore[no-untyped-def]
        yield lambda prompts, n_new: asked.append((len(prompts), n_new))

    @contextmanager
    def fails():  # type: ignore[no-untyped-def]
        raise RuntimeError("no such architecture")
        yield

    peers = [("other", (1, 2), works()), ("broken", (1,), fails())]
    monkeypatch.setattr(bench_infer, "_peers", lambda *arguments: peers)
    run_bench_infer(model_folder, batches=(1, 2), n_prompt=4, n_new=5, console=screen.console)
    table = screen.stdout.getvalue()
    lines = [line.split()[:2] for line in table.splitlines()[3:]]
    assert lines == [["llmpipe", "1"], ["llmpipe", "2"], ["other", "1"], ["other", "2"]]
    assert asked == [(1, 2), (1, 1), (1, 5), (2, 2), (2, 1), (2, 5)]
    assert "broken failed: no such architecture" in screen.stderr.getvalue()


def test_what_does_not_fit_is_refused(model_folder: Path, screen: Any) -> None:
    with pytest.raises(UserError, match="100 and 90 tokens do not fit"):
        run_bench_infer(model_folder, n_prompt=100, n_new=90, console=screen.console)
    with pytest.raises(UserError, match="`1,x`"):
        parse_batches("1,x")
    assert parse_batches("1,64") == (1, 64)
