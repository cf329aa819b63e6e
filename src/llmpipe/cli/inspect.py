"""Looking at what is on disk: ls, show, diff, verify, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import MANIFEST, Artifact, open_artifact, verify, write_atomic
from llmpipe.core.config import diff_values
from llmpipe.core.console import Console, format_bytes, format_duration
from llmpipe.core.errors import InputError, LlmpipeError
from llmpipe.core.report import Prose, Section, Table, to_html, to_markdown
from llmpipe.stages import STAGES


def find_artifacts(folder: Path) -> list[Artifact]:
    """The artifacts of a run folder in pipeline order, or the one artifact that `folder` is.

    Raises:
        InputError: if there is none.
    """
    if (folder / MANIFEST).is_file():
        return [open_artifact(folder)]
    hint = "`llmpipe ls` lists the runs here"
    if not folder.is_dir():
        raise InputError(f"there is no folder `{folder}`", hint)
    found = [open_artifact(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))]
    if not found:
        raise InputError(f"`{folder}` holds no finished artifact", hint)
    return sorted(found, key=lambda artifact: _place(artifact.manifest["stage"]))


def _place(stage: str) -> int:
    """Where a stage stands in the pipeline; what no stage made (an import) comes first."""
    return list(STAGES).index(stage) if stage in STAGES else -1


def headline_of(artifact: Artifact) -> str:
    """One line about an artifact, in the words of the stage that made it."""
    stage = artifact.manifest["stage"]
    if stage not in STAGES:
        return f"{artifact.kind}, made by `llmpipe {stage}`"
    return STAGES[stage].headline(artifact.stats)


def ls(runs: Path, console: Console) -> None:
    """List runs and their artifacts."""
    rows = list(_runs(runs))
    if not rows and not console.json_output:
        console.info(f"no runs in `{runs}`; start one with: llmpipe run")
    lines = (f"{r['path']:<28}{r['state']:<12}{r['id'][:8]:<10}{r['headline']}" for r in rows)
    console.result(rows, lines)


def _runs(runs: Path) -> Iterator[dict[str, str]]:
    def row(path: Path, state: str, id: str, headline: str) -> dict[str, str]:
        return {"path": str(path), "state": state, "id": id, "headline": headline}

    folders = runs.iterdir() if runs.is_dir() else ()
    for run in sorted(path for path in folders if path.is_dir()):
        for artifact in find_artifacts(run) if any(run.glob(f"*/{MANIFEST}")) else []:
            yield row(artifact.path, "finished", artifact.id, headline_of(artifact))
        for partial in sorted(run.glob(".*.partial")):
            name = partial.name.removeprefix(".").removesuffix(".partial")
            yield row(run / name, "unfinished", "", "run it again to resume")


def show(path: Path, console: Console) -> None:
    """Show what an artifact is made of: inputs, settings, numbers, files."""
    artifacts = find_artifacts(path)
    documents = [dict(artifact.manifest) for artifact in artifacts]
    lines = [
        line
        for i, artifact in enumerate(artifacts)
        for line in [*([""] if i else []), *(f"{a:<10}{b}" for a, b in _facts(artifact))]
    ]
    console.result(documents[0] if len(documents) == 1 else documents, lines)


def _facts(artifact: Artifact) -> Iterator[tuple[str, str]]:
    manifest = artifact.manifest
    yield "path", str(artifact.path)
    yield "kind", f"{artifact.kind}, written by stage {manifest['stage']}"
    yield "result", headline_of(artifact)
    yield "id", artifact.id
    for name, source in manifest["inputs"].items():
        yield "reads", f"{name} = {source['path']}  {source['id'][:8]}"
    times = manifest["time"]
    attempts = f", {times['attempts']} attempts" if times["attempts"] > 1 else ""
    yield "time", f"{times['started']}, {format_duration(times['seconds'])}{attempts}"
    code, machine = manifest["code"], manifest["environment"]
    changed = ", changed" if code.get("dirty") else ""
    commit = f" ({code['commit']}{changed})" if "commit" in code else ""
    made_by = f"llmpipe {code['version']}{commit}, torch {machine['torch']}, {machine['platform']}"
    yield "made by", made_by
    for name, result in manifest["expect"].items():
        word = "met" if result["met"] else "NOT met"
        yield "expects", f"{name} {result['bound']}: {result['found']}, {word}"
    for key, value in _numbers(artifact).items():
        yield "stat", f"{key} = {value}"
    for name, (size, sha) in manifest["files"].items():
        yield "file", f"{name}  {format_bytes(size)}  {sha[:8]}"


def diff(a: Path, b: Path, console: Console) -> None:
    """Compare two artifacts or runs: their settings, inputs and numbers."""
    document: dict[str, list[str]] = {}
    lines = []
    olds, news = ({one.manifest["stage"]: one for one in find_artifacts(run)} for run in (a, b))
    for stage in sorted({*olds, *news}, key=_place):
        left, right = olds.get(stage), news.get(stage)
        old = left.manifest["asked"] if left else {}
        new = right.manifest["asked"] if right else {}
        numbers = diff_values(_numbers(left), _numbers(right), "stats")
        document[stage] = diff_values(old, new) + numbers
        same = left and right and left.id == right.id
        lines.append(f"{stage}: {'same contents' if same else 'contents differ'}")
        lines += [f"    {line}" for line in document[stage]]
    console.result(document, lines)


def _numbers(artifact: Artifact | None) -> dict[str, Any]:
    stats = artifact.stats if artifact else {}
    return {key: value for key, value in stats.items() if isinstance(value, str | int | float)}


def verify_command(paths: Sequence[Path], console: Console) -> None:
    """Check every file of artifacts against its hash.

    Raises:
        InputError: if a file is missing, damaged or not in the manifest.
    """
    results = {str(a.path): verify(a) for path in paths for a in find_artifacts(path)}
    lines = []
    for path, problems in results.items():
        lines.append(f"{path}: {'every file is as written' if not problems else 'DAMAGED'}")
        lines += [f"    {problem}" for problem in problems]
    console.result(results, lines)
    damaged = [path for path, problems in results.items() if problems]
    if damaged:
        hint = "delete the damaged folder and run `llmpipe run` again"
        raise InputError(f"damaged: {', '.join(damaged)}", hint)


# ----------------------------------------------------------------------------------------------
# The report


N_OPEN_SECTIONS = 2
"""Of each stage, in the report of a whole run; the rest is folded, so that the page can be taken in."""


def report_sections(artifacts: Sequence[Artifact]) -> list[Section]:
    """One section with the whole pipeline, what came out, then the stages in order."""
    rows = []
    for artifact in artifacts:
        manifest = artifact.manifest
        headline = headline_of(artifact)
        seconds = format_duration(manifest["time"]["seconds"])
        size = format_bytes(artifact.n_bytes)
        rows.append([manifest["stage"], headline, size, seconds, artifact.id[:8]])
    sections = [Section("The pipeline", [Table(["stage", "result", "size", "time", "id"], rows)])]
    scores = [a for a in artifacts if a.kind == "scores"]
    for artifact in [*scores, *(a for a in artifacts if a.kind != "scores")]:
        stage = artifact.manifest["stage"]
        stage_sections = STAGES[stage].report(artifact) if stage in STAGES else []
        for i, section in enumerate(stage_sections):
            is_folded = len(artifacts) > 1 and i >= N_OPEN_SECTIONS
            sections.append(dataclasses.replace(section, is_folded=is_folded))
    missed = [
        f"`{artifact.manifest['stage']}.{name}`: {result['found']} against {result['bound']}"
        for artifact in artifacts
        for name, result in artifact.manifest["expect"].items()
        if not result["met"]
    ]
    if missed:
        sections.insert(0, Section("Expectations not met", [Prose("; ".join(missed))]))
    return sections


def write_report(folder: Path, target: Path) -> None:
    """Write the report of a run or of one artifact: Markdown for `.md`, else one self-contained HTML page."""
    artifacts = find_artifacts(folder)
    last = artifacts[-1].manifest
    title = f"llmpipe: {last['name']}"
    code, machine = last["code"], last["environment"]
    commit = f" ({code['commit']})" if "commit" in code else ""
    made = f"llmpipe {code['version']}{commit}, torch {machine['torch']}, {machine['cores']} cores"
    subtitle = f"{last['time']['finished'][:10]}, {made}, recipe {last['recipe']['file']}"
    sections = report_sections(artifacts)
    is_markdown = target.suffix == ".md"
    text = to_markdown(title, sections) if is_markdown else to_html(title, sections, subtitle)
    write_atomic(target, text)


def report_command(path: Path, out: Path | None, console: Console) -> None:
    """Write one page about a run: funnel, curves, samples, conversation."""
    # Nothing may be added to an artifact, so the page of one goes into the working folder.
    target = out or Path("report.html" if (path / MANIFEST).is_file() else path / "report.html")
    try:
        write_report(path, target)
    except KeyError as error:
        raise LlmpipeError(f"the report of `{path}` lacks {error}") from error
    console.result({"report": str(target)}, [str(target)])
