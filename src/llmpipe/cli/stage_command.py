"""The one command shape that all stages share, and `run`, which does all stages of a recipe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmpipe.cli.inspect import write_report
from llmpipe.cli.recipes import find_recipe, looks_like_recipe
from llmpipe.core.artifact import Artifact
from llmpipe.core.config import Recipe, diff_from_defaults, field_types, load_recipe, schema_types
from llmpipe.core.console import Console
from llmpipe.core.errors import ExpectationError, InputError, UserError
from llmpipe.core.machine import n_usable_cores
from llmpipe.core.ranks import was_restarted
from llmpipe.core.stage import Plan, Request, StageSpec, describe, plan_stage, run_stage
from llmpipe.stages import STAGES, schemas

DEFAULT_RECIPE = "tiny"
RECIPE_FOR_OWN_INPUTS = "fineweb"
"""Used when paths are given but no recipe: `tiny` is tuned to the demo's documentation pages."""


@dataclass(frozen=True)
class Options:
    """What the command line of a stage, or of `run`, says."""

    arguments: tuple[str, ...] = ()
    set_: tuple[str, ...] = ()
    from_: tuple[str, ...] = ()
    name: str | None = None
    out: Path | None = None
    runs: Path = field(default_factory=lambda: Path("runs"))
    force: bool = False
    fresh: bool = False
    dry_run: bool = False
    workers: int | None = None
    device: str = "auto"
    log: tuple[str, ...] = ()
    executor: str = "local"


# ----------------------------------------------------------------------------------------------
# One stage


def stage_command(stage: str, options: Options, console: Console) -> None:
    """Run or plan one stage as the command line asks."""
    spec = STAGES[stage]
    recipe_argument, inputs = _split_arguments(spec, options.arguments)
    overrides = list(options.set_)
    if inputs:
        quoted = ", ".join(_toml_string(path) for path in inputs)
        overrides.append(f"{stage}.inputs=[{quoted}]")
        recipe_argument = recipe_argument or RECIPE_FOR_OWN_INPUTS
    recipe = load_recipe(find_recipe(recipe_argument or DEFAULT_RECIPE), schemas(), overrides)
    run_folder = options.runs / (options.name or recipe.name)
    request = _request(spec, recipe, options, options.out or run_folder / spec.folder)
    try:
        plan = plan_stage(request)
    except InputError:
        if options.dry_run:
            _show_ahead(request, recipe, console)
        raise
    if options.dry_run:
        _show_plans([plan], console)
        return
    artifact = _carry_out(plan, console)
    if artifact is None:
        return
    if console.json_output:
        console.document({"path": str(artifact.path), **artifact.manifest})
    else:
        console.out(describe(spec, artifact))
        _show_next(spec, recipe_argument, artifact, console, is_elsewhere=options.out is not None)
    _raise_if_unmet([(stage, artifact)])


def _split_arguments(spec: StageSpec, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the recipe from input paths among the plain arguments."""
    recipes = [a for a in arguments if looks_like_recipe(a)]
    inputs = [a for a in arguments if not looks_like_recipe(a)]
    if len(recipes) > 1:
        raise UserError(f"one recipe is expected, got {len(recipes)}: {', '.join(recipes)}")
    takes_inputs = any(f.name == "inputs" for f in dataclasses.fields(spec.config))
    if inputs and not takes_inputs:
        hint = "give a recipe (`llmpipe recipes` lists them), or an input with --from NAME=PATH"
        raise UserError(f"`{spec.name}` does not take `{inputs[0]}`: it is no recipe", hint)
    return (recipes[0] if recipes else None), inputs


def _toml_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _request(spec: StageSpec, recipe: Recipe, options: Options, final: Path) -> Request:
    prefix = f"{spec.name}."
    expect = {k.removeprefix(prefix): v for k, v in recipe.expect.items() if k.startswith(prefix)}
    return Request(
        spec=spec,
        config=recipe.sections[spec.name],
        final=final,
        run_name=options.name or recipe.name,
        seed=recipe.seed,
        recipe=recipe.path,
        overrides=recipe.overrides,
        sources=_parse_sources(options.from_),
        expect=expect,
        force=options.force,
        fresh=options.fresh and not was_restarted(),  # or every lost process would cost all work
        workers=options.workers or n_usable_cores(),
        device=options.device,
        sinks=options.log,
        executor=options.executor,
    )


def _parse_sources(pairs: Sequence[str]) -> dict[str, Path]:
    sources = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            hint = "e.g. --from model=runs/tiny/base"
            raise UserError(f"`--from {pair}` is not of the form NAME=PATH", hint)
        sources[name] = Path(path)
    return sources


def _carry_out(plan: Plan, console: Console) -> Artifact | None:
    """Run a plan; None on the ranks of a distributed run that publish nothing."""
    if plan.status == "up to date":
        console.info(f"{plan.request.spec.name}: up to date")
    artifact = run_stage(plan, console)
    return artifact if artifact.manifest else None


def _show_next(
    spec: StageSpec, recipe: str | None, artifact: Artifact, console: Console, is_elsewhere: bool
) -> None:
    """Say the commands that go on from here; a folder of the user's own is named in them."""
    for use in spec.uses:
        console.info(f"next: {use.format(path=artifact.path)}")
    for name in list(STAGES)[list(STAGES).index(spec.name) + 1 :]:
        following = STAGES[name]
        for need, wanted in following.needs(following.config()).items():
            if wanted.kind == artifact.kind:
                words = ["llmpipe", name, recipe or ""]
                words += [f"--from {need}={artifact.path}"] if is_elsewhere else []
                console.info(f"next: {' '.join(word for word in words if word)}")
                return


def _raise_if_unmet(artifacts: Sequence[tuple[str, Artifact]]) -> None:
    lines = []
    for stage, artifact in artifacts:
        for name, result in artifact.manifest["expect"].items():
            if not result["met"]:
                number, _, side = name.rpartition("_")
                word = "at least" if side == "min" else "at most"
                found = f"{stage}.{number} is {result['found']}"
                lines.append(f"{found}, and the recipe expects {word} {result['bound']}")
    if lines:
        raise ExpectationError("; ".join(lines), "the artifact is there and can be used")


# ----------------------------------------------------------------------------------------------
# All stages of a recipe


def run_command(options: Options, console: Console) -> None:
    """Bring every stage of a recipe up to date, in order, and write the run's report."""
    if len(options.arguments) > 1:
        raise UserError(f"one recipe is expected, got {len(options.arguments)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        shared = " or ".join(f"`{name}`" for name, spec in STAGES.items() if spec.distributed)
        hint = f"torchrun --standalone --nproc-per-node 8 -m llmpipe STAGE …, with STAGE {shared}"
        raise UserError("`run` starts each stage itself and is not run under torchrun", hint)
    argument = options.arguments[0] if options.arguments else DEFAULT_RECIPE
    recipe = load_recipe(find_recipe(argument), schemas(), options.set_)
    run_folder = options.out or options.runs / (options.name or recipe.name)
    stages = [stage for stage in STAGES if stage in recipe.present]
    if not stages:
        known = ", ".join(f"[{stage}]" for stage in STAGES)
        raise UserError(f"{recipe.path} has no stage; a recipe has one or more of {known}")

    artifacts: list[tuple[str, Artifact]] = []
    plans: list[Plan] = []
    n_run = 0
    for stage in stages:
        spec = STAGES[stage]
        request = _request(spec, recipe, options, run_folder / spec.folder)
        if options.force:
            # `run --force` replaces what was made otherwise and leaves alone what is up to date.
            relaxed = plan_stage(dataclasses.replace(request, force=False))
            plan = relaxed if relaxed.status == "up to date" else plan_stage(request)
        elif options.dry_run and plans and any(p.status != "up to date" for p in plans):
            break  # later stages read what is not made yet, so their keys are not known
        else:
            plan = plan_stage(request)
        plans.append(plan)
        if options.dry_run:
            continue
        n_run += plan.status != "up to date"
        artifact = _carry_out(plan, console)
        assert artifact is not None, "run is never distributed"
        artifacts.append((stage, artifact))
        if plan.status != "up to date":
            console.info(f"{stage:<9}{describe(spec, artifact)}")
    if options.dry_run:
        _show_plans(plans, console)
        if len(plans) < len(stages):
            console.info(
                f"then: {', '.join(stages[len(plans) :])} (they read what the stages above write)"
            )
        return
    _finish_run(recipe, argument, run_folder, artifacts, n_run, console)
    _raise_if_unmet(artifacts)


def _finish_run(
    recipe: Recipe,
    argument: str,
    run_folder: Path,
    artifacts: Sequence[tuple[str, Artifact]],
    n_run: int,
    console: Console,
) -> None:
    report = run_folder / "report.html"
    if n_run or not report.is_file():
        write_report(run_folder, report)
    if console.json_output:
        console.document(
            {
                "run": str(run_folder),
                "up_to_date": n_run == 0,
                "report": str(report),
                "artifacts": {s: {"path": str(a.path), **a.manifest} for s, a in artifacts},
            }
        )
        return
    if n_run == 0:
        console.out(f"{run_folder}: everything is up to date")
    for stage, artifact in artifacts:
        for line in STAGES[stage].closing(artifact.stats):
            console.out(line)
    console.info(f"\nreport: {report}")
    commands = [
        use.format(path=artifact.path)
        for stage, artifact in reversed(artifacts)
        for use in STAGES[stage].uses
    ]
    for i, line in enumerate([*commands, f"llmpipe show {run_folder}"]):
        console.info(f"{'' if i else 'next:':<8}{line}")


# ----------------------------------------------------------------------------------------------
# --dry-run


def _show_plans(plans: Sequence[Plan], console: Console) -> None:
    if console.json_output:
        documents = [plan.to_json() for plan in plans]
        console.document(documents[0] if len(documents) == 1 else documents)
        return
    for plan in plans:
        for label, text in _plan_lines(plan):
            console.out(f"{label:<9}{text}")
        console.out()


def _show_ahead(request: Request, recipe: Recipe, console: Console) -> None:
    """Show what can be said before the inputs are there, if the stage can say anything."""
    spec = request.spec
    present = {stage: recipe.sections[stage] for stage in recipe.present}
    estimate = spec.plan_ahead(request.config, present) if spec.plan_ahead else None
    if estimate is None:
        return
    differing = diff_from_defaults(request.config)
    if console.json_output:
        document = {"stage": spec.name, "writes": str(request.final), "status": "input missing"}
        console.document(document | {"differs_from_defaults": differing, "estimate": estimate})
        return
    for label, text in [*_heading(request), *_setting_lines(differing, estimate)]:
        console.out(f"{label:<9}{text}")
    console.out()


def _heading(request: Request) -> list[tuple[str, str]]:
    overrides = _count(len(request.overrides), "override")
    return [
        ("stage", f"{request.spec.name}  ({request.spec.summary})"),
        ("recipe", f"{request.recipe}  ({overrides})"),
    ]


def _setting_lines(differing: Sequence[str], estimate: Mapping[str, str]) -> list[tuple[str, str]]:
    lines = [("differs", line.replace(" -> ", " (default) -> ")) for line in differing]
    return lines + [("needs", f"{name}: {text}") for name, text in estimate.items()]


def _plan_lines(plan: Plan) -> list[tuple[str, str]]:
    words = {
        "up to date": "up to date",
        "resume": "would resume",
        "new": "would run",
        "replace": "would replace what is there",
        "differs": "would refuse: made with other settings or inputs (--force replaces it)",
        "unfinished differs": "would refuse: unfinished work with other settings (--fresh discards it)",
    }
    request = plan.request
    lines = _heading(request)
    for name, artifact in plan.inputs.items():
        lines.append(("reads", f"{name:<8}{artifact.path}  {artifact.id[:8]}  {artifact.kind}"))
    if plan.inputs.files:
        total = sum(file.n_bytes for file in plan.inputs.files)
        lines.append(("reads", f"{_count(len(plan.inputs.files), 'file')}, {total:,} bytes"))
    lines.append(("writes", f"{request.final}  {words[plan.status]}"))
    lines += [("changed", change) for change in plan.changes]
    estimate = request.spec.plan(request.config, plan.inputs) if request.spec.plan else {}
    return lines + _setting_lines(diff_from_defaults(request.config), estimate)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def settings_table(config: type[Any]) -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every setting of a dataclass, nested ones with dotted keys.

    Settings of each element of a list stand below the list, as `list[].key`.

    The meaning is the string literal below the field, read from the source because Python does not keep it.
    """
    import ast
    import inspect
    import textwrap

    meanings = {}
    for cls in reversed(config.__mro__[:-1]):  # a base's settings are its own too
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
                text = ast.literal_eval(following.value)
                meanings[ast.unparse(node.target)] = " ".join(text.split())
    rows = []
    types = field_types(config)
    for f in dataclasses.fields(config):
        nested = schema_types(types[f.name])
        inner = [row for cls in nested for row in settings_table(cls)]
        if nested and not isinstance(f.default, tuple):
            rows += [(f"{f.name}.{key}", default, meaning) for key, default, meaning in inner]
            continue
        if f.default is not dataclasses.MISSING:
            default = repr(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            default = repr(f.default_factory())
        else:
            default = "(required)"
        rows.append((f.name, default, meanings.get(f.name, "")))
        rows += [(f"{f.name}[].{key}", default, meaning) for key, default, meaning in inner]
    return rows
