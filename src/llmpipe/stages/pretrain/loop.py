"""The training loop of `pretrain`, top to bottom."""

# T time

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llmpipe.core.artifact import write_atomic
from llmpipe.core.distributed import Runtime, resolve_dtype
from llmpipe.core.errors import UserError
from llmpipe.core.stage import Context
from llmpipe.model.transformer import Transformer
from llmpipe.stages.pretrain.budget import Budget
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.shards import TokenShards
from llmpipe.training.checkpoint import CheckpointWriter, find_checkpoint, load_checkpoint
from llmpipe.training.evaluate import evaluate
from llmpipe.training.fsdp import reshard
from llmpipe.training.loss import IGNORE
from llmpipe.training.optim import build_optimizer
from llmpipe.training.parallel import my_share
from llmpipe.training.prefetch import prefetch
from llmpipe.training.profile import StepProfiler
from llmpipe.training.rows import MixedRows, Rows
from llmpipe.training.sample import sample_ids
from llmpipe.training.schedule import lr_factor
from llmpipe.training.step import Batch, SpikeGuard, train_step
from llmpipe.training.throughput import Speedometer, flops_per_token, peak_flops


@dataclass(frozen=True)
class Corpus:
    """Tokens of one artifact."""

    train: TokenShards
    val: TokenShards
    weight: float = 1.0


@dataclass(frozen=True)
class Data:
    """What is trained on and measured on."""

    corpora: Sequence[Corpus]
    tokenizer: Tokenizer

    @property
    def n_train_tokens(self) -> int:
        """Count the tokens to train on, each once."""
        return sum(corpus.train.n_tokens for corpus in self.corpora)


def train(  # noqa: C901, PLR0915 (a loop is read top to bottom, in one piece)
    model: Transformer,
    data: Data,
    budget: Budget,
    config: PretrainConfig,
    out: Path,
    ctx: Context,
    runtime: Runtime,
    export: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train `model` in place; resumes from `out/state`; returns the stage's numbers.

    Args:
        model: With its first weights, on the device.
        data: What is trained on and measured on.
        budget: Steps of the run.
        config: With every setting filled in.
        out: Folder of the run.
        ctx: Where to speak and log.
        runtime: Device and processes.
        export: Called every `config.export_every` steps to write down the model as it is.
    """
    # -----------------------------------------------------------------------------------------
    # setup

    ranks, n_steps = runtime.ranks, budget.n_steps
    row_tokens = config.row_tokens
    assert row_tokens is not None, "filled in by `depth.fill_in`"
    micro = config.micro_batch_size
    rows = training_rows(data, row_tokens, budget.n_rows * n_steps, ctx.seed)
    my_micro_batches = my_share(range(budget.n_micro_batches), ranks)
    val_batches = validation_batches(data, config, row_tokens, runtime)
    bytes_of_id = count_bytes(data.tokenizer)

    dtype = resolve_dtype(config.dtype, runtime.device, is_fast_on_cpu=True)
    is_compiled = config.compile == "always" or (config.compile == "auto" and runtime.is_cuda)
    if is_compiled:
        for block in model.blocks:
            block.compile()
    optimizer = build_optimizer(model, config.optim, ranks)
    writer = CheckpointWriter(out / "state", config.keep_checkpoints, ranks.is_main)
    guard = SpikeGuard()
    speed = Speedometer(flops_per_token(model.config, row_tokens), peak_flops(runtime.device))

    first_step, samples = 0, list[dict[str, Any]]()
    val_loss = val_bpb = train_loss = math.nan
    checkpoint = find_checkpoint(out / "state")
    if checkpoint is not None:
        load_checkpoint(checkpoint, model, optimizer)
        first_step, state = checkpoint.step, checkpoint.state
        guard.load_state(state["guard"])
        samples = state["samples"]
        train_loss, val_loss, val_bpb = state["losses"]
        ctx.console.info(f"pretrain: going on after step {first_step:,}")
    ctx.metrics.rewind(first_step)
    last_save = time.monotonic()

    def batches_of(step: int) -> list[Batch]:
        first_row = step * budget.n_rows
        return [
            rows.batch(first_row + i * micro, micro, config.document_mask) for i in my_micro_batches
        ]

    coming = prefetch(batches_of, first_step, n_steps, pin=runtime.is_cuda)
    profiler = StepProfiler(out / "logs" / "trace.json", config.profile and ranks.is_main)

    # -----------------------------------------------------------------------------------------
    # steps

    model.train()
    with ctx.console.progress("pretrain", n_steps, "step") as progress, writer, profiler:
        for step in range(first_step, n_steps):
            # train
            speed.start()
            waiting = time.monotonic()
            batches = next(coming)
            wait_s = time.monotonic() - waiting
            factor = lr_factor(step, n_steps, config.schedule) * (config.lr_scale or 1.0)
            result = train_step(
                model,
                optimizer,
                batches,
                factor,
                guard,
                runtime,
                dtype,
                config.exact,
                config.z_loss,
            )
            seconds = speed.stop(budget.n_rows * row_tokens)
            train_loss, done = result.loss, step + 1
            log: dict[str, Any] = {
                "loss": result.loss,
                "lr": config.optim.lr * factor,
                "grad_norm": result.grad_norm,
                "tok_per_s": round(budget.n_rows * row_tokens / seconds),
                "seconds": round(seconds, 4),
                "wait_s": round(wait_s, 5),
            }
            if result.skipped is not None:
                log["skipped"] = result.skipped
                first_row = step * budget.n_rows
                last_row = first_row + budget.n_rows - 1
                ctx.console.warn(
                    f"step {done}: update skipped, {result.skipped} (rows {first_row} to {last_row})"
                )
            if guard.n_in_a_row >= config.max_skipped_in_a_row:
                raise UserError(
                    f"{guard.n_in_a_row} updates in a row could not be used: {result.skipped}",
                    hint="lower the learning rate: `--set pretrain.optim.lr=…`, with --fresh",
                )

            # evaluate
            if is_due(config.eval_every, done, n_steps):
                val_loss, val_bpb = evaluate(model, val_batches, bytes_of_id, runtime, dtype)
                reshard(model)
                log |= {"val_loss": val_loss, "val_bpb": val_bpb}

            # sample
            takes_part = ranks.is_main or config.parallel == "fsdp"
            if is_due(config.sample_every, done, n_steps) and takes_part:
                with eager(is_compiled):
                    samples += write_samples(model, data.tokenizer, config, done, ctx.seed)
                reshard(model)
                if ranks.is_main:
                    save_samples(samples, out)
                ctx.console.info(f"step {done:,}: {samples[-1]['text']!r}")

            # export
            if export is not None and config.export_every and done % config.export_every == 0:
                export(done)

            # log
            if speed.peak_flops is not None:
                log["mfu"] = speed.mfu(ranks.world_size)
            ctx.metrics.log(done, **log)
            headline = f"loss {result.loss:.3f}"
            if math.isfinite(val_bpb):
                headline += f"  val_bpb {val_bpb:.3f}"
            profiler.step()
            progress.update(done, headline, f"{speed.tokens_per_s:,.0f} tokens/s")

            # save
            must_stop = runtime.any(ctx.stop.requested)
            must_save = runtime.any(time.monotonic() - last_save >= config.checkpoint_every_s)
            if (must_stop or must_save) and done < n_steps:
                losses = [train_loss, val_loss, val_bpb]
                state = {"guard": guard.state(), "samples": samples, "losses": losses}
                writer.save(done, model, optimizer, state)
                last_save = time.monotonic()
                if must_stop:
                    writer.finish()
                    runtime.barrier()
                    ctx.stop.request()  # on the processes that no signal came to
                    ctx.stop.check()
        writer.finish()

    return {
        "steps": n_steps,
        "tokens": n_steps * budget.n_rows * row_tokens,
        "flops": n_steps * budget.n_rows * row_tokens * speed.flops_per_token,
        "train_loss": train_loss,
        "val_loss": val_loss,
        "val_bpb": val_bpb,
        "skipped_updates": guard.n_skipped,
        "tok_per_s": round(speed.tokens_per_s),
    }


# ---------------------------------------------------------------------------------------------
# parts


def is_due(every: int | None, done: int, n_steps: int) -> bool:
    """Tell whether something that happens every so many steps, and after the last, happens now."""
    return every is not None and (done % every == 0 or done == n_steps)


def training_rows(data: Data, row_tokens: int, n_rows: int, seed: int) -> Rows | MixedRows:
    """Number the rows of the run, over all corpora."""
    parts = [Rows(corpus.train, row_tokens, seed) for corpus in data.corpora]
    if len(parts) == 1:
        return parts[0]
    return MixedRows(parts, [corpus.weight for corpus in data.corpora], n_rows)


def validation_batches(
    data: Data, config: PretrainConfig, row_tokens: int, runtime: Runtime
) -> list[Batch]:
    """Cut this process's share of the validation tokens, in order, at most `eval_tokens` in all.

    Corpora of a mixture are measured in the proportions in which they are trained on.
    """
    micro = config.micro_batch_size
    total = math.fsum(corpus.weight for corpus in data.corpora)
    cuts: list[tuple[Rows, int, int]] = []
    for corpus in data.corpora:
        rows = Rows(corpus.val, row_tokens, seed=None)
        wanted = int(config.eval_tokens * corpus.weight / total) // row_tokens
        n_rows = min(rows.rows_per_epoch, max(1, wanted))
        cuts += [(rows, i, min(micro, n_rows - i)) for i in range(0, n_rows, micro)]
    n_processes = runtime.ranks.world_size
    batches = [
        rows.batch(first, n, config.document_mask)
        for rows, first, n in cuts[runtime.ranks.rank :: n_processes]
    ]
    if len(batches) < -(-len(cuts) // n_processes):
        # With FSDP all processes must go through the model equally often: one more, for nothing.
        nothing = cuts[0][0].batch(0, 1, config.document_mask)
        batches.append(replace(nothing, targets=torch.full_like(nothing.targets, IGNORE)))
    return batches


def count_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    """Give the bytes of text of each id; special tokens stand for none."""
    special = set(tokenizer.special.values())
    sizes = [
        0 if i in special else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)
    ]
    return torch.tensor(sizes)


def write_samples(
    model: Transformer, tokenizer: Tokenizer, config: PretrainConfig, step: int, seed: int
) -> list[dict[str, Any]]:
    """Let the model continue each prompt; the same step and seed give the same text."""
    samples = []
    for i, prompt in enumerate(config.sample_prompts):
        ids = sample_ids(
            model,
            [tokenizer.bos_id, *tokenizer.encode(prompt)],
            config.sample_tokens,
            config.sample_temperature,
            seed=(seed * 1_000_003 + step) * 1_009 + i,  # primes: no two runs or prompts share one
            stop_id=tokenizer.bos_id,
        )
        samples.append({"step": step, "prompt": prompt, "text": tokenizer.decode(ids)})
    return samples


def save_samples(samples: list[dict[str, Any]], out: Path) -> None:
    """Write all samples so far, one JSON object a line."""
    lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    write_atomic(out / "samples.jsonl", "".join(lines))


def eager(is_compiled: bool) -> contextlib.AbstractContextManager[Any]:
    """Run compiled blocks uncompiled: samples grow by a token each, and each would compile anew."""
    return torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext()
