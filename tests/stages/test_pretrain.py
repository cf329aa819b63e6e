"""The pretrain stage as a whole, on a few thousand tokens."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from steps import Steps

from llmpipe.core.artifact import Artifact
from llmpipe.core.config import resolved
from llmpipe.core.console import Console
from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import InputError, Stopped, UserError
from llmpipe.core.metrics import read_metrics
from llmpipe.core.ranks import Ranks
from llmpipe.core.report import Table
from llmpipe.core.stage import Context, Inputs
from llmpipe.model.weights import load_model
from llmpipe.stages.pretrain.budget import make_budget
from llmpipe.stages.pretrain.checks import (
    check_disk,
    check_float8,
    check_memory,
    check_processes,
)
from llmpipe.stages.pretrain.config import Corpus, ModelSettings, PretrainConfig
from llmpipe.stages.pretrain.depth import fill_in
from llmpipe.stages.pretrain.report import sections, spread
from llmpipe.stages.pretrain.stage import SPEC
from llmpipe.stages.pretrain.watch import lines_of
from llmpipe.stages.tokenize.config import TokenizeConfig
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.shards import open_shards
from llmpipe.tokenizer.special import place_special
from llmpipe.training.config import AdamW, Muon
from llmpipe.training.throughput import checkpoint_bytes

OUTPUTS = ["config.json", "generation_config.json", "model.safetensors", "samples.jsonl"]
CONFIG = PretrainConfig(
    model=ModelSettings(d_model=32, n_layers=2, head_dim=16, max_seq_len=32),
    max_tokens=12 * 256,
    global_batch_tokens=256,
    micro_batch_size=2,
    eval_every=5,
    eval_tokens=512,
    sample_every=5,
    sample_tokens=8,
    sample_prompts=("the old", ""),
    dtype="float32",  # auto depends on the CPU
)


def inputs_from(tokens: Path) -> Inputs:
    return Inputs({"tokens": Artifact(tokens, {"id": "test", "kind": "tokens"})})


def run(
    config: PretrainConfig, tokens: Path, out: Path, make_context: Callable[..., Context]
) -> dict[str, object]:
    return SPEC.run(config, inputs_from(tokens), out, make_context(out))


def test_learns_and_writes_down_what_happened(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    stats = run(CONFIG, tokens, tmp_path, make_context)
    assert stats["steps"] == 12
    assert stats["tokens"] == 12 * 256
    assert stats["skipped_updates"] == 0
    # 288 equally likely ids are 8.2 bits; twelve steps are enough to drop most of the unused ones.
    assert float(str(stats["val_bpb"])) < 6.5
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 13))
    assert {"loss", "lr", "grad_norm", "tok_per_s", "seconds"} <= metrics[0].keys()
    assert [line["step"] for line in metrics if "val_bpb" in line] == [5, 10, 12]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(s["step"], s["prompt"]) for s in samples] == [
        (step, prompt) for step in (5, 10, 12) for prompt in ("the old", "")
    ]


def test_says_what_it_measured_once_and_shows_the_sample_of_each_prompt(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    said = io.StringIO()
    context = replace(make_context(tmp_path), console=Console(stderr=said))
    stats = SPEC.run(CONFIG, inputs_from(tokens), tmp_path, context)
    lines = said.getvalue().splitlines()
    val_bpb = {
        line["step"]: line.get("val_bpb") for line in read_metrics(tmp_path / "metrics.jsonl")
    }
    for step in (5, 10, 12):
        said_of_step = [line for line in lines if line.startswith(f"step {step}: ")]
        assert said_of_step[0] == f"step {step}: val_bpb {val_bpb[step]:.3f}"
        assert said_of_step[1].startswith(f'step {step}: "the old"')
        assert len(said_of_step) == 3
    assert stats["val_bpb"] == val_bpb[12]


def test_a_sample_is_shown_on_one_line_without_what_moves_the_cursor() -> None:
    samples = [
        {"step": 1200, "prompt": "It was a", "text": " dark\n\n  night\x1b[2J"},
        {"step": 1200, "prompt": "", "text": "Nine"},
    ]
    assert lines_of(samples) == ['step 1,200: "It was a" dark ⏎ night [2J', "step 1,200: Nine"]


@pytest.mark.slow  # loading transformers' tokenizers takes seconds
def test_output_opens_in_transformers(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    run(CONFIG, tokens, tmp_path, make_context)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = Tokenizer.load(tmp_path).encode("the old mill")
    assert tokenizer.encode("the old mill", add_special_tokens=False) == ids
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits
        torch.testing.assert_close(
            logits, load_model(tmp_path)(torch.tensor([ids])), atol=1e-5, rtol=0
        )
    assert theirs.generation_config.eos_token_id == [Tokenizer.load(tmp_path).bos_id]


def test_stopped_and_resumed_run_equals_uninterrupted(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(CONFIG, tokens, whole, make_context)
    for stop_at in (4, 9):
        ctx = make_context(parts)
        log = ctx.metrics.log

        def log_and_stop(step: int, **values: object) -> None:
            log(step, **values)  # noqa: B023 (called before the loop goes on)
            if step == stop_at:  # noqa: B023
                ctx.stop.request(signal.SIGTERM)  # noqa: B023

        ctx.metrics.log = log_and_stop  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            SPEC.run(CONFIG, inputs_from(tokens), parts, ctx)
    run(CONFIG, tokens, parts, make_context)
    for name in OUTPUTS:
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    expected, resumed = (read_metrics(folder / "metrics.jsonl") for folder in (whole, parts))
    assert [m["loss"] for m in resumed] == [m["loss"] for m in expected]


def test_asked_to_stop_in_the_last_step_it_is_done(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    whole, late = tmp_path / "whole", tmp_path / "late"
    config = with_settings(max_tokens=4 * 256)
    run(config, tokens, whole, make_context)
    ctx = make_context(late)
    log = ctx.metrics.log

    def log_and_stop(step: int, **values: object) -> None:
        log(step, **values)
        if step == 4:
            ctx.stop.request(signal.SIGTERM)

    ctx.metrics.log = log_and_stop  # type: ignore[method-assign]
    assert SPEC.run(config, inputs_from(tokens), late, ctx)["steps"] == 4
    for name in OUTPUTS:
        assert (late / name).read_bytes() == (whole / name).read_bytes(), name


def test_gpt2_with_adamw_and_document_masks_trains_too(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    config = PretrainConfig(
        model=ModelSettings(family="gpt2", d_model=32, n_layers=1, head_dim=16, max_seq_len=32),
        optim=AdamW(lr=1e-2),
        max_tokens=4 * 256,
        global_batch_tokens=256,
        document_mask=True,
        sample_every=None,
        eval_tokens=256,
    )
    run(config, tokens, tmp_path, make_context)
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.3
    assert not (tmp_path / "samples.jsonl").exists()


def test_gives_up_after_many_unusable_updates(
    tokens: Path,
    tmp_path: Path,
    make_context: Callable[..., Context],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llmpipe.training.step import SpikeGuard

    monkeypatch.setattr(SpikeGuard, "_reason", lambda *_: "the loss is not finite")
    config = PretrainConfig(**{**vars(CONFIG), "max_skipped_in_a_row": 3})
    with pytest.raises(UserError, match="3 updates in a row could not be used") as caught:
        run(config, tokens, tmp_path, make_context)
    assert caught.value.hint is not None and "begin anew with --fresh" in caught.value.hint


def with_settings(**changed: Any) -> PretrainConfig:
    return PretrainConfig(**{**vars(CONFIG), **changed})


def test_fewer_bits_follow_the_loss_of_float32(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    losses = []
    for dtype in ("float32", "bfloat16", "float8"):
        out = tmp_path / dtype
        run(with_settings(dtype=dtype), tokens, out, make_context)
        losses.append([line["loss"] for line in read_metrics(out / "metrics.jsonl")])
        assert load_model(out).embed.weight.dtype == torch.float32
    # bfloat16 keeps 8 bits: its steps are 0.4% wide.
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[2] == pytest.approx(
        losses[0], rel=0.04
    )  # a model this small has few sums to average
    assert losses[0] != losses[1] != losses[2]


def test_what_is_left_out_of_the_key_changes_nothing(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    unkeyed = {
        "recompute": True,
        "profile": True,
        "max_skipped_in_a_row": 1,
        "checkpoint_every_s": 1e-6,
        "keep_checkpoints": 1,
        "peer_timeout_s": 7.0,
    }
    found = []
    for name, changed in (("plain", {}), ("other", unkeyed)):
        out = tmp_path / name
        run(with_settings(max_tokens=8 * 256, **changed), tokens, out, make_context)
        found.append([(out / file).read_bytes() for file in OUTPUTS])
    assert found[0] == found[1]


def test_recomputing_activations_changes_no_bit(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    losses = []
    for is_recomputed in (False, True):
        out = tmp_path / str(is_recomputed)
        run(with_settings(max_tokens=4 * 256, recompute=is_recomputed), tokens, out, make_context)
        losses.append((out / "model.safetensors").read_bytes())
    assert losses[0] == losses[1]


def test_copies_along_the_way_open_as_models_and_a_trace_is_written(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    config = with_settings(max_tokens=8 * 256, export_every=3, profile=True)
    run(config, tokens, tmp_path, make_context)
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == [
        "step-00000003",
        "step-00000006",
    ]
    early, late = load_model(tmp_path / "steps/step-00000003"), load_model(tmp_path)
    assert not torch.equal(early.embed.weight, late.embed.weight)
    assert Tokenizer.load(tmp_path / "steps/step-00000006").bos_id == Tokenizer.load(tokens).bos_id
    trace = json.loads((tmp_path / "logs/trace.json").read_text())
    assert any("aten::mm" in event.get("name", "") for event in trace["traceEvents"])


# ---------------------------------------------------------------------------------------------
# several processes, and none

SCRIPT = """
    import sys
    from pathlib import Path
    from llmpipe.core.artifact import Artifact
    from llmpipe.core.console import Console
    from llmpipe.core.metrics import Metrics
    from llmpipe.core.ranks import current_ranks
    from llmpipe.core.stage import Context, Inputs
    from llmpipe.core.stop import StopFlag
    from llmpipe.stages.pretrain.config import EstimateConfig, ModelSettings, PretrainConfig
    from llmpipe.stages.pretrain.stage import SPEC
    from llmpipe.training.config import AdamW, Muon
    from llmpipe.training.schedule import Trapezoid

    tokens, out, config = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
    metrics = Metrics(out / "metrics.jsonl", enabled=current_ranks().is_main)
    ctx = Context("test", 1, Console(quiet=True), metrics, StopFlag(), 1, "cpu")
    SPEC.run(config, Inputs({"tokens": Artifact(tokens, {})}), out, ctx)
"""


def start(
    config: PretrainConfig, tokens: Path, out: Path, world_size: int
) -> list[subprocess.Popen[bytes]]:
    """Start the stage in as many processes, with the variables that torchrun sets."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tokens), str(out), repr(config)]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}
        )
        for i in range(world_size)
    ]


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(tokens: Path, tmp_path: Path) -> None:
    alone = with_settings(export_every=6)
    losses = {}
    for name, world_size, config in (
        ("alone", 1, alone),
        ("replicate", 2, alone),
        ("fsdp", 2, replace(alone, parallel="fsdp")),
    ):
        out = tmp_path / name
        assert [p.wait(120) for p in start(config, tokens, out, world_size)] == [0] * world_size
        metrics = read_metrics(out / "metrics.jsonl")
        losses[name] = [m["loss"] for m in metrics] + [metrics[-1]["val_bpb"]]
        assert len((out / "samples.jsonl").read_text().splitlines()) == 3 * 2
    assert len(losses["alone"]) == 13
    for name in ("replicate", "fsdp"):
        assert losses[name] == pytest.approx(losses["alone"], abs=1e-5)
        for part in (".", "steps/step-00000006"):
            ours, theirs = load_model(tmp_path / name / part), load_model(tmp_path / "alone" / part)
            for ours_, theirs_ in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(ours_, theirs_, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_killed_at_50_random_moments_it_ends_with_the_same_files(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context], steps: Steps
) -> None:
    config = with_settings(max_tokens=80 * 256, checkpoint_every_s=1e-6, export_every=10)

    def start(out: Path, at: int = 0) -> int:
        return steps.run_forked(lambda: run(config, tokens, out, make_context), at)

    parts = tmp_path / "parts"
    assert start(tmp_path / "whole") == 0
    steps.kill_again_and_again(lambda at: start(parts, at), steps.taken(), 50)
    assert start(parts) == 0
    for name in [*OUTPUTS, "steps/step-00000010/model.safetensors"]:
        assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


# ---------------------------------------------------------------------------------------------
# before and after


def test_plan_says_what_it_will_take(tokens: Path) -> None:
    assert SPEC.plan is not None
    plan = SPEC.plan(CONFIG, inputs_from(tokens))
    assert plan["model"] == "qwen3, 2 layers of 32, 2 heads, 288 ids, rows of 32"
    # embedding and head 2*288*32; per block 4*32*32 + 3*32*128 + norms 2*32 + 2*16; last norm 32
    assert plan["parameters"] == f"{2 * 288 * 32 + 2 * (4096 + 12288 + 96) + 32:,}"
    assert plan["steps"] == "12 of 256 tokens"
    assert "; this machine has " in plan["memory"]
    assert "warning" not in plan


def test_fewer_tokens_than_asked_for_are_said_aloud(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    assert SPEC.plan is not None
    n_train = open_shards(tokens, "train").n_tokens
    n_steps = n_train // 256
    config = with_settings(max_tokens=(n_steps + 1) * 256, sample_every=None)
    warning = (
        f"asked for {config.max_tokens:,} tokens, and there are {n_train:,}: {n_steps} steps and not "
        f"{n_steps + 1} (`pretrain.epochs` goes over the tokens again)"
    )
    assert SPEC.plan(config, inputs_from(tokens))["warning"] == warning
    assert "warning" not in SPEC.plan(replace(config, epochs=2.0), inputs_from(tokens))
    # A rest that makes no step is no reason.
    close = replace(config, max_tokens=n_steps * 256 + 255)
    assert "warning" not in SPEC.plan(close, inputs_from(tokens))
    ctx, stderr = make_context(tmp_path), io.StringIO()
    ctx.console = Console(stderr=stderr)
    SPEC.run(config, inputs_from(tokens), tmp_path, ctx)
    assert warning in stderr.getvalue()


def test_without_tokens_a_recipe_that_says_how_many_ids_there_will_be_can_be_planned(
    tokens: Path,
) -> None:
    assert SPEC.plan is not None and SPEC.plan_ahead is not None
    sections = {"tokenize": TokenizeConfig(vocab_size=384)}
    ahead = SPEC.plan_ahead(CONFIG, sections)
    assert ahead is not None
    assert "384 ids" in ahead["model"]
    assert ahead["steps"] == SPEC.plan(CONFIG, inputs_from(tokens))["steps"]
    assert ahead["tokens"] == "3,072, not made yet"
    many = SPEC.plan_ahead(replace(CONFIG, epochs=0.3), sections)
    assert many is not None and many["steps"] == ahead["steps"]
    for unknown in (
        SPEC.plan_ahead(CONFIG, {}),
        SPEC.plan_ahead(CONFIG, {"tokenize": TokenizeConfig(tokenizer="gpt2")}),
        SPEC.plan_ahead(with_settings(max_tokens=None), sections),
        SPEC.plan_ahead(with_settings(start="model"), sections),
    ):
        assert unknown is None


def test_settings_that_do_not_fit_are_refused_before_work_starts() -> None:
    uneven = PretrainConfig(global_batch_tokens=1000, micro_batch_size=2, row_tokens=32)
    with pytest.raises(UserError, match=r"\(1000\) must be a multiple of .* \(2 \* 32\)"):
        make_budget(uneven, 10_000)
    with pytest.raises(InputError, match="200 tokens do not fill one step of 256"):
        make_budget(replace(CONFIG, row_tokens=32), 200)


def test_plan_derives_everything_from_depth_and_bounds_it_for_small_batches(tokens: Path) -> None:
    small = PretrainConfig(depth=4, model=ModelSettings(max_seq_len=256), micro_batch_size=4)
    filled, shape = fill_in(small, 4096)
    assert (shape.n_layers, shape.d_model, shape.n_heads, shape.head_dim) == (4, 256, 4, 64)
    # Per block 4 * 256² + 3 * 256 * 704 weights, the head 4096 * 256; 12 tokens for each.
    n_weights = 4 * (4 * 256**2 + 3 * 256 * 704) + 4096 * 256
    assert filled.max_tokens == 12 * n_weights
    # By the power law alone, ratio^0.383 of half a million would be 110 thousand tokens, in under
    # 450 steps; the square root of the batch would be a third of the rates.
    assert filled.global_batch_tokens is not None
    assert filled.max_tokens / filled.global_batch_tokens >= 400
    assert filled.global_batch_tokens % (4 * 256) == 0
    assert filled.lr_scale == 0.5


def test_depth_12_has_the_reference_batch_and_rates() -> None:
    filled, shape = fill_in(PretrainConfig(depth=12), 32768)
    assert (shape.d_model, shape.n_layers) == (768, 12)
    assert (filled.global_batch_tokens, filled.lr_scale) == (2**19, 1.0)
    deeper, _ = fill_in(PretrainConfig(depth=24), 32768)
    assert deeper.global_batch_tokens == 2**20
    assert deeper.lr_scale == pytest.approx(2**0.5)


@pytest.mark.parametrize(("depth", "expected"), [(4, 1.0), (12, 1.0), (24, 2**-0.5), (48, 0.5)])
def test_embedding_and_head_learn_slower_in_wide_models_only(depth: int, expected: float) -> None:
    filled, _ = fill_in(PretrainConfig(depth=depth), 32768)
    assert isinstance(filled.optim, Muon)
    assert filled.optim.width_lr_scale == pytest.approx(expected)
    assert fill_in(filled, 32768)[0].optim == filled.optim
    adamw = PretrainConfig(depth=depth, optim=AdamW())
    assert fill_in(adamw, 32768)[0].optim == AdamW()


def test_what_depth_derives_can_be_set() -> None:
    config = PretrainConfig(
        depth=4,
        model=ModelSettings(d_model=128, n_layers=3),
        max_tokens=10_000_000,
        global_batch_tokens=8192,
        lr_scale=2.0,
        optim=Muon(width_lr_scale=3.0),
    )
    filled, shape = fill_in(config, 4096)
    assert (shape.d_model, shape.n_layers) == (128, 3)
    assert (filled.max_tokens, filled.global_batch_tokens) == (10_000_000, 8192)
    assert filled.lr_scale == 2.0
    assert filled.optim == config.optim
    with pytest.raises(UserError, match="both decide the shape: 4 and gpt2"):
        fill_in(PretrainConfig(depth=4, model=ModelSettings(preset="gpt2")), 4096)


def test_rows_can_be_shorter_than_the_model_allows_and_not_longer(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    run(with_settings(row_tokens=16), tokens, tmp_path, make_context)
    assert load_model(tmp_path).config.max_seq_len == 32
    with pytest.raises(UserError, match="row_tokens is 64, and the model holds 32"):
        fill_in(with_settings(row_tokens=64), 288)


def test_training_goes_on_from_a_model(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(CONFIG, tokens, first, make_context)
    config = with_settings(start="model", model=ModelSettings(), row_tokens=16)
    need = SPEC.needs(config)["model"]
    assert (need.kind, need.folder) == ("model", "imported")
    assert need.made_by.startswith("llmpipe import ")
    inputs = Inputs({**inputs_from(tokens), "model": Artifact(first, {"id": "m", "kind": "model"})})
    assert SPEC.plan is not None
    assert SPEC.plan(config, inputs)["model"].startswith("qwen3, 2 layers of 32")
    SPEC.run(config, inputs, second, make_context(second))
    before, after = (
        [line["loss"] for line in read_metrics(out / "metrics.jsonl")] for out in (first, second)
    )
    assert after[0] == pytest.approx(before[-1], rel=0.1)
    assert after[0] < 0.8 * before[0]
    with pytest.raises(UserError, match="takes the shape of that model"):
        SPEC.plan(with_settings(start="model"), inputs)

    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((first / name).read_bytes())
    ranks = {bytes([255 - i]): i for i in range(256)}
    Tokenizer(ranks, PATTERNS["gpt2"], place_special(256)).save(other)
    stranger = Inputs({**inputs, "model": Artifact(other, {"id": "o", "kind": "model"})})
    with pytest.raises(InputError, match="were not made with the tokenizer of"):
        SPEC.run(config, stranger, tmp_path / "third", make_context(tmp_path / "third"))


def test_two_corpora_are_trained_on_in_proportion(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    config = with_settings(max_tokens=4 * 256, mixture=(Corpus("old", 3.0), Corpus("new", 1.0)))
    assert {n: (need.kind, need.folder) for n, need in SPEC.needs(config).items()} == {
        "old": ("tokens", "old"),
        "new": ("tokens", "new"),
    }
    artifact = Artifact(tokens, {"id": "test", "kind": "tokens"})
    inputs = Inputs({"old": artifact, "new": artifact})
    stats = SPEC.run(config, inputs, tmp_path, make_context(tmp_path))
    assert stats["tokens"] == 4 * 256
    with pytest.raises(UserError, match="names a corpus twice: old, old"):
        SPEC.needs(with_settings(mixture=(Corpus("old"), Corpus("old"))))


def damage(tokens: Path, tmp_path: Path) -> Path:
    """Copy the tokens, to do something to them."""
    folder = tmp_path / "tokens"
    shutil.copytree(tokens, folder)
    return folder


def test_damaged_shard_is_refused_and_named(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    folder = damage(tokens, tmp_path)
    content = bytearray((folder / "train-00000.tok.npy").read_bytes())
    content[-100] ^= 1
    (folder / "train-00000.tok.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"train-00000.tok.npy is damaged: its checksum"):
        run(CONFIG, folder, tmp_path / "out", make_context)


def test_missing_shard_is_refused_and_named(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    folder = damage(tokens, tmp_path)
    (folder / "val-00000.tok.npy").unlink()
    with pytest.raises(InputError, match=r"val-00000.tok.npy cannot be read: No such file"):
        run(CONFIG, folder, tmp_path / "out", make_context)


def test_shards_of_another_vocabulary_are_refused(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    folder = damage(tokens, tmp_path)
    index = json.loads((folder / "shards.json").read_text())
    (folder / "shards.json").write_text(json.dumps(index | {"vocab_size": 5000}))
    with pytest.raises(InputError, match="hold ids up to 5000, the tokenizer has 288"):
        run(CONFIG, folder, tmp_path / "out", make_context)


def test_too_little_disk_or_memory_is_said_before_work_starts(tmp_path: Path) -> None:
    big = ModelSettings(preset="llama-405b").resolve(128256)
    # 3 checkpoints of 12 bytes per parameter and the model: 405.9 billion * 40 bytes
    with pytest.raises(UserError, match=r"checkpoints and model need 1\d\.\d T.*free"):
        check_disk(CONFIG, big, tmp_path, n_steps=12)
    warnings: list[str] = []
    with pytest.raises(UserError, match=r"weights, gradients and moments need .* and there are"):
        check_memory(CONFIG, big, Ranks(), 2**40, warnings.append)
    shared = with_settings(parallel="fsdp", row_tokens=32)
    check_memory(shared, big, Ranks(0, 64), 2**40, warnings.append)
    assert warnings == []


def test_memory_that_the_estimate_says_is_too_little_is_warned_of_and_not_refused() -> None:
    model = ModelSettings(preset="gpt2").resolve(50304)
    warnings: list[str] = []
    config = PretrainConfig(micro_batch_size=64)
    check_memory(config, model, Ranks(), 24 * 10**9, warnings.append)
    # 16 bytes for each of 124M weights; 2.5 for each of 8 * 768 + 2 * 3,072 numbers in 12 blocks per token
    assert "training takes an estimated 26.2 GB" in warnings[0]
    assert "and there are 24.0 GB; if it runs out of memory, lower" in warnings[0]
    check_memory(replace(config, micro_batch_size=1), model, Ranks(), 24 * 10**9, warnings.append)
    assert len(warnings) == 1


def test_copies_along_the_way_need_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelSettings(d_model=32, n_layers=2, head_dim=16).resolve(288)
    # 3 checkpoints of 12 bytes per parameter and the model are 40; 5 copies of 4 bytes are 20 more.
    usage = shutil.disk_usage(tmp_path)._replace(free=checkpoint_bytes(model) // 12 * 59)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check_disk(CONFIG, model, tmp_path, n_steps=50)
    check_disk(with_settings(export_every=10), model, tmp_path, n_steps=49)
    with pytest.raises(UserError, match=r"\(5 copies of it are .*\)") as error:
        check_disk(with_settings(export_every=10), model, tmp_path, n_steps=50)
    assert "pretrain.export_every" in (error.value.hint or "")


def test_checkpoints_of_the_run_itself_take_no_room_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelSettings(d_model=32, n_layers=2, head_dim=16).resolve(288)
    n_bytes = checkpoint_bytes(model)
    # 3 checkpoints and the model are 3 1/3 checkpoints, and room is for 2 1/2.
    usage = shutil.disk_usage(tmp_path)._replace(free=n_bytes * 5 // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="checkpoints and model need"):
        check_disk(CONFIG, model, tmp_path, n_steps=12)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "tensors.safetensors").write_bytes(bytes(n_bytes))
    check_disk(CONFIG, model, tmp_path, n_steps=12)


def test_float8_refuses_batches_that_it_cannot_multiply() -> None:
    config = replace(CONFIG, dtype="float8", micro_batch_size=1, row_tokens=24)
    with pytest.raises(UserError, match=r"multiple of 16 tokens, and it is .* = 1 \* 24"):
        check_float8(config, Runtime(Ranks(), torch.device("cpu")))
    check_float8(replace(config, micro_batch_size=2), Runtime(Ranks(), torch.device("cpu")))


def test_exact_refuses_what_it_cannot_keep() -> None:
    with pytest.raises(UserError, match="a power of two of processes, and there are 3"):
        check_processes(with_settings(exact=True), Ranks(0, 3))
    with pytest.raises(UserError, match="exclude each other"):
        check_processes(with_settings(exact=True, parallel="fsdp"), Ranks(0, 2))
    check_processes(with_settings(exact=True), Ranks(0, 4))


def test_settings_of_a_preset_can_be_changed() -> None:
    shape = ModelSettings(preset="gpt2", n_layers=2, max_seq_len=128).resolve(4096)
    assert (shape.family, shape.n_layers, shape.max_seq_len) == ("gpt2", 2, 128)
    assert (shape.d_model, shape.vocab_size, shape.tied_embeddings) == (768, 4096, True)
    with pytest.raises(UserError, match="preset gpt2 is of family gpt2, not llama"):
        ModelSettings(preset="gpt2", family="llama").resolve(4096)


def test_report_shows_curves_and_samples(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    stats = run(CONFIG, tokens, tmp_path, make_context)
    artifact = Artifact(tmp_path, {"stats": stats, "config": resolved(CONFIG)})
    (section,) = sections(artifact)
    kinds = [type(block).__name__ for block in section.blocks]
    assert kinds == ["Table"] + ["LinePlot"] * 4 + ["Code"] * 6
    table = section.blocks[0]
    assert isinstance(table, Table)
    facts = dict(table.rows)
    assert facts["model"] == "qwen3: 2 layers of 32, 2 heads of 16"
    assert facts["steps"] == "12 of 256 tokens"
    assert facts["optimizer"] == "muon, learning rate up to 0.02"
    assert facts["skipped updates"] == "0"
    assert SPEC.headline(stats).startswith("0.1M parameters, 0.0M tokens, val ")


def test_samples_shown_are_denser_at_the_start() -> None:
    samples = [{"step": i} for i in range(101)]
    assert [s["step"] for s in spread(samples, 6)] == [0, 4, 16, 36, 64, 100]
