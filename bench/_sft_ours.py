"""Train a few updates as `pretrain` or as `sft` does, on one thread, and report tokens per CPU second.

    python bench/_sft_ours.py --kind sft --shape demo --data lengths.npz --steps 30

Both go through the stages' own functions: cutting or laying out rows, then `train_step`. Ids are random, because they
do not matter for speed; lengths of conversations and what of them is trained are those of real ones (`--data`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from llmpipe.core.distributed import open_runtime
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.stages.sft.loop import ConversationRows
from llmpipe.stages.sft.packing import MaskedSequence, fit_length, pack
from llmpipe.training.config import Muon
from llmpipe.training.optim import build_optimizer
from llmpipe.training.rows import Rows
from llmpipe.training.step import Batch, SpikeGuard, train_step

SHAPES: dict[str, dict[str, int]] = {
    # the demo's model
    "demo": {"d_model": 128, "n_layers": 4, "vocab_size": 4096, "max_seq_len": 256, "batch": 4096},
    "small": {
        "d_model": 256,
        "n_layers": 6,
        "vocab_size": 8192,
        "max_seq_len": 1024,
        "batch": 8192,
    },
}
MICRO_TOKENS = 4096
N_WARMUP = 2


def token_batches(shape: dict[str, int], rng: np.random.Generator, n_steps: int) -> Any:
    """Return step -> batches, as `pretrain` cuts them from documents."""
    n_time, n_rows = shape["max_seq_len"], shape["batch"] // shape["max_seq_len"]
    lengths = rng.integers(100, 3000, size=n_steps * shape["batch"] // 1000 + 10)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(0, shape["vocab_size"], size=int(starts[-1])).astype(np.uint16)
    shards = SimpleNamespace(
        n_tokens=len(ids), doc_starts=starts, tokens=lambda start, stop: ids[start:stop].copy()
    )
    rows = Rows(shards, n_time, seed=1)
    micro = max(1, MICRO_TOKENS // n_time)
    return lambda step: [rows.batch(step * n_rows + i, micro) for i in range(0, n_rows, micro)]


def conversation_batches(
    shape: dict[str, int], rng: np.random.Generator, data: Path, runtime: Any
) -> Any:
    """Return step -> batches, as `sft` lays them out."""
    n_time, n_rows = shape["max_seq_len"], shape["batch"] // shape["max_seq_len"]
    with np.load(data) as file:
        masks = np.split(file["mask"], np.cumsum(file["lengths"])[:-1])
    samples = []
    for mask in masks:
        ids = rng.integers(0, shape["vocab_size"], size=len(mask)).astype(np.int64)
        fitted = fit_length(MaskedSequence(ids, mask, "x"), n_time, "cut")
        if fitted is not None:
            samples.append(fitted)
    packed = pack([len(sample.ids) for sample in samples], n_time)
    order = rng.permutation(len(packed))
    laid = [[samples[i] for i in packed[row]] for row in order]
    rows = ConversationRows(laid, {}, n_time, pad_id=0)
    micro = max(1, MICRO_TOKENS // n_time)

    def batches(step: int) -> list[Batch]:
        start = step * n_rows % (len(laid) - n_rows)
        return rows.batches(laid[start : start + n_rows], micro, runtime)

    return batches


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    shape = SHAPES[given.shape]
    head_dim = 64
    config = ModelConfig(
        d_model=shape["d_model"],
        n_layers=shape["n_layers"],
        n_heads=shape["d_model"] // head_dim,
        n_kv_heads=shape["d_model"] // head_dim,
        head_dim=head_dim,
        d_ff=4 * shape["d_model"],
        vocab_size=shape["vocab_size"],
        max_seq_len=shape["max_seq_len"],
    )
    model = Transformer(config)
    initialize(model, torch.Generator().manual_seed(1))
    rng = np.random.default_rng(1)
    with open_runtime("cpu") as runtime:
        optimizer = build_optimizer(model, Muon(), runtime.ranks)
        if given.kind == "pretrain":
            batches_of: Callable[[int], list[Batch]] = token_batches(
                shape, rng, given.steps + N_WARMUP
            )
        else:
            batches_of = conversation_batches(shape, rng, given.data, runtime)
        guard = SpikeGuard(n_sigma=None)
        n_trained = started = 0
        for step in range(given.steps + N_WARMUP):
            if step == N_WARMUP:
                started, n_trained = time.process_time(), 0
            result = train_step(model, optimizer, batches_of(step), 1.0, guard, runtime)
            n_trained += result.n_trained
        seconds = time.process_time() - started
    n_tokens = given.steps * shape["batch"]
    result_line = {
        "tok_per_cpu_s": n_tokens / seconds,
        "trained_frac": n_trained / n_tokens,
        "loss": result.loss,
    }
    print("RESULT " + json.dumps(result_line))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("pretrain", "sft"), required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
