"""The tokenize stage: corpus -> tokenizer and token shards.

Four steps, of which each can be stopped and gone on with:

1. scan: count documents, find the thresholds of the validation split and the training sample
2. train: learn the vocabulary, or load an existing one
3. encode: write each unit's shards
4. place: give the shards their names, write the index
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpipe.core.artifact import Artifact, write_atomic
from llmpipe.core.errors import InputError
from llmpipe.core.report import Section
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.tokenize.config import TokenizeConfig

if TYPE_CHECKING:
    from llmpipe.stages.tokenize.documents import Unit
    from llmpipe.stages.tokenize.split import Scan
    from llmpipe.tokenizer.bpe import Tokenizer


def needs(config: TokenizeConfig) -> dict[str, Need]:
    """Ask for a corpus, unless files are named."""
    return {} if config.inputs else {"corpus": Need("corpus", "corpus")}


def files(config: TokenizeConfig) -> Sequence[str]:
    """Name the files read besides the corpus."""
    from llmpipe.stages.tokenize.documents import expand_inputs
    from llmpipe.tokenizer.vocabularies import vocabulary_files

    vocabulary = vocabulary_files(Path(config.tokenizer)) if config.tokenizer else []
    return [*expand_inputs(config.inputs), *map(str, vocabulary)]


def plan(config: TokenizeConfig, inputs: Inputs) -> dict[str, str]:
    """Say what will be read and made."""
    paths = _paths(config, inputs)
    n_bytes = sum(Path(path).stat().st_size for path in paths if "://" not in path)
    vocabulary = (
        f"from {config.tokenizer}"
        if config.tokenizer
        else f"{config.vocab_size:,} tokens, split `{config.pattern}`, "
        f"learned from up to {config.train_bytes / 1e6:,.0f} MB"
    )
    return {
        "input": f"{len(paths)} files, {n_bytes / 1e6:,.1f} MB",
        "vocabulary": vocabulary,
        "validation": f"{config.val_frac:.1%} of documents, by hash of their text",
    }


def run(config: TokenizeConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Run the stage; called again after a kill it goes on where it was."""
    from llmpipe.stages.tokenize.documents import plan_units
    from llmpipe.stages.tokenize.encode import EncodeWork, ScanWork, add_counts, place_shards
    from llmpipe.stages.tokenize.split import add_up, val_threshold
    from llmpipe.stages.tokenize.stats import collect, save_counts
    from llmpipe.stages.tokenize.workers import run_units
    from llmpipe.tokenizer.shards import write_index

    for unfinished in out.glob(".tmp-*"):
        unfinished.unlink()
    state = out / "state"
    units = plan_units(_paths(config, inputs), config.unit_bytes)

    # ------------------------------------------------------------------------------------ scan
    with ctx.console.progress("scan", len(units), "unit") as bar:
        scan_work = ScanWork(config, ctx.seed)
        scans = run_units(scan_work, units, state / "scan", ctx.workers, ctx.stop, bar)
    scan = add_up(scans)
    if scan.documents == 0:
        raise InputError("the corpus is empty: there is no document with text in it")
    val_below = val_threshold(scan, config.val_frac)

    # ----------------------------------------------------------------------------------- train
    tokenizer = _tokenizer(config, units, scan, val_below, out, ctx)
    ctx.console.debug(tokenizer.encoder_note)
    ctx.stop.check()

    # ---------------------------------------------------------------------------------- encode
    work_folder = state / "shards"
    encode_work = EncodeWork(config, out, val_below, work_folder)
    with ctx.console.progress("encode", len(units), "unit") as bar:
        records = run_units(encode_work, units, state / "encode", ctx.workers, ctx.stop, bar)

    # ----------------------------------------------------------------------------------- place
    counts = add_counts(len(units), work_folder)
    save_counts(out, counts)
    set_aside = [row for record in records for row in record["set_aside"]]
    if set_aside:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in set_aside)
        write_atomic(out / "set_aside.jsonl", lines)
    shards = place_shards(records, work_folder, out)
    write_index(
        out,
        shards,
        tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        split={"by": "xxh3_64 of the text", "val_below": val_below},
    )
    return collect(tokenizer, shards, counts) | {
        "empty_documents": scan.empty,
        "documents_set_aside": len(set_aside),
        "lone_surrogates_replaced": sum(record["lone_surrogates"] for record in records),
    }


def _tokenizer(
    config: TokenizeConfig,
    units: Sequence[Unit],
    scan: Scan,
    val_below: int,
    out: Path,
    ctx: Context,
) -> Tokenizer:
    """Return the stage's tokenizer: what is saved already, else a loaded or a learned one."""
    from llmpipe.stages.tokenize.split import sample_buckets
    from llmpipe.stages.tokenize.train_bpe import Sample, train_tokenizer
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.hf import CONFIG_FILE
    from llmpipe.tokenizer.vocabularies import load_vocabulary, with_chat_tokens

    if (out / CONFIG_FILE).exists():  # written after `tokenizer.json`
        return Tokenizer.load(out)
    if config.tokenizer:
        tokenizer = with_chat_tokens(load_vocabulary(Path(config.tokenizer)))
    else:
        n_buckets = sample_buckets(scan, config.train_bytes)
        sample = Sample(ctx.seed, n_buckets, val_below, config.train_bytes)
        n_bytes = min(config.train_bytes, scan.text_bytes)
        ctx.console.info(
            f"learning {config.vocab_size:,} tokens from {n_bytes / 1e6:,.1f} MB of text"
        )
        tokenizer = train_tokenizer(units, config, sample, ctx.workers)
    tokenizer.save(out)
    return tokenizer


def _paths(config: TokenizeConfig, inputs: Inputs) -> list[str]:
    """Return the files that hold the documents."""
    if not config.inputs:
        return sorted(str(path) for path in inputs["corpus"].path.glob("part-*.parquet"))
    from llmpipe.stages.tokenize.documents import expand_inputs

    return expand_inputs(config.inputs)


def headline(stats: Mapping[str, Any]) -> str:
    """Return the stage's result in one line."""
    from llmpipe.core.console import format_count

    return (
        f"{stats['vocab_size']:,} tokens, {format_count(stats['train_tokens'])} train + "
        f"{format_count(stats['val_tokens'])} val tokens, "
        f"{stats['bytes_per_token']:.1f} bytes per token"
    )


def _report(artifact: Artifact) -> list[Section]:
    from llmpipe.stages.tokenize.report import report

    return report(artifact)


SPEC = StageSpec(
    name="tokenize",
    version=1,
    summary="Corpus -> tokenizer and token shards",
    config=TokenizeConfig,
    folder="tokens",
    writes="tokens",
    run=run,
    headline=headline,
    report=_report,
    needs=needs,
    files=files,
    plan=plan,
    examples=(
        "llmpipe tokenize configs/tiny.toml",
        "llmpipe tokenize configs/tiny.toml --set tokenize.vocab_size=8192",
    ),
)
