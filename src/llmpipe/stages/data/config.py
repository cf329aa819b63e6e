"""The settings of the data stage. Those of a step are in the step's own file, each number with its source.

The defaults are the FineWeb recipe (Penedo et al. 2024, arXiv:2406.17557) as huggingface/datatrove's
`examples/fineweb.py` runs it, English only. A recipe changes the order with `steps` and the thresholds
with one table per step, for example `[data.fineweb]`.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from llmpipe.core.config import Unkeyed, schema
from llmpipe.stages.data.steps.table import STEPS, with_step_settings

FINEWEB_STEPS = (
    "url_filter",  # the cheapest first: no page of a blocked site is ever parsed
    "language_prefilter",
    "extraction",  # from here on there is text without menus and markup
    "language",
    "gopher_repetition",  # what repeats itself would teach a model to repeat itself
    "gopher_quality",
    "c4",
    "fineweb",
    "url_dedup",
    "exact_dedup",
    "minhash",  # the same article with another headline
    "pii",
)
"""All filters come before MinHash, as in datatrove's example; the paper's text has MinHash first."""


@schema
class ReadConfig:
    """What of the inputs is a document, and how much of it is read."""

    http_status: tuple[int, ...] = (200,)
    """Responses with another status are dropped. Empty: keep all. Common Crawl's `warc/` holds only 200."""
    max_record_bytes: Annotated[int, Gt(0)] = 32_000_000
    """A larger record is set aside unread. Common Crawl cuts payloads at 1 to 5 MiB."""
    max_page_bytes: Annotated[int, Gt(0)] = 16_000_000
    """Bound on a page after undoing gzip, deflate or br, against decompression bombs."""
    check_digests: bool = True
    """Compare `WARC-Payload-Digest` (or the block's), and set aside records whose content differs."""
    text_field: str = "text"
    """Column or key of JSONL, Parquet and datasets that holds the text."""
    url_field: str = "url"
    """Column or key that holds the address, where there is one."""
    date_field: str = "date"
    """Column or key that holds the date, where there is one."""


@schema
class LimitsConfig:
    """What one document may cost before its worker is ended and the document is set aside."""

    cpu_s: Annotated[float, Gt(0)] = 5.0
    """CPU seconds per document. No page of 1,471 measured took more than 1; bombs take minutes."""
    wall_s: Annotated[float, Gt(0)] = 120.0
    """Wall seconds per document; large, because a busy machine must not lose documents."""
    memory_mb: Annotated[int, Ge(64)] = 2_000
    """Address space a worker may take beyond what it has after loading its models."""


@schema
@with_step_settings
class DataConfig:
    """Settings of `llmpipe data`: those below, and a table for each step of `steps/table.py`."""

    inputs: Annotated[tuple[str, ...], Unkeyed()] = ()
    """WARC, ARC, WET, HTML, Parquet or JSONL files, folders, globs, URLs, `hf:NAME`, or a list of Common Crawl:
    `cc:CC-MAIN-2024-22#0:10` is the first ten archives of that crawl. Empty: the crawl of this run."""
    steps: tuple[str, ...] = FINEWEB_STEPS
    """The steps in order; a step that is not named is not done."""
    keep_dropped: bool = False
    """Also write the dropped documents with their reasons, under `dropped/`."""
    part_mb: Annotated[int, Gt(0)] = 256
    """Size of the parts of the corpus, in MB of text before compression."""
    read: ReadConfig = field(default_factory=ReadConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    if TYPE_CHECKING:

        def __getattr__(self, step: str) -> Any: ...  # the settings of a step, by its name

    def __post_init__(self) -> None:
        """Put the inputs in one order: the corpus does not depend on it, so the key must not."""
        object.__setattr__(self, "inputs", tuple(sorted(set(self.inputs))))

    def unused(self) -> dict[str, str]:
        """Name the settings that decide nothing, with the reason: those of steps that are not done."""
        known = [name for name in self.steps if name in STEPS]
        in_use = {*known, *(other for name in known for other in STEPS[name].also_reads)}
        return {name: "`data.steps` does not name it" for name in STEPS if name not in in_use}
