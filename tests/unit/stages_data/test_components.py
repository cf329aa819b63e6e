"""Connected components in units: what union-find gives, whatever the graph and the ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmpipe.core.units import InPlace
from llmpipe.stages.data.grouping import find_components, large_star, small_star, union


def save(path: Path, edges: list[tuple[int, int]] | np.ndarray) -> Path:
    np.save(path, np.array(edges, np.int64).reshape(-1, 2))
    return path


def components(folder: Path, edges: np.ndarray, n: int, unit_nodes: int) -> np.ndarray:
    halves = [save(folder / f"{i}.npy", half) for i, half in enumerate(np.array_split(edges, 2))]
    first = np.arange(n)
    for path in find_components(halves, n, folder / "work", InPlace(), unit_nodes):
        rows = np.load(path)
        first[rows[:, 0]] = rows[:, 1]
    return first


def graphs() -> dict[str, tuple[int, np.ndarray]]:
    rng = np.random.default_rng(5)
    chain = np.stack([np.arange(199), np.arange(1, 200)], axis=1)
    shuffled = rng.permutation(200)[chain]
    return {
        "no edge": (5, np.empty((0, 2), np.int64)),
        "chain": (200, chain),
        "shuffled chain": (200, shuffled),
        "star": (60, np.stack([np.full(59, 59), np.arange(59)], axis=1)),
        "random": (300, rng.integers(0, 300, (180, 2))),
    }


@pytest.mark.parametrize("name", graphs())
@pytest.mark.parametrize("unit_nodes", [40, 1000])
def test_components_are_those_of_union_find(tmp_path: Path, name: str, unit_nodes: int) -> None:
    n, edges = graphs()[name]
    expected = union(np.arange(n), edges[:, 0], edges[:, 1])
    assert np.array_equal(components(tmp_path, edges, n, unit_nodes), expected)


def test_one_round_as_in_the_paper(tmp_path: Path) -> None:
    """Node 3 has neighbors 1, 4, 5: large star joins 4 and 5 to 1, small star joins 3 to 1."""
    files = (save(tmp_path / "a.npy", [(3, 1), (3, 4), (5, 3)]),)
    assert large_star(files, 3, 4).tolist() == [[4, 1], [5, 1]]
    assert small_star(files, 3, 4).tolist() == [[3, 1]]
