"""What `--dry-run` and the first lines of a run say of it: shape, steps, time, memory, cost.

Loads without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import Artifact
from llmpipe.core.console import format_bytes
from llmpipe.model.config import ModelConfig, n_parameters
from llmpipe.model.config_file import load_config
from llmpipe.stages.pretrain import estimate
from llmpipe.stages.pretrain.budget import Budget, make_budget, shortfall
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.stages.pretrain.depth import fill_in
from llmpipe.stages.pretrain.extend import data_from_step, make_extension, read_level
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.shards import open_shards
from llmpipe.training import throughput
from llmpipe.training.evaluations.config import describe as describe_evaluations
from llmpipe.training.schedule import describe

WARNING = "warning"
"""Name of the line that says what is probably not meant."""


def plan_run(
    asked: PretrainConfig, all_tokens: Sequence[Artifact], start: Path | None
) -> dict[str, str]:
    """Say what will be trained, on how much, and what it will take.

    Args:
        asked: Settings as given.
        all_tokens: What is trained on, in the order of the mixture.
        start: Folder that the first weights come from, if they are not random.
    """
    folders = [tokens.path for tokens in all_tokens]
    vocab_size = Tokenizer.load(folders[0]).vocab_size
    config, model = fill_in(asked, vocab_size, load_config(start) if start else None)
    n_train = sum(open_shards(folder, "train", verify=False).n_tokens for folder in folders)
    earlier = start if config.start == "checkpoint" else None
    budget = make_budget(config, n_train, data_from_step(config, earlier))
    make_extension(config, model, budget, all_tokens, None, earlier)  # for what it refuses
    lines = _lines(config, model, budget, n_train, earlier)
    if not start:
        lines["derived"] = estimate.derived(asked, config, model)
    lines[WARNING] = shortfall(config, n_train, budget)
    return {name: text for name, text in lines.items() if text}


def plan_ahead(asked: PretrainConfig, sections: Mapping[str, Any]) -> dict[str, str] | None:
    """Say the same while there are no tokens yet, where the recipe tells how many ids they will have.

    Args:
        asked: Settings as given.
        sections: Settings of the stages that the recipe has, by name.

    Returns:
        None where it cannot be known: an imported model, a ready vocabulary, no number of tokens.
    """
    tokenize = sections.get("tokenize")
    if asked.start != "random" or tokenize is None or tokenize.tokenizer is not None:
        return None
    config, model = fill_in(asked, tokenize.vocab_size)
    if config.max_tokens is None:
        return None
    budget = make_budget(config, math.ceil(config.max_tokens / config.epochs))
    lines = _lines(config, model, budget, None, None)
    lines["derived"] = estimate.derived(asked, config, model)
    return {name: text for name, text in lines.items() if text}


def _lines(
    config: PretrainConfig,
    model: ModelConfig,
    budget: Budget,
    n_train: int | None,
    earlier: Path | None,
) -> dict[str, str]:
    """Put a run in words; settings are filled in, and `n_train` is None while nobody knows it."""
    row_tokens = config.row_tokens or model.max_seq_len
    first_step = read_level(earlier)[0] if earlier else 0
    batch = budget.n_rows * row_tokens
    n_tokens = budget.first_row(budget.n_steps) * row_tokens
    flops = (budget.n_steps - first_step) * batch * throughput.flops_per_token(model, row_tokens)
    share = f" of {n_train:,} ({n_tokens / n_train:.2f} epochs)" if n_train else ", not made yet"
    return {
        "model": f"{model.family}, {model.n_layers} layers of {model.d_model}, {model.n_heads} heads, "
        f"{model.vocab_size:,} ids, rows of {row_tokens:,}",
        "parameters": f"{n_parameters(model):,}",
        "tokens": f"{n_tokens:,}{share}",
        "steps": f"{budget.n_steps:,} of {batch:,} tokens"
        + (f", the first {first_step:,} done by `{earlier}`" if first_step else ""),
        "learning rate": f"{config.optim.lr * (config.lr_scale or 1):.3g} ({config.optim.kind})",
        "schedule": describe(budget.schedule, batch),
        "FLOPs": f"{flops:.2e}",
        "memory": estimate.memory(config, model, row_tokens),
        "time": estimate.time(flops, config.estimate),
        "cost": estimate.cost(flops, config.estimate),
        "checkpoints": f"{format_bytes(throughput.checkpoint_bytes(model))} each, "
        f"{config.keep_checkpoints} kept",
        "evaluations": describe_evaluations(config.evaluations),
    }
