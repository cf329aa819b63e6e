"""The second pass: decide about duplicates over all units, then write the corpus and its account.

Documents are numbered by unit (in the order of content fingerprints) and record; this number, as
`unit << 32 | record`, is the key by which the first of a cluster is kept. So the result depends neither on the
number of workers nor on the order of the inputs.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmpipe.core.artifact import atomic_file
from llmpipe.core.units import Commit, Executor, InPlace
from llmpipe.stages.data.account import Account
from llmpipe.stages.data.cluster_examples import ClusterExamples
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.group_units import UNIT_ROWS, group_in_units
from llmpipe.stages.data.grouping import Clusters, cluster
from llmpipe.stages.data.segments import (
    DROPPED,
    KEPT,
    READ,
    UNREADABLE,
    key_columns,
    read_counts,
    read_segments,
    segment_paths,
)
from llmpipe.stages.data.steps.table import STEPS
from llmpipe.stages.data.substring_units import Cutter, Part, find_repeats

EXAMPLES_PER_REASON = 5
EXCERPT_CHARS = 500

_CORPUS = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("text", pa.string()),
        ("lang", pa.string()),
        ("lang_score", pa.float32()),
        ("quality", pa.float32()),
        ("n_words", pa.int32()),
        ("cluster_size", pa.int32()),
    ]
)
_DROPPED = pa.schema(
    [
        (name, pa.string())
        for name in ("id", "url", "date", "step", "reason", "value", "threshold", "excerpt")
    ]
)
_ROW_GROUP_BYTES = 16_000_000


@dataclass(frozen=True)
class Source:
    """A segment with its place in the order of all documents."""

    commit: Commit
    i_unit: int
    path: Path


@dataclass(frozen=True)
class Decisions:
    """For each document in key order: the corpus step that drops it (or None), and of which document."""

    dropped_by: np.ndarray
    """Index into `steps`, or -1."""
    first: np.ndarray
    """Number of the document that is kept in its place; itself if it is kept."""
    cluster_size: np.ndarray
    """Number of documents of the MinHash cluster it stands for."""


def write_corpus(
    config: DataConfig,
    commits: Sequence[Commit],
    out: Path,
    step_done: Callable[[], None],
    executor: Executor | None = None,
) -> Account:
    """Write parts, dropped documents and examples; returns the account.

    Args:
        config: settings.
        commits: the units in key order.
        out: the artifact's folder.
        step_done: called between segments; may raise to stop.
        executor: where the grouping of more than `UNIT_ROWS` documents runs; without one, here.
    """
    sources = [
        Source(commit, i, path)
        for i, commit in enumerate(commits)
        for path in segment_paths(commit.folder)
    ]
    account = Account(config.steps)
    group = partial(_group, config, sources, out / "state" / "groups", executor)
    decisions = _decide(config, sources, account, group)
    if "substrings" in config.steps:
        cutter = Cutter(config.substrings, _repeats(config, sources, decisions, out, executor))
    else:
        cutter = None
    parts = _PartWriter(out, "part", _CORPUS, config.part_mb * 1_000_000)
    dropped = _PartWriter(out / "dropped", "part", _DROPPED, config.part_mb * 1_000_000)
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    ids: dict[int, str] = _first_ids(sources, decisions)
    clusters = ClusterExamples(config.steps, decisions.dropped_by, decisions.first)
    start = 0
    columns = [*(f.name for f in _CORPUS if f.name not in ("id", "cluster_size"))]
    columns += ["i_record", "outcome", "step", "reason", "value", "threshold", "pii", "page"]
    for source in sources:
        counts = read_counts(source.path)
        account.others.update(counts["others"])
        account.bad_bytes += counts["bad_bytes"]
        (table,) = read_segments([source.path], columns)
        for i, row in enumerate(table.to_pylist(), start=start):
            row["id"] = document_id(source.commit.unit.id, row["i_record"])
            if row["outcome"] == KEPT and (step := int(decisions.dropped_by[i])) >= 0:
                row |= _duplicate(config.steps[step], ids[int(decisions.first[i])])
            if row["outcome"] == KEPT and cutter is not None:
                row |= cutter.changes(i, row["text"])
            clusters.note(i, int(decisions.first[i]), row)
            account.add_outcome(row["outcome"], row["step"], row["reason"])
            account.add_language(row["lang"], row["reason"], row["value"])
            if row["outcome"] == KEPT:
                row["cluster_size"] = int(decisions.cluster_size[i])
                parts.add(row, len(row["text"].encode()))
                _account_kept(account, row)
            else:
                _note_example(examples, row)
                if config.keep_dropped and row["outcome"] == DROPPED:
                    dropped.add(row | {"excerpt": row["text"][:EXCERPT_CHARS]}, len(row["text"]))
        start += table.num_rows
        step_done()
    parts.close(at_least_one=True)
    dropped.close(at_least_one=config.keep_dropped)
    _write_examples(out / "examples.jsonl", examples)
    clusters.write(out / "clusters.jsonl")
    if cutter is not None:
        account.n_cut, account.n_cut_tokens = cutter.n_cut, cutter.n_tokens
    account.check()
    return account


def document_id(unit_id: str, i_record: int) -> str:
    """Name a document by the content of its input file and its record number there."""
    return f"{unit_id[:16]}-{i_record:08d}"


# ---------------------------------------------------------------------------------------------------------------------
# Duplicates


def _group(
    config: DataConfig,
    sources: Sequence[Source],
    folder: Path,
    executor: Executor | None,
    step: str,
    members: np.ndarray,
) -> Clusters:
    """Find the clusters of one step among the documents that take part."""
    if executor is None or len(members) <= UNIT_ROWS:
        return cluster(len(members), _columns(config, sources, step), members)
    paths = tuple(source.path for source in sources)
    return group_in_units(key_columns(config, step), paths, members, folder, executor)


def _decide(
    config: DataConfig,
    sources: Sequence[Source],
    account: Account,
    group: Callable[[str, np.ndarray], Clusters],
) -> Decisions:
    """Run the corpus steps in the recipe's order, each over the documents that had reached it."""
    position = _positions(config, sources)
    n = len(position)
    dropped_by = np.full(n, -1)
    first = np.arange(n)
    cluster_size = np.ones(n, np.int64)
    for i_step, step in enumerate(config.steps):
        if STEPS[step].scope != "corpus":
            continue
        # A document that a later filter drops still takes part here, as it would step by step.
        reached = (position > i_step) & (dropped_by < 0)
        columns = [_key_column(sources, name) for name in key_columns(config, step)[:1]]
        has_key = columns[0][1]
        clusters = group(step, reached & has_key)
        duplicates = clusters.is_duplicate
        dropped_by[duplicates] = i_step
        first = np.where(duplicates, clusters.first, first)
        account.cluster_sizes[step] = Counter(clusters.sizes().tolist())
        if step == "minhash":
            cluster_size = _cluster_sizes(clusters)
    return Decisions(dropped_by, _follow(first), cluster_size)


def _repeats(
    config: DataConfig,
    sources: Sequence[Source],
    decisions: Decisions,
    out: Path,
    executor: Executor | None,
) -> np.ndarray:
    """Return the places of repeated runs in the documents that are left."""
    members = (_positions(config, sources) == len(config.steps)) & (decisions.dropped_by < 0)
    parts, start = [], 0
    for _, group in itertools.groupby(sources, key=lambda source: source.i_unit):
        same = list(group)
        paths = tuple(source.path for source in same)
        parts.append(Part(same[0].commit.unit.id, paths, start))
        start += sum(pq.read_metadata(path).num_rows for path in paths)
    folder = out / "state" / "substrings"
    return find_repeats(parts, members, config.substrings.min_tokens, folder, executor or InPlace())


def _positions(config: DataConfig, sources: Sequence[Source]) -> np.ndarray:
    """Return per document the index of the step that dropped it; all steps' number if none did."""
    places = {READ: -1} | {step: i for i, step in enumerate(config.steps)}
    parts = [np.empty(0, np.int64)]
    for source in sources:
        (table,) = read_segments([source.path], ["outcome", "step"])
        outcomes, steps = table["outcome"].to_pylist(), table["step"].to_pylist()
        parts.append(
            np.array(
                [
                    len(config.steps)
                    if outcome == KEPT
                    else -1
                    if outcome == UNREADABLE
                    else places[step]
                    for outcome, step in zip(outcomes, steps, strict=True)
                ],
                np.int64,
            )
        )
    return np.concatenate(parts)


def _columns(config: DataConfig, sources: Sequence[Source], step: str) -> Iterator[np.ndarray]:
    """Read one column of keys after the other, so that only one is in memory."""
    for name in key_columns(config, step):
        yield _key_column(sources, name)[0]


def _key_column(sources: Sequence[Source], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a key per document, and whether it has one."""
    keys, valid = [np.empty(0, np.uint64)], [np.empty(0, bool)]
    for source in sources:
        (table,) = read_segments([source.path], [name])
        column = table[name].combine_chunks()
        valid.append(column.is_valid().to_numpy(zero_copy_only=False))
        keys.append(column.fill_null(0).to_numpy())
    return np.concatenate(keys), np.concatenate(valid)


def _cluster_sizes(clusters: Clusters) -> np.ndarray:
    return np.bincount(clusters.first, minlength=len(clusters.first))


def _follow(first: np.ndarray) -> np.ndarray:
    """What stands for a document may itself be a duplicate in a later step: follow to the end."""
    while not np.array_equal(first, following := first[first]):
        first = following
    return first


def _first_ids(sources: Sequence[Source], decisions: Decisions) -> dict[int, str]:
    """Return the ids of the documents that stand for duplicates."""
    wanted = np.unique(decisions.first[decisions.dropped_by >= 0])
    ids: dict[int, str] = {}
    start = 0
    for source in sources:
        (table,) = read_segments([source.path], ["i_record"])
        records = table["i_record"].to_numpy()
        inside = wanted[(wanted >= start) & (wanted < start + len(records))]
        ids |= {int(i): document_id(source.commit.unit.id, int(records[i - start])) for i in inside}
        start += len(records)
    return ids


def _duplicate(step: str, kept_id: str) -> dict[str, str]:
    """What the row of a duplicate says; `value` names the document that stands for it."""
    return {
        "outcome": DROPPED,
        "step": step,
        "reason": "duplicate",
        "value": kept_id,
        "threshold": "",
    }


# ---------------------------------------------------------------------------------------------------------------------
# Writing


class _PartWriter:
    """Writes rows to parts of a given size; where parts and row groups end depends on the rows alone."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema, part_bytes: int) -> None:
        self._folder = folder
        self._name = name
        self._schema = schema
        self._part_bytes = part_bytes
        self._n_parts = 0
        self._groups: list[pa.Table] = []
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._bytes = 0

    def add(self, row: dict[str, Any], n_bytes: int) -> None:
        self._rows.append({name: row[name] for name in self._schema.names})
        self._group_bytes += n_bytes
        if self._group_bytes >= min(_ROW_GROUP_BYTES, self._part_bytes):
            self._end_group()
        if self._bytes >= self._part_bytes:
            self._write()

    def close(self, at_least_one: bool) -> None:
        self._end_group()
        if self._groups or (at_least_one and self._n_parts == 0):
            self._write()

    def _end_group(self) -> None:
        if self._rows:
            self._groups.append(pa.Table.from_pylist(self._rows, self._schema))
            self._bytes += self._group_bytes
            self._rows, self._group_bytes = [], 0

    def _write(self) -> None:
        target = self._folder / f"{self._name}-{self._n_parts:05d}.parquet"
        with (
            atomic_file(target) as path,
            pq.ParquetWriter(
                path, self._schema, compression="zstd", write_page_checksum=True
            ) as writer,
        ):
            for group in self._groups:
                writer.write_table(group, row_group_size=group.num_rows)
        self._n_parts += 1
        self._groups, self._bytes = [], 0


def _account_kept(account: Account, row: dict[str, Any]) -> None:
    account.add_kept(
        row["url"], row["date"], len(row["text"].encode()), row["n_words"], row["lang"]
    )
    if row["pii"]:
        account.pii.update(json.loads(row["pii"]))


def _note_example(
    examples: dict[tuple[str, str], list[dict[str, Any]]], row: dict[str, Any]
) -> None:
    """Keep the first few documents of every reason."""
    shown = examples.setdefault((row["step"] or READ, row["reason"]), [])
    if len(shown) < EXAMPLES_PER_REASON:
        names = ("id", "url", "outcome", "step", "reason", "value", "threshold")
        excerpts = {"excerpt": row["text"][:EXCERPT_CHARS], "page": row["page"]}
        shown.append({name: row[name] for name in names} | excerpts)


def _write_examples(path: Path, examples: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for reason in sorted(examples):
            for example in examples[reason]:
                file.write(json.dumps(example, ensure_ascii=False, sort_keys=True) + "\n")
