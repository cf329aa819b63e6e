"""The `sft` stage: base model + conversations -> a model that answers, calls tools and stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import write_atomic
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.sft.config import SFTConfig
from llmpipe.stages.sft.report import report


def run(config: SFTConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Make the conversations, train on them, and write a complete model artifact."""
    import json
    import random

    from llmpipe.assistant.template import CHAT_TEMPLATE
    from llmpipe.core.distributed import runtime
    from llmpipe.core.errors import UserError
    from llmpipe.model.config import n_parameters
    from llmpipe.model.weights import load_model, save_generation_config, save_model
    from llmpipe.stages.sft.loop import Rows, train
    from llmpipe.stages.sft.prepare import (
        by_source,
        gather,
        mixture_table,
        pack_conversations,
    )
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.special import IM_END

    base = inputs["model"].path
    with runtime(ctx.device) as where:
        tokenizer = Tokenizer.load(base)
        model = load_model(base, where.device)
        limit = model.config.max_seq_len
        max_seq_len = config.max_seq_len or limit
        if max_seq_len > limit:
            raise UserError(f"sft.max_seq_len ({max_seq_len}) is over the model's own ({limit})")

        facts = known_facts(config, n_parameters(model.config), inputs["corpus"].stats)
        gathered = gather(config, facts, inputs["corpus"].path, ctx.seed)
        rng = random.Random(f"sft rows {ctx.seed}")
        packed = pack_conversations(gathered.train, tokenizer, config, max_seq_len, rng)
        held_out = {
            name: pack_conversations(conversations, tokenizer, config, max_seq_len, rng).rows
            for name, conversations in by_source(gathered.held_out).items()
        }
        rows = Rows(packed.rows, held_out, max_seq_len, tokenizer.pad_id)
        trained = train(model, tokenizer, rows, config, out, ctx, where)

        if where.ranks.is_main:
            save_model(model, out)
            tokenizer.save(out, CHAT_TEMPLATE)
            stop_ids = [tokenizer.special[IM_END], tokenizer.bos_id]
            save_generation_config(out, tokenizer.bos_id, stop_ids, tokenizer.pad_id)
            for name, conversations in (
                ("conversations.jsonl", gathered.train),
                ("held_out.jsonl", gathered.held_out),
            ):
                lines = "".join(f"{conversation.to_json()}\n" for conversation in conversations)
                write_atomic(out / name, lines)
            lines = "".join(json.dumps(sample) + "\n" for sample in trained.samples)
            write_atomic(out / "samples.jsonl", lines)

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
        "bad_rows": gathered.n_bad_rows,
        "cut": packed.n_cut,
        "dropped": packed.n_dropped,
        "rows": len(packed.rows),
        "tokens": packed.n_tokens,
        "trained_tokens": packed.n_trained,
        "packing_efficiency": round(packed.n_tokens / n_places, 4),
        "mixture": mixture_table(gathered),
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
    return {"model": Need("model", "base"), "corpus": Need("corpus", "corpus")}


def files(config: SFTConfig) -> list[str]:
    """Name the files whose contents decide the result."""
    return [source.path for source in config.sources]


def plan(config: SFTConfig, inputs: Inputs) -> dict[str, str]:
    """Tell what a run would do."""
    weights = vars(config.mixture) | {s.path: s.weight for s in config.sources}
    total = sum(weights.values()) or 1.0
    return {
        "conversations": f"{config.conversations:,}",
        "mixture": ", ".join(f"{name} {w / total:.0%}" for name, w in weights.items() if w),
        "batch": f"{config.global_batch_tokens:,} tokens per update",
        "optimizer": f"{config.optim.kind}, learning rate {config.optim.lr:g}",
    }


def headline(stats: Mapping[str, Any]) -> str:
    """Sum a run up."""
    losses = [f"{name} {loss:.2f}" for name, loss in stats["val_loss"].items()]
    return (
        f"{stats['conversations']:,} conversations, {stats['steps']:,} steps; "
        f"held-out loss: {', '.join(losses) or 'not measured'}"
    )


SPEC = StageSpec(
    name="sft",
    version=1,
    summary="Base model + conversations -> chat model",
    config=SFTConfig,
    folder="sft",
    writes="model",
    run=run,
    needs=needs,
    files=files,
    plan=plan,
    headline=headline,
    report=report,
    examples=(
        "llmpipe sft configs/tiny.toml",
        "llmpipe sft configs/tiny.toml --set sft.conversations=2000 --out runs/quick",
    ),
    distributed=True,
)
