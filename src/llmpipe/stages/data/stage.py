"""Stage `data`: archives and other files -> a clean corpus in Parquet, with an account of every document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import hash_file
from llmpipe.core.console import format_bytes, format_count
from llmpipe.core.errors import InputError
from llmpipe.core.stage import Context, Inputs, Need, SourceFile, StageSpec
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.report import report


def run(config: DataConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Make a corpus under `out` and return its numbers."""
    from llmpipe.core.cluster import executor_of
    from llmpipe.core.executors import CLEAN_INPUT, Limits, UnitProgress
    from llmpipe.core.units import is_done, run_units
    from llmpipe.stages.data.arrow import leave_out_pandas
    from llmpipe.stages.data.corpus import plan_corpus, write_corpus
    from llmpipe.stages.data.reuse import prune, units_folder
    from llmpipe.stages.data.sources.inputs import plan_units
    from llmpipe.stages.data.steps.table import check_steps, prepare_steps
    from llmpipe.stages.data.unit import DataJob

    check_steps(config.steps)
    leave_out_pandas()
    state = out / "state"
    sources = source_files(config, inputs)
    units = plan_units(sources)

    # -------------------------------------------------------------------------------- what all workers share
    prepare_steps(config, state / "prepared")
    limits = Limits(config.limits.cpu_s, config.limits.wall_s, config.limits.memory_mb * 1_000_000)
    named = {source.path for source in sources}
    lists = [file for file in inputs.files if file.path not in named]
    folder = units_folder(config, lists, SPEC.version, ctx.store or state)
    n_done = sum(is_done(folder, unit) for unit in units)
    if n_done:
        ctx.console.info(f"data: {n_done} of {len(units)} units are done already")

    # ------------------------------------------------------- first pass: every input file through the steps
    executor = partial(executor_of, ctx, limits)
    with ctx.console.progress("data", len(units), "file") as progress:

        def show(now: UnitProgress) -> None:
            progress.update(n_done + now.n_units, f"{format_count(now.n_records)} records")

        job = DataJob(config, state / "prepared")
        commits = run_units(job, units, folder, executor(show))

    # ------------------------------------ second pass: duplicates over all files, then the corpus part by part
    # What is read from here on is the first pass's own: no page that could hang a worker.
    executor = partial(executor_of, ctx, CLEAN_INPUT)
    with ctx.console.progress("duplicates", None, "unit") as progress:
        count = executor(lambda now: progress.update(now.n_units))
        corpus = plan_corpus(config, commits, state, count)
    with ctx.console.progress("corpus", len(corpus.units), "part") as progress:
        count = executor(lambda now: progress.update(now.n_units))
        account = write_corpus(corpus, out, count)
    prune(folder, units)
    stats = account.to_stats()
    stats |= {"input_files": len(units), "input_bytes": sum(source.n_bytes for source in sources)}
    stats["repeated_input_files"] = len(sources) - len({source.fingerprint for source in sources})
    cpu_s: Counter[str] = Counter()
    for commit in commits:
        cpu_s.update(commit.record["cpu_s"])
    stats["cpu_s"] = {step: round(seconds, 2) for step, seconds in sorted(cpu_s.items())}
    if not stats["documents"]:
        ctx.console.warn("no document was kept; the report says which step dropped them")
    return stats


def source_files(config: DataConfig, inputs: Inputs) -> list[SourceFile]:
    """Return what is read: the named inputs, or the crawl's archives."""
    from llmpipe.stages.data.sources.inputs import expand_inputs

    if config.inputs:
        wanted = set(expand_inputs(config.inputs))
        return [file for file in inputs.files if file.path in wanted]
    crawl = inputs["crawl"]
    paths = sorted(crawl.file("warc").glob("*.warc*"))
    if not paths:
        raise InputError(f"`{crawl.path}` holds no WARC file")
    return [SourceFile(str(path), path.stat().st_size, hash_file(path)) for path in paths]


def needs(config: DataConfig) -> dict[str, Need]:
    """A crawl, unless inputs are named."""
    return {} if config.inputs else {"crawl": Need("crawl", "crawl")}


def files(config: DataConfig) -> Sequence[str]:
    """Everything from outside that decides the result: inputs, block lists, evaluation sets, a classifier."""
    from llmpipe.stages.data.sources.inputs import expand_inputs
    from llmpipe.stages.data.steps.table import check_steps, files_of_steps

    check_steps(config.steps)  # here, because this is called before anything is written
    return [*expand_inputs(config.inputs), *files_of_steps(config)]


def files_key(config: DataConfig, files: Sequence[SourceFile]) -> dict[str, Any]:
    """Of the inputs only what is in them and how it is read; of the other files also which is which."""
    from llmpipe.stages.data.sources.inputs import plan_units
    from llmpipe.stages.data.steps.table import files_of_steps

    lists = set(files_of_steps(config))
    return {
        "inputs": [unit.id for unit in plan_units([f for f in files if f.path not in lists])],
        "lists": {file.path: file.fingerprint for file in files if file.path in lists},
    }


def plan(config: DataConfig, inputs: Inputs) -> dict[str, str]:
    """What a run would do, without doing it."""
    from llmpipe.stages.data.estimate import estimate
    from llmpipe.stages.data.sources.inputs import plan_units
    from llmpipe.stages.data.steps.table import STEPS, check_steps

    check_steps(config.steps)
    sources = source_files(config, inputs)
    lines = {
        "inputs": f"{len(sources)} files, {format_bytes(sum(file.n_bytes for file in sources))}",
        "units": str(len(plan_units(sources))),
    }
    lines |= estimate(config, sources)
    steps = enumerate(config.steps, 1)
    return lines | {f"step {i}": f"{name}: {STEPS[name].summary}" for i, name in steps}


def headline(stats: Mapping[str, Any]) -> str:
    """One line about a corpus."""
    kept, seen = format_count(stats["documents"]), format_count(stats["documents_in"])
    size = f"{format_bytes(stats['text_bytes'])}, {format_count(stats['words'])} words"
    return f"{kept} of {seen} documents kept, {size}, {stats['unreadable']} unreadable"


SPEC = StageSpec(
    name="data",
    version=4,
    summary="Web archives and other files -> clean corpus, with an account of every document",
    config=DataConfig,
    folder="corpus",
    writes="corpus",
    run=run,
    needs=needs,
    files=files,
    files_key=files_key,
    plan=plan,
    headline=headline,
    report=report,
    examples=(
        "llmpipe data crawl/*.warc.gz --out corpus",
        "llmpipe data 'pages/**/*.html' more.parquet --set data.extraction.mode=fast --out corpus",
    ),
)
