"""Train ours on the peers' shards, through the stage's own loop, and report as the peers' runners do.

    python bench/_pretrain_ours.py --runners DIR --repo . --data DIR --shape cpu-2l --steps 200

All settings are the defaults, but the shape and the batch, which are the same for everyone. Rows are cut from the
shards in order, as nanochat's runner cuts them. This is the product's own path: the stage's loop with its optimizer,
its loss and its prefetching, on a GPU with bfloat16 products and each block compiled.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# Shapes that no peer is run at; the others are the runners'.
MORE_SHAPES = {
    "gpt2-1.5b": {"n_layer": 48, "n_embd": 1600, "n_head": 25, "block": 1024, "micro": 8, "total": 2**17},
    "depth-24": {"n_layer": 24, "n_embd": 1536, "n_head": 24, "block": 2048, "micro": 8, "total": 2**17},
}  # fmt: skip


class Shards:
    """The runners' format (ids without a header, id 0 in front of each document) as our loader reads it."""

    def __init__(self, path: Path) -> None:
        self._ids = np.memmap(path, dtype=np.uint16, mode="r")
        self.n_tokens = len(self._ids)
        starts = {0, *np.flatnonzero(self._ids == 0).tolist()}
        self.doc_starts = np.array([*sorted(starts), self.n_tokens])

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return np.array(self._ids[start:stop])


class Sizes:
    """Bytes of each token: all that the loop asks of a tokenizer when it takes no samples."""

    def __init__(self, sizes: np.ndarray) -> None:
        self._sizes = sizes
        self.vocab_size = len(sizes)
        self.bos_id = 0
        self.special = {"<|bos|>": self.bos_id}

    def token_bytes(self, i: int) -> bytes:
        return bytes(int(self._sizes[i]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runners", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--exact", action="store_true")
    runners = parser.parse_known_args()[0].runners
    sys.path.insert(0, str(runners))
    import common

    common.SHAPES.update(MORE_SHAPES)
    common.add_args(parser)
    args = parser.parse_args()
    torch = common.prepare(args)

    from llmpipe.core.console import Console
    from llmpipe.core.distributed import open_runtime, resolve_dtype
    from llmpipe.core.stage import Context
    from llmpipe.core.stop import StopFlag
    from llmpipe.model.config import n_parameters
    from llmpipe.model.init import initialize
    from llmpipe.model.transformer import Transformer
    from llmpipe.stages.pretrain.budget import make_budget
    from llmpipe.stages.pretrain.config import ModelSettings, PretrainConfig
    from llmpipe.stages.pretrain.data import CorpusShards, Data, count_bytes
    from llmpipe.stages.pretrain.loop import train
    from llmpipe.training.evaluate import evaluate
    from llmpipe.training.float8 import use_float8
    from llmpipe.training.step import Batch

    config = PretrainConfig(
        model=ModelSettings(
            d_model=args.n_embd,
            n_layers=args.n_layer,
            n_heads=args.n_head,
            head_dim=args.n_embd // args.n_head,
            max_seq_len=args.block,
        ),
        max_tokens=args.steps * args.total,
        global_batch_tokens=args.total,
        micro_batch_size=args.micro,
        eval_every=10**9,
        eval_tokens=args.micro * args.block,
        row_tokens=args.block,
        sample_every=None,
        checkpoint_every_s=1e9,
        dtype=args.dtype,
        exact=args.exact,
        compile="always" if args.compile else "never",
    )
    data_folder = Path(args.data)
    shards = {split: Shards(data_folder / f"{split}.bin") for split in ("train", "val")}
    sizes = Sizes(np.load(data_folder / "token_bytes.npy"))
    shape = config.model.resolve(args.meta["vocab_size"])
    meter = common.Meter(args)
    waits: list[float] = []

    class Log:
        """Feeds the meter with each step's seconds and loss."""

        def log(self, step: int, **values: Any) -> None:
            meter.step(values["seconds"], values["loss"])
            waits.append(values["wait_s"])

        def rewind(self, step: int) -> None:
            pass

    with open_runtime(args.device, args.exact) as runtime, tempfile.TemporaryDirectory() as out:
        if runtime.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        model = Transformer(shape)
        initialize(model, torch.Generator().manual_seed(1))
        model.to(runtime.device)
        if args.dtype == "float8":
            use_float8(model)
        ctx = Context("bench", 1, Console(quiet=True), Log(), StopFlag(), 1, args.device)  # type: ignore[arg-type]
        ctx.seed = None  # type: ignore[assignment]  # rows in the order of the shards
        budget = make_budget(config, shards["train"].n_tokens)
        data = Data([CorpusShards(shards["train"], shards["val"])], sizes)  # type: ignore[arg-type]
        train(model, data, budget, config, Path(out), ctx, runtime)

        # By the product's own evaluation, which holds no logits: the peak of memory stays training's.
        dtype = resolve_dtype(args.dtype, runtime.device, is_fast_on_cpu=True)
        held_out = [Batch(ids, targets) for ids, targets in common.val_batches(torch, args)]
        val_loss, _ = evaluate(model, held_out, count_bytes(sizes), runtime, dtype)  # type: ignore[arg-type]
    extra = {
        "optimizer": "Muon+AdamW",
        "dtype": str(dtype).removeprefix("torch.") if args.dtype != "float8" else "float8",
        "wait_share": round(sum(waits[args.skip :]) / sum(meter.wall[args.skip :]), 6),
    }
    common.report(torch, args, "llmpipe", meter, val_loss, n_parameters(shape), extra)


if __name__ == "__main__":
    main()
