"""The tokenize stage: corpus -> tokenizer and token shards.

Four steps, of which each can be stopped and gone on with:

1. scan: count documents, find the thresholds of the validation split and the training sample
2. train: count the sample's pieces and learn the vocabulary, or load an existing one
3. encode: write each unit's shards
4. place: give the shards their names, write the index

Scan, count and encode go over the corpus in units (see `core/units.py`), each in a folder below `state/`. Only the learning of
the merges is done by one process, from the counts of all units: which pair is merged next depends on all of the text.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpipe.core.artifact import Artifact, write_atomic
from llmpipe.core.errors import InputError
from llmpipe.core.report import Section
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.tokenize.config import TokenizeConfig

if TYPE_CHECKING:
    from llmpipe.core.units import Commit, Job, Unit
    from llmpipe.stages.tokenize.train_bpe import CountJob
    from llmpipe.tokenizer.bpe import Tokenizer


def needs(config: TokenizeConfig) -> dict[str, Need]:
    """Ask for a corpus, unless files are named."""
    is_named = bool(config.inputs or config.sources)
    has_files = is_named and all(source.inputs for source in config.sources)
    return {} if has_files else {"corpus": Need("corpus", "corpus")}


def files(config: TokenizeConfig) -> Sequence[str]:
    """Name the files read besides the corpus."""
    from llmpipe.stages.tokenize.documents import expand_inputs
    from llmpipe.tokenizer.vocabularies import files_of

    inputs = [*config.inputs, *(name for source in config.sources for name in source.inputs)]
    vocabularies = filter(None, (config.tokenizer, *config.compare))
    return expand_inputs(inputs) + [str(p) for name in vocabularies for p in files_of(name)]


def plan(config: TokenizeConfig, inputs: Inputs) -> dict[str, str]:
    """Say what will be read and made."""
    paths = sorted({unit.payload.path for unit in _units(config, inputs)})
    n_bytes = sum(Path(path).stat().st_size for path in paths if "://" not in path)
    learned = f"learned from up to {config.train_bytes / 1e6:,.0f} MB"
    vocabulary = f"{config.vocab_size:,} tokens, split `{config.pattern}`, {learned}"
    return {
        "input": f"{len(paths)} files, {n_bytes / 1e6:,.1f} MB",
        "vocabulary": f"from {config.tokenizer}" if config.tokenizer else vocabulary,
        "validation": f"{config.val_frac:.1%} of documents, by hash of their text",
    }


def run(config: TokenizeConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Run the stage; called again after a kill it goes on where it was."""
    from llmpipe.stages.tokenize.encode import EncodeJob, ScanJob, add_counts, place_shards
    from llmpipe.stages.tokenize.split import add_up, sample_sizes, sources_of, val_threshold
    from llmpipe.stages.tokenize.stats import (
        COUNTS_FILE,
        Vocabulary,
        add_cards,
        collect,
        save_counts,
        source_sums,
    )
    from llmpipe.stages.tokenize.train_bpe import CountJob
    from llmpipe.tokenizer.shards import write_index

    for unfinished in out.glob(".tmp-*"):
        unfinished.unlink()
    units = _units(config, inputs)
    sources = sources_of(config)

    # ------------------------------------------------------------------------------------ scan
    n_buckets: tuple[int, ...] = ()
    val_below = 0
    if config.tokenizer is None or config.val_frac > 0:  # else nothing depends on it
        commits = _run_units(ScanJob(config, ctx.seed), units, "scan", out, ctx)
        scans = [
            add_up(commit.record for commit in commits if commit.unit.payload.source == i)
            for i in range(len(sources))
        ]
        total = add_up(commit.record for commit in commits)
        if total.documents == 0:
            raise _empty_corpus()
        val_below = val_threshold(total, config.val_frac)
        n_buckets = sample_sizes(sources, scans, config.train_bytes)

    # ----------------------------------------------------------------------------------- train
    count = CountJob(config, ctx.seed, n_buckets, val_below)
    tokenizer, trained = _tokenizer(count, units, out, ctx)
    ctx.console.debug(tokenizer.encoder_note)
    vocabulary = Vocabulary.of(tokenizer, out / "state" / "ranks.tiktoken")
    del tokenizer  # with its encoder it is 80 MB for cl100k
    _give_back_memory()
    ctx.stop.check()

    # ---------------------------------------------------------------------------------- encode
    encode = EncodeJob(
        config, vocabulary.encoder, vocabulary.vocab_size, vocabulary.bos_id, val_below
    )
    commits = _run_units(encode, units, "encode", out, ctx)

    # ----------------------------------------------------------------------------------- place
    records = [commit.record for commit in commits]
    if not any(record["shards"] for record in records):
        raise _empty_corpus()
    counts = add_counts(commits)
    save_counts(out / COUNTS_FILE, counts)
    set_aside = [row for record in records for row in record["set_aside"]]
    if set_aside:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in set_aside)
        write_atomic(out / "set_aside.jsonl", lines)
        first = "{id}: {reason}".format(**set_aside[0])
        ctx.console.warn(f"set aside are {len(set_aside):,} documents (set_aside.jsonl): {first}")
    shards = place_shards(commits, out)
    write_index(
        out,
        shards,
        vocabulary.digest,
        vocab_size=vocabulary.vocab_size,
        bos_id=vocabulary.bos_id,
        split={"by": "xxh3_64 of the text", "val_below": val_below},
    )
    return collect(vocabulary, shards, counts) | {
        **trained,
        "sources": source_sums(records),
        "card": add_cards([record["card"] for record in records]),
        "empty_documents": sum(record["empty"] for record in records),
        "documents_set_aside": len(set_aside),
        "lone_surrogates_replaced": sum(record["lone_surrogates"] for record in records),
    }


def _run_units(
    job: Job, units: Sequence[Unit], title: str, out: Path, ctx: Context
) -> list[Commit]:
    """Run the units that are not done yet, wherever the command line says; return the commits of all."""
    from llmpipe.core.cluster import executor_of
    from llmpipe.core.executors import CLEAN_INPUT
    from llmpipe.core.units import is_done, run_units

    folder = out / "state" / title
    n_done = sum(is_done(folder, unit) for unit in units)
    with ctx.console.progress(title, len(units), "unit") as bar:
        bar.update(n_done)
        executor = executor_of(ctx, CLEAN_INPUT, lambda now: bar.update(n_done + now.n_units))
        return run_units(job, units, folder, executor)


def _give_back_memory() -> None:
    """Return to the system what was freed, where C's library keeps it for itself (glibc does)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _empty_corpus() -> InputError:
    return InputError("the corpus is empty: there is no document with text in it")


def _tokenizer(
    count: CountJob, units: Sequence[Unit], out: Path, ctx: Context
) -> tuple[Tokenizer, dict[str, int]]:
    """Return the stage's tokenizer (saved already, loaded or learned), and what it learned from."""
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.hf import CONFIG_FILE
    from llmpipe.tokenizer.vocabularies import open_vocabulary, with_chat_tokens

    facts_file = out / "state" / "trained.json"
    if (out / CONFIG_FILE).exists():  # written last
        facts = json.loads(facts_file.read_bytes()) if facts_file.exists() else {}
        return Tokenizer.load(out), facts
    facts = {}
    if count.config.tokenizer:
        tokenizer = with_chat_tokens(open_vocabulary(count.config.tokenizer))
    else:
        tokenizer, facts = _learn(count, units, out, ctx)
        write_atomic(facts_file, json.dumps(facts))
    tokenizer.save(out)
    return tokenizer, facts


def _learn(
    count: CountJob, units: Sequence[Unit], out: Path, ctx: Context
) -> tuple[Tokenizer, dict[str, int]]:
    """Count the sample's pieces unit by unit, then learn the merges."""
    from llmpipe.stages.tokenize.train_bpe import COUNTS_FILE, learn_vocabulary
    from llmpipe.tokenizer.piece_counts import add_files

    # A source's later copies hold the same documents: the merges are learned from the first.
    firsts = [unit for unit in units if unit.payload.copy == 0]
    sampled = [unit for unit in firsts if count.n_buckets[unit.payload.source]]
    commits = _run_units(count, sampled, "count", out, ctx)
    config = count.config
    text_bytes = sum(commit.record["text_bytes"] for commit in commits)
    with ctx.console.progress("learn", config.vocab_size, "merge") as bar:
        paths = [commit.folder / COUNTS_FILE for commit in commits]
        counts, pruned = add_files(paths, config.max_pieces)
        tokenizer = learn_vocabulary(
            counts, config.vocab_size, config.pattern, text_bytes, bar.update
        )
    if pruned.pieces:
        ctx.console.info(
            f"left out {pruned.pieces:,} pieces that occur fewer than {pruned.below:,} times"
        )
    sizes = {f"pruned_{name}": n for name, n in asdict(pruned).items()}
    return tokenizer, {"learned_from_bytes": text_bytes} | sizes


def _units(config: TokenizeConfig, inputs: Inputs) -> list[Unit]:
    """Return the units of all sources."""
    from llmpipe.stages.tokenize.split import plan_mixture

    corpus = inputs["corpus"].path.glob("part-*.parquet") if "corpus" in inputs else []
    return plan_mixture(config, sorted(map(str, corpus)))


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
    version=3,
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
