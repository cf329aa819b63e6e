"""Evaluations along the way of the pretrain stage: what they leave behind, and what they do not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.artifact import SCHEMA, Artifact
from llmpipe.core.config import resolved
from llmpipe.core.errors import InputError, Stopped, UserError
from llmpipe.core.metrics import read_metrics
from llmpipe.core.report import LinePlot, Table
from llmpipe.core.stage import Context, Inputs, Request, check_expectations, plan_stage
from llmpipe.stages.pretrain.config import EstimateConfig, ModelSettings, PretrainConfig
from llmpipe.stages.pretrain.report import evaluations, sections
from llmpipe.stages.pretrain.stage import SPEC
from llmpipe.training.evaluations.config import BitsPerByte, Custom, MultipleChoice

WORDS = ["the", "old", "mill", "stood", "by", "a", "river", "and", "turned", "all", "day", "long"]
CONFIG = PretrainConfig(
    model=ModelSettings(d_model=32, n_layers=2, head_dim=16, max_seq_len=32),
    max_tokens=12 * 256,
    global_batch_tokens=256,
    micro_batch_size=2,
    eval_every=6,
    eval_tokens=512,
    sample_every=None,
    dtype="float32",  # auto depends on the CPU
)
OWN = """
    import random

    import torch

    def steps(context, factor=1):
        return {"twice": factor * context.step}

    def messy(context):
        torch.manual_seed(5)
        random.seed(5)
        context.model.train()
        return {"x": 0.0}

    def fails(context):
        raise RuntimeError("no luck at step", context.step)

    def lost(context):
        for i, (item, counts) in enumerate(context.share([1, 2, 3, 4, 5])):
            if i == 1 and context.runtime.ranks.rank == context.runtime.ranks.world_size - 1:
                raise RuntimeError("lost on the last process")
            context.model.hidden(torch.tensor([[item]]))
        return {"x": context.runtime.sum([1.0])[0]}

    def uneven(context):
        for _ in range(2 + context.runtime.ranks.rank):
            context.model(torch.tensor([[1, 2]]))
        return {"passes": context.runtime.sum([1.0])[0]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a recipe with what stands beside it: questions, texts, evaluations of one's own."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "own_evals.py").write_text(textwrap.dedent(OWN))
    (folder / "recipe.toml").write_text("")
    rows = [
        {"query": f"the old {word}", "choices": ["stood by a river", "xq zv", "éé"], "gold": 0}
        for word in WORDS
    ]
    (folder / "mill.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held_out.jsonl").write_text(json.dumps({"text": "the old mill turned all day"}))
    return folder


@pytest.fixture(autouse=True)
def forget_imports() -> Iterator[None]:
    """Let no test find what another one imported."""
    places = list(sys.path)
    yield
    sys.path[:] = places
    sys.modules.pop("own_evals", None)


def with_settings(**changed: Any) -> PretrainConfig:
    return PretrainConfig(**{**vars(CONFIG), **changed})


def ours(folder: Path, every: int = 5) -> tuple[MultipleChoice, BitsPerByte]:
    return (
        MultipleChoice(files=(str(folder / "mill.jsonl"),), every=every, at_start=True),
        BitsPerByte(files=(str(folder / "held_out.jsonl"),), every=every),
    )


def own(function: str, every: int = 5, **settings: Any) -> Custom:
    return Custom(function=f"own_evals:{function}", every=every, settings=settings)


def run(
    config: PretrainConfig,
    tokens: Path,
    out: Path,
    make_context: Callable[..., Context],
    folder: Path,
) -> dict[str, Any]:
    ctx = make_context(out)
    ctx.recipe = str(folder / "recipe.toml")
    return SPEC.run(config, Inputs({"tokens": Artifact(tokens, {})}), out, ctx)


def test_numbers_go_to_metrics_manifest_and_report(
    tokens: Path, folder: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    config = with_settings(evaluations=(*ours(folder), own("steps", factor=2)))
    stats = run(config, tokens, tmp_path, make_context, folder)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    at = {key: [m["step"] for m in metrics if key in m] for m in metrics for key in m}
    assert at["mill/accuracy"] == at["mill/seconds"] == [0, 5, 10, 12]
    assert at["held_out/bits_per_byte"] == [5, 10, 12]
    assert [m["steps/twice"] for m in metrics if "steps/twice" in m] == [10.0, 20.0, 24.0]
    assert at["loss"] == list(range(1, 13))

    first, last = metrics[0], metrics[-1]
    assert last["mill/accuracy_by_chance"] == pytest.approx(1 / 3)
    # It has learned which letters there are, so the other two answers are less likely per byte.
    assert last["mill/accuracy_per_byte"] == 1.0
    assert last["mill/bits_per_byte"] < first["mill/bits_per_byte"] - 1
    for key in ("mill/accuracy", "mill/bits_per_byte", "held_out/bits_per_byte", "steps/twice"):
        assert stats[key] == last[key]
    assert stats["failed_evaluations"] == 0
    assert "mill/seconds" not in stats
    expected = check_expectations({"mill/accuracy_per_byte_min": 0.9}, stats)
    assert expected["mill/accuracy_per_byte_min"]["met"]

    (section,) = sections(Artifact(tmp_path, {"stats": stats, "config": resolved(config)}))
    plots = [block for block in section.blocks if isinstance(block, LinePlot)]
    assert [(plot.title, plot.y_label) for plot in plots[4:]] == [
        ("mill", "accuracy"),
        ("mill", "bits per byte"),
        ("held_out", "bits per byte"),
        ("steps", "twice"),
    ]
    accuracies = ["accuracy", "accuracy_per_byte", "accuracy_per_token", "accuracy_by_chance"]
    assert list(plots[4].series) == accuracies
    assert [step for step, _ in plots[4].series["accuracy"]] == [0, 5, 10, 12]
    (table,) = [block for block in section.blocks if isinstance(block, Table)][1:]
    assert ["steps", "twice", "24"] in table.rows


def test_each_step_has_what_a_plot_needs(
    tokens: Path, folder: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    run(CONFIG, tokens, tmp_path, make_context, folder)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    known = {"step", "loss", "lr", "grad_norm", "tokens", "tok_per_s", "seconds", "wait_s"}
    assert known | {"memory_bytes", "left_s"} == metrics[0].keys()
    assert [m["tokens"] for m in metrics] == [256 * step for step in range(1, 13)]
    assert all(2**25 < m["memory_bytes"] < 2**36 for m in metrics)
    assert metrics[0]["left_s"] > 0 == metrics[-1]["left_s"]


def test_model_has_the_same_bits_with_and_without_evaluations(
    tokens: Path, folder: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    with_them = with_settings(evaluations=(*ours(folder, 1), own("messy", 1), own("fails", 1)))
    run(CONFIG, tokens, tmp_path / "without", make_context, folder)
    stats = run(with_them, tokens, tmp_path / "with", make_context, folder)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert models[0] == models[1]
    assert stats["failed_evaluations"] == 12
    text = (tmp_path / "with/logs/evaluation-errors.txt").read_text()
    assert text.count("('no luck at step', ") == 12


def test_stopped_and_resumed_run_has_the_numbers_of_an_uninterrupted_one(
    tokens: Path, folder: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    config = with_settings(evaluations=(*ours(folder, 7), own("fails", 2)))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(config, tokens, whole, make_context, folder)
    ctx = make_context(parts)
    ctx.recipe = str(folder / "recipe.toml")
    log = ctx.metrics.log

    def log_and_stop(step: int, **values: object) -> None:
        log(step, **values)
        if step == 9:
            ctx.stop.request(signal.SIGTERM)

    ctx.metrics.log = log_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        SPEC.run(config, Inputs({"tokens": Artifact(tokens, {})}), parts, ctx)
    metrics = read_metrics(parts / "metrics.jsonl")
    assert [m["step"] for m in metrics] == list(range(10))
    resumed = run(config, tokens, parts, make_context, folder)
    changing = ("tok_per_s", "peak_memory_bytes")
    assert {k: v for k, v in resumed.items() if k not in changing} == {
        k: v for k, v in expected.items() if k not in changing
    }
    assert resumed["failed_evaluations"] == 6
    names = ("step", "mill/accuracy_per_byte", "mill/bits_per_byte", "held_out/bits_per_byte")
    assert [[m.get(name) for name in names] for m in read_metrics(parts / "metrics.jsonl")] == [
        [m.get(name) for name in names] for m in read_metrics(whole / "metrics.jsonl")
    ]


def test_run_that_begins_anew_has_its_step_0_once(
    tokens: Path, folder: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    config = with_settings(max_tokens=256, evaluations=ours(folder))
    for _ in range(2):
        run(config, tokens, tmp_path, make_context, folder)
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


def test_code_of_the_guide_runs(
    tokens: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/evaluations.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "my_evals.py").write_text("\n".join(blocks))
    config = with_settings(
        max_tokens=2 * 256,
        evaluations=(
            Custom(function="my_evals:rhymes", settings={"words": ["cat", "dog"]}),
            Custom(function="my_evals:top_token"),
        ),
    )
    stats = run(config, tokens, tmp_path / "out", make_context, tmp_path)
    sys.modules.pop("my_evals")
    assert stats["failed_evaluations"] == 0
    assert stats["rhymes/same"] < 0 and 0 <= stats["top_token/blank"] <= 1


@pytest.mark.parametrize(
    "evaluation, error, message",
    [
        (Custom(function="own_eval:steps"), UserError, "there is no module `own_eval`"),
        (own("step"), UserError, "`own_evals` has no `step`"),
        (own("steps", facto=2), UserError, "does not fit its settings"),
        (MultipleChoice(files=("no.jsonl",)), InputError, "there is no file or folder"),
    ],
)
def test_mistakes_are_said_before_work_starts(
    tokens: Path,
    folder: Path,
    tmp_path: Path,
    make_context: Callable[..., Context],
    evaluation: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        run(with_settings(evaluations=(evaluation,)), tokens, tmp_path, make_context, folder)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_contents_of_the_files_are_inputs(tokens: Path, folder: Path, tmp_path: Path) -> None:
    def key(config: PretrainConfig) -> str:
        sources = {"tokens": tokens_artifact}
        return plan_stage(Request(SPEC, config, tmp_path / "base", sources=sources)).key

    tokens_artifact = tmp_path / "tokens"
    tokens_artifact.mkdir()
    manifest = {"kind": "tokens", "id": "t", "key": "t", "stats": {}, "config": {}}
    (tokens_artifact / "manifest.json").write_text(json.dumps({"schema": SCHEMA, **manifest}))
    questions = tmp_path / "q.jsonl"
    questions.write_text((folder / "mill.jsonl").read_text())
    config = with_settings(evaluations=(MultipleChoice(files=(str(questions),)),))
    before = key(config)
    assert key(config) == before != key(CONFIG)
    questions.write_text(questions.read_text() + questions.read_text())
    assert key(config) != before


def test_what_changes_nothing_in_the_result_is_not_in_the_key(tmp_path: Path, tokens: Path) -> None:
    from llmpipe.core.config import keyed, resolved

    dear = with_settings(estimate=EstimateConfig(gpu="H200", n_gpus=64, usd_per_gpu_hour=9.5))
    rarely = with_settings(checkpoint_every_s=1e9, keep_checkpoints=5)
    assert keyed(dear) == keyed(rarely) == keyed(CONFIG)
    assert resolved(dear) != resolved(CONFIG)
    assert keyed(with_settings(eval_every=7)) != keyed(CONFIG)


def test_plan_says_what_time_and_cost_are_for(tokens: Path, folder: Path) -> None:
    assert SPEC.plan is not None
    inputs = Inputs({"tokens": Artifact(tokens, {})})
    asked = with_settings(
        estimate=EstimateConfig(gpu="A100", n_gpus=16, usd_per_gpu_hour=250.0),
        evaluations=(*ours(folder, 1000),),
    )
    usual, plan = SPEC.plan(CONFIG, inputs), SPEC.plan(asked, inputs)
    flops = float(plan["FLOPs"])
    hours = flops / (312e12 * 0.4) / 3600
    assert plan["cost"].endswith(f"{hours:,.3g} A100-hours at $250.00")
    assert "on one A100 at 40% of its peak" in plan["time"] and plan["time"].endswith(" on 16")
    assert usual["cost"].endswith("H100-hours at $3.00") and usual["time"].endswith(" on 8")
    assert plan["evaluations"] == (
        "mill every 1,000 steps and at the start, held_out every 1,000 steps"
    )
    assert "evaluations" not in usual
    spread = SPEC.plan(with_settings(parallel="fsdp", estimate=EstimateConfig(n_gpus=4)), inputs)
    assert "per process, with 4 of them; this machine has" in spread["memory"]


def test_what_follows_from_the_dial_is_said_by_its_keys(tokens: Path) -> None:
    assert SPEC.plan is not None
    config = PretrainConfig(
        depth=1, model=ModelSettings(max_seq_len=32, head_dim=32), micro_batch_size=1
    )
    derived = SPEC.plan(config, Inputs({"tokens": Artifact(tokens, {})}))["derived"]
    for part in (
        "model.d_model = 64",
        "model.n_layers = 1",
        "model.n_heads = 2",
        "row_tokens = 32",
    ):
        assert part in derived.split(", "), derived
    assert "max_seq_len" not in derived and "head_dim" not in derived
    for key in ("max_tokens", "global_batch_tokens", "lr_scale"):
        assert f"{key} = " in derived


def test_derived_values_are_said_at_the_start_of_a_run(
    tokens: Path,
    folder: Path,
    tmp_path: Path,
    make_context: Callable[..., Context],
    capsys: pytest.CaptureFixture[str],
) -> None:
    ctx = make_context(tmp_path)
    ctx.console.quiet = False
    SPEC.run(with_settings(max_tokens=256), Inputs({"tokens": Artifact(tokens, {})}), tmp_path, ctx)
    text = capsys.readouterr().err
    assert "pretrain: model         qwen3, 2 layers of 32, 2 heads" in text
    assert "pretrain: derived       model.family = qwen3, model.n_heads = 2" in text


def test_report_leaves_out_what_was_measured_once() -> None:
    metrics = [{"step": 5, "a/x": 1.0, "b/x": 1.0}, {"step": 9, "a/x": 2.0, "b/x": float("nan")}]
    blocks = evaluations(metrics, {"a/x": 2.0, "b/x": 1.0, "steps": 9})
    assert [type(block).__name__ for block in blocks] == ["Table", "LinePlot"]
    assert evaluations(metrics, {"steps": 9}) == []


# ---------------------------------------------------------------------------------------------
# several processes

SCRIPT = """
    import json
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
    from llmpipe.training.config import Muon
    from llmpipe.training.evaluations.config import BitsPerByte, Custom, MultipleChoice
    from llmpipe.training.schedule import Trapezoid

    tokens, out, config = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
    is_main = current_ranks().is_main
    metrics = Metrics(out / "metrics.jsonl", enabled=is_main)
    ctx = Context("test", 1, Console(enabled=is_main), metrics, StopFlag(), 1, "cpu")
    stats = SPEC.run(config, Inputs({"tokens": Artifact(tokens, {})}), out, ctx)
    if is_main:
        (out / "stats.json").write_text(json.dumps(stats))
"""


def run_on(
    world_size: int, config: PretrainConfig, tokens: Path, folder: Path, out: Path
) -> tuple[dict[str, Any], str]:
    """Run the stage in as many processes, in `folder`; return its numbers and what it said."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tokens), str(out), repr(config)]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    with (out / "said.txt").open("w") as said:
        for i in range(world_size):
            env = {**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}
            processes.append(subprocess.Popen(command, env=env, cwd=folder, stderr=said))
    try:
        # Far below the ten minutes for which processes wait for each other.
        assert [process.wait(100) for process in processes] == [0] * world_size, said_in(out)
    finally:
        for process in processes:
            process.kill()
    return json.loads((out / "stats.json").read_text()), said_in(out)


def said_in(out: Path) -> str:
    return (out / "said.txt").read_text()


def numbers_in(out: Path) -> list[tuple[str, float]]:
    return [
        (key, value)
        for line in read_metrics(out / "metrics.jsonl")
        for key, value in line.items()
        if "/" in key and not key.endswith("/seconds")
    ]


@pytest.mark.slow
def test_two_processes_find_what_one_does_to_the_last_bit(
    tokens: Path, folder: Path, tmp_path: Path
) -> None:
    config = with_settings(exact=True, evaluations=ours(folder))
    for n in (1, 2):
        run_on(n, config, tokens, folder, tmp_path / str(n))
    assert numbers_in(tmp_path / "1") == numbers_in(tmp_path / "2")
    assert len(numbers_in(tmp_path / "1")) == 4 * 6 + 3


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicate", "fsdp"])
def test_error_on_one_process_leaves_nobody_waiting_and_changes_nothing(
    tokens: Path, folder: Path, tmp_path: Path, parallel: str
) -> None:
    plain = with_settings(parallel=parallel, max_tokens=6 * 256)
    bad = (own("lost", 2), own("uneven", 2), own("fails", 3))
    config = with_settings(
        parallel=parallel, max_tokens=6 * 256, evaluations=(*bad, *ours(folder, 2))
    )
    stats, said = run_on(2, config, tokens, folder, tmp_path / "with")
    run_on(2, plain, tokens, folder, tmp_path / "without")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert models[0] == models[1]
    # `lost` at steps 2, 4, 6, `fails` at 3 and 6; passes of unequal number matter to FSDP alone
    assert stats["failed_evaluations"] == (3 + 2 + 3 if parallel == "fsdp" else 3 + 2)
    assert said.count("evaluation `lost` left out: it failed on process 1") == 3
    uneven = "evaluation `uneven` left out: the processes do not take part alike: "
    if parallel == "fsdp":
        assert said.count(uneven + "1 exchange numbers, 1 go through the model") == 3
    else:
        assert stats["uneven/passes"] == 2.0
    assert 0 < stats["mill/accuracy_per_byte"] <= 1
    errors = (tmp_path / "with/logs/evaluation-errors.txt").read_text()
    assert errors.count("RuntimeError: lost on the last process") == 3
    assert errors.count("evaluation fails, process 0\n") == 2
    assert errors.count("evaluation fails, process 1\n") == 2
    for number in ("mill/bits_per_byte", "held_out/bits_per_byte"):
        found = [value for key, value in numbers_in(tmp_path / "with") if key == number]
        assert found == sorted(found, reverse=True) and len(found) >= 3
