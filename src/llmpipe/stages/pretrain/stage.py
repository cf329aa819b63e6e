"""The pretrain stage: tokens -> a model that continues text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import Artifact, write_atomic
from llmpipe.core.console import format_bytes, format_duration
from llmpipe.core.errors import InputError
from llmpipe.core.report import Section
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.pretrain.budget import make_budget
from llmpipe.stages.pretrain.config import PretrainConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def needs(config: PretrainConfig) -> dict[str, Need]:
    """Ask for tokens."""
    return {"tokens": Need("tokens", "tokens")}


def plan(config: PretrainConfig, inputs: Inputs) -> dict[str, str]:
    """Say what will be trained, on how much, and what it will take."""
    from llmpipe.model.config import n_parameters
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.shards import open_shards
    from llmpipe.training import throughput

    folder = inputs["tokens"].path
    model = config.model.resolve(Tokenizer.load(folder).vocab_size)
    n_train = open_shards(folder, "train", verify=False).n_tokens
    budget = make_budget(config, model, n_train)
    n_tokens = budget.n_steps * config.global_batch_tokens
    flops = n_tokens * throughput.flops_per_token(model, model.max_seq_len)
    memory = throughput.training_bytes(model, config.micro_batch_size * model.max_seq_len)
    on_cores = format_duration(flops / (2 * throughput.CPU_FLOPS_PER_S))
    h100 = throughput.PEAK_FLOPS["H100"] * throughput.GPU_MFU
    return {
        "model": f"{model.family}, {model.n_layers} layers of {model.d_model}, {model.n_heads} heads, "
        f"{model.vocab_size:,} ids, rows of {model.max_seq_len:,}",
        "parameters": f"{n_parameters(model):,}",
        "tokens": f"{n_tokens:,} of {n_train:,} ({n_tokens / n_train:.2f} epochs)",
        "steps": f"{budget.n_steps:,} of {config.global_batch_tokens:,} tokens",
        "FLOPs": f"{flops:.2e}",
        "memory": f"about {format_bytes(memory)} per process",
        "time": f"about {on_cores} on 2 CPU cores, {format_duration(flops / h100)} "
        f"on an H100 at {throughput.GPU_MFU:.0%} of its peak",
    }


def run(config: PretrainConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Train the model; called again after a stop it goes on from the last checkpoint."""
    import torch

    from llmpipe.core.distributed import runtime
    from llmpipe.model.config import n_parameters
    from llmpipe.model.init import initialize
    from llmpipe.model.transformer import Transformer
    from llmpipe.model.weights import save_generation_config, save_model
    from llmpipe.stages.pretrain.loop import Data, train
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.shards import open_shards
    from llmpipe.training.throughput import peak_memory_bytes

    tokens = inputs["tokens"]
    tokenizer = Tokenizer.load(tokens.path)
    data = Data(open_shards(tokens.path, "train"), open_shards(tokens.path, "val"), tokenizer)
    for split, shards in (("training", data.train), ("validation", data.val)):
        if shards.n_tokens == 0:
            raise InputError(f"{tokens.path} has no {split} tokens", "raise `tokenize.val_frac`")
        if shards.digest != tokenizer.digest:
            raise InputError(
                f"{tokens.path}: the shards were not made with the tokenizer beside them"
            )
    shape = config.model.resolve(tokenizer.vocab_size)
    budget = make_budget(config, shape, data.train.n_tokens)

    with runtime(ctx.device) as process:
        model = Transformer(shape)
        initialize(model, torch.Generator().manual_seed(ctx.seed))
        model.to(process.device)
        stats = train(model, data, budget, config, out, ctx, process)
        memory = peak_memory_bytes(process.device)
        if process.ranks.is_main:
            bos = tokenizer.bos_id
            # The model was taught to write BOS where a document ends.
            save_model(model, out, bos_token_id=bos, eos_token_id=bos)
            save_generation_config(out, bos, [bos], tokenizer.pad_id)
            for name in TOKENIZER_FILES:
                write_atomic(out / name, tokens.file(name).read_bytes())
        process.barrier()
    return {"parameters": n_parameters(shape), **stats, "peak_memory_bytes": memory}


def headline(stats: Mapping[str, Any]) -> str:
    """Say how big the model is and how good."""
    return (
        f"{stats['parameters'] / 1e6:,.1f}M parameters, {stats['tokens'] / 1e6:,.1f}M tokens, "
        f"val {stats['val_bpb']:.3f} bits per byte"
    )


def report(artifact: Artifact) -> list[Section]:
    """Show the curves and what the model wrote on the way."""
    from llmpipe.stages.pretrain.report import sections

    return sections(artifact)


SPEC = StageSpec(
    name="pretrain",
    version=1,
    summary="Tokens -> base model",
    config=PretrainConfig,
    folder="base",
    writes="model",
    run=run,
    needs=needs,
    plan=plan,
    headline=headline,
    report=report,
    examples=(
        "llmpipe pretrain configs/tiny.toml",
        "torchrun --standalone --nproc-per-node 2 -m llmpipe pretrain configs/tiny.toml",
    ),
    distributed=True,
)
