"""The crawl's memory on disk: one line per finished address, from which a killed crawl goes on.

For each address the WARC records are written first, then one line here that says where they end. What
the WARC files hold beyond the last line was never finished and is cut off; lines beyond what the WARC
files hold (a power cut can lose the one and keep the other) are cut off as well.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.stages.crawl.frontier import Visit
from llmpipe.stages.crawl.warc import Position, Stored


@dataclass(frozen=True)
class Entry:
    """One finished address."""

    visit: Visit
    links: tuple[str, ...]
    """Addresses on its page that were not seen before."""
    position: Position
    """Where the WARC files end after it."""
    elapsed_s: float
    """Time spent crawling until then, over all attempts."""
    date: str
    """The day, as YYYY-MM-DD."""
    stored: Stored | None = None
    """What went into the WARC files, if anything did."""
    parts: tuple[str, ...] = ()
    """Of its links those that are as deep as the page itself."""

    def to_line(self) -> str:
        """Return the entry as one line of JSON."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: bytes) -> Entry:
        """Read what `to_line` wrote."""
        fields: dict[str, Any] = json.loads(line)
        visit = Visit(**fields.pop("visit"))
        position = Position(**fields.pop("position"))
        stored = fields.pop("stored", None)
        links, parts = tuple(fields.pop("links")), tuple(fields.pop("parts", ()))
        was_stored = Stored(**stored) if stored else None
        return cls(visit, links, position, stored=was_stored, parts=parts, **fields)


class Journal:
    """Reads the entries of an earlier attempt, then appends new ones."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab")

    @staticmethod
    def read(path: Path) -> list[Entry]:
        """Return the whole entries of a journal; a damaged one ends it."""
        if not path.exists():
            return []
        entries = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                entries.append(Entry.from_line(line))
            except ValueError:
                break
        return entries

    @staticmethod
    def rewrite(path: Path, entries: list[Entry]) -> None:
        """Reduce a journal to some entries."""
        temporary = path.with_name(f".tmp-{path.name}")
        temporary.write_text("".join(entry.to_line() for entry in entries), encoding="utf-8")
        temporary.replace(path)

    def append(self, entry: Entry) -> None:
        """Add an entry, so that it survives the end of this process."""
        self._file.write(entry.to_line().encode())
        self._file.flush()

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
