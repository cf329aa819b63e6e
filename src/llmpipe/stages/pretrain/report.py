"""Numbers of the pretrain stage to report sections; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmpipe.core.artifact import Artifact
from llmpipe.core.console import format_bytes
from llmpipe.core.metrics import read_metrics
from llmpipe.core.records.lines import read_objects
from llmpipe.core.report import Block, Code, LinePlot, Section, Table
from llmpipe.model.config_file import load_config

N_SAMPLES = 6
"""Samples shown: as many as one reads."""


def sections(artifact: Artifact) -> list[Section]:
    """Make one section: what was trained, curves, samples."""
    stats = artifact.stats
    metrics = read_metrics(artifact.file("metrics.jsonl"))
    blocks: list[Block] = [facts(artifact, metrics), *curves(metrics), *evaluations(metrics, stats)]
    path = artifact.file("samples.jsonl")
    if path.exists():
        for sample in spread(read_objects(path), N_SAMPLES):
            blocks.append(
                Code(sample["prompt"] + sample["text"], f"after {sample['step']:,} steps")
            )
    return [Section("Pretraining", blocks)]


def facts(artifact: Artifact, metrics: list[dict[str, Any]]) -> Table:
    """List the model, what it was trained with, and what that took."""
    stats, shape = artifact.stats, load_config(artifact.path)
    heads = f"{shape.n_heads} heads of {shape.head_dim}"
    if shape.n_kv_heads != shape.n_heads:
        heads += f" ({shape.n_kv_heads} for keys and values)"
    optimizer = artifact.config.get("optim", {}).get("kind", "")
    peak = max((m["lr"] for m in metrics if "lr" in m), default=math.nan)
    rows = [
        ("model", f"{shape.family}: {shape.n_layers} layers of {shape.d_model}, {heads}"),
        ("vocabulary", f"{shape.vocab_size:,} ids"),
        ("context", f"{shape.max_seq_len:,} tokens"),
        ("parameters", f"{stats['parameters']:,}"),
        ("tokens", f"{stats['tokens']:,}"),
        ("steps", f"{stats['steps']:,} of {stats['tokens'] // stats['steps']:,} tokens"),
        ("optimizer", f"{optimizer}, learning rate up to {peak:.3g}".removeprefix(", ")),
        ("skipped updates", f"{stats['skipped_updates']:,}"),
        ("FLOPs", f"{stats['flops']:.2e}"),
        ("speed", f"{stats['tok_per_s']:,} tokens/s"),
        ("peak memory", f"{format_bytes(stats['peak_memory_bytes'])} (main process)"),
        ("validation", f"{stats['val_bpb']:.3f} bits per byte"),
    ]
    return Table(["", "value"], rows)


def curves(metrics: list[dict[str, Any]]) -> list[Block]:
    """Plot loss, learning rate and gradient norm, and validation where it was measured twice or more."""
    loss, val, lr, norm = (
        [(m["step"], m[key]) for m in metrics if math.isfinite(m.get(key, math.nan))]
        for key in ("loss", "val_bpb", "lr", "grad_norm")
    )
    plots: list[Block] = []
    if loss:
        plots.append(LinePlot("Training loss", "step", "nats per token", {"loss": loss}))
    if len(val) > 1:
        plots.append(LinePlot("Validation", "step", "bits per byte", {"val": val}))
    if lr:
        plots.append(LinePlot("Learning rate", "step", "of the first group", {"lr": lr}, True))
    if norm:
        plots.append(LinePlot("Gradient norm", "step", "before clipping", {"norm": norm}, True))
    return plots


def evaluations(metrics: list[dict[str, Any]], stats: Mapping[str, Any]) -> list[Block]:
    """Show the last number of each evaluation, and how those came about that were taken twice or more.

    Numbers of an evaluation whose names begin with the same word are drawn together: they have one unit.
    """
    last = {key: value for key, value in stats.items() if "/" in key}
    if not last:
        return []
    rows = [[*key.split("/", 1), f"{value:.4g}"] for key, value in last.items()]
    blocks: list[Block] = [Table(["evaluation", "number", "last"], rows)]
    plots: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for key in last:
        name, number = key.split("/", 1)
        points = [(m["step"], m[key]) for m in metrics if math.isfinite(m.get(key, math.nan))]
        if len(points) > 1 and not number.endswith("_stderr"):
            plots.setdefault((name, number.split("_")[0]), {})[number] = points
    for (name, _), series in plots.items():
        blocks.append(LinePlot(name, "step", min(series, key=len).replace("_", " "), series))
    return blocks


def spread(samples: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Pick `n` samples: more of the early ones, where most changes, and the last."""
    if len(samples) <= n:
        return samples
    # The k-th of n stands at (k / (n - 1))^2 of the way.
    places = sorted({round((k / (n - 1)) ** 2 * (len(samples) - 1)) for k in range(n)})
    return [samples[i] for i in places]
