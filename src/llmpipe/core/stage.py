"""What a stage is, and how one is run: resolve inputs, compare keys, lock, run, publish.

A stage is a `StageSpec`: settings in, artifacts in, one artifact out. `run_stage` decides between four outcomes by the
key (settings + inputs): up to date, resume what is unfinished, start, or refuse with the differing settings.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import llmpipe
from llmpipe.core.artifact import (
    MANIFEST,
    SCHEMA,
    START_RECORD,
    Artifact,
    hash_file,
    open_artifact,
    publish,
    recover,
    write_atomic,
)
from llmpipe.core.config import diff_from_defaults, diff_identities, digest, keyed, resolved
from llmpipe.core.console import Console, format_bytes, format_duration
from llmpipe.core.errors import InputError, UserError, did_you_mean
from llmpipe.core.machine import n_usable_cores
from llmpipe.core.metrics import Metrics, make_sinks
from llmpipe.core.ranks import current_ranks, stop_with_launcher
from llmpipe.core.report import Section
from llmpipe.core.stop import StopFlag

SHIPPED = "llmpipe:"
"""Before the name of a file in `llmpipe/resources`: named so, it decides the same wherever the package is installed."""


@dataclass(frozen=True)
class Need:
    """An artifact that a stage reads."""

    kind: str
    folder: str
    """Where it is looked for in the run folder when `--from` names nothing."""
    made_by: str = "llmpipe run"
    """The command that makes it; `{path}` in it stands for where it is looked for."""


@dataclass(frozen=True)
class SourceFile:
    """A file that the settings name, or one that comes with llmpipe."""

    path: str
    n_bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Inputs(Mapping[str, Artifact]):
    """The artifacts and files a stage reads, by name."""

    artifacts: Mapping[str, Artifact]
    files: tuple[SourceFile, ...] = ()

    def __getitem__(self, name: str) -> Artifact:
        return self.artifacts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.artifacts)

    def __len__(self) -> int:
        return len(self.artifacts)


@dataclass
class Context:
    """What a running stage needs besides its settings and inputs."""

    run_name: str
    seed: int
    console: Console
    metrics: Metrics
    stop: StopFlag
    workers: int
    device: str
    executor: str = "local"
    """Where units of work run: `local`, `ray`, `ray:ADDRESS` or `slurm`."""
    store: Path | None = None
    """Folder beside the artifact that outlives publication, for work that the next build may take over;
    `--fresh` deletes it, and so may anyone at any time."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Everything that decides the result: stage, seed, resolved settings, ids of the inputs."""
    recipe: str = ""
    """The recipe's file, beside which settings may name things."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of the pipeline."""

    name: str
    version: int
    """Raised when the same settings would now mean something else; it enters the key."""
    summary: str
    config: type
    folder: str
    """Name of the folder it writes under the run folder."""
    writes: str
    """Kind of artifact it writes."""
    run: Callable[[Any, Inputs, Path, Context], dict[str, Any]]
    headline: Callable[[Mapping[str, Any]], str]
    report: Callable[[Artifact], list[Section]]
    needs: Callable[[Any], dict[str, Need]] = lambda config: {}
    files: Callable[[Any], Sequence[str]] = lambda config: ()
    files_key: Callable[[Any, Sequence[SourceFile]], Any] | None = None
    """What of `files` decides the result, where it is not their names: of the data stage's inputs only the contents are, so
    a file that was renamed is the same input. Names stay in the key where they count: `tokenize` reads its files in their
    order and `sft` mixes them by share, both by path, and `pretrain` names what it measures after a file."""
    also_keyed: Callable[[Any], Mapping[str, Any]] | None = None
    """What else decides the result and stands in no setting, such as the versions of code that it uses."""
    plan: Callable[[Any, Inputs], dict[str, str]] | None = None
    plan_ahead: Callable[[Any, Mapping[str, Any]], dict[str, str] | None] | None = None
    """What can be planned while inputs are missing, from the settings of all stages of the recipe."""
    examples: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Settings that are options of the command too: `--depth 12` is `--set pretrain.depth=12`."""
    uses: tuple[str, ...] = ()
    """Commands that use what it writes, for `next: …`; `{path}` in them stands for that."""
    closing: Callable[[Mapping[str, Any]], Sequence[str]] = lambda stats: ()
    """Numbers of the artifact -> lines that a whole run ends with, such as a conversation with what it made."""
    distributed: bool = False


@dataclass(frozen=True)
class Request:
    """One wish to have a stage's artifact: where, from what, and how to treat what is there."""

    spec: StageSpec
    config: Any
    final: Path
    run_name: str = "run"
    seed: int = 1
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)
    """Input name -> folder, from `--from NAME=PATH`; the others are looked for beside `final`."""
    expect: Mapping[str, float] = field(default_factory=dict)
    """Number of this stage -> bound: `val_bpb_max` -> 1.8."""
    force: bool = False
    fresh: bool = False
    workers: int = 1
    device: str = "auto"
    executor: str = "local"
    sinks: tuple[str, ...] = ()

    @property
    def partial(self) -> Path:
        """The folder of unfinished work."""
        return self.final.parent / f".{self.final.name}.partial"

    @property
    def store(self) -> Path:
        """The folder of work that a later build of the same artifact may take over."""
        return self.final.parent / f".{self.final.name}.store"


Status = Literal["up to date", "resume", "new", "replace", "differs", "unfinished differs"]


@dataclass(frozen=True)
class Plan:
    """What running a request would do."""

    request: Request
    inputs: Inputs
    key: str
    status: Status
    changes: tuple[str, ...] = ()
    """For the two `differs`: what is there against what is asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the JSON document of `--dry-run --json`."""
        request = self.request
        estimate = request.spec.plan(request.config, self.inputs) if request.spec.plan else {}
        return {
            "stage": request.spec.name,
            "writes": str(request.final),
            "status": self.status,
            "key": self.key,
            "inputs": {
                name: {"path": str(a.path), "kind": a.kind, "id": a.id}
                for name, a in self.inputs.items()
            },
            "files": [dataclasses.asdict(file) for file in self.inputs.files],
            "changes": list(self.changes),
            "differs_from_defaults": diff_from_defaults(request.config),
            "estimate": estimate,
        }


# ------------------------------------------------------------------------------------------
# Planning: reads, writes nothing


def plan_stage(request: Request) -> Plan:
    """Resolve the inputs of a request and compare its key with what is on disk.

    Raises:
        InputError: an input is missing, unfinished or of another kind.
        UserError: `--from` names an input that the stage does not have.
    """
    spec = request.spec
    inputs = Inputs(_resolve_artifacts(request), fingerprint_files(spec.files(request.config)))
    identity = _identity(request, inputs)
    key = _key(request, inputs, identity)
    if not (request.final / MANIFEST).is_file():
        return _plan_unfinished(request, inputs, key, identity, "new")
    manifest = open_artifact(request.final).manifest
    if request.force:
        return _plan_unfinished(request, inputs, key, identity, "replace")
    if manifest["key"] == key:
        return Plan(request, inputs, key, "up to date")
    changes = tuple(diff_identities(manifest["asked"], identity))
    return Plan(request, inputs, key, "differs", changes)


def _plan_unfinished(
    request: Request, inputs: Inputs, key: str, identity: dict[str, Any], otherwise: Status
) -> Plan:
    state = request.partial / START_RECORD
    if request.fresh or not state.is_file():
        return Plan(request, inputs, key, otherwise)
    found = json.loads(state.read_text(encoding="utf-8"))
    if found["key"] == key:
        return Plan(request, inputs, key, "resume")
    if [path.name for path in request.partial.iterdir()] == [START_RECORD]:
        # It was refused before it did any work, so nothing is lost.
        return Plan(request, inputs, key, otherwise)
    return Plan(
        request, inputs, key, "unfinished differs", tuple(diff_identities(found["asked"], identity))
    )


def _resolve_artifacts(request: Request) -> dict[str, Artifact]:
    needs = request.spec.needs(request.config)
    for name in request.sources:
        if name not in needs:
            known = ", ".join(needs) or "none"
            raise UserError(
                f"`{request.spec.name}` has no input `{name}`; its inputs are: {known}",
                did_you_mean(name, needs),
            )
    artifacts = {}
    for name, need in needs.items():
        path = request.sources.get(name, request.final.parent / need.folder)
        try:
            artifacts[name] = open_artifact(path, need.kind)
        except InputError as error:
            made_by = need.made_by.format(path=path)
            hint = error.hint or f"make it with `{made_by}`, or name one with `--from {name}=PATH`"
            raise InputError(f"{request.spec.name}: {error.message}", hint) from None
    return artifacts


def fingerprint_files(paths: Sequence[str]) -> tuple[SourceFile, ...]:
    """Describe files by size and content hash, sorted by path; remote ones by what their store tells of them.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    files = []
    for name in sorted(set(paths)):
        try:
            if "://" in name or name.startswith("hf:"):
                files.append(_fingerprint_remote(name))
                continue
            path = Path(name)
            if name.startswith(SHIPPED):
                path = Path(llmpipe.__file__).parent / "resources" / name.removeprefix(SHIPPED)
            files.append(SourceFile(name, path.stat().st_size, hash_file(path)))
        except OSError as error:
            raise InputError(
                f"the input `{name}` cannot be read: {error.strerror or error}"
            ) from None
    return tuple(files)


def _fingerprint_remote(name: str) -> SourceFile:
    if name.startswith("hf:"):
        inside = sorted(path for path in Path(name[3:]).rglob("*") if path.is_file())
        contents = [(path.name, hash_file(path)) for path in inside]  # empty: it lies on the hub
        n_bytes = sum(path.stat().st_size for path in inside)
        return SourceFile(name, n_bytes, digest(contents) if contents else name)
    from llmpipe.core.remote import WAITS_S, open_filesystem, patiently

    filesystem, path = open_filesystem(name)
    # Somebody waits for the plan, so less patiently than when the file is read.
    info = patiently(name, lambda: filesystem.info(path), WAITS_S[:3])
    if name.startswith(("http://", "https://")):  # whose `ukey` is the address alone
        known = ("size", "ETag", "Content-MD5", "Digest", "Last-Modified")
        fingerprint = digest([name, {field: info[field] for field in known if field in info}])
    else:
        fingerprint = str(filesystem.ukey(path))
    return SourceFile(name, int(info.get("size") or 0), fingerprint)


def _identity(request: Request, inputs: Inputs) -> dict[str, Any]:
    """Everything that decides what comes out, worded for people: files with their names."""
    return {
        "schema": SCHEMA,
        "stage": request.spec.name,
        "stage_version": request.spec.version,
        "seed": request.seed,
        "config": keyed(request.config),
        "inputs": {name: artifact.id for name, artifact in inputs.items()},
        "files": {file.path: file.fingerprint for file in inputs.files},
        **(request.spec.also_keyed(request.config) if request.spec.also_keyed else {}),
    }


def _key(request: Request, inputs: Inputs, identity: dict[str, Any]) -> str:
    """Return the hash of what decides what comes out: two requests of equal key give equal artifacts."""
    if request.spec.files_key is not None:
        identity = {**identity, "files": request.spec.files_key(request.config, inputs.files)}
    return digest(identity)


# ------------------------------------------------------------------------------------------
# Running


def run_stage(plan: Plan, console: Console) -> Artifact:
    """Carry out a plan and return the finished artifact.

    Raises:
        UserError: what is on disk was made with other settings, or another process is writing there.
        Stopped: asked to stop; the same request resumes.
    """
    from filelock import FileLock, Timeout  # heavy, and `--help` needs none of it

    request, spec = plan.request, plan.request.spec
    if plan.status == "up to date":
        return open_artifact(request.final)
    _refuse_if_different(plan)
    ranks = current_ranks()
    if ranks.world_size > 1 and not spec.distributed:
        raise UserError(
            f"`{spec.name}` runs as one process, not under torchrun", f"llmpipe {spec.name} …"
        )
    stop_with_launcher()
    if ranks.rank > 0:
        return _run_other_rank(plan)

    _make_folder(request.final.parent)
    lock = FileLock(request.final.parent / f".{request.final.name}.lock", mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another llmpipe process is writing `{request.final}`",
            "wait for it, or end it, then run this again",
        ) from None
    try:
        return _run_locked(plan, console)
    finally:
        lock.release()


def _refuse_if_different(plan: Plan) -> None:
    changes = "\n".join(f"    {line}" for line in plan.changes)
    if plan.status == "differs":
        raise UserError(
            f"`{plan.request.final}` was made with other settings or inputs:\n{changes}",
            "add --force to replace it, or --name NEW to keep it and write to another run folder",
        )
    if plan.status == "unfinished differs":
        raise UserError(
            f"`{plan.request.partial}` is unfinished work with other settings or inputs:\n{changes}",
            "use the settings it was started with to go on, or add --fresh to discard it",
        )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write to `{path}`: {reason}", "choose another folder with --out or --name"
        ) from None


def _run_locked(plan: Plan, console: Console) -> Artifact:
    request, spec, inputs = plan.request, plan.request.spec, plan.inputs
    recover(request.final)
    partial = request.partial
    identity = _identity(request, inputs)
    if plan.status != "resume":
        shutil.rmtree(partial, ignore_errors=True)
        if request.fresh:
            shutil.rmtree(request.store, ignore_errors=True)
        partial.mkdir()
        first: dict[str, Any] = {"key": plan.key, "asked": identity, "started": _now()}
        first |= {"attempts": 0, "seconds": 0.0}
        write_atomic(partial / START_RECORD, json.dumps(first))
    state = json.loads((partial / START_RECORD).read_text(encoding="utf-8"))
    state["attempts"] += 1
    write_atomic(partial / START_RECORD, json.dumps(state))
    if plan.status == "resume":
        console.info(f"{spec.name}: resuming what was started {state['started']}")

    sinks = make_sinks(
        request.sinks,
        request.run_name,
        spec.name,
        request.final.parent,
        resolved(request.config),
        # The same when it is resumed, and another when it begins anew.
        attempt_id=digest([plan.key, state["started"]])[:16],
    )
    metrics = Metrics(partial / "metrics.jsonl", sinks)
    stop = StopFlag()
    context = _context(request, console, metrics, stop, identity)
    started = time.monotonic()
    with stop.listening():
        try:
            stats = spec.run(request.config, inputs, partial, context)
        finally:
            metrics.close()
            state["seconds"] += time.monotonic() - started
            # On a full disk this would fail, and hide the error that says so.
            if (partial / START_RECORD).is_file() and shutil.disk_usage(partial).free >= 64 * 1024:
                write_atomic(partial / START_RECORD, json.dumps(state))
        # Whatever was asked for in the meantime: the work is whole, and only here is it not lost.
        artifact = publish(partial, request.final, _manifest(plan, context, state, stats))
    stop.check()
    return artifact


def _manifest(
    plan: Plan, context: Context, state: Mapping[str, Any], stats: dict[str, Any]
) -> dict[str, Any]:
    """Write down all there is to know of an artifact, but for its files."""
    request, spec = plan.request, plan.request.spec
    return {
        "schema": SCHEMA,
        "kind": spec.writes,
        "stage": spec.name,
        "stage_version": spec.version,
        "name": request.run_name,
        "key": plan.key,
        "asked": context.identity,
        "inputs": {
            name: {
                "id": artifact.id,
                "kind": artifact.kind,
                "path": _relative(artifact.path, request.final),
            }
            for name, artifact in plan.inputs.items()
        },
        "config": resolved(request.config),
        "recipe": {"file": Path(request.recipe).name, "overrides": list(request.overrides)},
        "code": code_version(),
        "environment": environment(context.device, current_ranks().world_size),
        "time": {
            "started": state["started"],
            "finished": _now(),
            "seconds": round(state["seconds"], 1),
            "attempts": state["attempts"],
        },
        "stats": stats,
        "expect": check_expectations(request.expect, stats),
    }


def _run_other_rank(plan: Plan) -> Artifact:
    """Take part in a distributed run as a rank other than 0, which has the lock, writes, and publishes."""
    request = plan.request
    stop = StopFlag()
    metrics = Metrics(request.partial / "metrics.jsonl", enabled=False)
    identity = _identity(request, plan.inputs)
    context = _context(request, Console(enabled=False), metrics, stop, identity)
    with stop.listening():
        request.spec.run(request.config, plan.inputs, request.partial, context)
    return Artifact(request.final, {})


def _context(
    request: Request, console: Console, metrics: Metrics, stop: StopFlag, identity: dict[str, Any]
) -> Context:
    return Context(
        request.run_name,
        request.seed,
        console,
        metrics,
        stop,
        request.workers,
        request.device,
        request.executor,
        request.store,
        identity,
        request.recipe,
    )


def _relative(path: Path, start: Path) -> str:
    """A path for the manifest: relative inside the run's parent folder, else only the last part of it."""
    relative = os.path.relpath(path, start)
    return relative if relative.count("..") <= 2 else path.name


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_expectations(expect: Mapping[str, float], stats: Mapping[str, Any]) -> dict[str, Any]:
    """Compare `[expect]` bounds with a stage's numbers: name -> {bound, found, met}."""
    results = {}
    for name, bound in expect.items():
        number, _, side = name.rpartition("_")
        found = stats.get(number)
        met = False
        if isinstance(found, int | float):
            met = found >= bound if side == "min" else found <= bound
        results[name] = {"bound": bound, "found": found, "met": met}
    return results


def code_version() -> dict[str, Any]:
    """The version of llmpipe and, in a checkout, the commit and whether files differ from it."""
    version: dict[str, Any] = {"version": llmpipe.__version__}
    checkout = Path(llmpipe.__file__).parents[2]
    if (checkout / ".git").exists():
        run = functools.partial(
            subprocess.run, cwd=checkout, capture_output=True, text=True, timeout=5
        )
        try:
            commit = run(["git", "rev-parse", "--short", "HEAD"])
            status = run(["git", "status", "--porcelain"])
        except (OSError, subprocess.TimeoutExpired):
            return version
        if commit.returncode == 0:
            version |= {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
    return version


def environment(device: str, world_size: int) -> dict[str, Any]:
    """What the run ran on: versions and sizes, no names."""
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "platform": f"{platform.system().lower()}-{platform.machine()}",
        "cores": n_usable_cores(),
        "device": device,
        "world_size": world_size,
    }


def describe(spec: StageSpec, artifact: Artifact) -> str:
    """One line about a finished artifact: where, how large, headline, time."""
    seconds = format_duration(artifact.manifest["time"]["seconds"])
    return f"{artifact.path}  {spec.headline(artifact.stats)}  ({format_bytes(artifact.n_bytes)}, {seconds})"
