"""The `sft` stage: base model + conversations -> a model that answers, calls tools and stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import write_atomic
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.sft.config import FileSource, SFTConfig
from llmpipe.stages.sft.report import report

LESS_MEMORY = "lower `sft.micro_batch_size`, or `sft.max_seq_len`"
"""What helps where memory ends."""

LINTED_ROWS = 2000
"""Of each source, for `--dry-run`, which should not take long; a run looks at all."""


def run(config: SFTConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Make the conversations, train on them, and write a complete model artifact."""
    import json
    import random
    from functools import partial

    from llmpipe.assistant.conversation import Conversation
    from llmpipe.assistant.frames import frame_for
    from llmpipe.assistant.template import chat_template
    from llmpipe.core.errors import UserError
    from llmpipe.core.process_group import process_group
    from llmpipe.model.config import n_parameters
    from llmpipe.model.weights import load_model, save_generation_config, save_model
    from llmpipe.stages.sft.gather import gather, lint_table, mixture_table, system_words
    from llmpipe.stages.sft.loop import ConversationRows, train
    from llmpipe.stages.sft.packing import pack_conversations
    from llmpipe.stages.sft.probing import Probed, ask_earlier, teach
    from llmpipe.tokenizer.bpe import Tokenizer

    as_json = partial(json.dumps, ensure_ascii=False)
    base = inputs["model"].path
    with process_group(ctx, out, less_memory=LESS_MEMORY) as runtime:
        tokenizer = Tokenizer.load(base)
        model = load_model(base, runtime.device)
        limit = model.config.max_seq_len
        max_seq_len = config.max_seq_len or limit
        if max_seq_len > limit:
            raise UserError(f"sft.max_seq_len ({max_seq_len}) is over the model's own ({limit})")

        facts = known_facts(config, n_parameters(model.config), inputs["corpus"].stats)
        corpus = inputs["corpus"].path
        probed: list[Probed] = []
        if config.mixture.probed:
            earlier, warn = inputs["probed"].path, ctx.console.warn
            probed = ask_earlier(earlier, corpus, config, runtime.device, ctx.seed, warn)
        taught = teach(probed, random.Random(f"sft probed {ctx.seed}"))
        gathered = gather(config, facts, corpus, tokenizer, ctx.seed, taught)
        rng = random.Random(f"sft rows {ctx.seed}")
        packed = pack_conversations(gathered.train, tokenizer, config, max_seq_len, rng)
        by_source: dict[str, list[Conversation]] = {}
        for conversation in gathered.held_out:
            by_source.setdefault(conversation.source, []).append(conversation)
        held_out = {
            name: pack_conversations(conversations, tokenizer, config, max_seq_len, rng).rows
            for name, conversations in by_source.items()
        }
        rows = ConversationRows(packed.rows, held_out, max_seq_len, tokenizer.pad_id)

        def complete(folder: Path) -> None:
            """Write what makes a folder with weights an assistant."""
            system = None if config.system is None else system_words(config.system, facts)
            tokenizer.save(folder, chat_template(frame_for(tokenizer), system))
            # `<|im_start|>` ends an answer too, but is no mark of a regular end.
            stops = [tokenizer.special[frame_for(tokenizer).end], tokenizer.bos_id]
            save_generation_config(folder, tokenizer.bos_id, stops, tokenizer.pad_id)

        trained = train(model, tokenizer, rows, config, out, ctx, runtime, complete)

        if runtime.ranks.is_main:
            save_model(model, out)
            complete(out)
            files: dict[str, list[str]] = {
                "conversations.jsonl": [c.to_json() for c in gathered.train],
                "held_out.jsonl": [c.to_json() for c in gathered.held_out],
                "set_aside.jsonl": [as_json(vars(row)) for row in gathered.aside],
                "lint.jsonl": [as_json({"source": s, **vars(f)}) for s, f in gathered.findings],
                "probed.jsonl": [as_json(vars(one)) for one in probed],
                "samples.jsonl": [json.dumps(sample) for sample in trained.samples],
            }
            for name, lines in files.items():
                write_atomic(out / name, "".join(f"{line}\n" for line in lines))

    n_places = len(packed.rows) * max_seq_len
    return {
        "parameters": n_parameters(model.config),
        "steps": trained.n_steps,
        "train_loss": round(trained.train_loss, 6),
        "val_loss": {name: round(loss, 6) for name, loss in trained.val_losses.items()},
        "skipped_steps": trained.n_skipped,
        "conversations": len(gathered.train),
        "held_out_conversations": len(gathered.held_out),
        "duplicates": gathered.n_duplicates,
        "bad_rows": len(gathered.aside) - gathered.n_contaminated,
        "contaminated": gathered.n_contaminated,
        "lint": lint_table(gathered.findings),
        "probed": {
            verdict: sum(one.verdict == verdict for one in probed)
            for verdict in ("known", "unsure", "unknown")
        },
        "cut": packed.n_cut,
        "dropped": packed.n_dropped,
        "rows": len(packed.rows),
        "tokens": packed.n_tokens,
        "trained_tokens": packed.n_trained,
        "packing_efficiency": round(packed.n_tokens / n_places, 4),
        "mixture": mixture_table(gathered),
        "licenses": sorted({share.license for share in gathered.shares if share.license}),
        "trained_by_source": packed.trained_by_source(),
    }


def known_facts(
    config: SFTConfig, parameters: int, corpus_stats: Mapping[str, Any]
) -> dict[str, str | None]:
    """Return what the assistant can say about itself; the date is that of the crawl."""
    from llmpipe.stages.sft.generators.templates import say_count, say_date

    return {
        "name": config.identity.name,
        "maker": config.identity.maker,
        "corpus": config.identity.corpus,
        "parameters": say_count(parameters),
        "date": say_date(corpus_stats.get("crawled_on")),
    }


def needs(config: SFTConfig) -> dict[str, Need]:
    """Name the inputs: a base model, and the corpus that questions are made from."""
    probed = {"probed": Need("model", "probed")} if config.mixture.probed else {}
    return {"model": Need("model", "base"), "corpus": Need("corpus", "corpus"), **probed}


def files(config: SFTConfig) -> list[str]:
    """Name the files whose contents decide the result."""
    from llmpipe.stages.sft.sources import source_files

    named = [file for source in config.sources for file in source_files(source.path)]
    return [*named, *config.decontamination.files]


def also_keyed(config: SFTConfig) -> dict[str, Any]:
    """Name the tasks whose questions are left out of conversations of others, with their versions.

    Without such conversations nothing is left out, so a new task leaves the key as it is.
    """
    from llmpipe.tasks.registry import TASKS

    if not config.sources:
        return {}
    return {"left_out_tasks": {name: task.version for name, task in TASKS.items()}}


def plan(config: SFTConfig, inputs: Inputs) -> dict[str, str]:
    """Tell what a run would do, and what the linter says of the first rows of the sources."""
    weights = vars(config.mixture) | {s.path: s.weight for s in config.sources}
    total = sum(weights.values()) or 1.0
    planned = {
        "conversations": f"{config.conversations:,}",
        "mixture": ", ".join(f"{name} {w / total:.0%}" for name, w in weights.items() if w),
        "batch": f"{config.global_batch_tokens:,} tokens per update",
        "optimizer": f"{config.optim.kind}, learning rate {config.optim.lr:g}",
    }
    for source in config.sources:
        planned[f"lint {source.path}"] = lint_source(source, config.identity.name)
    return planned


def lint_source(source: FileSource, own_name: str) -> str:
    """Say in a line what the linter finds in the first rows of a source."""
    from collections import Counter

    from llmpipe.core.records.rows import HUB
    from llmpipe.stages.sft.lint import RULES, lint
    from llmpipe.stages.sft.sources import read_conversations

    if source.path.startswith(HUB):
        return "on the hub, looked at when it is read"
    read, errors = read_conversations(source.path, "", source.split, limit=LINTED_ROWS)
    findings = [finding for conversation in read for finding in lint(conversation, own_name)]
    found = Counter(finding.rule for finding in findings)
    counts = {rule: found[rule] for rule in RULES if found[rule]}
    told = [f"{n:,} {rule}" for rule, n in counts.items()]
    if errors:
        told.append(f"{len(errors):,} unusable rows, the first {errors[0]}")
    for rule in counts:
        first = next(finding for finding in findings if finding.rule == rule)
        told.append(f"{rule}: `{first.excerpt}`")
    return f"{len(read):,} conversations looked at; " + ("; ".join(told) or "nothing found")


def headline(stats: Mapping[str, Any]) -> str:
    """Sum a run up."""
    losses = [f"{name} {loss:.2f}" for name, loss in stats["val_loss"].items()]
    return (
        f"{stats['conversations']:,} conversations, {stats['steps']:,} steps; "
        f"held-out loss: {', '.join(losses) or 'not measured'}"
    )


SPEC = StageSpec(
    name="sft",
    version=2,
    summary="Base model + conversations -> chat model",
    config=SFTConfig,
    folder="sft",
    writes="model",
    run=run,
    needs=needs,
    files=files,
    also_keyed=also_keyed,
    plan=plan,
    headline=headline,
    report=report,
    examples=(
        "llmpipe sft configs/tiny.toml",
        "llmpipe sft configs/tiny.toml --set sft.conversations=2000 --out runs/quick",
    ),
    uses=("llmpipe chat {path}",),
    distributed=True,
)
