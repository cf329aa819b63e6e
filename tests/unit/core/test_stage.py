from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
import types
from pathlib import Path

import pytest
from filelock import FileLock

from llmpipe.core.artifact import open_artifact
from llmpipe.core.config import schema
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, Interrupted, Stopped, UserError
from llmpipe.core.stage import Need, Request, StageSpec, check_expectations, plan_stage, run_stage


@schema
class Settings:
    steps: int = 3
    stop_at: int | None = None
    inputs: tuple[str, ...] = ()


def run(config, inputs, out, ctx):
    """Count up in a file, one line per step, keeping what is there."""
    path = out / "lines.txt"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    for step in range(done, config.steps):
        with path.open("a") as file:
            file.write(f"{step}\n")
        ctx.metrics.log(step, loss=1 / (step + 1))
        if STOP_AT is not None and step == STOP_AT[0]:
            os.kill(os.getpid(), STOP_AT[1])
        ctx.stop.check()
    (out / "state").mkdir(exist_ok=True)
    return {"steps": config.steps}


STOP_AT: tuple[int, int] | None = None


def spec(**kwargs) -> StageSpec:
    fields = dict(
        name="count",
        version=1,
        summary="Count",
        config=Settings,
        folder="lines",
        writes="lines",
        run=run,
        headline=lambda stats: f"{stats['steps']} steps",
        report=lambda artifact: [],
        files=lambda config: config.inputs,
    )
    return StageSpec(**{**fields, **kwargs})


def request(tmp_path: Path, config=None, **kwargs) -> Request:
    return Request(
        spec=kwargs.pop("spec", spec()),
        config=config or Settings(),
        final=tmp_path / "run" / "lines",
        **kwargs,
    )


def carry_out(req: Request):
    return run_stage(plan_stage(req), Console(quiet=True))


@pytest.fixture(autouse=True)
def no_stop():
    global STOP_AT
    STOP_AT = None
    yield
    STOP_AT = None


def test_run_publishes_and_a_second_request_is_up_to_date(tmp_path):
    artifact = carry_out(request(tmp_path))
    assert artifact.stats == {"steps": 3}
    assert artifact.file("lines.txt").read_text() == "0\n1\n2\n"
    plan = plan_stage(request(tmp_path))
    assert plan.status == "up to date"
    assert run_stage(plan, Console(quiet=True)).id == artifact.id


def test_other_settings_are_refused_with_a_diff_and_replaced_with_force(tmp_path):
    carry_out(request(tmp_path))
    with pytest.raises(UserError) as error:
        carry_out(request(tmp_path, Settings(steps=5)))
    assert "count.steps: 3 -> 5" in error.value.message
    assert error.value.hint is not None and "--force" in error.value.hint
    assert carry_out(request(tmp_path, Settings(steps=5), force=True)).stats == {"steps": 5}


@pytest.mark.parametrize(
    "signum, error, code", [(signal.SIGTERM, Stopped, 75), (signal.SIGINT, Interrupted, 130)]
)
def test_stopped_run_resumes_to_the_same_id(tmp_path, signum, error, code):
    global STOP_AT
    whole = carry_out(Request(spec=spec(), config=Settings(), final=tmp_path / "whole" / "lines"))
    STOP_AT = (1, signum)
    with pytest.raises(error) as stopped:
        carry_out(request(tmp_path))
    assert stopped.value.exit_code == code
    STOP_AT = None
    plan = plan_stage(request(tmp_path))
    assert plan.status == "resume"
    resumed = run_stage(plan, Console(quiet=True))
    assert resumed.id == whole.id
    assert resumed.manifest["time"]["attempts"] == 2


@pytest.mark.parametrize("signum, error", [(signal.SIGTERM, Stopped), (signal.SIGINT, Interrupted)])
def test_work_that_is_whole_when_a_stop_comes_is_published(tmp_path, signum, error):
    def run_to_the_end(config, inputs, out, ctx):
        stats = run(config, inputs, out, ctx)
        os.kill(os.getpid(), signum)
        return stats

    whole = spec(run=run_to_the_end)
    with pytest.raises(error, match="nothing is lost"):  # so that no other stage is begun
        carry_out(request(tmp_path, spec=whole))
    plan = plan_stage(request(tmp_path, spec=whole))
    assert plan.status == "up to date"
    assert run_stage(plan, Console(quiet=True)).stats == {"steps": 3}


def test_unfinished_work_of_other_settings_is_refused_unless_fresh(tmp_path):
    global STOP_AT
    STOP_AT = (0, signal.SIGTERM)
    with pytest.raises(Stopped):
        carry_out(request(tmp_path))
    STOP_AT = None
    with pytest.raises(UserError, match="unfinished work with other settings"):
        carry_out(request(tmp_path, Settings(steps=2)))
    artifact = carry_out(request(tmp_path, Settings(steps=2), fresh=True))
    assert artifact.file("lines.txt").read_text() == "0\n1\n"


def test_settings_that_were_refused_before_any_work_can_be_corrected(tmp_path):
    def refuse(config, inputs, out, ctx):
        if config.steps == 3:
            raise UserError("3 steps are too many", "use 2")
        return run(config, inputs, out, ctx)

    with pytest.raises(UserError, match="too many"):
        carry_out(request(tmp_path, spec=spec(run=refuse)))
    artifact = carry_out(request(tmp_path, Settings(steps=2), spec=spec(run=refuse)))
    assert artifact.stats == {"steps": 2}


def test_changed_input_file_changes_the_key(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("a")
    config = Settings(inputs=(str(source),))
    carry_out(request(tmp_path, config))
    assert plan_stage(request(tmp_path, config)).status == "up to date"
    source.write_text("b")
    plan = plan_stage(request(tmp_path, config))
    assert plan.status == "differs"
    assert any(str(source) in line for line in plan.changes)


def test_stage_version_and_seed_enter_the_key(tmp_path):
    carry_out(request(tmp_path))
    assert plan_stage(request(tmp_path, spec=spec(version=2))).status == "differs"
    assert plan_stage(request(tmp_path, seed=2)).status == "differs"


def test_two_writers_of_one_folder_cannot_meet(tmp_path):
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lines.lock"),
        pytest.raises(UserError, match="another llmpipe process"),
    ):
        # filelock is reentrant within a thread's own object only, so another object is another writer
        carry_out(request(tmp_path))
    assert carry_out(request(tmp_path)).stats == {"steps": 3}


def test_a_resumed_stage_goes_on_with_its_run_at_wandb_and_a_fresh_one_begins_another(
    tmp_path, monkeypatch
):
    global STOP_AT
    asked = []

    class Wandb(types.ModuleType):
        def init(self, **settings):
            asked.append(settings)
            return types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", Wandb("wandb"))
    times = iter(f"2026-01-01T00:00:{second:02}Z" for second in range(60))
    monkeypatch.setattr("llmpipe.core.stage._now", lambda: next(times))
    for fresh, stop_at in (
        (False, (0, signal.SIGTERM)),
        (False, (1, signal.SIGTERM)),
        (True, None),
    ):
        STOP_AT = stop_at
        with contextlib.suppress(Stopped):
            carry_out(request(tmp_path, sinks=("wandb",), fresh=fresh))
    first, resumed, fresh = (settings["id"] for settings in asked)
    assert first == resumed != fresh
    assert all(settings["resume"] == "allow" for settings in asked)


def test_missing_input_artifact_names_stage_and_way_out(tmp_path):
    needing = spec(needs=lambda config: {"tokens": Need("tokens", "tokens")})
    with pytest.raises(InputError) as error:
        plan_stage(request(tmp_path, spec=needing))
    assert error.value.message.startswith("count: there is no tokens artifact at")
    assert error.value.hint is not None and "--from tokens=PATH" in error.value.hint


def test_missing_input_that_another_command_makes_names_it(tmp_path):
    need = Need("model", "imported", made_by="llmpipe import NAME --out {path}")
    with pytest.raises(InputError) as error:
        plan_stage(request(tmp_path, spec=spec(needs=lambda config: {"model": need})))
    path = tmp_path / "run" / "imported"
    hint = f"make it with `llmpipe import NAME --out {path}`, or name one with `--from model=PATH`"
    assert error.value.hint == hint


def test_input_of_another_kind_is_refused(tmp_path):
    carry_out(request(tmp_path))
    needing = spec(needs=lambda config: {"tokens": Need("tokens", "tokens")})
    with pytest.raises(InputError, match="is of kind lines, and kind tokens"):
        plan_stage(request(tmp_path, spec=needing, sources={"tokens": tmp_path / "run" / "lines"}))


def test_unknown_from_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no input `modle`"):
        plan_stage(request(tmp_path, sources={"modle": tmp_path}))


def test_missing_input_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.txt` cannot be read: No such file"):
        plan_stage(request(tmp_path, Settings(inputs=(str(tmp_path / "nothing.txt"),))))


def test_manifest_holds_no_absolute_path_and_no_user(tmp_path):
    artifact = carry_out(request(tmp_path))
    text = artifact.file("manifest.json").read_text()
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text


def test_published_files_follow_the_umask(tmp_path):
    artifact = carry_out(request(tmp_path))
    mode = stat.S_IMODE(artifact.file("manifest.json").stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    assert mode == 0o666 & ~umask


def test_run_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(UserError, match="cannot write to"):
        carry_out(request(tmp_path))


def test_stage_that_is_not_distributed_refuses_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="not under torchrun"):
        carry_out(request(tmp_path))


def test_runs_in_a_thread_without_signals(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(carry_out(request(tmp_path))))
    thread.start()
    thread.join()
    assert results[0].stats == {"steps": 3}


def test_expectations_are_compared_with_stats():
    results = check_expectations(
        {"loss_max": 1.0, "acc_min": 0.5, "gone_min": 1.0}, {"loss": 0.9, "acc": 0.4}
    )
    assert {name: r["met"] for name, r in results.items()} == {
        "loss_max": True,
        "acc_min": False,
        "gone_min": False,
    }


def test_opened_artifact_tells_its_settings(tmp_path):
    carry_out(request(tmp_path, Settings(steps=1)))
    assert open_artifact(tmp_path / "run" / "lines").config["steps"] == 1
