"""The story of one document: what became of it, and, if its input still exists, every step once more.

The corpus says how it ended. The steps in between are not stored for a billion documents; they are
deterministic, so the document is read again from its archive and sent through the recipe with someone watching.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmpipe.core.artifact import Artifact, open_artifact
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError
from llmpipe.core.records.lines import read_objects
from llmpipe.core.stage import Inputs, SourceFile, fingerprint_files
from llmpipe.core.units import Unit
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.document import Drop
from llmpipe.stages.data.sources.http import BadBody
from llmpipe.stages.data.sources.inputs import plan_units
from llmpipe.stages.data.sources.items import Raw, read_items
from llmpipe.stages.data.stage import files, source_files
from llmpipe.stages.data.steps.table import STEPS, prepare_steps
from llmpipe.stages.data.writing import document_id

_EXCERPT_CHARS = 300


StepOutcome = tuple[str, int, str]
"""A step, the characters that the document had after it (of HTML before extraction), and what dropped it, or nothing."""


def explain(corpus: Path, key: str, console: Console) -> list[str]:
    """Tell what became of a document, in lines to print.

    Args:
        corpus: folder of the corpus.
        key: the document's address or id.
        console: gets a line for every input file that is searched.

    Raises:
        InputError: neither the corpus nor its inputs know the document.
    """
    artifact = open_artifact(corpus, "corpus")
    ends = list(find_ends(artifact, key))
    lines = [line for row in ends for line in _describe(row)]
    for unit, i_record, outcomes in follow(artifact, key, ends, console):
        lines.append(f"record {i_record} of {unit.name}:")
        for step, n_chars, outcome in outcomes:
            lines.append(f"    {step:20} {n_chars:>9,} characters  {outcome or 'goes on'}")
    if not lines:
        raise InputError(
            f"`{corpus}` knows no document `{key}`",
            "only with `--set data.keep_dropped=true` does a corpus remember all that it dropped",
        )
    return lines


# ------------------------------------------------------------------------------------------ what the corpus says


def find_ends(artifact: Artifact, key: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a document: kept, dropped, or among the examples."""
    import pyarrow.dataset as ds

    wanted = (ds.field("id") == key) | (ds.field("url") == key)
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    kind = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    seen: set[str] = set()
    for pattern in ("part-*.parquet", "dropped/part-*.parquet"):
        paths = sorted(str(path) for path in artifact.path.glob(pattern))
        if paths:
            for row in ds.dataset(paths, format=kind).to_table(filter=wanted).to_pylist():
                seen.add(row["id"])
                yield row
    examples = artifact.path / "examples.jsonl"
    if examples.is_file():
        for row in read_objects(examples):
            if key in (row["id"], row["url"]) and row["id"] not in seen:
                yield row


def _describe(row: dict[str, Any]) -> list[str]:
    if "step" not in row:
        n = row["cluster_size"]
        stands_for = f", stands for {n} near-duplicates" if n > 1 else ""
        end = f"kept: {row['n_words']} words, {row['lang']} ({row['lang_score']:.2f}){stands_for}"
        text = row["text"]
    else:
        bound = f" (bound {row['threshold']})" if row["threshold"] else ""
        end = f"{row.get('outcome', 'dropped')} by {row['step'] or 'read'}: {row['reason']} {row['value']}{bound}"
        text = row["excerpt"]
    excerpt = " ".join(text[:_EXCERPT_CHARS].split())
    return [f"{row['id']}  {row['url']}", f"    {end}", f"    {excerpt}"]


# --------------------------------------------------------------------------------------------- once more, watched


def follow(
    artifact: Artifact, key: str, ends: list[dict[str, Any]], console: Console
) -> Iterator[tuple[Unit, int, list[StepOutcome]]]:
    """Read a document again from its input, if that is still there, and pass it through the steps."""
    try:
        config: DataConfig = TypeAdapter(DataConfig).validate_python(dict(artifact.config))
    except ValidationError:
        raise InputError(
            f"`{artifact.path}` was made with settings that this version does not know",
            "make it again with `llmpipe data --force`",
        ) from None
    units = plan_units(_sources(artifact, config))
    ids = {key, *(row["id"] for row in ends)}
    prefixes = {name.rpartition("-")[0] for name in ids}
    chosen = [unit for unit in units if unit.id[:16] in prefixes] or units
    by_id = {row["id"]: row for row in ends}
    for unit in chosen:
        if not all(Path(path).is_file() for path in unit.payload.paths):
            continue
        console.debug(f"searching {unit.name}")
        for i_record, item in enumerate(read_items(unit.payload, config.read, artifact.path)):
            name = document_id(unit.id, i_record)
            if isinstance(item, Raw) and (name in ids or (item.url and item.url == key)):
                yield unit, i_record, list(_watched(item, config, by_id.get(name, {})))


def _sources(artifact: Artifact, config: DataConfig) -> list[SourceFile]:
    """Return the inputs as the manifest names them."""
    try:
        if config.inputs:
            return source_files(config, Inputs({}, fingerprint_files(files(config))))
        crawl = artifact.path / artifact.manifest["inputs"]["crawl"]["path"]
        return source_files(config, Inputs({"crawl": open_artifact(crawl, "crawl")}))
    except InputError:
        return []  # moved or deleted: then only the corpus can answer


def _watched(item: Raw, config: DataConfig, end: Mapping[str, Any]) -> Iterator[StepOutcome]:
    try:
        document = item.load()
    except BadBody as error:
        yield "read", 0, f"unreadable: {error}"
        return
    if isinstance(document, Drop):
        yield "read", 0, _worded(document)
        return
    yield "read", len(document.html or document.text), ""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder)
        prepare_steps(config, prepared)
        for name in config.steps:
            drop = STEPS[name].make(config, prepared)(document)
            size = len(document.html if document.html is not None else document.text)
            outcome = _worded(drop) if drop else ""
            # What a comparison with all others decided cannot be repeated here, but the corpus remembers it.
            if STEPS[name].scope != "document" and end.get("step") == name:
                outcome = _worded(Drop(end["reason"], end["value"], end["threshold"]))
            yield name, size, outcome
            if outcome:
                return


def _worded(drop: Drop) -> str:
    value = drop.value if isinstance(drop.value, str) else f"{drop.value:.4g}"
    bound = f" (bound {drop.threshold})" if drop.threshold != "" else ""
    return f"dropped: {drop.reason} {value}{bound}"
