"""Samples of what the model writes on the way: made, kept, and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import write_atomic
from llmpipe.model.transformer import Transformer
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.sample import sample_ids

LINE_BREAK = " ⏎ "
"""Stands for one on the screen, where a sample has one line."""


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


def lines_of(samples: Sequence[dict[str, Any]]) -> list[str]:
    """Put samples on a line each, to be read while training goes on: step, prompt in quotes, text."""
    lines = []
    for sample in samples:
        prompt = f'"{one_line(sample["prompt"])}"' if sample["prompt"] else ""
        lines.append(f"step {sample['step']:,}: {prompt}{one_line(sample['text'])}")
    return lines


def one_line(text: str) -> str:
    """Show line breaks as a sign, and leave out what would move a terminal's cursor."""
    text = re.sub(r"\s*\n\s*", LINE_BREAK, text)
    return "".join(c if c.isprintable() else " " for c in text)
