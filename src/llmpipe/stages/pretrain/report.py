"""Numbers of the pretrain stage to report sections; pure."""

from __future__ import annotations

import json
import math
from typing import Any

from llmpipe.core.artifact import Artifact
from llmpipe.core.metrics import read_metrics
from llmpipe.core.report import Block, Code, LinePlot, Section, Table

N_SAMPLES = 6
"""Samples shown: as many as one reads."""


def sections(artifact: Artifact) -> list[Section]:
    """Make one section: sizes, curves, samples."""
    stats = artifact.stats
    sizes = Table(
        ["parameters", "steps", "tokens", "FLOPs", "val bits per byte", "tokens/s"],
        [
            [
                f"{stats['parameters']:,}",
                f"{stats['steps']:,}",
                f"{stats['tokens']:,}",
                f"{stats['flops']:.2e}",
                f"{stats['val_bpb']:.3f}",
                f"{stats['tok_per_s']:,}",
            ]
        ],
    )
    blocks: list[Block] = [sizes, *curves(read_metrics(artifact.file("metrics.jsonl")))]
    path = artifact.file("samples.jsonl")
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        for sample in spread([json.loads(line) for line in lines], N_SAMPLES):
            blocks.append(
                Code(sample["prompt"] + sample["text"], f"after {sample['step']:,} steps")
            )
    return [Section("Pretraining", blocks)]


def curves(metrics: list[dict[str, Any]]) -> list[Block]:
    """Plot training loss, and validation bits per byte where there are at least two."""
    loss = [(m["step"], m["loss"]) for m in metrics if math.isfinite(m.get("loss", math.nan))]
    val = [(m["step"], m["val_bpb"]) for m in metrics if math.isfinite(m.get("val_bpb", math.nan))]
    plots: list[Block] = []
    if loss:
        plots.append(LinePlot("Training loss", "step", "nats per token", {"loss": loss}))
    if len(val) > 1:
        plots.append(LinePlot("Validation", "step", "bits per byte", {"val": val}))
    return plots


def spread(samples: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Pick `n` samples: more of the early ones, where most changes, and the last."""
    if len(samples) <= n:
        return samples
    # The k-th of n stands at (k / (n - 1))^2 of the way.
    places = sorted({round((k / (n - 1)) ** 2 * (len(samples) - 1)) for k in range(n)})
    return [samples[i] for i in places]
