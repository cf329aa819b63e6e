"""Work that the next build of a corpus takes over: the units of the first pass, by what made them.

    .corpus.store/units/91c0…/3f2a…/     unit 3f2a… (the content of an input file) under settings 91c0…

What a unit's files hold is decided by the content of its input, the steps that are done and their settings, the block lists
and models, the code that runs and the libraries it calls. The first names the unit, the rest the folder around it. So after
one more input file, only that file is read, and a new step that nobody names costs nothing; whatever else changes gives another
folder, and all is done anew. The store holds the units of the corpus that was finished last and of unfinished work, nothing older.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import hash_file
from llmpipe.core.config import digest, keyed
from llmpipe.core.stage import SourceFile
from llmpipe.core.units import Unit
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.steps.table import STEPS

_FIRST_PASS = "llmpipe.stages.data.unit"
_MACHINERY = (
    "artifact", "config", "console", "errors", "metrics", "ranks", "registry", "remote", "report", "stage", "stop", "units",
)  # fmt: skip
"""Modules of `core` that carry out, log and store, and decide nothing about a document."""
_NOT_CODE = {
    *(f"llmpipe.core.{name}" for name in _MACHINERY),
    # Settings and names: those that are used are in the identity with their values.
    "llmpipe.stages.data.config",
    "llmpipe.stages.data.steps.table",
}
_BEHIND = {"trafilatura": ("courlan", "htmldate", "justext", "lxml")}
"""Libraries that decide although only another library calls them."""
_SECOND_PASS = ("inputs", "keep_dropped", "part_mb")
"""Settings that the first pass does not look at."""


def units_folder(
    config: DataConfig, lists: Iterable[SourceFile], version: int, store: Path
) -> Path:
    """Return the folder of the units that this code and these settings make.

    Args:
        config: settings.
        lists: block lists (also the one that comes with llmpipe), evaluation sets, a classifier: all files that are no inputs.
        version: of the stage.
        store: see `Context.store`.
    """
    late = [step for step in config.steps if STEPS[step].scope == "texts"]
    settings = {k: v for k, v in keyed(config).items() if k not in (*_SECOND_PASS, *late)}
    settings["steps"] = [step for step in config.steps if step not in late]
    code, libraries = code_of(settings["steps"])
    hashes = {name: hash_file(path) for name, path in code.items()}
    identity = {
        "version": version,
        "config": settings,
        "lists": [file.fingerprint for file in lists],
        "code": hashes,
        "libraries": {name: _version(name) for name in libraries},
        "python": sys.version_info[:2],  # it knows the letters of its Unicode version
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


def code_of(steps: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Return the modules that the first pass and these steps are made of, with their files, and the libraries they import.

    They are found by their import statements, inside functions too: what is not imported cannot decide anything.
    """
    waiting = [_FIRST_PASS, *(STEPS.places[step].partition(":")[0] for step in steps)]
    found: dict[str, Path] = {}
    libraries: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name in _NOT_CODE:
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, name
        found[name] = Path(spec.origin)
        for imported in imported_names(found[name]):
            top = imported.partition(".")[0]
            if top == "llmpipe":
                waiting.append(imported)
            elif top not in sys.stdlib_module_names:
                libraries |= {*_distributions().get(top, [top]), *_BEHIND.get(top, ())}
    return dict(sorted(found.items())), sorted(libraries)


def imported_names(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, by statement or by `import_module` and `find_spec` with a name."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports here are absolute"
            yield node.module
            for alias in node.names:
                if _is_module(node.module, alias.name):
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "find_spec") and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def _is_module(package: str, name: str) -> bool:
    if not package.startswith("llmpipe"):
        return False
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return any(
        Path(folder, f"{name}.py").is_file() or Path(folder, name).is_dir() for folder in folders
    )


@cache
def _distributions() -> dict[str, Any]:
    """Module -> the packages that install it."""
    return dict(metadata.packages_distributions())


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
