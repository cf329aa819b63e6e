"""Extending a run: what it leaves behind at the end of its level part, and who may go on from there.

Up to its cooldown, a run with a trapezoid schedule does what every longer run of the same settings
does. So the state before the cooldown, kept under `level/`, is one that longer runs, and runs with
another cooldown, can begin with instead of doing all that again.

Settings that decide what was trained so far are written into the checkpoint and compared before work
starts; with `new_data` tokens and seed may be others, and their rows are counted from there on, as
in a cooldown on better text. Settings of speed and memory (`micro_batch_size`, `dtype`, `parallel`,
`recompute`, the number of processes) may differ, as they may when a run is resumed on another
machine; they cost the last bits.

Source: Haegele et al. 2024, arXiv:2405.18392: one long run and a cooldown from several of its points,
in place of one run per length. Hu et al. 2024, arXiv:2404.06395 (MiniCPM): better text in the
cooldown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import Artifact, write_atomic
from llmpipe.core.config import diff_values, resolved
from llmpipe.core.errors import InputError, UserError
from llmpipe.model.config import ModelConfig
from llmpipe.stages.pretrain.budget import Budget
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.training.schedule import Cosine

LEVEL = "level"
"""Folder of the checkpoint before the cooldown, inside the artifact."""

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Extension:
    """How a run is tied to shorter and longer ones."""

    shared: dict[str, Any] = field(default_factory=dict)
    """The settings that all of them have in common."""
    earlier: Path | None = None
    """Artifact of the run that this one goes on from."""


NO_EXTENSION = Extension()
"""Of a run that stands alone."""


def make_extension(
    config: PretrainConfig,
    shape: ModelConfig,
    budget: Budget,
    tokens: Sequence[Artifact],
    seed: int | None,
    earlier: Path | None,
) -> Extension:
    """Tie a run to the one it extends, if any, and to those that may extend it.

    Args:
        config: With every setting filled in.
        shape: Of the model.
        budget: Steps of the run.
        tokens: What is trained on, in the order of the mixture.
        seed: Of the run; None where only a plan is made, which knows of none.
        earlier: Artifact of the run that this one goes on from.

    Raises:
        UserError: if there is no level part to keep, or settings do not fit those of the earlier run.
        InputError: if the earlier run kept nothing to go on from.
    """
    if config.new_data and earlier is None:
        raise UserError(
            '`new_data` has no effect without `start = "checkpoint"`', hint="leave it out"
        )
    if config.keep_level:
        check_level(budget)
    if earlier is None and not config.keep_level:
        return NO_EXTENSION
    shared = shared_settings(config, shape, budget, tokens, seed)
    if earlier is not None:
        check_extension(earlier, shared, budget, config.new_data)
    return Extension(shared, earlier)


def shared_settings(
    config: PretrainConfig,
    shape: ModelConfig,
    budget: Budget,
    tokens: Sequence[Artifact],
    seed: int | None,
) -> dict[str, Any]:
    """Collect all that decides what is trained up to the cooldown, under the names people write."""
    batch = config.global_batch_tokens
    assert batch is not None, "filled in by `depth.fill_in`"
    weights = [corpus.weight for corpus in config.mixture] or [1.0]
    values = resolved(config)
    names = ("optim", "lr_scale", "row_tokens", "global_batch_tokens", "document_mask", "z_loss")
    return {
        "seed": seed,
        "data_from_step": budget.data_from_step,
        "pretrain": {
            "model": resolved(shape),
            **{name: values[name] for name in names},
            "schedule": {
                "kind": config.schedule.kind,
                # However it was given: what counts is how many steps it took.
                "warmup_tokens": budget.schedule.n_warmup * batch,
            },
        },
        "corpora": {
            str(number): {"tokens": part.id, "share": weight / math.fsum(weights)}
            for number, (part, weight) in enumerate(zip(tokens, weights, strict=True), start=1)
        },
    }


def check_level(budget: Budget) -> None:
    """Refuse to keep the end of a level part that does not exist.

    Raises:
        UserError: saying what the schedule has instead.
    """
    parts = budget.schedule
    if isinstance(parts.schedule, Cosine):
        raise UserError(
            "`keep_level` needs a schedule with a level part, and a cosine falls from the start",
            hint="use `--set pretrain.schedule.kind=trapezoid`",
        )
    if parts.n_level == 0:
        raise UserError(
            f"`keep_level` needs a level part, and warm-up ({parts.n_warmup:,} steps) and cooldown "
            f"({parts.n_cooldown:,}) leave none of {parts.n_steps:,} steps",
            hint="shorten one of them, such as with `--set pretrain.schedule.cooldown_tokens=…`",
        )


def read_level(earlier: Path) -> tuple[int, dict[str, Any]]:
    """Read the step of the checkpoint that a run kept, and the settings it was trained with.

    Raises:
        InputError: if it kept none.
    """
    records = sorted((earlier / LEVEL).glob("step-*/checkpoint.json"))
    if not records:
        raise InputError(
            f"`{earlier}` kept no checkpoint to go on from",
            hint="runs with `--set pretrain.keep_level=true` do; its weights alone can be a beginning "
            "too: `--set pretrain.start=model`",
        )
    try:
        record = json.loads(records[-1].read_text(encoding="utf-8"))
        return int(record["step"]), dict(record["state"]["shared"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"`{records[-1]}` cannot be read: {error}") from None


def data_from_step(config: PretrainConfig, earlier: Path | None) -> int:
    """Tell after which step the rows of a run's data begin: 0, or where it or an earlier run changed.

    Raises:
        InputError: if the earlier run kept nothing to go on from.
    """
    if earlier is None:
        return 0
    step, before = read_level(earlier)
    return step if config.new_data else int(before["data_from_step"])


def check_extension(
    earlier: Path, shared: dict[str, Any], budget: Budget, is_new_data: bool
) -> None:
    """Refuse to go on from a run that would have done something else up to that step.

    Args:
        earlier: Artifact of that run.
        shared: What this one has in common with its extensions.
        budget: Steps of this run.
        is_new_data: Whether other tokens and another seed are meant.

    Raises:
        UserError: naming every setting that differs, or the steps that do not fit.
        InputError: if the earlier run kept nothing to go on from.
    """
    step, before = read_level(earlier)
    now = json.loads(json.dumps(shared))
    if is_new_data:
        now |= {name: before[name] for name in ("seed", "data_from_step", "corpora")}
    elif now["seed"] is None:
        now["seed"] = before["seed"]
    lines = diff_values(before, now)
    if lines:
        raise UserError(
            f"`{earlier}` was trained with other settings than these, so it is not their "
            "beginning:\n" + "\n".join(f"    {line}" for line in lines),
            hint=_settings_hint(lines),
        )
    n_before = budget.schedule.n_before_cooldown
    if n_before < step:
        raise UserError(
            f"the cooldown would begin after step {n_before:,}, and `{earlier}` is at step "
            f"{step:,} before its own",
            hint="raise `pretrain.max_tokens` (or `pretrain.epochs`, where the tokens end first), or "
            "lower `pretrain.schedule.cooldown_tokens`",
        )
    if budget.n_steps == step:
        raise UserError(
            f"`{earlier}` is at step {step:,} already, and the run is to end there",
            hint="raise `pretrain.max_tokens` (or `pretrain.epochs`, where the tokens end first)",
        )


def take_over_metrics(earlier: Path | None, out: Path) -> None:
    """Begin the metrics of a run with those of the one that it goes on from, for curves in one piece.

    The loop drops what comes after its first step.
    """
    path = out / METRICS
    if earlier is not None and (earlier / METRICS).is_file() and not path.exists():
        write_atomic(path, (earlier / METRICS).read_bytes())


def _settings_hint(lines: Sequence[str]) -> str:
    """Turn `pretrain.x: old -> new` into the settings that bring the old values back."""
    back = [line.split(" -> ")[0].split(": ", 1) for line in lines if line.startswith("pretrain.")]
    settings = [f"--set {key}={value}" for key, value in back if value not in ("null", "(none)")]
    if not settings:
        return (
            "go on with the seed and the tokens it was made with (`--from tokens=PATH`), or say that "
            "others are meant: `--set pretrain.new_data=true`"
        )
    return "go on with the settings it was made with: `" + " ".join(settings) + "`"
