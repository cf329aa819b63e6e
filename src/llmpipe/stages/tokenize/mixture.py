"""Sources in proportion: how often each stands in the shards, and its share of the training sample.

A source that is used several times over is read as several rounds of units, each a copy. So a
document's copies lie far apart, and nothing has to be remembered to make them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from llmpipe.core.errors import UserError
from llmpipe.core.units import Unit
from llmpipe.stages.tokenize.config import CorpusPart, TokenizeConfig
from llmpipe.stages.tokenize.documents import expand_inputs, plan_ranges
from llmpipe.stages.tokenize.split import Scan, copy_fraction, sample_buckets


def sources_of(config: TokenizeConfig) -> tuple[CorpusPart, ...]:
    """Return the sources that the settings ask for: at least one.

    Raises:
        UserError: if the settings contradict each other.
    """
    if not config.sources:
        return (CorpusPart("all", config.inputs),)
    if config.inputs:
        raise UserError(
            "`tokenize.inputs` and `tokenize.sources` are both set",
            "name the files in `tokenize.sources`, one entry for each part of the mixture",
        )
    names = [source.name for source in config.sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources have one name: {', '.join(names)}")
    shares = sum(source.train_share or 0.0 for source in config.sources)
    if shares > 1 + 1e-9:
        raise UserError(f"the `train_share`s of the sources add up to {shares:g}, over 1")
    return config.sources


def plan_mixture(config: TokenizeConfig, corpus_paths: Sequence[str]) -> list[Unit]:
    """Cut all sources into units, the copies of a source one after the other.

    A unit's place in the list is its id: the folder in which it is done belongs to one input and one group of settings.
    """
    ranges = []
    for i, source in enumerate(sources_of(config)):
        paths = expand_inputs(source.inputs) if source.inputs else corpus_paths
        planned = plan_ranges(paths, config.unit_bytes)
        for copy in range(math.ceil(source.epochs)):
            ranges += [replace(found, source=i, copy=copy) for found in planned]
    return [
        Unit(f"{i:05d}", f"{found.path} from {found.start:,}", found)
        for i, found in enumerate(ranges)
    ]


def is_in_copy(text: bytes, epochs: float, copy: int) -> bool:
    """Say whether a training document stands in this copy of its source."""
    return copy + 1 <= epochs or copy_fraction(text) < epochs - copy


def sample_sizes(
    sources: Sequence[CorpusPart], scans: Sequence[Scan], train_bytes: int
) -> tuple[int, ...]:
    """Return for each source how many buckets of its documents the merges are learned from.

    Args:
        sources: with their shares.
        scans: what the first pass found in each.
        train_bytes: how much text to learn from in all.
    """
    weights = [s.epochs * scan.text_bytes for s, scan in zip(sources, scans, strict=True)]
    is_free = [source.train_share is None for source in sources]
    left = 1.0 - sum(source.train_share or 0.0 for source in sources)
    free_weight = sum(w for w, free in zip(weights, is_free, strict=True) if free)
    if all(is_free) and sum(scan.text_bytes for scan in scans) <= train_bytes:
        return tuple(sample_buckets(scan, scan.text_bytes) for scan in scans)
    sizes = []
    for source, scan, weight in zip(sources, scans, weights, strict=True):
        share = source.train_share
        if share is None:
            share = left * weight / free_weight if free_weight else 0.0
        wanted = round(share * train_bytes)
        sizes.append(sample_buckets(scan, wanted) if wanted else 0)
    return tuple(sizes)
