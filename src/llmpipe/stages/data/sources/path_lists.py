"""Common Crawl's lists of files as inputs: `warc.paths.gz`, whole or a slice of it.

    cc:CC-MAIN-2024-22            every archive of a crawl
    cc:CC-MAIN-2024-22#0:10       its first ten
    lists/warc.paths.gz#5:        a list on disk, or at any address that fsspec knows

The lines of a list are places below https://data.commoncrawl.org/, or in the bucket if the list itself is read
from `s3://commoncrawl/`. Lines that are complete addresses, or files beside the list, are taken as they are.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from llmpipe.core.errors import InputError, UserError
from llmpipe.core.records.lines import read_lines, whole

HTTPS = "https://data.commoncrawl.org/"
BUCKET = "s3://commoncrawl/"
_LIST = re.compile(r"(?P<name>.+\.paths(?:\.gz)?)(?:#(?P<slice>[^#]*))?\Z")
_CRAWL = re.compile(r"cc:(?P<crawl>[\w-]+)(?:#(?P<slice>[^#]*))?\Z")
_SLICE = re.compile(r"(?P<start>\d*):(?P<stop>\d*)\Z")


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
    lines = _read(address)
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
    return [_place(line, base, folder) for line in lines]


def _place(line: str, base: str, folder: Path | None) -> str:
    if "://" in line:
        return line
    if folder is not None and (folder / line).is_file():
        return str(folder / line)
    return base + line


@cache  # one run must see one list, and asks for it more than once
def _read(address: str) -> list[str]:
    return [line.decode("utf-8").strip() for _, line in whole(read_lines(address))]
