"""The pretrain stage: tokens -> a model that continues text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpipe.core.artifact import Artifact, write_atomic
from llmpipe.core.console import format_bytes, format_duration
from llmpipe.core.errors import UserError
from llmpipe.core.report import Section
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.pretrain.budget import make_budget
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.stages.pretrain.depth import fill_in

if TYPE_CHECKING:
    from llmpipe.model.transformer import Transformer
    from llmpipe.tokenizer.bpe import Tokenizer

MODEL = "model"
"""Name of the input that training goes on from."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def needs(config: PretrainConfig) -> dict[str, Need]:
    """Ask for tokens, the run's own or each part of the mixture; and for a model to start from."""
    names = [corpus.name for corpus in config.mixture] or ["tokens"]
    if MODEL in names:
        raise UserError(f"`pretrain.mixture`: `{MODEL}` is the name of another input")
    if len(set(names)) < len(names):
        raise UserError(f"`pretrain.mixture` names a corpus twice: {', '.join(names)}")
    needed = {name: Need("tokens", name) for name in names}
    if config.start == "model":
        needed[MODEL] = Need("model", "imported")
    return needed


def token_inputs(config: PretrainConfig, inputs: Inputs) -> list[Artifact]:
    """List the tokens to train on, in the order of the mixture."""
    return [inputs[name] for name in needs(config) if name != MODEL]


def plan(config: PretrainConfig, inputs: Inputs) -> dict[str, str]:
    """Say what will be trained, on how much, and what it will take."""
    from llmpipe.model.config import n_parameters
    from llmpipe.model.config_file import load_config
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.shards import open_shards
    from llmpipe.training import throughput

    folders = [tokens.path for tokens in token_inputs(config, inputs)]
    start = load_config(inputs[MODEL].path) if config.start == "model" else None
    config, model = fill_in(config, Tokenizer.load(folders[0]).vocab_size, start)
    row_tokens = config.row_tokens or model.max_seq_len
    n_train = sum(open_shards(folder, "train", verify=False).n_tokens for folder in folders)
    budget = make_budget(config, n_train)
    batch = budget.n_rows * row_tokens
    n_tokens = budget.n_steps * batch
    flops = n_tokens * throughput.flops_per_token(model, row_tokens)
    memory = throughput.training_bytes(
        model, config.micro_batch_size * row_tokens, config.recompute
    )
    on_cores = format_duration(flops / (2 * throughput.CPU_FLOPS_PER_S))
    h100 = throughput.PEAK_FLOPS["H100"] * throughput.GPU_MFU
    return {
        "model": f"{model.family}, {model.n_layers} layers of {model.d_model}, {model.n_heads} heads, "
        f"{model.vocab_size:,} ids, rows of {row_tokens:,}",
        "parameters": f"{n_parameters(model):,}",
        "tokens": f"{n_tokens:,} of {n_train:,} ({n_tokens / n_train:.2f} epochs)",
        "steps": f"{budget.n_steps:,} of {batch:,} tokens",
        "learning rate": f"{config.optim.lr * (config.lr_scale or 1):.3g} ({config.optim.kind})",
        "FLOPs": f"{flops:.2e}",
        "memory": f"about {format_bytes(memory)} per process",
        "time": f"about {on_cores} on 2 CPU cores, {format_duration(flops / h100)} "
        f"on an H100 at {throughput.GPU_MFU:.0%} of its peak",
        "cost": f"about ${flops / h100 / 3600 * throughput.USD_PER_GPU_HOUR:,.2f} at "
        f"${throughput.USD_PER_GPU_HOUR:.2f} per H100-hour",
        "checkpoints": f"{format_bytes(throughput.checkpoint_bytes(model))} each, "
        f"{config.keep_checkpoints} kept",
    }


def run(config: PretrainConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Train the model; called again after a stop it goes on from the last checkpoint."""
    import torch

    from llmpipe.core.distributed import runtime
    from llmpipe.model.config import n_parameters
    from llmpipe.model.config_file import load_config
    from llmpipe.model.init import initialize
    from llmpipe.model.transformer import Transformer
    from llmpipe.model.weights import load_model
    from llmpipe.stages.pretrain.checks import (
        check_disk,
        check_float8,
        check_memory,
        check_processes,
        check_start,
        check_tokens,
    )
    from llmpipe.stages.pretrain.loop import Corpus, Data, train
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.shards import open_shards
    from llmpipe.training.float8 import use_float8
    from llmpipe.training.fsdp import gather_model, shard_model
    from llmpipe.training.throughput import memory_bytes, peak_memory_bytes

    all_tokens = token_inputs(config, inputs)
    tokens = all_tokens[0]
    tokenizer = Tokenizer.load(tokens.path)
    weights = [corpus.weight for corpus in config.mixture] or [1.0]
    corpora = []
    for part, weight in zip(all_tokens, weights, strict=True):
        folder = part.path
        train_shards, val_shards = open_shards(folder, "train"), open_shards(folder, "val")
        check_tokens(folder, tokenizer, train_shards, val_shards)
        corpora.append(Corpus(train_shards, val_shards, weight))
    data = Data(corpora, tokenizer)
    start = inputs[MODEL].path if config.start == "model" else None
    if start is not None:
        check_start(start, tokenizer)
    config, shape = fill_in(config, tokenizer.vocab_size, load_config(start) if start else None)
    budget = make_budget(config, data.n_train_tokens)

    check_disk(config, shape, out)

    with runtime(ctx.device, is_exact=config.exact) as process:
        ranks = process.ranks
        check_processes(config, ranks)
        check_float8(config, process)
        n_sharing = 1 if process.is_cuda else ranks.local_world_size
        check_memory(config, shape, ranks, memory_bytes(process.device) // n_sharing)
        if start is None:
            model = Transformer(shape)
            initialize(model, torch.Generator().manual_seed(ctx.seed))
        else:
            model = load_model(start, dtype=torch.float32)
        model.to(process.device)
        if config.dtype == "float8":
            use_float8(model)
        if config.parallel == "fsdp" and not ranks.is_alone:
            shard_model(model, process)
        model.is_recomputed = config.recompute

        def export(step: int) -> None:
            copy = gather_model(model, process)
            if ranks.is_main:
                write_folder(copy, out / "steps" / f"step-{step:08d}", tokens, tokenizer)

        stats = train(model, data, budget, config, out, ctx, process, export)
        memory = peak_memory_bytes(process.device)
        model = gather_model(model, process)
        if ranks.is_main:
            write_folder(model, out, tokens, tokenizer)
        process.barrier()
    return {"parameters": n_parameters(shape), **stats, "peak_memory_bytes": memory}


def write_folder(model: Transformer, folder: Path, tokens: Artifact, tokenizer: Tokenizer) -> None:
    """Write a Hugging Face folder that opens as it is."""
    from llmpipe.model.weights import save_generation_config, save_model

    bos = tokenizer.bos_id
    # The model was taught to write BOS where a document ends.
    save_model(model, folder, bos_token_id=bos, eos_token_id=bos)
    save_generation_config(folder, bos, [bos], tokenizer.pad_id)
    for name in TOKENIZER_FILES:
        write_atomic(folder / name, tokens.file(name).read_bytes())


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
