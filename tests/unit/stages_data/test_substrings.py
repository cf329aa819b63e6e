"""Repeated runs of words: the units find what a naive search finds, and cutting leaves the rest as it was."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.core.errors import UserError
from llmpipe.core.units import InPlace
from llmpipe.stages.data.facts import Segment
from llmpipe.stages.data.steps.substrings import SubstringsConfig
from llmpipe.stages.data.steps.table import check_steps
from llmpipe.stages.data.substring_units import POSITION_BITS, TOKEN, Cutter, cut, find_repeats


def naive(texts: Sequence[str | None], n: int) -> list[tuple[int, int]]:
    """Every window that stood before without overlap, by a dictionary of tuples of words."""
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    found = []
    for i, text in enumerate(texts):
        tokens = TOKEN.findall(text) if text is not None else []
        for k in range(len(tokens) - n + 1):
            j, place = first.setdefault(tuple(tokens[k : k + n]), (i, k))
            if j < i or k - place >= n:
                found.append((i, k))
    return found


def write_parts(folder: Path, texts: Sequence[str | None], n_parts: int) -> list[list[Segment]]:
    parts, start = [], 0
    folder.mkdir(exist_ok=True)
    for i, rows in enumerate(np.array_split(np.arange(len(texts)), n_parts)):
        path = folder / f"{i}.parquet"
        pq.write_table(
            pa.table({"text": pa.array([texts[k] or "" for k in rows], pa.string())}), path
        )
        parts.append([Segment(path, f"{i}", start)])
        start += len(rows)
    return parts


def search(folder: Path, texts: Sequence[str | None], n: int, n_parts: int = 3, unit_rows: int = 50) -> np.ndarray:  # fmt: skip
    members = np.array([text is not None for text in texts])
    parts = write_parts(folder, texts, n_parts)
    return find_repeats(parts, members, n, folder / "work", InPlace(), unit_rows)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([8, 9, 13]), st.integers(2, 40))
def test_units_find_what_a_naive_search_finds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, n_words: int
) -> None:
    rng = random.Random(seed)
    texts: list[str | None] = []
    for _ in range(rng.randrange(1, 8)):
        words = [str(rng.randrange(n_words)) for _ in range(rng.randrange(0, 60))]
        texts.append(" ".join(words) if rng.random() < 0.85 else None)
    for _ in range(3):  # plant copies
        source, target = rng.choice(texts), rng.randrange(len(texts))
        if source and texts[target] is not None:
            start = rng.randrange(len(source))
            texts[target] = f"{texts[target]} {source[start : start + 80]}"
    found = search(tmp_path_factory.mktemp("texts"), texts, n)
    pairs = [(int(p) >> POSITION_BITS, int(p) & ((1 << POSITION_BITS) - 1)) for p in found]
    assert pairs == naive(texts, n)


def test_neither_files_nor_ranges_change_what_is_found(tmp_path: Path) -> None:
    rng = random.Random(3)
    sentences = [" ".join(str(rng.randrange(500)) for _ in range(12)) for _ in range(30)]
    texts = [". ".join(rng.choices(sentences, k=5)) for _ in range(20)]
    once = search(tmp_path / "a", texts, 10, n_parts=1, unit_rows=10**6)
    assert len(once) > 100
    assert np.array_equal(once, search(tmp_path / "b", texts, 10, n_parts=3, unit_rows=100))


def test_cutting_takes_the_run_and_leaves_the_rest_alone() -> None:
    text = "One two, three.\nFour five six seven.\n\nEight nine — ten"
    tokens = TOKEN.findall(text)
    first = tokens.index("Four")
    assert cut(text, np.array([first]), 5) == ("One two, three.\nEight nine — ten", 5)
    assert cut(text, np.array([0]), 3) == ("three.\nFour five six seven.\n\nEight nine — ten", 3)
    # Overlapping windows are one run; two runs leave what is between them.
    assert cut("a b c d e f g", np.array([0, 1, 5]), 2) == ("d e", 5)
    assert cut("a b c", np.array([0]), 3) == ("", 3)


def test_a_row_is_cut_or_dropped_as_set() -> None:
    text, places = "a b c d e f g h i j k l", np.array([(4 << POSITION_BITS) + 2])
    columns = ("outcome", "step", "reason", "value", "threshold")
    rows = pa.table({name: ["", ""] for name in columns} | {"text": [text, text], "n_words": [12, 12]})  # fmt: skip

    def cut_second(**settings: Any) -> tuple[Cutter, dict[str, Any]]:
        cutter = Cutter(SubstringsConfig(min_tokens=8, **settings), places)
        first, second = cutter.cut_rows(3, rows).to_pylist()
        assert first == rows.to_pylist()[0]
        return cutter, second

    cutter, row = cut_second(min_words_left=4)
    assert (row["text"], row["n_words"], row["outcome"]) == ("a b k l", 4, "")
    assert (cutter.n_cut, cutter.n_tokens) == (1, 8)
    _, short = cut_second(min_words_left=5)
    assert (short["reason"], short["value"], short["threshold"]) == ("too_little_left", "4", "5")
    _, drop = cut_second(action="drop")
    assert (drop["outcome"], drop["reason"], drop["value"]) == ("dropped", "repeated_run", "8")


def test_the_step_must_be_the_last() -> None:
    check_steps(("extraction", "pii", "substrings"))
    with pytest.raises(UserError, match="compares finished texts, and stands before `pii`"):
        check_steps(("extraction", "substrings", "pii"))
