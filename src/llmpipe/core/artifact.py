"""A directory that is whole or not there: files, then `manifest.json` last, then one rename.

    runs/tiny/base/                      an artifact: if `manifest.json` is there, everything it names is
    runs/tiny/.base.partial/             unfinished work, with `run.json` saying for which settings and inputs
    runs/tiny/.base.partial/state/       what resuming needs; deleted before the artifact is published
    runs/tiny/.base.store/               what the next build of it may take over, if its stage keeps such; may be deleted
    runs/tiny/.base.lock                 held while a process writes the artifact

The `key` names what was asked for (settings and inputs), the `id` what came out (a hash of the files). Files that hold
times, such as metrics.jsonl, and a checkpoint that a longer run can go on from (`level/`), whose files are as many as there
were processes, are hashed for `verify` but do not enter the id.

Every publication is: write, flush, fsync, rename, fsync of the folder. Skipping one of these loses the file in a power
cut even when the write was reported as done (PostgreSQL's `durable_rename` takes the same steps).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.config import digest
from llmpipe.core.errors import InputError

SCHEMA = "llmpipe.artifact/1"
MANIFEST = "manifest.json"
STATE = "state"
START_RECORD = "run.json"
"""What started the unfinished work of a folder, and how often; goes when the work is done."""

VOLATILE = ("metrics.jsonl", "logs/", "level/")


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Hash of the kind and the contents."""
        return str(self.manifest["id"])

    @property
    def kind(self) -> str:
        """What it holds: crawl, corpus, tokens, model, scores."""
        return str(self.manifest["kind"])

    @property
    def stats(self) -> Mapping[str, Any]:
        """The numbers its stage returned."""
        stats: Mapping[str, Any] = self.manifest["stats"]
        return stats

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved settings it was made with."""
        config: Mapping[str, Any] = self.manifest["config"]
        return config

    @property
    def n_bytes(self) -> int:
        """Size of all its files."""
        return sum(size for size, _ in self.manifest["files"].values())

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.path / name


def open_artifact(path: Path, kind: str | None = None) -> Artifact:
    """Open a finished artifact and check that it is of the kind asked for.

    Raises:
        InputError: if there is none, it is unfinished, of another kind, or of an unknown schema.
    """
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise InputError(_why_missing(path, kind))
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        found = manifest["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{manifest_path}` cannot be read: {error}") from None
    if found != SCHEMA:
        raise InputError(
            f"`{path}` has schema {found}, and this version of llmpipe reads {SCHEMA}",
            "use the version of llmpipe that wrote it",
        )
    artifact = Artifact(path, manifest)
    if kind is not None and artifact.kind != kind:
        raise InputError(f"`{path}` is of kind {artifact.kind}, and kind {kind} is needed here")
    return artifact


def _why_missing(path: Path, kind: str | None) -> str:
    what = f"{kind} artifact" if kind else "artifact"
    partial = path.parent / f".{path.name}.partial"
    if partial.is_dir():
        return f"there is no finished {what} at `{path}` (an unfinished one is at `{partial}`)"
    if path.is_dir():
        return f"`{path}` is a folder but no finished {what}: it has no {MANIFEST}"
    return f"there is no {what} at `{path}`"


# ------------------------------------------------------------------------------------------
# Durable files


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(path: Path) -> None:
    """Make renames inside a folder durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make the contents of a closed file durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is made durable and takes the final name.

    If the body raises, the temporary file is removed and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner can read; published files follow the umask.
        temporary.chmod(0o666 & ~_umask())
        fsync_file(temporary)
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file so that a reader sees the old contents or the new ones and nothing between."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ------------------------------------------------------------------------------------------
# Publishing and verifying


def list_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Return `relative name -> (bytes, sha256)` of every file of an artifact folder, by name."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (
            path.is_file()
            and name not in (MANIFEST, START_RECORD)
            and not name.startswith(f"{STATE}/")
        ):
            files[name] = (path.stat().st_size, hash_file(path))
    return files


def artifact_id(kind: str, files: Mapping[str, tuple[int, str]]) -> str:
    """Return the identity of contents: a hash of the kind and of all files but the volatile ones."""
    stable = {name: sha for name, (_, sha) in files.items() if not name.startswith(VOLATILE)}
    return digest({"kind": kind, "files": stable})


def publish(partial: Path, final: Path, manifest: dict[str, Any]) -> Artifact:
    """Turn the finished folder `partial` into the artifact `final`, adding files and id to the manifest.

    An artifact that is already at `final` is set aside as `.NAME.replaced` until the new one stands, then deleted.
    """
    shutil.rmtree(partial / STATE, ignore_errors=True)
    for leftover in partial.rglob(".tmp-*"):
        leftover.unlink()
    files = list_files(partial)
    manifest = {**manifest, "files": files, "id": artifact_id(manifest["kind"], files)}
    for name in files:
        fsync_file(partial / name)
    for folder in {(partial / name).parent for name in files}:
        fsync_folder(folder)
    write_atomic(partial / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    (partial / START_RECORD).unlink(missing_ok=True)
    replaced = final.parent / f".{final.name}.replaced"
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    fsync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return open_artifact(final)


def recover(final: Path) -> None:
    """Undo a replacement that was killed between its two renames (call with the lock held)."""
    replaced = final.parent / f".{final.name}.replaced"
    if replaced.exists():
        if final.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(final)


def verify(artifact: Artifact) -> list[str]:
    """Compare every file with the manifest and return what is wrong, one line each; empty if all is well."""
    problems = []
    expected = artifact.manifest["files"]
    for name, (size, sha) in expected.items():
        path = artifact.file(name)
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif path.stat().st_size != size:
            problems.append(f"{name}: {path.stat().st_size} bytes, expected {size}")
        elif hash_file(path) != sha:
            problems.append(f"{name}: contents differ from the manifest (sha256)")
    for path in sorted(artifact.path.rglob("*")):
        name = path.relative_to(artifact.path).as_posix()
        if path.is_file() and name != MANIFEST and name not in expected:
            problems.append(f"{name}: not in the manifest")
    return problems
