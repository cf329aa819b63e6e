"""One more input file: only its work is done; and a run that is killed wherever it stands gives the same corpus."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from steps import Steps

from llmpipe.core.artifact import Artifact, open_artifact
from llmpipe.core.console import Console
from llmpipe.core.errors import Stopped
from llmpipe.core.stage import Plan, Request, plan_stage, run_stage
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.stage import SPEC
from llmpipe.stages.data.steps.gopher_quality import GopherQualityConfig

STEPS = ("gopher_quality", "url_dedup", "exact_dedup", "minhash", "pii")
WORDS = (Path(__file__).parents[2] / "src/llmpipe/resources/words/english.txt").read_text().split()


def write_texts(path: Path, seed: int, n: int = 20) -> Path:
    """Write texts of which every fifth stands in all files, and some differ in one word."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        for i in range(n):
            rng = random.Random(i if i % 5 == 0 else 1000 * seed + i // 2)
            words = [rng.choice(WORDS) for _ in range(120)]
            words[i % 100] = f"mail{i % 2}@example.org"
            row = {"text": " ".join(words), "url": f"http://example.org/{seed}/{i}"}
            file.write(json.dumps(row) + "\n")
    return path


def settings(*inputs: Path, **changes: object) -> DataConfig:
    quality = GopherQualityConfig(min_stop_words=0)
    names = tuple(map(str, inputs))
    return DataConfig(inputs=names, steps=STEPS, gopher_quality=quality, **changes)  # type: ignore[arg-type]


def build(config: DataConfig, final: Path, force: bool = False, workers: int = 1) -> Artifact:
    request = Request(SPEC, config, final, workers=workers, force=force)
    return run_stage(plan_stage(request), Console(quiet=True))


def units_of(final: Path) -> dict[str, int]:
    """Unit -> time its commit record was written: another one if the unit was run again."""
    done = final.parent.glob(f".{final.name}.store/units/*/*/done.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in done}


@pytest.mark.slow
def test_one_more_input_costs_one_unit_and_gives_what_a_new_build_gives(tmp_path: Path) -> None:
    paths = [write_texts(tmp_path / "in" / f"{k}.jsonl", k) for k in range(3)]
    final, fresh = tmp_path / "corpus", tmp_path / "fresh"
    build(settings(*paths[:2]), final)
    before = units_of(final)
    grown = build(settings(*paths), final, force=True)
    after = units_of(final)
    assert len(before) == 2 and len(after) == 3
    assert before.items() <= after.items()
    assert grown.id == build(settings(*paths), fresh).id

    # One fewer: nothing is run, and the unit that is no longer needed goes.
    shrunk = build(settings(*paths[:2]), final, force=True)
    assert units_of(final) == before
    assert shrunk.stats["input_files"] == 2

    # What only the second pass looks at costs no unit; what the first looks at costs all.
    build(settings(*paths[:2], keep_dropped=True, part_mb=1), final, force=True)
    assert units_of(final) == before
    strict = GopherQualityConfig(min_stop_words=0, min_words=60)
    build(DataConfig(settings(*paths[:2]).inputs, STEPS, gopher_quality=strict), final, force=True)
    assert units_of(final).keys() == before.keys()
    assert not units_of(final).items() & before.items()


@pytest.mark.slow
def test_a_renamed_input_is_the_same_input(tmp_path: Path) -> None:
    paths = [write_texts(tmp_path / "in" / f"{k}.jsonl", k) for k in range(2)]
    final = tmp_path / "corpus"
    first = build(settings(*paths), final)
    renamed = [paths[0].rename(tmp_path / "in" / "later.jsonl"), paths[1]]

    def planned(*inputs: Path) -> Plan:
        return plan_stage(Request(SPEC, settings(*inputs), final))

    assert planned(*renamed).status == "up to date"
    assert planned(tmp_path / "in").status == "up to date"  # named by their folder
    assert build(settings(*renamed), final, force=True).id == first.id
    # For people the manifest holds the names at the time.
    asked = open_artifact(final).manifest["asked"]["files"]
    assert list(asked) == [str(path) for path in sorted(renamed)]
    # Other contents, or contents that are read in another way, are another input.
    assert planned(renamed[0]).status == "differs"
    write_texts(renamed[1], 7)
    assert planned(*renamed).status == "differs"
    write_texts(renamed[1], 1)
    assert planned(*renamed).status == "up to date"
    archive = renamed[1].rename(tmp_path / "in" / "1.warc")
    assert planned(renamed[0], archive).status == "differs"


def test_unfinished_work_goes_on_after_an_input_was_renamed(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "in" / "0.jsonl", 0)
    request = Request(SPEC, settings(path), tmp_path / "corpus")
    plan = plan_stage(request)

    class Fails(Console):
        def progress(self, what: str, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            if what == "corpus":
                raise RuntimeError("ended before the corpus was written")
            return super().progress(what, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="ended before"):
        run_stage(plan, Fails(quiet=True))
    renamed = path.rename(path.with_name("later.jsonl"))
    again = plan_stage(replace(request, config=settings(renamed)))
    assert again.status == "resume"
    assert run_stage(again, Console(quiet=True)).stats["documents_in"] == 20


@pytest.mark.slow
def test_a_damaged_or_deleted_store_costs_time_and_nothing_else(tmp_path: Path) -> None:
    paths = [write_texts(tmp_path / "in" / f"{k}.jsonl", k) for k in range(2)]
    config, final = settings(*paths), tmp_path / "corpus"
    first = build(config, final)
    segment = next(final.parent.glob(".corpus.store/units/*/*/segment-*"))
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    before = units_of(final)
    assert build(config, final, force=True).id == first.id
    assert len(before.items() & units_of(final).items()) == 1
    shutil.rmtree(tmp_path / ".corpus.store")
    assert build(config, final, force=True).id == first.id


@pytest.mark.slow
def test_a_stop_in_the_first_pass_is_no_error_and_loses_nothing(tmp_path: Path) -> None:
    paths = [write_texts(tmp_path / "in" / f"{k}.jsonl", k, 300) for k in range(3)]
    request = Request(SPEC, settings(*paths), tmp_path / "corpus")
    plan = plan_stage(request)

    class AsksToStop(Console):
        def progress(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            os.kill(os.getpid(), signal.SIGTERM)
            return super().progress(*args, **kwargs)  # type: ignore[arg-type]

    with pytest.raises(Stopped, match="nothing is lost"):
        run_stage(plan, AsksToStop(quiet=True))
    whole = build(settings(*paths), tmp_path / "whole", workers=2)
    assert build(settings(*paths), tmp_path / "corpus").id == whole.id


RUN = """
import sys
from pathlib import Path
from llmpipe.core.console import Console
from llmpipe.core.stage import Plan, Request, plan_stage, run_stage
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.steps.gopher_quality import GopherQualityConfig
from llmpipe.stages.data.stage import SPEC

if __name__ == "__main__":
    final, workers, steps, *inputs = sys.argv[1:]
    quality = GopherQualityConfig(min_stop_words=0)
    config = DataConfig(tuple(inputs), tuple(steps.split(",")), gopher_quality=quality)
    run_stage(plan_stage(Request(SPEC, config, Path(final), workers=int(workers))), Console(quiet=True))
"""


@pytest.mark.slow
def test_corpus_is_the_same_after_kills_with_any_workers_and_any_order(
    tmp_path: Path, steps: Steps
) -> None:
    paths = [write_texts(tmp_path / "in" / f"{k}.jsonl", k, 60) for k in range(5)]
    script = tmp_path / "run_stage.py"
    script.write_text(RUN)
    rng = random.Random(7)

    def start(name: str, workers: int, at: int = 0) -> int:
        order = rng.sample(paths, len(paths))
        arguments = [tmp_path / name, workers, ",".join(STEPS), *order]
        command = [sys.executable, str(script), *map(str, arguments)]
        result = subprocess.run(command, env=steps.environment(at), stderr=subprocess.PIPE)
        assert b"Traceback" not in result.stderr, result.stderr.decode()
        return result.returncode

    assert start("whole", 1) == 0
    n_steps = steps.taken()
    whole = open_artifact(tmp_path / "whole")
    assert 0 < whole.stats["documents"] < whole.stats["documents_in"]
    for workers in (1, 2, 5):
        name = f"killed-{workers}"
        start_it = partial(start, name, workers)
        steps.kill_again_and_again(start_it, n_steps, 5, seed=workers)
        assert start(name, workers) == 0
        assert open_artifact(tmp_path / name).id == whole.id
