"""Units that make one NumPy array each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.artifact import atomic_file, hash_file
from llmpipe.core.config import digest
from llmpipe.core.units import Commit, Executor, RunUnit, Unit, Watch, run_units

FOUND = "found.npy"


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy file, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


@dataclass(frozen=True)
class ArrayJob:
    """Saves the array that a function makes of a unit's payload."""

    work: Callable[..., np.ndarray]

    def open(self) -> RunUnit:
        """Return the function that runs a unit."""
        return self._run

    def _run(self, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        found = self.work(*unit.payload)
        save_array(folder / FOUND, found)
        return {"rows": len(found), "sha256": hash_file(folder / FOUND)}


def make_arrays(
    work: Callable[..., np.ndarray],
    payloads: Sequence[tuple[Any, ...]],
    identity: object,
    folder: Path,
    executor: Executor,
) -> list[Commit]:
    """Have one array made of each payload; returns the commit records, in order.

    Args:
        work: a function that can be imported; gets a payload as its arguments.
        payloads: one per array.
        identity: all that decides the arrays, as JSON values: with it, `work` and their place they are found again.
    """
    name, n = work.__name__, len(payloads)
    units = [
        Unit(digest([identity, name, i, n])[:32], f"{name} {i + 1}/{n}", payload)
        for i, payload in enumerate(payloads)
    ]
    return run_units(ArrayJob(work), units, folder, executor)
