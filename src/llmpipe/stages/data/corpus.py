"""The second pass: decide about duplicates over all units, then have the corpus written part by part.

    segments of all units ──> facts ──> duplicates ──> decisions ──> unit (documents 0 to 71,204)  ──> part-00000.parquet
                              one process, arrays only           ──> unit (… to 142,986)           ──> part-00001.parquet
                                                                 ──> …

Nothing is known of a document's copies until the last input has been read, hence two passes: the first does what can be done
to a document alone, and leaves texts and keys in segments. The second decides by the keys in one process. Then
parts are written by workers, each a unit with a commit record like all others; this process gives parts their names and
adds up what their units counted, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmpipe.core.artifact import hash_file, write_atomic
from llmpipe.core.config import digest
from llmpipe.core.records.lines import read_objects
from llmpipe.core.units import Commit, Executor, InPlace, Unit, run_units
from llmpipe.stages.data.account import HOSTS, Account, top_hosts
from llmpipe.stages.data.array_job import save_array
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.duplicates import (
    ClusterExample,
    Duplicates,
    choose_clusters,
    find_duplicates,
)
from llmpipe.stages.data.facts import DocumentFacts, Segment, gather
from llmpipe.stages.data.segments import READ, RowGroupWriter, read_segments
from llmpipe.stages.data.substring_units import find_repeats
from llmpipe.stages.data.writing import (
    CORPUS,
    DECISION,
    DROPPED_PART,
    DROPPED_ROWS,
    EXAMPLES,
    EXAMPLES_PER_REASON,
    HOST_COUNTS,
    PART,
    PartRange,
    WriteJob,
    group_bytes,
    part_bytes,
)


@dataclass(frozen=True)
class CorpusPlan:
    """All that is decided before the corpus is written."""

    job: WriteJob
    units: list[Unit]
    """One per part."""
    account: Account
    """What is known of the whole: other records, sizes of clusters."""
    clusters: list[ClusterExample]


def plan_corpus(
    config: DataConfig, commits: Sequence[Commit], state: Path, executor: Executor
) -> CorpusPlan:
    """Decide what becomes of every document, and in which part it stands.

    Args:
        config: settings.
        commits: the units of the first pass in key order.
        state: folder for the work in between.
        executor: where large work runs: a search for repeated runs, the grouping of many documents.
    """
    facts = gather(config, commits, state / "facts", executor)
    found = find_duplicates(config, facts, state / "groups", executor)
    is_kept = facts.read("position") == len(config.steps) + 1
    stays = is_kept & (found.dropped_by < 0)
    units = facts.by_unit()
    job = WriteJob(config, tuple(units), state / "decisions.npy", state / "repeats.npy")
    save_array(job.decisions, _decisions(facts, found))
    if "substrings" in config.steps:
        n_tokens, parts = config.substrings.min_tokens, list(units.values())
        repeats = find_repeats(parts, stays, n_tokens, state / "substrings", executor)
        save_array(job.repeats, repeats)
    clusters = choose_clusters(config.steps, found, is_kept)
    shown = sorted({i for example in clusters for i in (example.kept, *example.dropped)})
    n_bytes = np.where(stays, facts.read("n_bytes").astype(np.int64), 0)
    stops = end_parts(n_bytes, part_bytes(config), group_bytes(config))
    account = Account(config.steps, others=facts.others, bad_bytes=facts.bad_bytes)
    account.cluster_sizes = found.sizes
    return CorpusPlan(job, _part_units(job, facts.segments, stops, shown), account, clusters)


def end_parts(n_bytes: np.ndarray, part_bytes: int, group_bytes: int) -> list[int]:
    """Return where parts end: behind the row group with which the kept texts reach the size of a part.

    Args:
        n_bytes: size of every document's text, 0 if it is not kept.
        part_bytes: of text, in a part.
        group_bytes: of text, in a row group.
    """
    sums = np.cumsum(n_bytes)
    stops: list[int] = []
    before_group = before_part = 0
    while (last := int(np.searchsorted(sums, before_group + group_bytes))) < len(sums):
        before_group = int(sums[last])
        if before_group - before_part >= part_bytes:
            stops.append(last + 1)
            before_part = before_group
    if stops and before_part == sums[-1]:
        stops.pop()  # behind it no document is kept
    return [*stops, len(n_bytes)]


def write_corpus(plan: CorpusPlan, out: Path, executor: Executor) -> Account:
    """Write parts, dropped documents and examples; returns the account."""
    where = executor if len(plan.units) > 1 else InPlace()
    commits = run_units(plan.job, plan.units, out / "state" / "parts", where)
    account = plan.account
    for commit in commits:
        account.add(commit.record["account"])
    # Reading comes before renaming: a run that is killed in between finds its units as they were.
    _write_lines(out / "examples.jsonl", _examples(commits))
    shown = {int(i): row for commit in commits for i, row in commit.record["shown"].items()}
    _write_lines(out / "clusters.jsonl", (example.to_json(shown) for example in plan.clusters))
    account.top_hosts = top_hosts(
        read_segments([commit.folder / HOST_COUNTS for commit in commits], HOSTS.names)
    )
    _place(commits, PART, out, CORPUS)
    if plan.job.config.keep_dropped:
        _place(commits, DROPPED_PART, out / "dropped", DROPPED_ROWS)
    return account


# ------------------------------------------------------------------------------------------------------------ deciding


def _decisions(facts: DocumentFacts, found: Duplicates) -> np.ndarray:
    decisions = np.empty(facts.n_documents, DECISION)
    decisions["dropped_by"] = found.dropped_by
    decisions["cluster_size"] = found.cluster_size
    starts = [segments[0].start for segments in facts.by_unit().values()]
    decisions["first_unit"] = np.searchsorted(starts, found.first, side="right") - 1
    decisions["first_record"] = facts.read("record")[found.first]
    return decisions


def _part_units(
    job: WriteJob, segments: Sequence[Segment], stops: Sequence[int], shown: Sequence[int]
) -> list[Unit]:
    """Make a unit of every part, named by all that decides what is in it."""
    files = [path for path in (job.decisions, job.repeats) if path.is_file()]
    decided = [hash_file(path) for path in files]
    starts = np.array([segment.start for segment in segments], np.int64)
    units = []
    for i, (start, stop) in enumerate(zip([0, *stops], stops, strict=False)):
        first = max(0, int(np.searchsorted(starts, start, side="right")) - 1)
        inside = tuple(segments[first : int(np.searchsorted(starts, stop))])
        part = PartRange(inside, start, stop, tuple(n for n in shown if start <= n < stop))
        identity = [decided, [segment.path.as_posix() for segment in inside], start, stop]
        units.append(Unit(digest(identity)[:32], f"part {i + 1}/{len(stops)}", part))
    return units


# ------------------------------------------------------------------------------------------------------ putting together


def _place(commits: Sequence[Commit], name: str, folder: Path, schema: pa.Schema) -> None:
    """Give the files of the units their names; make one without rows if there is none."""
    folder.mkdir(exist_ok=True)
    found = [path for commit in commits if (path := commit.folder / name).is_file()]
    for i, path in enumerate(found):
        path.replace(folder / f"part-{i:05d}.parquet")
    if not found:
        with RowGroupWriter(folder / "part-00000.parquet", schema, 1):
            pass


def _examples(commits: Sequence[Commit]) -> Iterable[dict[str, Any]]:
    """Return the first few documents of every reason, by reason."""
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for commit in commits:
        for row in read_objects(commit.folder / EXAMPLES):
            shown = examples.setdefault((row["step"] or READ, row["reason"]), [])
            if len(shown) < EXAMPLES_PER_REASON:
                shown.append(row)
    return (row for reason in sorted(examples) for row in examples[reason])


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows)
    write_atomic(path, "".join(f"{line}\n" for line in lines))
