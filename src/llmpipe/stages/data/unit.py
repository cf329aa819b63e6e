"""The first pass: one input file, record by record through the steps, in a worker that may be killed."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llmpipe.core.units import RunUnit, Unit, Watch
from llmpipe.stages.data.arrow import prepare_worker
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.document import Document, Drop, page_excerpt
from llmpipe.stages.data.segments import (
    DROPPED,
    EXCERPT_CHARS,
    KEPT,
    READ,
    UNREADABLE,
    Row,
    SegmentWriter,
)
from llmpipe.stages.data.sources.http import BadBody
from llmpipe.stages.data.sources.items import Other, Raw, read_items
from llmpipe.stages.data.sources.records import Bad
from llmpipe.stages.data.steps.base import Step
from llmpipe.stages.data.steps.table import STEPS

_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,300})", re.I)


@dataclass(frozen=True)
class DataJob:
    """What workers do: the steps of a recipe. `prepared` holds the files the parent has compiled for them."""

    config: DataConfig
    prepared: Path

    def open(self) -> RunUnit:
        """Load models and lists, and return the function that runs a unit."""
        prepare_worker()
        steps = [(name, STEPS[name].make(self.config, self.prepared)) for name in self.config.steps]
        return UnitRun(self.config, steps).run


@dataclass
class UnitRun:
    """Runs units with loaded steps."""

    config: DataConfig
    steps: list[tuple[str, Step[Any]]]
    cpu_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def run(self, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        """Pass every record of a unit through the steps; returns CPU seconds by step."""
        self.cpu_s.clear()
        writer = SegmentWriter(self.config, folder)
        items = read_items(unit.payload, self.config.read, folder)
        i_record = 0
        while True:
            if watch.gives_up_at and watch.gives_up_at[0] == i_record:
                reason = f"{watch.gives_up_at[1]}_while_reading"
                writer.rows.append(Row(i_record, UNREADABLE, reason=reason))
                break
            started = time.process_time()
            item = next(items, None)
            self.cpu_s[READ] += time.process_time() - started
            if item is None:
                break
            if i_record >= writer.n_done:  # else an earlier attempt got further than this
                aside = watch.start(i_record)
                self._take(item, i_record, aside, writer)
                watch.finish()
                writer.end_record(i_record)
            i_record += 1
        writer.close()
        return {"cpu_s": {name: round(seconds, 3) for name, seconds in sorted(self.cpu_s.items())}}

    def _take(
        self, item: Raw | Bad | Other, i_record: int, aside: str | None, writer: SegmentWriter
    ) -> None:
        if isinstance(item, Other):
            writer.others[item.kind] += 1
        elif isinstance(item, Bad):
            writer.bad_bytes += item.n_bytes
            writer.rows.append(Row(i_record, UNREADABLE, item.url, reason=item.reason))
        elif aside is not None:
            writer.rows.append(Row(i_record, UNREADABLE, item.url, reason=aside))
        else:
            writer.rows.append(self._process(item, i_record))

    def _process(self, item: Raw, i_record: int) -> Row:
        try:
            document = self._timed(READ, item.load)
        except BadBody as error:
            return Row(i_record, UNREADABLE, item.url, reason=str(error))
        except (LookupError, ValueError, RecursionError) as error:
            reason = f"load_error_{type(error).__name__}"
            return Row(i_record, UNREADABLE, item.url, reason=reason)
        if isinstance(document, Drop):
            return _dropped(i_record, Document(item.url, ""), READ, document)
        for name, step in self.steps:
            try:
                drop = self._timed(name, partial(step, document))
            except MemoryError:
                raise
            # Parsers of foreign text fail in ways that nobody can list; each is counted.
            except Exception as error:
                reason = f"{name}_error_{type(error).__name__}"
                return Row(i_record, UNREADABLE, document.url, document.date, reason=reason)
            if drop is not None:
                return _dropped(i_record, document, name, drop)
        if document.content is None or not document.content.text:
            return _dropped(i_record, document, READ, Drop("no_text"))
        n_words = len(document.content.words)
        found = {"text": document.text, "quality": document.quality, "pii": document.pii}
        return _row(i_record, KEPT, document, n_words=n_words, **found)

    def _timed(self, name: str, action: Callable[[], Any]) -> Any:
        started = time.process_time()
        try:
            return action()
        finally:
            self.cpu_s[name] += time.process_time() - started


def _dropped(i_record: int, document: Document, step: str, drop: Drop) -> Row:
    """A dropped document keeps an excerpt, or its title where there is no text yet."""
    text = document.text
    if not text and document.html is not None and (title := _TITLE.search(document.html[:20_000])):
        text = f"<title>{title[1].strip()}</title>"
    return _row(
        i_record,
        DROPPED,
        document,
        step=step,
        reason=drop.reason,
        value=_shown(drop.value),
        threshold=_shown(drop.threshold),
        text=_storable(text[:EXCERPT_CHARS]),
        page=page_excerpt(document.page or document.html or ""),
    )


def _row(i_record: int, outcome: str, document: Document, **more: Any) -> Row:
    row = Row(i_record, outcome, _storable(document.url), document.date, keys=document.keys, **more)
    row.lang, row.lang_score = document.lang, document.lang_score
    return row


def _shown(value: float | str) -> str:
    return _storable(value) if isinstance(value, str) else f"{value:.4g}"


def _storable(text: str) -> str:
    """Parquet holds UTF-8; a lone surrogate from a broken escape must not end a worker."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
