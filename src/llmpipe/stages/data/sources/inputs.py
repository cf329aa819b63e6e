"""From what a person names (files, folders, globs, URLs, `hf:` names) to units of work.

A unit is one input file. Loose HTML files are packed many to a unit, because a commit record for each of
10,000 small pages would cost more than the pages; their contents decide where a pack ends, so one more page changes one
pack. Units are ordered by content fingerprint, not by path, so the corpus does not depend on where files lie or in which
order they were named.

Common Crawl's lists of files, `warc.paths.gz`, are inputs too, whole or a slice of one:

    cc:CC-MAIN-2024-22            every archive of a crawl
    cc:CC-MAIN-2024-22#0:10       its first ten
    lists/warc.paths.gz#5:        a list on disk, or at any address that fsspec knows

The lines of a list are places below https://data.commoncrawl.org/, or in the bucket if the list itself is read
from `s3://commoncrawl/`. Lines that are complete addresses, or files beside the list, are taken as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from llmpipe.core.config import digest
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.records.files import ending_of, expand
from llmpipe.core.records.lines import read_lines, whole
from llmpipe.core.stage import SourceFile
from llmpipe.core.units import Unit

Kind = Literal["archive", "html", "jsonl", "parquet", "dataset"]
_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "archive": (".warc", ".arc", ".wet"),
    "html": (".html", ".htm", ".xhtml"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
}
_KINDS = {ending: kind for kind, endings in _ENDINGS.items() for ending in endings}
_HTML_PER_UNIT = 512
_PACK_ENDS = 1 / 256
"""Share of pages that end their pack."""
HTTPS = "https://data.commoncrawl.org/"
BUCKET = "s3://commoncrawl/"
_LIST = re.compile(r"(?P<name>.+\.paths(?:\.gz)?)(?:#(?P<slice>[^#]*))?\Z")
_CRAWL = re.compile(r"cc:(?P<crawl>[\w-]+)(?:#(?P<slice>[^#]*))?\Z")
_SLICE = re.compile(r"(?P<start>\d*):(?P<stop>\d*)\Z")


@dataclass(frozen=True)
class Payload:
    """What a worker needs to read a unit: the files, and how."""

    kind: Kind
    paths: tuple[str, ...]


def expand_inputs(names: Iterable[str]) -> list[str]:
    """Turn folders, globs and path lists into files; files, URLs and `hf:` names stay as they are.

    Raises:
        InputError: nothing is there, or a folder holds nothing that can be read.
    """
    files: set[str] = set()
    for name in names:
        listed = expand_list(name)
        files.update(expand([name], _KINDS) if listed is None else listed)
    return sorted(files)


def expand_list(name: str) -> list[str] | None:
    """Return the files that a path list names; None if `name` is no path list.

    Raises:
        InputError: the list cannot be read, or its slice is empty.
        UserError: the slice is not written as START:STOP.
    """
    match = _LIST.match(name)
    if crawl := _CRAWL.match(name):
        match, address = crawl, f"{HTTPS}crawl-data/{crawl['crawl']}/warc.paths.gz"
    elif match is not None:
        address = match["name"]
    else:
        return None
    lines = _read_list(address)
    if match["slice"] is not None:
        bounds = _SLICE.match(match["slice"])
        if bounds is None:
            raise UserError(
                f"data.inputs: `{name}`: after `#` comes START:STOP, for example `#0:10`"
            )
        start, stop = (int(bounds[part]) if bounds[part] else None for part in ("start", "stop"))
        lines = lines[start:stop]
    if not lines:
        raise InputError(f"data.inputs: `{name}` names no file")
    base = BUCKET if address.startswith(BUCKET) else HTTPS
    folder = None if "://" in address else Path(address).parent
    return [_complete(line, base, folder) for line in lines]


def _complete(line: str, base: str, folder: Path | None) -> str:
    if "://" in line:
        return line
    if folder is not None and (folder / line).is_file():
        return str(folder / line)
    return base + line


@cache  # one run must see one list, and asks for it more than once
def _read_list(address: str) -> list[str]:
    return [line.decode("utf-8").strip() for _, line in whole(read_lines(address))]


def kind_of(name: str) -> Kind:
    """Tell by its name how a file is read."""
    if name.startswith("hf:"):
        return "dataset"
    ending = ending_of(name, _KINDS)
    # A file named on purpose, with an ending nobody knows, is tried as an archive; what it is not gets counted.
    return _KINDS[ending] if ending else "archive"


def plan_units(files: Sequence[SourceFile]) -> list[Unit]:
    """Make units of input files, in the order of their fingerprints; equal files make one unit."""
    unique = {file.fingerprint: file for file in sorted(files, key=lambda f: f.path, reverse=True)}
    ordered = [unique[fingerprint] for fingerprint in sorted(unique)]
    packs = [[file] for file in ordered if kind_of(file.path) != "html"]
    packs += _in_packs([file for file in ordered if kind_of(file.path) == "html"])
    return sorted(map(_unit, packs), key=lambda unit: unit.id)


def _in_packs(files: list[SourceFile]) -> Iterator[list[SourceFile]]:
    """Cut files, in the order of their fingerprints, behind those whose fingerprint says so."""
    pack: list[SourceFile] = []
    for file in files:
        pack.append(file)
        ends = int(digest(file.fingerprint)[:8], 16) < _PACK_ENDS * 2**32
        if ends or len(pack) == _HTML_PER_UNIT:
            yield pack
            pack = []
    if pack:
        yield pack


def _unit(pack: list[SourceFile]) -> Unit:
    kind = kind_of(pack[0].path)
    name = pack[0].path if len(pack) == 1 else f"{len(pack)} HTML files"
    identity = digest([kind, [file.fingerprint for file in pack]])[:32]
    return Unit(identity, name, Payload(kind, tuple(file.path for file in pack)))
