"""The data stage from files to a corpus: the account, and the same bytes whatever happens on the way."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from steps import Steps, is_alive

from llmpipe.core.artifact import Artifact
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.report import to_html, to_markdown
from llmpipe.core.stage import Context, Inputs, SourceFile, fingerprint_files
from llmpipe.stages.data.config import DataConfig, LimitsConfig
from llmpipe.stages.data.stage import SPEC, files, run
from llmpipe.stages.data.steps.gopher_quality import GopherQualityConfig
from llmpipe.stages.data.steps.language import LanguageConfig
from llmpipe.stages.data.steps.substrings import SubstringsConfig

MakeContext = Callable[..., Context]
NOUNS = [
    "river", "stone", "morning", "window", "garden", "letter", "market", "winter", "mountain", "story",
    "harbor", "candle", "bridge", "forest", "teacher", "island", "music", "silver", "thunder", "village",
    "ocean", "travel", "history", "bread", "lantern", "sister", "cloud", "engine", "doctor", "painter",
]  # fmt: skip
VERBS = [
    "found",
    "carried",
    "watched",
    "remembered",
    "followed",
    "painted",
    "answered",
    "opened",
    "reached",
]
LINKS = [
    "of the",
    "near the",
    "with a",
    "and the",
    "behind that",
    "to the",
    "under every",
    "without any",
]


def sentence(rng: random.Random) -> str:
    """Return English of a kind, in which no run of words is likely to stand twice."""
    words = ["The", rng.choice(NOUNS), rng.choice(VERBS)]
    for _ in range(rng.randrange(3, 6)):
        words += [rng.choice(LINKS), rng.choice(NOUNS)]
    return " ".join(words) + "."


def article(seed: int, n: int = 14) -> str:
    rng = random.Random(seed)
    return "".join(f"<p>{sentence(rng)} {sentence(rng)}</p>\n" for _ in range(n))


def page(body: str, title: str = "A page") -> str:
    return f"<html><head><title>{title}</title></head><body><article><h1>{title}</h1>{body}</article></body></html>"


def record(url: str, html: str, status: int = 200, day: str = "2024-05-01") -> bytes:
    block = f"HTTP/1.1 {status} X\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}".encode()
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {day}T10:00:00Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def write_warc(path: Path, records: Sequence[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(gzip.compress(r, mtime=0) for r in records))
    return path


def inputs_of(config: DataConfig) -> Inputs:
    return Inputs({}, fingerprint_files(files(config)))


def digest_of(folder: Path) -> dict[str, str]:
    """Hashes of everything that enters the artifact's id."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "state" not in path.relative_to(folder).parts
        and path.name != "metrics.jsonl"
    }


def documents(out: Path) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted(out.glob("part-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def reasons(stats: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {row["step"]: row["dropped"] for row in stats["funnel"] if row["dropped"]}


GERMAN = "".join(
    f"<p>Das Haus am Fluss ist sehr alt und steht seit {n} Jahren unter Schutz.</p>"
    for n in range(30)
)


def planted(tmp_path: Path) -> DataConfig:
    """One archive with a document for every kind of fate."""
    near = article(1).replace("The", "That", 1)
    records = [
        record(
            "http://example.org/kept",
            page(article(1) + "<p>Write to jane@example.org about the river.</p>"),
        ),
        record("http://example.org/gone", page(article(2)), status=404),
        record("http://www.pornhub.com/x", page(article(3))),
        record("http://example.org/german", page(GERMAN)),
        record(
            "http://example.org/short",
            page(
                "<p>A small boat left with the tide to be home by dark. Nobody on the pier looked up when its lamp went out, because fog had already hidden most of what lay beyond the wall.</p>"
            ),
        ),
        record("http://example.org/near", page(near)),
        record("http://example.org/again", page(article(4))),
        record("https://www.example.org/again/", page(article(5))),
        record("http://example.org/copy", page(article(4))),
        record("http://example.net/other", page(article(6)), day="2024-06-02"),
    ]
    path = write_warc(tmp_path / "in" / "planted.warc.gz", records)
    path.write_bytes(
        path.read_bytes() + gzip.compress(record("http://example.org/cut", page(article(7))))[:-40]
    )
    return DataConfig(inputs=(str(path),), keep_dropped=True)


@pytest.mark.slow
def test_every_document_has_one_fate(tmp_path: Path, make_context: MakeContext) -> None:
    config, out = planted(tmp_path), tmp_path / "out"
    stats = run(config, inputs_of(config), out, make_context(out))

    assert [row["url"] for row in documents(out)] == [
        "http://example.org/kept",
        "http://example.org/again",
        "http://example.net/other",
    ]
    assert reasons(stats) == {
        "read": {"http_status": 1, "unreadable: truncated_gzip": 1},
        "url_filter": {"listed_domain": 1},
        "language_prefilter": {"other_language": 1},
        "gopher_quality": {"too_short": 1},
        "url_dedup": {"duplicate": 1},
        "exact_dedup": {"duplicate": 1},
        "minhash": {"duplicate": 1},
    }
    assert stats["documents_in"] == 11
    assert stats["documents"] + stats["dropped"] + stats["unreadable"] == 11
    assert stats["pii"] == {"email": 1}
    assert stats["crawled_on"] == "2024-06-02"
    assert stats["top_domains"] == {"example.org": 2, "example.net": 1}
    assert stats["clusters"]["minhash"] == {"2": 1}
    assert stats["skipped_bytes"] > 0

    first = documents(out)[0]
    assert "Write to [email] about the river." in first["text"]
    assert (first["lang"], first["cluster_size"], first["date"]) == (
        "en",
        2,
        "2024-05-01T10:00:00Z",
    )
    assert first["n_words"] > 400

    dropped = pq.read_table(out / "dropped" / "part-00000.parquet").to_pylist()
    assert len(dropped) == stats["dropped"] == 7
    by_url = {row["url"]: row for row in dropped}
    assert (
        by_url["http://example.org/near"]["value"] == first["id"]
    )  # the document that stands for it
    assert by_url["http://example.org/short"]["threshold"] == "50"
    examples = [json.loads(line) for line in (out / "examples.jsonl").read_text().splitlines()]
    assert len(examples) == 8

    artifact = Artifact(out, {"stats": stats, "kind": "corpus", "config": {}})
    sections = SPEC.report(artifact)
    assert "listed_domain" in to_markdown("Corpus", sections)
    assert "listed_domain" in to_html("Corpus", sections)
    assert SPEC.headline(stats).startswith("3 of 11 documents kept")


def many(tmp_path: Path) -> tuple[Path, ...]:
    """Three archives and a few HTML files, with duplicates between them."""
    paths = []
    for k in range(3):
        records = [
            record(f"http://example.org/{k}/{i}", page(article(i % 37 + 5 * k, 6)))
            for i in range(30)
        ]
        paths.append(write_warc(tmp_path / "in" / f"{k}.warc.gz", records))
    for k in range(3):
        paths.append(tmp_path / "in" / f"{k}.html")
        paths[-1].write_text(page(article(500 + k)))
    return tuple(paths)


@pytest.mark.slow
def test_workers_order_and_place_do_not_matter(tmp_path: Path, make_context: MakeContext) -> None:
    paths = many(tmp_path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "in", moved)
    settings = {"part_mb": 1, "keep_dropped": True}
    runs = {
        "one": (1, DataConfig(inputs=tuple(map(str, paths)), **settings)),
        "two": (2, DataConfig(inputs=tuple(map(str, reversed(paths))), **settings)),
        "moved": (3, DataConfig(inputs=(str(moved),), **settings)),
    }
    digests = []
    for name, (workers, config) in runs.items():
        out = tmp_path / name
        stats = run(config, inputs_of(config), out, make_context(out, workers=workers))
        assert stats["documents_in"] == 93
        assert 30 < stats["documents"] < 93
        digests.append(digest_of(out))
    assert digests[0] == digests[1] == digests[2]
    assert len(digests[0]) > 2


RUN = """
import sys
from pathlib import Path
from llmpipe.core.console import Console
from llmpipe.core.metrics import Metrics
from llmpipe.core.stage import Context, Inputs, fingerprint_files
from llmpipe.core.stop import StopFlag
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.stage import files, run

if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(exist_ok=True)
    config = DataConfig(inputs=(sys.argv[2],))
    context = Context("test", 1, Console(quiet=True), Metrics(out / "metrics.jsonl"), StopFlag(), 2, "cpu")
    run(config, Inputs({}, fingerprint_files(files(config))), out, context)
"""


def start(folder: Path, name: str, environment: dict[str, str]) -> int:
    """Run the stage by a command of its own with two workers; return its exit code."""
    script = folder / "run_stage.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(folder / name), str(folder / "in")]
    result = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in result.stderr, result.stderr
    # An end that nobody asked for, such as SIGABRT from a library, is told with what it said.
    assert result.returncode in (0, -signal.SIGKILL), (result.returncode, result.stderr)
    return result.returncode


@pytest.mark.slow
def test_killed_and_resumed_run_equals_uninterrupted_run(tmp_path: Path, steps: Steps) -> None:
    many(tmp_path)
    assert start(tmp_path, "whole", steps.environment()) == 0
    go_on = lambda at: start(tmp_path, "killed", steps.environment(at))  # noqa: E731
    steps.kill_again_and_again(go_on, steps.taken(), 4)
    assert start(tmp_path, "killed", steps.environment()) == 0
    assert digest_of(tmp_path / "killed") == digest_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_a_stopped_worker_of_a_killed_run_is_gone_when_the_next_has_ended(
    tmp_path: Path, steps: Steps
) -> None:
    many(tmp_path)
    assert start(tmp_path, "whole", steps.environment()) == 0
    n_steps, n_left = steps.taken(), 0
    for share in (0.2, 0.4, 0.6):
        left = tmp_path / f"left{share}"
        killed = steps.environment(int(share * n_steps), leaves=left)
        assert start(tmp_path, f"out{share}", killed) == -signal.SIGKILL
        assert start(tmp_path, f"out{share}", steps.environment()) == 0
        assert digest_of(tmp_path / f"out{share}") == digest_of(tmp_path / "whole")
        if left.exists():
            n_left += 1
            assert not is_alive(int(left.read_text()))
    assert n_left  # most steps of the first pass are taken by workers


@pytest.mark.slow
def test_bombs_are_ended_at_the_limit_and_counted(
    tmp_path: Path, make_context: MakeContext
) -> None:
    bombs = {
        "nested": "<div>" * 100_000 + "text",
        "attributes": "<p " + " ".join(f"a{i}=1" for i in range(100_000)) + ">x",
    }
    records = [record("http://example.org/a", page(article(1)))]
    for name, html in bombs.items():
        records.append(record(f"http://example.org/{name}", html))
        records.append(record(f"http://example.org/after-{name}", page(article(len(records) + 10))))
    path = write_warc(tmp_path / "bombs.warc.gz", records)
    limits = LimitsConfig(cpu_s=1.0, wall_s=30.0)
    config, out = DataConfig(inputs=(str(path),), limits=limits), tmp_path / "out"
    started = time.monotonic()
    stats = run(config, inputs_of(config), out, make_context(out))
    assert time.monotonic() - started < 60
    kept = [row["url"].rsplit("/", 1)[1] for row in documents(out)]
    assert kept == ["a", "after-nested", "after-attributes"]
    assert stats["documents_in"] == 5
    assert stats["unreadable_reasons"].get("cpu_limit", 0) >= 1


@pytest.mark.slow
def test_all_archives_are_read_and_accounted_for(
    tmp_path: Path, make_context: MakeContext, test_data: Path
) -> None:
    paths = sorted(
        str(p)
        for p in (test_data / "warc").rglob("*")
        if p.is_file() and p.suffix != ".tsv" and ".paths" not in p.name
    )
    config = DataConfig(
        inputs=tuple(paths),
        steps=(
            "url_filter",
            "language_prefilter",
            "extraction",
            "language",
            "url_dedup",
            "exact_dedup",
            "minhash",
        ),
        extraction=DataConfig().extraction.__class__(mode="all_text"),
        language=LanguageConfig(keep=(), min_score=0.0),
    )
    out = tmp_path / "out"
    stats = run(config, inputs_of(config), out, make_context(out, workers=2))
    assert stats["input_files"] + stats["repeated_input_files"] == len(paths)
    assert stats["documents"] + stats["dropped"] + stats["unreadable"] == stats["documents_in"]
    assert stats["documents"] == len(documents(out)) > 150
    assert stats["unreadable"] == sum(stats["unreadable_reasons"].values()) > 20
    assert stats["skipped_bytes"] > 10_000


def test_wrong_steps_are_refused() -> None:
    def attempt(*steps: str) -> None:
        run(DataConfig(steps=steps), Inputs({}), Path("unused"), None)  # type: ignore[arg-type]

    with pytest.raises(UserError, match="there is no step `gopher`"):
        attempt("extraction", "gopher")
    with pytest.raises(UserError, match="`pii` stands there twice"):
        attempt("extraction", "pii", "pii")
    with pytest.raises(UserError, match="`c4` needs text, and stands before `extraction`"):
        attempt("c4", "extraction")


def test_needs_a_crawl_only_without_inputs() -> None:
    assert SPEC.needs(DataConfig())["crawl"].kind == "crawl"
    assert SPEC.needs(DataConfig(inputs=("a.warc",))) == {}


def test_missing_input_is_named() -> None:
    with pytest.raises(InputError, match=r"no file or folder `nowhere\.warc`"):
        SPEC.files(DataConfig(inputs=("nowhere.warc",)))


def test_empty_archive_gives_an_empty_corpus(tmp_path: Path, make_context: MakeContext) -> None:
    (tmp_path / "empty.warc").write_bytes(b"")
    config, out = (
        DataConfig(inputs=(str(tmp_path / "empty.warc"),), steps=("url_dedup",)),
        tmp_path / "out",
    )
    stats = run(config, inputs_of(config), out, make_context(out))
    assert stats["documents_in"] == 0
    assert documents(out) == []
    assert (out / "part-00000.parquet").is_file()


def test_text_inputs_pass_without_extraction(tmp_path: Path, make_context: MakeContext) -> None:
    rows = [
        {"text": f"This text is about the {NOUNS[i]}.", "url": f"http://a/{i}"} for i in range(5)
    ]
    rows.append(rows[0] | {"url": "http://b/"})
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    quality = GopherQualityConfig(min_words=3, min_stop_words=0)
    config = DataConfig(
        inputs=(str(path),), steps=("gopher_quality", "exact_dedup"), gopher_quality=quality
    )
    out = tmp_path / "out"
    run(config, inputs_of(config), out, make_context(out))
    assert [row["text"] for row in documents(out)] == [row["text"] for row in rows[:5]]


def test_repeated_runs_are_cut_from_the_second_document(
    tmp_path: Path, make_context: MakeContext
) -> None:
    run_of_words = " ".join(f"{NOUNS[i % 30]}{i}" for i in range(60))
    rows = [
        {"text": f"At first. {run_of_words} And so on.", "url": "http://a/1"},
        {"text": f"Another beginning. {run_of_words}\nAnother end.", "url": "http://a/2"},
        {"text": f"{run_of_words} Short.", "url": "http://a/3"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(
        inputs=(str(path),),
        steps=("exact_dedup", "substrings"),
        substrings=SubstringsConfig(min_words_left=2),
    )
    out = tmp_path / "out"
    stats = run(config, inputs_of(config), out, make_context(out))
    found = [(row["text"], row["n_words"]) for row in documents(out)]
    assert found[0][0] == rows[0]["text"]
    # The full stop before the run stands in both, so it belongs to the run.
    assert found[1:] == [("Another beginning\nAnother end.", 4)]
    assert reasons(stats) == {"substrings": {"too_little_left": 1}}
    assert stats["repeated_runs"] == {"documents_cut": 1, "tokens_cut": 121}


def test_a_crawl_is_read_from_its_artifact(tmp_path: Path, make_context: MakeContext) -> None:
    write_warc(
        tmp_path / "crawl" / "warc" / "a.warc.gz", [record("http://a.org/", page(article(1)))]
    )
    config, out = DataConfig(steps=("extraction",)), tmp_path / "out"
    crawl = Artifact(tmp_path / "crawl", {"kind": "crawl"})
    stats = run(config, Inputs({"crawl": crawl}), out, make_context(out))
    assert stats["documents"] == 1


def test_plan_says_what_would_be_done(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc.gz", [record("http://a.org/", page(article(1)))])
    config = DataConfig(inputs=(str(path),), steps=("extraction", "pii"))
    assert SPEC.plan is not None
    lines = SPEC.plan(config, Inputs({}, (SourceFile(str(path), 10, "0" * 64),)))
    assert lines["step 2"] == "pii: replace personal data"
    assert lines["inputs"].startswith("1 files")


def finished(out: Path, config: DataConfig, stats: dict[str, Any]) -> Path:
    """Write the manifest that a run of the whole stage would."""
    from llmpipe.core.artifact import SCHEMA
    from llmpipe.core.config import resolved

    manifest = {
        "schema": SCHEMA, "kind": "corpus", "stage": "data", "id": "0", "key": "0", "files": {}, "inputs": {},
        "config": resolved(config), "stats": stats,
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


@pytest.mark.slow
def test_explain_tells_the_story_of_a_document(tmp_path: Path, make_context: MakeContext) -> None:
    from llmpipe.stages.data.explain import explain

    config, out = planted(tmp_path), tmp_path / "out"
    context = make_context(out)
    corpus = finished(out, config, run(config, inputs_of(config), out, context))
    kept = "\n".join(explain(corpus, "http://example.org/kept", context.console))
    assert "kept: " in kept and "stands for 2 near-duplicates" in kept
    assert "pii" in kept and "goes on" in kept
    short = "\n".join(explain(corpus, "http://example.org/short", context.console))
    assert "dropped by gopher_quality: too_short" in short and "(bound 50)" in short
    by_id = explain(corpus, documents(out)[0]["id"], context.console)
    assert "http://example.org/kept" in by_id[0]
    with pytest.raises(InputError, match="knows no document `http://nowhere/`"):
        explain(corpus, "http://nowhere/", context.console)


def test_line_separators_in_an_example_do_not_break_report_and_explain(
    tmp_path: Path, make_context: MakeContext
) -> None:
    """They may stand inside a string of JSON, but `str.splitlines` ends lines there."""
    from llmpipe.core.artifact import open_artifact
    from llmpipe.stages.data.explain import find_ends
    from llmpipe.stages.data.report import report

    path = tmp_path / "pages.jsonl"
    path.write_text('{"url": "http://example.org/a", "text": "too\\u2028short\\u0085text"}\n')
    config = DataConfig(inputs=(str(path),), steps=("gopher_quality",))
    out = tmp_path / "out"
    artifact = open_artifact(
        finished(out, config, run(config, inputs_of(config), out, make_context(out)))
    )
    assert [row["reason"] for row in find_ends(artifact, "http://example.org/a")] == ["too_short"]
    assert report(artifact)


def test_a_table_without_a_text_is_an_error_that_names_its_columns(
    tmp_path: Path, make_context: MakeContext
) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"body": ["one"], "n": [1]}), tmp_path / "a.parquet")
    config = DataConfig(inputs=(str(tmp_path / "a.parquet"),), steps=())
    with pytest.raises(InputError, match="no column `text` or `html`, there are body, n") as caught:
        run(config, inputs_of(config), tmp_path / "out", make_context(tmp_path / "out"))
    assert caught.value.hint == "name it with `--set data.read.text_field=NAME`"


def test_a_dry_run_estimates_documents_and_time(tmp_path: Path) -> None:
    config = planted(tmp_path)
    lines = SPEC.plan(config, inputs_of(config)) if SPEC.plan else {}
    assert lines["documents"] == "about 10"
    assert lines["CPU time"].startswith("about ")


# A process of its own: where sockets are blocked, as in tests, Ray waits two minutes for some of its own servers.
RUN_ON_RAY = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from llmpipe.core.console import Console
from llmpipe.core.metrics import Metrics
from llmpipe.core.stage import Context, Inputs, fingerprint_files
from llmpipe.core.stop import StopFlag
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.stage import files, run

if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir()
    config = DataConfig(inputs=(sys.argv[2],), steps=("exact_dedup", "minhash", "pii"))
    options = {"num_cpus": 1, "object_store_memory": 100_000_000}  # the least that Ray takes
    # Notice a lost node after one second; by default it takes twenty.
    health = {
        "health_check_initial_delay_ms": 500, "health_check_period_ms": 300,
        "health_check_timeout_ms": 300, "health_check_failure_threshold": 3,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**options, "_system_config": health})
    try:
        nodes = [cluster.add_node(**options) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)

        def lose_a_node():
            while not list(out.glob("state/units/*/*/done.json")):
                time.sleep(0.1)
            cluster.remove_node(nodes[0], allow_graceful=False)
            print("lost a node")

        killer = threading.Thread(target=lose_a_node)
        killer.start()
        metrics = Metrics(out / "metrics.jsonl")
        executor = f"ray:{cluster.address}"
        context = Context("t", 1, Console(quiet=True), metrics, StopFlag(), 1, "cpu", executor)
        run(config, Inputs({}, fingerprint_files(files(config))), out, context)
        killer.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
"""


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_gives_the_same_corpus(
    tmp_path: Path, make_context: MakeContext
) -> None:
    """Three simulated nodes of one CPU each; one is killed as soon as the first file is done."""
    pytest.importorskip("ray")
    # A recipe without extraction: what is tried here is the cluster, and loading models takes most of the time.
    (tmp_path / "in").mkdir()
    for k in range(4):
        rows = [
            {"text": " ".join(sentence(random.Random(9 * k + i)) for _ in range(3))}
            for i in range(12)
        ]
        (tmp_path / "in" / f"{k}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(inputs=(str(tmp_path / "in"),), steps=("exact_dedup", "minhash", "pii"))
    here, there = tmp_path / "here", tmp_path / "there"
    run(config, inputs_of(config), here, make_context(here))
    script = tmp_path / "run_on_ray.py"
    script.write_text(RUN_ON_RAY)
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        command = [sys.executable, str(script), str(there), str(tmp_path / "in")]
        code = subprocess.run(command, stdout=file, stderr=file, timeout=180).returncode
    assert code == 0, log.read_text()[-2000:]
    assert "lost a node" in log.read_text()
    assert digest_of(there) == digest_of(here)
