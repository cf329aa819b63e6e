"""The second pass: parts end where a writer of single rows would end them, whoever writes them and however often it is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.core.executors import Limits, LocalProcesses
from llmpipe.core.units import DONE, Commit, Executor, InPlace, Job, Unit, write_commit
from llmpipe.stages.data import corpus
from llmpipe.stages.data.account import HOSTS, Account, count_hosts, host_of, top_hosts
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.corpus import end_parts, plan_corpus, write_corpus
from llmpipe.stages.data.segments import (
    DROPPED,
    KEPT,
    UNREADABLE,
    Row,
    RowGroupWriter,
    SegmentWriter,
    change_rows,
    read_segments,
)
from llmpipe.stages.data.steps.substrings import SubstringsConfig
from llmpipe.stages.data.writing import CORPUS, WriteJob

STEPS = ("gopher_quality", "url_dedup", "exact_dedup", "minhash")
WORDS = [
    "harbor",
    "old",
    "wakes",
    "before",
    "the",
    "sun",
    "and",
    "fishermen",
    "carry",
    "nets",
    "é北",
]


def rows_of(seed: int, n: int, longest: int = 120) -> list[Row]:
    """Documents with every kind of fate; keys that others have too, in this unit and in others."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        text = " ".join(rng.choices(WORDS, k=rng.randrange(5, longest)))
        text += " ".join(("", *WORDS)) * (rng.random() < 0.2)
        url = f"http://www.site{rng.randrange(9)}.org/{seed}/{i}" if rng.random() < 0.9 else ""
        common: dict[str, Any] = {"url": url, "date": f"2024-05-{i % 30 + 1:02d}T10:00:00Z", "text": text}  # fmt: skip
        draw = rng.random()
        if draw < 0.1:
            rows.append(Row(i, UNREADABLE, url, reason="truncated_gzip"))
        elif draw < 0.3:
            reason = rng.choice(["too_short", "other_language"])
            rows.append(Row(i, DROPPED, step="gopher_quality", reason=reason, value="de", threshold="5", page="<p>", **common))  # fmt: skip
        else:
            bands = [[rng.randrange(9000)] * 14, [rng.getrandbits(60) for _ in range(14)]]
            keys = {"exact_dedup": [rng.randrange(9000)], "minhash": rng.choice(bands)}
            if url:
                keys["url_dedup"] = [rng.randrange(9000)]
            pii = {"email": rng.randrange(1, 3), "phone": 1} if draw > 0.9 else {}
            rows.append(Row(i, KEPT, lang=rng.choice(["en", "de", ""]), lang_score=0.5, n_words=text.count(" ") + 1, pii=pii, keys=keys, **common))  # fmt: skip
    return rows


def write_units(
    folder: Path, config: DataConfig, n_units: int = 4, n: int = 1100, longest: int = 120
) -> list[Commit]:
    """Leave what a first pass would."""
    commits = []
    for seed in range(n_units):
        unit = Unit(f"{seed:x}" * 32, f"unit {seed}", None)
        place = folder / unit.id
        place.mkdir(parents=True)
        writer = SegmentWriter(config, place)
        for row in rows_of(seed, n, longest):
            writer.rows.append(row)
            writer.end_record(row.i_record)
        writer.others["request"] += 1
        writer.close()
        write_commit(place, {})
        commits.append(Commit(unit, place, {}))
    return commits


def build(config: DataConfig, commits: Sequence[Commit], out: Path, executor: Executor) -> Account:
    (out / "state").mkdir(parents=True, exist_ok=True)
    return write_corpus(plan_corpus(config, commits, out / "state", executor), out, executor)


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "state" not in path.relative_to(out).parts
    }


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Settings that give parts of 80 kB and row groups of 20 kB."""
    monkeypatch.setattr(corpus, "group_bytes", lambda config: 20_000)
    monkeypatch.setattr("llmpipe.stages.data.writing.group_bytes", lambda config: 20_000)
    monkeypatch.setattr(corpus, "part_bytes", lambda config: 80_000)
    return DataConfig(steps=STEPS, keep_dropped=True)


# ----------------------------------------------------------------------------------------------- against a slow twin


def slow_fates(all_rows: list[Row]) -> tuple[list[str], dict[int, int]]:
    """Step by step with dictionaries: who is dropped by which step, and which document stands for whom."""
    fates = [row.outcome if row.outcome != DROPPED else row.step for row in all_rows]
    first: dict[int, int] = {}
    for i_step, step in enumerate(STEPS[1:], start=1):
        group: dict[tuple[int, int], int] = {}
        parent = list(range(len(all_rows)))

        def root(i: int, parent: list[int] = parent) -> int:
            while parent[i] != i:
                i = parent[i]
            return i

        reached = [
            i
            for i, fate in enumerate(fates)
            if (fate == KEPT or (fate in STEPS and STEPS.index(fate) > i_step))
            and step in all_rows[i].keys
        ]
        for i in reached:
            for band, key in enumerate(all_rows[i].keys[step]):
                a, b = root(i), root(group.setdefault((band, key), i))
                parent[max(a, b)] = min(a, b)
        for i in reached:
            if root(i) != i and fates[i] == KEPT:
                fates[i], first[i] = step, root(i)
    return fates, first


def test_corpus_and_account_are_those_of_a_slow_twin(
    tmp_path: Path, small_parts: DataConfig
) -> None:
    config = small_parts
    commits = write_units(tmp_path / "units", config)
    account = build(config, commits, tmp_path / "out", InPlace())
    all_rows = [row for seed in range(4) for row in rows_of(seed, 1100)]
    ids = [f"{seed:x}" * 16 + f"-{i:08d}" for seed in range(4) for i in range(1100)]
    fates, first = slow_fates(all_rows)

    paths = sorted((tmp_path / "out").glob("part-*.parquet"))
    kept = [(i, row) for i, row, fate in zip(ids, all_rows, fates, strict=True) if fate == KEPT]
    found = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert [(row["id"], row["text"], row["url"]) for row in found] == [(i, row.text, row.url) for i, row in kept]  # fmt: skip
    # Groups and parts end with the document that fills them.
    sizes, group, part = [[]], 0, 0
    for _, row in kept:
        group += len(row.text.encode())
        if group >= 20_000:
            sizes[-1].append(group)
            part, group = part + group, 0
            if part >= 80_000:
                sizes, part = [*sizes, []], 0
    sizes[-1] += [group] if group else []
    assert len(paths) == len([part for part in sizes if part]) > 3
    for path, expected in zip(paths, sizes, strict=False):
        with pq.ParquetFile(path) as file:
            groups = [file.read_row_group(i)["text"] for i in range(file.num_row_groups)]
        assert [sum(len(t.as_py().encode()) for t in group) for group in groups] == expected

    gone = [row for path in sorted((tmp_path / "out" / "dropped").iterdir()) for row in pq.read_table(path).to_pylist()]  # fmt: skip
    assert [(row["id"], row["step"]) for row in gone] == [
        (i, fate) for i, fate in zip(ids, fates, strict=True) if fate in STEPS
    ]
    ends = {i: j for i, j in first.items()}
    for i in ends:
        while ends[i] in first:
            ends[i] = first[ends[i]]
    stands_for = {row["id"]: row["value"] for row in gone if row["reason"] == "duplicate"}
    assert stands_for == {ids[i]: ids[j] for i, j in ends.items()}

    stats = account.to_stats()
    assert stats["documents_in"] == 4400 and stats["documents"] == len(kept)
    assert stats["other_records"] == {"request": 4}
    assert stats["unreadable_reasons"] == {"truncated_gzip": fates.count(UNREADABLE)}
    assert sum(stats["pii"].values()) == sum(sum(row.pii.values()) for _, row in kept)
    assert stats["words"] == sum(row.n_words for _, row in kept)
    hosts = Counter(row.url[11:].partition("/")[0] or "no address" for _, row in kept)
    assert stats["top_domains"] == dict(sorted(hosts.items(), key=lambda one: (-one[1], one[0])))
    languages = Counter(row.lang for row in all_rows if row.outcome == KEPT)
    languages["de"] += sum(row.reason == "other_language" for row in all_rows)
    assert stats["languages_seen"] == {name: languages[name] for name in stats["languages_seen"]}
    examples = [json.loads(line) for line in (tmp_path / "out" / "examples.jsonl").read_text().splitlines()]  # fmt: skip
    shorts = [row["id"] for row in examples if row["reason"] == "too_short"]
    assert shorts == [row["id"] for row in gone if row["reason"] == "too_short"][:5]
    clusters = [json.loads(line) for line in (tmp_path / "out" / "clusters.jsonl").read_text().splitlines()]  # fmt: skip
    assert len(clusters) == 15
    for cluster in clusters:
        assert {stands_for[row["id"]] for row in cluster["dropped"]} == {cluster["kept"]["id"]}


# ------------------------------------------------------------------------------------------- workers, kills, resuming


class EndsAfter(InPlace):
    """Is killed, so to speak, when some units are done and another is half written."""

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self._n_units = n_units

    def run(self, job: Job, units: list[Unit], folder: Path) -> None:
        super().run(job, units[: self._n_units], folder)
        half = folder / units[self._n_units].id
        half.mkdir()
        (half / ".tmp-part.parquet-x").write_bytes(b"half")
        raise KeyboardInterrupt


def test_whoever_writes_and_however_often_it_ends_the_files_are_the_same(
    tmp_path: Path, small_parts: DataConfig
) -> None:
    commits = write_units(tmp_path / "units", small_parts)
    whole = build(small_parts, commits, tmp_path / "whole", InPlace())
    out = tmp_path / "ended"
    done: dict[str, int] = {}
    for n_units in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            build(small_parts, commits, out, EndsAfter(n_units))
        now = {path.parent.name: path.stat().st_mtime_ns for path in out.glob(f"state/parts/*/{DONE}")}  # fmt: skip
        assert done.items() < now.items()  # what was done before was not done again
        done = now
    assert len(done) == 3
    again = build(small_parts, commits, out, InPlace())
    assert contents(out) == contents(tmp_path / "whole")
    assert again == whole


@pytest.mark.slow
def test_a_run_that_is_killed_at_every_part_gives_the_same_files(tmp_path: Path) -> None:
    config = DataConfig(steps=STEPS, part_mb=1)
    commits = write_units(tmp_path / "units", config, n_units=3, n=1100, longest=600)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    build(config, commits, whole, InPlace())

    def start() -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            executor = LocalProcesses(2, Limits(60.0, 60.0, 10**9), lambda now: None, lambda: False)
            build(config, commits, killed, executor)
            os._exit(0)
        finally:
            os._exit(1)

    n_parts = len(list(whole.glob("part-*.parquet")))
    assert n_parts > 2
    for n_done in range(1, n_parts):
        pid = start()
        while len(list(killed.glob(f"state/parts/*/{DONE}"))) < n_done:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended by itself"
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)  # its workers end with it
        os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
    assert contents(killed) == contents(whole)


@pytest.mark.slow
def test_parts_are_written_by_several_workers_as_by_one(tmp_path: Path) -> None:
    config = DataConfig(steps=(*STEPS, "substrings"), part_mb=1, keep_dropped=True, substrings=SubstringsConfig(min_tokens=8))  # fmt: skip
    commits = write_units(tmp_path / "units", config, n_units=3, n=700, longest=500)
    limits = Limits(60.0, 60.0, 10**9)
    found = []
    for workers in (1, 3):
        executor = LocalProcesses(workers, limits, lambda now: None, lambda: False)
        account = build(config, commits, tmp_path / str(workers), executor)
        assert account.n_cut > 100
        found.append(contents(tmp_path / str(workers)))
    assert found[0] == found[1]
    assert len([name for name in found[0] if name.startswith("part-")]) > 1


def test_inputs_in_which_nothing_was_found(tmp_path: Path, small_parts: DataConfig) -> None:
    commits = write_units(tmp_path / "units", small_parts, n_units=3, n=40)
    build(small_parts, commits, tmp_path / "without", InPlace())
    for name, place in (("0a", 0), ("ff", 2), ("aa", 5)):  # before, between and behind the others
        unit = Unit(name, name, None)
        (tmp_path / name).mkdir()
        commits.insert(place, Commit(unit, tmp_path / name, {}))
    build(small_parts, commits, tmp_path / "with", InPlace())
    assert contents(tmp_path / "with") == contents(tmp_path / "without")
    nothing = build(small_parts, [commits[0], commits[2]], tmp_path / "nothing", InPlace())
    assert nothing.to_stats()["documents_in"] == 0
    assert pq.read_table(tmp_path / "nothing" / "part-00000.parquet").schema == CORPUS


def test_a_part_of_which_nothing_is_left_is_no_file(
    tmp_path: Path, small_parts: DataConfig
) -> None:
    commits = write_units(tmp_path / "units", small_parts)
    plan = plan_corpus(small_parts, commits, tmp_path / "state", InPlace())
    decisions = np.load(plan.job.decisions)
    decisions["dropped_by"][plan.units[1].payload.start : plan.units[1].payload.stop] = 1
    np.save(plan.job.decisions, decisions)
    write_corpus(plan, tmp_path, InPlace())
    assert len(list(tmp_path.glob("part-*.parquet"))) == len(plan.units) - 1
    assert isinstance(plan.job, WriteJob)


# ------------------------------------------------------------------------------------------------------- its pieces


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 90), st.integers(1, 40))
def test_parts_end_where_rows_fill_them(n_bytes: list[int], part: int, group: int) -> None:
    stops, in_group, in_part = [], 0, 0
    for i, size in enumerate(n_bytes, start=1):
        in_group += size
        if in_group >= min(part, group):
            in_part, in_group = in_part + in_group, 0
            if in_part >= part:
                stops, in_part = [*stops, i], 0
    if stops and not sum(n_bytes[stops[-1] :]):
        stops.pop()
    found = end_parts(np.array(n_bytes, np.int64), part, min(part, group))
    assert found == [*stops, len(n_bytes)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.lists(st.integers(1, 9), min_size=40))
def test_row_groups_do_not_depend_on_how_rows_come(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], batches: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = pa.table({"text": ["x" * size for size in sizes]}, pa.schema([("text", pa.string())]))
    for name, steps in (("whole", [len(sizes) or 1]), ("pieces", batches)):
        with RowGroupWriter(folder / name, rows.schema, 50) as writer:
            start = 0
            for step in steps:
                writer.add(rows.slice(start, step), np.array(sizes[start : start + step]))
                start += step
    assert (folder / "whole").read_bytes() == (folder / "pieces").read_bytes()
    groups = [table["text"].to_pylist() for table in read_segments([folder / "whole"], ["text"])]
    assert [text for group in groups for text in group] == rows["text"].to_pylist()
    assert all(sum(map(len, group)) >= 50 > sum(map(len, group[:-1])) for group in groups[:-1])


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    rows = pa.table({"text": ["a"]})
    with pytest.raises(ValueError, match="no more"), RowGroupWriter(tmp_path / "x", rows.schema, 1) as writer:  # fmt: skip
        writer.add(rows, np.array([1]))
        raise ValueError("no more")
    assert list(tmp_path.iterdir()) == []


ADDRESSES = st.one_of(
    st.text("ab:/?#@[].\\ \t\n%", max_size=14),
    st.from_regex(r"https?://(www\.)?[a-c]{1,2}(:80)?(/[a-c]?)?([?#][/x]*)?", fullmatch=True),
)


@given(st.lists(ADDRESSES))
def test_hosts_are_counted_as_one_by_one(urls: list[str]) -> None:
    assert count_hosts(pa.chunked_array([urls], pa.string())) == Counter(map(host_of, urls))


def test_the_most_frequent_hosts_of_all_parts() -> None:
    parts = [{"b": 2, "a": 1} | {f"x{i:02d}": 2 for i in range(30)}, {"a": 2, "b": 1}, {}]
    tables = [pa.table([list(part), list(part.values())], HOSTS) for part in parts]
    expected = {"a": 3, "b": 3} | {f"x{i:02d}": 2 for i in range(23)}
    assert list(top_hosts(tables).items()) == list(expected.items())


def test_rows_are_changed_where_asked() -> None:
    rows = pa.table({"a": ["x", "y", "z"], "n": pa.array([1, 2, 3], pa.int32())})
    changed = change_rows(rows, {2: {"a": "Z"}, 0: {"a": "X", "n": 7}})
    assert changed.to_pylist() == [{"a": "X", "n": 7}, {"a": "y", "n": 2}, {"a": "Z", "n": 3}]
    assert changed.schema == rows.schema
    assert change_rows(rows, {}) is rows
