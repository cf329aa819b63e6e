"""The training loop of `pretrain`, top to bottom."""

# T time

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import dataclass
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
from llmpipe.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from llmpipe.training.evaluate import evaluate
from llmpipe.training.optim import build_optimizer
from llmpipe.training.parallel import my_share
from llmpipe.training.rows import Rows
from llmpipe.training.sample import sample_ids
from llmpipe.training.schedule import lr_factor
from llmpipe.training.step import Batch, SpikeGuard, train_step
from llmpipe.training.throughput import Speedometer, flops_per_token, peak_flops


@dataclass(frozen=True)
class Data:
    """What is trained on and measured on."""

    train: TokenShards
    val: TokenShards
    tokenizer: Tokenizer


def train(  # noqa: PLR0915 (a loop is read top to bottom, in one piece)
    model: Transformer,
    data: Data,
    budget: Budget,
    config: PretrainConfig,
    out: Path,
    ctx: Context,
    runtime: Runtime,
) -> dict[str, Any]:
    """Train `model` in place; resumes from `out/state`; returns the stage's numbers."""
    # -----------------------------------------------------------------------------------------
    # setup

    ranks, n_steps = runtime.ranks, budget.n_steps
    row_tokens = model.config.max_seq_len
    micro = config.micro_batch_size
    rows = Rows(data.train, row_tokens, ctx.seed)
    my_micro_batches = my_share(range(budget.n_micro_batches), ranks)
    val_batches = validation_batches(data.val, config, row_tokens, runtime)
    bytes_of_id = count_bytes(data.tokenizer)

    dtype = resolve_dtype(config.dtype, runtime.device)
    is_compiled = config.compile == "always" or (config.compile == "auto" and runtime.is_cuda)
    if is_compiled:
        for block in model.blocks:
            block.compile()
    optimizer = build_optimizer(model, config.optim)
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

    # -----------------------------------------------------------------------------------------
    # steps

    model.train()
    with ctx.console.progress("pretrain", n_steps, "step") as progress:
        for step in range(first_step, n_steps):
            # train
            speed.start()
            first_row = step * budget.n_rows
            batches = [
                rows.batch(first_row + i * micro, micro, config.document_mask)
                for i in my_micro_batches
            ]
            factor = lr_factor(step, n_steps, config.schedule)
            result = train_step(model, optimizer, batches, factor, guard, runtime, dtype)
            seconds = speed.stop(budget.n_rows * row_tokens)
            train_loss, done = result.loss, step + 1
            log: dict[str, Any] = {
                "loss": result.loss,
                "lr": config.optim.lr * factor,
                "grad_norm": result.grad_norm,
                "tok_per_s": round(budget.n_rows * row_tokens / seconds),
                "seconds": round(seconds, 4),
            }
            if result.skipped is not None:
                log["skipped"] = result.skipped
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
                log |= {"val_loss": val_loss, "val_bpb": val_bpb}

            # sample
            if is_due(config.sample_every, done, n_steps) and ranks.is_main:
                with eager(is_compiled):
                    samples += write_samples(model, data.tokenizer, config, done, ctx.seed)
                save_samples(samples, out)
                ctx.console.info(f"step {done:,}: {samples[-1]['text']!r}")

            # log
            if speed.peak_flops is not None:
                log["mfu"] = speed.mfu(ranks.world_size)
            ctx.metrics.log(done, **log)
            headline = f"loss {result.loss:.3f}"
            if math.isfinite(val_bpb):
                headline += f"  val_bpb {val_bpb:.3f}"
            progress.update(done, headline, f"{speed.tokens_per_s:,.0f} tokens/s")

            # save
            must_stop = runtime.any(ctx.stop.requested)
            must_save = runtime.any(time.monotonic() - last_save >= config.checkpoint_every_s)
            if (must_stop or must_save) and done < n_steps:
                if ranks.is_main:
                    losses = [train_loss, val_loss, val_bpb]
                    state = {"guard": guard.state(), "samples": samples, "losses": losses}
                    save_checkpoint(
                        out / "state", done, model, optimizer, state, config.keep_checkpoints
                    )
                runtime.barrier()
                last_save = time.monotonic()
                if must_stop:
                    ctx.stop.request()  # on the processes that no signal came to
                    ctx.stop.check()

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


def validation_batches(
    shards: TokenShards, config: PretrainConfig, row_tokens: int, runtime: Runtime
) -> list[Batch]:
    """Cut this process's share of the validation tokens, in order, at most `eval_tokens` in all."""
    rows = Rows(shards, row_tokens, seed=None)
    n_rows = min(rows.rows_per_epoch, max(1, config.eval_tokens // row_tokens))
    micro = config.micro_batch_size
    firsts = range(0, n_rows, micro)[runtime.ranks.rank :: runtime.ranks.world_size]
    return [rows.batch(i, min(micro, n_rows - i), config.document_mask) for i in firsts]


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
