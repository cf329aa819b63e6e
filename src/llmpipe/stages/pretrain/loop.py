"""The training loop of `pretrain`, top to bottom."""

# T time

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llmpipe.core.distributed import Runtime, resolve_dtype
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.stage import Context
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_model
from llmpipe.stages.pretrain.budget import Budget
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.stages.pretrain.data import Data, count_bytes, training_rows, validation_batches
from llmpipe.stages.pretrain.extend import LEVEL, NO_EXTENSION, Extension
from llmpipe.stages.pretrain.watch import lines_of, save_samples, write_samples
from llmpipe.training.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    find_checkpoint,
    load_checkpoint,
)
from llmpipe.training.evaluate import evaluate
from llmpipe.training.evaluations.build import Scheduled
from llmpipe.training.evaluations.hook import EvaluationHook, eager
from llmpipe.training.fsdp import reshard
from llmpipe.training.optim import build_optimizer
from llmpipe.training.parallel import my_share
from llmpipe.training.prefetch import prefetch
from llmpipe.training.profile import StepProfiler
from llmpipe.training.schedule import lr_factor
from llmpipe.training.step import Batch, SpikeGuard, batch_loss, train_step
from llmpipe.training.throughput import (
    Speedometer,
    flops_per_token,
    peak_flops,
    peak_memory_bytes,
)


def train(  # noqa: C901, PLR0915 (a loop is read top to bottom, in one piece)
    model: Transformer,
    data: Data,
    budget: Budget,
    config: PretrainConfig,
    out: Path,
    ctx: Context,
    runtime: Runtime,
    complete: Callable[[Path], None] = lambda folder: None,
    extension: Extension = NO_EXTENSION,
    evaluations: Sequence[Scheduled] = (),
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
        complete: Writes beside a model's weights what else it takes to open the folder.
        extension: The run that this one goes on from, and what is kept for those that go on from it.
        evaluations: What is called along the way, besides bits per byte.
    """
    # -----------------------------------------------------------------------------------------
    # setup

    ranks, n_steps = runtime.ranks, budget.n_steps
    row_tokens = config.row_tokens
    assert row_tokens is not None, "filled in by `depth.fill_in`"
    micro = config.micro_batch_size
    rows = training_rows(data, row_tokens, budget.first_row(n_steps), ctx.seed)
    my_micro_batches = my_share(range(budget.n_micro_batches), ranks)
    val_batches = validation_batches(data, config, row_tokens, runtime)
    bytes_of_id = count_bytes(data.tokenizer)

    dtype = resolve_dtype(config.dtype, runtime.device, is_fast_on_cpu=True)
    if len(found := set(runtime.gather(str(dtype)))) > 1:
        raise UserError(
            f"the processes would compute in different types: {', '.join(sorted(found))}",
            hint="say which: `--set pretrain.dtype=float32`",
        )
    is_compiled = config.compile == "always" or (config.compile == "auto" and runtime.is_cuda)
    if is_compiled:
        for block in model.blocks:
            block.compile()
    optimizer = build_optimizer(model, config.optim, ranks)
    bos = data.tokenizer.bos_id
    writer = CheckpointWriter(out / "state", runtime, config.keep_checkpoints, complete, bos)
    guard = SpikeGuard()
    loss = partial(batch_loss, z_loss=config.z_loss)
    speed = Speedometer(flops_per_token(model.config, row_tokens), peak_flops(runtime.device))
    hook = EvaluationHook(
        evaluations,
        model,
        data.tokenizer,
        runtime,
        dtype,
        n_steps,
        row_tokens,
        micro * row_tokens,
        is_compiled,
        ctx.console,
        out / "logs" / "evaluation-errors.txt",
    )

    first_step, samples = 0, list[dict[str, Any]]()
    val_loss = val_bpb = train_loss = math.nan
    checkpoint = find_checkpoint(out / "state", runtime) or find_level(extension, runtime)
    if checkpoint is not None:
        load_checkpoint(checkpoint, model, optimizer, runtime)
        first_step, state = checkpoint.step, checkpoint.state
        guard.load_state(state["guard"])
        samples = state["samples"]
        train_loss, val_loss, val_bpb = state["losses"]
        hook.load_state(state["evaluations"])
        ctx.console.info(f"pretrain: going on after step {first_step:,}")
    ctx.metrics.rewind(first_step or -1)  # a run that begins anew writes its step 0 anew
    started = last_save = time.monotonic()

    def loop_state() -> dict[str, Any]:
        losses = [train_loss, val_loss, val_bpb]
        return {
            "guard": guard.state(),
            "samples": samples,
            "losses": losses,
            "evaluations": hook.state(),
        }

    def keep_level(step: int) -> None:
        if config.keep_level and step == budget.schedule.n_before_cooldown:
            with CheckpointWriter(out / LEVEL, runtime, 1, complete, bos) as level:
                shared = {"shared": extension.shared}
                level.save(step, model, optimizer, loop_state() | shared)
                # To the end: no run that is resumed after this step comes by here again.
                level.finish()

    def batches_of(step: int) -> list[Batch]:
        first_row = budget.first_row(step)
        return [
            rows.batch(first_row + i * micro, micro, config.document_mask) for i in my_micro_batches
        ]

    coming = prefetch(batches_of, first_step, n_steps, pin=runtime.is_cuda)
    profiler = StepProfiler(out / "logs" / "trace.json", config.profile and ranks.is_main)

    # -----------------------------------------------------------------------------------------
    # steps

    model.train()
    with (
        eager(runtime.is_cuda and not is_compiled),  # the loss would be compiled there as well
        ctx.console.progress("pretrain", n_steps, "step") as progress,
        writer,
        profiler,
    ):
        if first_step == 0 and (at_start := hook.run(0)):
            ctx.metrics.log(0, **at_start)
        for step in range(first_step, n_steps):
            keep_level(step)

            # train
            speed.start()
            waiting = time.monotonic()
            batches = next(coming)
            wait_s = time.monotonic() - waiting
            factor = lr_factor(step, budget.schedule) * (config.lr_scale or 1.0)
            result = train_step(
                model,
                optimizer,
                batches,
                factor,
                guard,
                runtime,
                dtype,
                config.exact,
                loss,
            )
            seconds = speed.stop(budget.n_rows * row_tokens)
            tok_per_s = budget.n_rows * row_tokens / seconds
            train_loss, done = result.loss, step + 1
            log: dict[str, Any] = {
                "loss": result.loss,
                "lr": config.optim.lr * factor,
                "grad_norm": result.grad_norm,
                "tokens": done * budget.n_rows * row_tokens,
                "tok_per_s": round(tok_per_s),
                "seconds": round(seconds, 4),
                "wait_s": round(wait_s, 5),
            }
            if result.skipped is not None:
                log["skipped"] = result.skipped
                first_row = budget.first_row(step)
                stop_row = first_row + budget.n_rows
                folder = out.with_name(out.name.removeprefix(".").removesuffix(".partial"))
                ctx.console.warn(
                    f"step {done}: update skipped, {result.skipped} (rows {first_row} to "
                    f"{stop_row - 1}; see `llmpipe tokens --rows {first_row}:{stop_row} --run {folder}`)"
                )
            if guard.n_in_a_row >= config.max_skipped_in_a_row:
                raise UserError(
                    f"{guard.n_in_a_row} updates in a row could not be used: {result.skipped}",
                    hint="lower the learning rate, `--set pretrain.optim.lr=…`, and begin anew with --fresh",
                )

            # evaluate
            if is_due(config.eval_every, done, n_steps):
                val_loss, val_bpb = evaluate(model, val_batches, bytes_of_id, runtime, dtype)
                reshard(model)
                log |= {"val_loss": val_loss, "val_bpb": val_bpb}
                ctx.console.info(f"step {done:,}: val_bpb {val_bpb:.3f}")
            log |= hook.run(done)

            # sample
            takes_part = ranks.is_main or config.parallel == "fsdp"
            if is_due(config.sample_every, done, n_steps) and takes_part:
                with eager(is_compiled):
                    samples += write_samples(model, data.tokenizer, config, done, ctx.seed)
                reshard(model)
                if ranks.is_main:
                    save_samples(samples, out)
                for line in lines_of(samples[-len(config.sample_prompts) :]):
                    ctx.console.info(line)

            # export
            if config.export_every and done % config.export_every == 0:
                copy = out / "steps" / f"step-{done:08d}"
                save_model(model, copy, bos, bos, ranks=ranks)
                if ranks.is_main:
                    complete(copy)

            # log
            left = (time.monotonic() - started) / (done - first_step) * (n_steps - done)
            log |= {"memory_bytes": peak_memory_bytes(runtime.device), "left_s": round(left, 1)}
            if speed.peak_flops is not None:
                log["mfu"] = speed.mfu(tok_per_s, ranks.world_size)
            ctx.metrics.log(done, **log)
            headline = f"loss {result.loss:.3f}"
            if math.isfinite(val_bpb):
                headline += f"  val_bpb {val_bpb:.3f}"
            profiler.step()
            progress.update(done, headline, f"{speed.tokens_per_s:,.0f} tokens/s")

            # save
            is_late = time.monotonic() - last_save >= config.checkpoint_every_s
            must_stop, must_save = runtime.sum([float(ctx.stop.requested), float(is_late)])
            if (must_stop or must_save) and done < n_steps:
                writer.save(done, model, optimizer, loop_state())
                last_save = time.monotonic()
                if must_stop:
                    writer.finish()
                    runtime.barrier()
                    ctx.stop.request()  # on the processes that no signal came to
                    ctx.stop.check()
        keep_level(n_steps)
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
        **hook.stats(),
    }


# ---------------------------------------------------------------------------------------------
# parts


def is_due(every: int | None, done: int, n_steps: int) -> bool:
    """Tell whether something that happens every so many steps, and after the last, happens now."""
    return every is not None and (done % every == 0 or done == n_steps)


def find_level(extension: Extension, runtime: Runtime) -> Checkpoint | None:
    """Find what the earlier run kept, if this one goes on from one.

    Raises:
        InputError: if it is damaged.
    """
    if extension.earlier is None:
        return None
    checkpoint = find_checkpoint(extension.earlier / LEVEL, runtime)
    if checkpoint is None:
        raise InputError(
            f"the checkpoint in `{extension.earlier / LEVEL}` is not as it was written",
            hint=f"`llmpipe verify {extension.earlier}` says which file is damaged",
        )
    return checkpoint
