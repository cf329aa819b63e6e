"""Line cleaning, classifier, decontamination, quick extraction, fast XPath, dedup in units."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from llmpipe.core.errors import InputError, UserError
from llmpipe.core.units import Unit
from llmpipe.stages.data.document import Document, SplitText
from llmpipe.stages.data.facts import Column
from llmpipe.stages.data.grouping import cluster, group_in_units, in_range
from llmpipe.stages.data.steps.decontamination import (
    DecontaminationConfig,
    DecontaminationFilter,
)
from llmpipe.stages.data.steps.line_cleaning import LineCleaning, LineCleaningConfig
from llmpipe.stages.data.steps.quality import Quality, QualityConfig, read_texts, train_classifier
from llmpipe.stages.data.steps.quick_text import trusted_lines

PROSE = "The harbor of the old town wakes long before the sun, and fishermen carry their nets down the steps."


def document(text: str) -> Document:
    return Document(url="http://example.org/", date="", content=SplitText(text))


# ---------------------------------------------------------------------------------------------------- line cleaning


@pytest.mark.parametrize(
    "line",
    ["3 likes", "1,204 views", "Sign up", "SHOUTED AT YOU", "12.5", "Read more", "2 items in cart"],
)
def test_controls_are_removed(line: str) -> None:
    page = document("\n".join([PROSE] * 4 + [line] + [PROSE] * 4))
    assert LineCleaning(LineCleaningConfig())(page) is None
    assert line not in page.text
    assert page.text.count(PROSE) == 8


def test_pages_made_of_controls_are_dropped() -> None:
    drop = LineCleaning(LineCleaningConfig())(
        document(f"{PROSE}\nSign in\nLog in to see more\n3 likes")
    )
    assert drop is not None
    assert drop.reason == "controls"


def test_prose_is_left_alone() -> None:
    page = document(f"{PROSE}\n\nShe said: read more books, and sign your name with care.")
    assert LineCleaning(LineCleaningConfig())(page) is None
    assert page.text.endswith("with care.")


# ------------------------------------------------------------------------------------------------------- classifier


def write_texts(path: Path, words: list[str], n: int, seed: int) -> Path:
    rng = random.Random(seed)
    rows = [json.dumps({"text": " ".join(rng.choices(words, k=30))}) for _ in range(n)]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return path


def test_a_trained_classifier_tells_good_from_bad(tmp_path: Path) -> None:
    pytest.importorskip("floret")
    good = write_texts(
        tmp_path / "good.jsonl.gz", ["river", "essay", "history", "proof", "the"], 300, 1
    )
    bad = write_texts(tmp_path / "bad.jsonl.gz", ["casino", "buy", "now", "cheap", "the"], 300, 2)
    out = tmp_path / "model.bin"
    result = train_classifier([good], [bad], out, dim=8, n_buckets=1000, epochs=20)
    assert (result.n_good, result.n_bad) == (300, 300)
    assert 20 < result.n_held_out < 120
    assert result.accuracy == 1.0
    first = out.read_bytes()
    train_classifier([good], [bad], out, dim=8, n_buckets=1000, epochs=20)
    assert out.read_bytes() == first

    step = Quality(QualityConfig(model=str(out)))
    page = document("the history of the river essay")
    assert step(page) is None
    assert page.quality is not None and page.quality > 0.5
    drop = step(document("buy cheap casino now"))
    assert drop is not None and (drop.reason, drop.threshold) == ("low_quality", 0.5)
    with pytest.raises(InputError, match="has no label `fine`; it has: "):
        Quality(QualityConfig(model=str(out), label="fine"))


def test_texts_are_read_whatever_the_file_and_nothing_is_passed_over(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b'\xef\xbb\xbf{"text": "one"}\n'))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"two\n\nthree"))
    table = pa.table({"text": ["four", "five", "six"]})
    packed = tmp_path / "c.parquet"
    pq.write_table(
        table, packed, compression="none", use_dictionary=False, write_page_checksum=True
    )
    paths = [tmp_path / "a.jsonl.zst", tmp_path / "b.txt.gz", packed]
    read = [text.strip() for text in read_texts(paths, "text")]
    assert read == ["one", "two", "three", "four", "five", "six"]
    packed.write_bytes(packed.read_bytes().replace(b"four", b"pour"))
    with pytest.raises(InputError, match=r"c\.parquet` cannot be read: .*CRC"):
        list(read_texts([packed], "text"))
    (tmp_path / "d.jsonl").write_text('{"text": "one"}\n{"body": "x"}\n')
    with pytest.raises(InputError, match=r"d\.jsonl:2: `text` is no text, it has body"):
        list(read_texts([tmp_path / "d.jsonl"], "text"))


def test_a_classifier_must_be_named_and_needs_two_sides(tmp_path: Path) -> None:
    pytest.importorskip("floret")
    with pytest.raises(UserError, match=r"data\.quality\.model"):
        Quality(QualityConfig())
    good = write_texts(tmp_path / "good.jsonl.gz", ["river"], 3, 1)
    with pytest.raises(InputError, match="no text was found for the side `bad`"):
        train_classifier([good], [], tmp_path / "model.bin")


# --------------------------------------------------------------------------------------------------- decontamination

QUESTION = "What is the name of the small white dog that lives on the ship of the old captain?"


@pytest.fixture
def decontamination(tmp_path: Path) -> DecontaminationFilter:
    rows = [
        {"query": QUESTION, "choices": ["too short", "the third planet from the sun is the earth"]},
        {"gold": 1},
    ]
    path = tmp_path / "eval.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DecontaminationConfig(files=(str(path),))
    DecontaminationFilter.prepare(config, tmp_path)
    return DecontaminationFilter(tmp_path / "evaluations.npy")


def test_runs_of_evaluation_texts_are_found(decontamination: DecontaminationFilter) -> None:
    inside = f"{PROSE} Somebody asked, {QUESTION.upper()} {PROSE}"
    drop = decontamination(document(inside))
    assert drop is not None
    assert drop.value == "what is the name of the small white dog that lives on the"
    short = decontamination(document(f"{PROSE} The third planet from the sun is the Earth."))
    assert short is not None and short.threshold == "9 words"


def test_other_texts_pass(decontamination: DecontaminationFilter) -> None:
    assert decontamination(document(PROSE * 5)) is None
    assert decontamination(document(QUESTION[:50])) is None
    assert decontamination(document("")) is None


def test_evaluation_files_must_hold_something(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "short"}\n')
    (tmp_path / "b.jsonl").write_text("\nno json\n")
    with pytest.raises(InputError, match="no text of 8 words in 1 files"):
        DecontaminationFilter.prepare(
            DecontaminationConfig(files=(str(tmp_path / "a.jsonl"),)), tmp_path
        )
    with pytest.raises(InputError, match=r"b\.jsonl:2: not JSON"):
        DecontaminationFilter.prepare(
            DecontaminationConfig(files=(str(tmp_path / "b.jsonl"),)), tmp_path
        )


# ------------------------------------------------------------------------------------------------- quick extraction


def test_an_article_is_trusted_and_trimmed() -> None:
    menu = ["Home", "About", "Contact", "News", "Sport"]
    article = ["A heading", *[PROSE] * 5, "A subheading", *[PROSE] * 5]
    found = trusted_lines(
        [*menu, *article, "Share", "Tweet", "We use cookies to make this site better for you."]
    )
    assert found == article


def test_lists_and_short_pages_are_not_trusted() -> None:
    assert trusted_lines(["Home", "About", PROSE]) is None
    assert trusted_lines([PROSE, *(f"Product {i}, blue, 20 dollars" for i in range(50))]) is None
    assert trusted_lines([]) is None


# --------------------------------------------------------------------------------------------- duplicates, in units


class Here:
    """Runs units in this process."""

    def run(self, job: Any, todo: list[Unit], folder: Path) -> None:
        from llmpipe.core.units import write_commit

        run_unit = job.open()
        for unit in todo:
            place = folder / unit.id
            place.mkdir(parents=True)
            write_commit(place, run_unit(unit, place, None))


def test_ranges_split_all_keys() -> None:
    keys = np.array([0, 1, 2**62, 2**63, 2**64 - 1], np.uint64)
    counts = sum(in_range(keys, i, 7).astype(int) for i in range(7))
    assert counts.tolist() == [1] * 5


def test_grouping_in_units_equals_grouping_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 3000
    columns = {
        f"minhash_{b:03d}": rng.integers(0, 4000, n).astype(np.uint64) << np.uint64(52)
        for b in range(3)
    }
    members = rng.random(n) < 0.7
    paths = tuple(tmp_path / f"{i}.npy" for i in range(3))
    for path, keys in zip(paths, np.split(np.stack([*columns.values()]), 3, axis=1), strict=True):
        np.save(path, keys)
    on_disk = [Column(name, paths, i, "") for i, name in enumerate(columns)]
    grouped = group_in_units(on_disk, members, tmp_path / "g", Here(), unit_rows=500)
    assert np.array_equal(grouped, cluster(columns.values(), members))
    assert np.count_nonzero(grouped != np.arange(n)) > 500
    # The components, too, in units: what is done beyond a billion documents.
    by_stars = group_in_units(
        on_disk[:1], members, tmp_path / "s", Here(), unit_rows=1500, union_rows=10
    )
    expected = cluster([columns["minhash_000"]], members)
    assert np.array_equal(by_stars, expected)
