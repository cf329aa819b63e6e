"""The training loop of `sft`: the one of pretraining with other rows and another look at progress."""

# B batch  T time

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmpipe.assistant.generate import Tools, answer_many
from llmpipe.assistant.render import Message
from llmpipe.assistant.tools import open_tools
from llmpipe.core.distributed import Runtime, resolve_dtype
from llmpipe.core.errors import UserError
from llmpipe.core.stage import Context
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.model.transformer import Transformer
from llmpipe.stages.sft.config import SFTConfig
from llmpipe.stages.sft.packing import SHORTEST_ROW, MaskedSequence, make_batch, refold
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.checkpoint import CheckpointWriter, find_checkpoint, load_checkpoint
from llmpipe.training.evaluate import evaluate
from llmpipe.training.optim import build_optimizer
from llmpipe.training.parallel import my_share
from llmpipe.training.schedule import lr_factor, phases
from llmpipe.training.step import Batch, SpikeGuard, train_step
from llmpipe.training.throughput import Speedometer, flops_per_token, peak_flops

MAX_SAMPLE_TOKENS = 80


@dataclass(frozen=True)
class ConversationRows:
    """What is trained on and what is measured on; all rows have `n_time` tokens."""

    train: Sequence[Sequence[MaskedSequence]]
    held_out: Mapping[str, Sequence[Sequence[MaskedSequence]]]
    """By source, because they differ in what can be learned: facts that were not trained cannot."""
    n_time: int
    pad_id: int

    def batches(
        self, rows: Sequence[Sequence[MaskedSequence]], micro: int, runtime: Runtime
    ) -> list[Batch]:
        """Deal rows to all processes and return this one's micro-batches.

        A micro-batch has at most the tokens of `micro` rows.
        """
        n_processes = runtime.ranks.world_size
        cut: list[tuple[int, Sequence[Sequence[MaskedSequence]]]]  # (length of the rows, rows)
        mine: Sequence[tuple[int, Sequence[Sequence[MaskedSequence]]]]
        if self.n_time < 2 * SHORTEST_ROW:
            n_parts = n_processes * math.ceil(len(rows) / (n_processes * micro))
            parts = np.array_split(np.arange(len(rows)), n_parts)
            cut = [(self.n_time, [rows[i] for i in part]) for part in parts]
            mine = my_share(cut, runtime.ranks)
        else:
            # All processes fold the same, and take every n-th of the parts, which come by length.
            folded = refold([sample for row in rows for sample in row], self.n_time)
            cut = []
            for length, laid in folded.items():
                n_rows = micro * self.n_time // length
                cut += [(length, laid[i : i + n_rows]) for i in range(0, len(laid), n_rows)]
            mine = cut[runtime.ranks.rank :: n_processes]
        return [
            make_batch(part, length, self.pad_id)
            for length, part in mine
            if part  # with few rows and many processes, some have nothing to do
        ]


@dataclass(frozen=True)
class Trained:
    """What the loop found out besides the weights."""

    val_losses: dict[str, float]
    """Loss on held-out conversations, by source."""
    train_loss: float
    n_steps: int
    n_skipped: int
    samples: list[dict[str, Any]]


def count_steps(n_rows: int, rows_per_step: int, n_processes: int) -> int:
    """Return the updates of one pass; a rest too small for all processes is left out."""
    whole, rest = divmod(n_rows, rows_per_step)
    return whole + (rest >= n_processes)


def train(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: ConversationRows,
    config: SFTConfig,
    out: Path,
    ctx: Context,
    runtime: Runtime,
    complete: Callable[[Path], None] = lambda folder: None,
) -> Trained:
    """Train `model` in place on all rows once; resumes from `out/state`.

    `complete` writes beside a model's weights what else it takes to open the folder.
    """
    # -----------------------------------------------------------------------------------------
    # setup

    dtype = resolve_dtype(config.dtype, runtime.device)
    rows_per_step = max(1, config.global_batch_tokens // rows.n_time)
    n_steps = count_steps(len(rows.train), rows_per_step, runtime.ranks.world_size)
    if not n_steps:
        raise UserError(
            f"{len(rows.train)} rows are too few for {runtime.ranks.world_size} processes"
        )
    schedule = phases(config.schedule, n_steps, rows_per_step * rows.n_time)
    optimizer = build_optimizer(model, config.optim, runtime.ranks)
    # Conversations differ more in loss than documents do, so only what is not finite is skipped.
    guard = SpikeGuard(n_sigma=None)
    speed = Speedometer(flops_per_token(model.config, rows.n_time), peak_flops(runtime.device))
    no_bytes = torch.zeros(
        model.config.vocab_size, dtype=torch.long
    )  # bits per byte are not wanted
    held_out = {
        name: rows.batches(of_source, config.micro_batch_size, runtime)
        for name, of_source in rows.held_out.items()
    }
    train_loss = math.nan
    val_losses: dict[str, float] = {}
    samples: list[dict[str, Any]] = []
    first_step = 0
    writer = CheckpointWriter(out / "state", runtime, complete=complete)
    checkpoint = find_checkpoint(out / "state", runtime)
    if checkpoint is not None:
        load_checkpoint(checkpoint, model, optimizer, runtime)
        first_step = checkpoint.step
        guard.load_state(checkpoint.state["guard"])
        val_losses, train_loss = checkpoint.state["val_losses"], checkpoint.state["train_loss"]
        samples = checkpoint.state["samples"]
    ctx.metrics.rewind(first_step)

    def save(step: int) -> None:
        state = {
            "guard": guard.state(),
            "val_losses": val_losses,
            "train_loss": train_loss,
            "samples": samples,
        }
        writer.save(step, model, optimizer, state)

    # -----------------------------------------------------------------------------------------
    # steps

    model.train()
    with (
        ctx.console.progress("sft", n_steps, "step") as progress,
        open_tools(("python",)) as tools,
        writer,
    ):
        for step in range(first_step, n_steps):
            speed.start()
            in_step = rows.train[step * rows_per_step : (step + 1) * rows_per_step]
            batches = rows.batches(in_step, config.micro_batch_size, runtime)
            factor = lr_factor(step, schedule)
            result = train_step(model, optimizer, batches, factor, guard, runtime, dtype)
            speed.stop(len(in_step) * rows.n_time)
            train_loss, done = result.loss, step + 1
            is_last = done == n_steps
            log: dict[str, Any] = {
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "lr_factor": factor,
                "n_trained": result.n_trained,
                "tokens_per_s": round(speed.tokens_per_s),
            }

            # evaluate
            if done % config.validate_every == 0 or is_last:
                for name, of_source in held_out.items():
                    val_losses[name], _ = evaluate(model, of_source, no_bytes, runtime, dtype)
                    log[f"val_loss_{name}"] = val_losses[name]
            if (done % config.sample_every == 0 or is_last) and runtime.ranks.is_main:
                answers = ask(model, tokenizer, config, tools, ctx.console.warn)
                samples.append({"step": done, "answers": answers})

            # log
            ctx.metrics.log(done, **log)
            tokens_per_s = f"{speed.tokens_per_s:,.0f} tokens/s"
            progress.update(done, f"loss {result.loss:.3f}", tokens_per_s)

            # save
            must_stop = runtime.any(ctx.stop.requested)
            if (done % config.save_every == 0 or must_stop) and not is_last:
                save(done)
            if must_stop and not is_last:
                writer.finish()
                runtime.barrier()
                if not ctx.stop.requested:  # on the processes that no signal came to
                    ctx.stop.request()
                ctx.stop.check()
        writer.finish()
    if guard.n_skipped:
        ctx.console.warn(f"{guard.n_skipped} of {n_steps} updates were skipped: not finite")
    return Trained(val_losses, train_loss, n_steps, guard.n_skipped, samples)


def ask(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SFTConfig,
    tools: Tools,
    warn: Callable[[str], None],
) -> list[dict[str, str]]:
    """Put the fixed questions to the model as it is now, and take the likeliest answers."""
    model.eval()
    engine = Engine(model, max_batch=len(config.questions) or 1, warn=warn)
    answers = answer_many(
        engine,
        tokenizer,
        [[Message("user", question)] for question in config.questions],
        Sampling(temperature=0.0, max_tokens=MAX_SAMPLE_TOKENS),
        tools,
    )
    model.train()
    return [
        {"question": question, "answer": tokenizer.decode(answer.ids)}
        for question, answer in zip(config.questions, answers, strict=True)
    ]
