"""Units of which each makes one NumPy array."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.artifact import atomic_file, hash_file
from llmpipe.core.units import RunUnit, Unit, Watch

FOUND = "found.npy"


@dataclass(frozen=True)
class ArrayJob:
    """Saves the array that a function makes of a unit's payload."""

    work: Callable[..., np.ndarray]

    def open(self) -> RunUnit:
        """Return the function that runs a unit."""
        return self._run

    def _run(self, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        found = self.work(*unit.payload)
        with atomic_file(folder / FOUND) as path, path.open("wb") as file:
            np.save(file, found)
        return {"rows": len(found), "sha256": hash_file(folder / FOUND)}
