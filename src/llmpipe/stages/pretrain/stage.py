"""The pretrain stage: tokens -> a model that continues text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpipe.core.artifact import Artifact, write_atomic
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError
from llmpipe.core.report import Section
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.pretrain.budget import make_budget
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.stages.pretrain.depth import fill_in
from llmpipe.stages.pretrain.extend import (
    data_from_step,
    make_extension,
    take_over_metrics,
)
from llmpipe.training.evaluations.config import files_of

if TYPE_CHECKING:
    from llmpipe.stages.pretrain.data import Data
    from llmpipe.training.evaluations.build import Scheduled

STARTS = {
    "model": Need(
        "model", "imported", made_by="llmpipe import meta-llama/Llama-3.2-1B --out {path}"
    ),
    "checkpoint": Need(
        "model", "base", made_by="llmpipe pretrain … --set pretrain.keep_level=true --out {path}"
    ),
}
"""What training can go on from, by what `start` says: weights alone, or a run before its cooldown."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def needs(config: PretrainConfig) -> dict[str, Need]:
    """Ask for tokens, the run's own or each part of the mixture; and for what to start from."""
    names = [corpus.name for corpus in config.mixture] or ["tokens"]
    for taken in STARTS:
        if taken in names:
            raise UserError(f"`pretrain.mixture`: `{taken}` is the name of another input")
    if len(set(names)) < len(names):
        raise UserError(f"`pretrain.mixture` names a corpus twice: {', '.join(names)}")
    # The model comes first: its tokenizer may be the one that the tokens are made with.
    needed = {config.start: STARTS[config.start]} if config.start in STARTS else {}
    return needed | {name: Need("tokens", name) for name in names}


def evaluation_files(config: PretrainConfig) -> list[str]:
    """List the files whose contents decide what the evaluations find."""
    return files_of(config.evaluations)


def token_inputs(config: PretrainConfig, inputs: Inputs) -> list[Artifact]:
    """List the tokens to train on, in the order of the mixture."""
    return [inputs[name] for name in needs(config) if name not in STARTS]


def start_folder(config: PretrainConfig, inputs: Inputs) -> Path | None:
    """Name the folder that the first weights, or at least their shape, come from."""
    return inputs[config.start].path if config.start in STARTS else None


def plan(config: PretrainConfig, inputs: Inputs) -> dict[str, str]:
    """Say what will be trained, on how much, and what it will take."""
    from llmpipe.stages.pretrain.plan import plan_run

    return plan_run(config, token_inputs(config, inputs), start_folder(config, inputs))


def plan_ahead(config: PretrainConfig, sections: Mapping[str, Any]) -> dict[str, str] | None:
    """Say the same while there are no tokens yet, where the recipe tells enough of them."""
    from llmpipe.stages.pretrain import plan

    return plan.plan_ahead(config, sections)


def run(config: PretrainConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Train the model; called again after a stop it goes on from the last checkpoint."""
    import torch

    from llmpipe.core.process_group import process_group
    from llmpipe.model.config import n_parameters
    from llmpipe.model.config_file import load_config
    from llmpipe.model.init import initialize
    from llmpipe.model.transformer import Transformer
    from llmpipe.model.weights import load_weights, save_model
    from llmpipe.stages.pretrain.checks import (
        LESS_MEMORY,
        check_disk,
        check_float8,
        check_memory,
        check_processes,
        check_start,
    )
    from llmpipe.stages.pretrain.loop import train
    from llmpipe.stages.pretrain.verify import verify_shards
    from llmpipe.training.float8 import use_float8
    from llmpipe.training.fsdp import shard_model
    from llmpipe.training.throughput import memory_bytes, peak_memory_bytes

    evaluations = open_evaluations(config, ctx)
    all_tokens = token_inputs(config, inputs)
    tokens = all_tokens[0]
    data = open_data(config, all_tokens)
    tokenizer = data.tokenizer
    start = start_folder(config, inputs)
    if start is not None:
        check_start(start, tokenizer)
    announce(config, inputs, ctx.console)
    config, shape = fill_in(config, tokenizer.vocab_size, load_config(start) if start else None)
    earlier = start if config.start == "checkpoint" else None
    budget = make_budget(config, data.n_train_tokens, data_from_step(config, earlier))
    extension = make_extension(config, shape, budget, all_tokens, ctx.seed, earlier)

    with process_group(ctx, out, config.exact, config.peer_timeout_s, LESS_MEMORY) as runtime:
        check_disk(config, shape, out, budget.n_steps)
        ranks = runtime.ranks
        check_processes(config, ranks)
        check_float8(config, runtime)
        n_sharing = 1 if runtime.is_cuda else ranks.local_world_size
        total = memory_bytes(runtime.device) // n_sharing
        check_memory(config, shape, ranks, total, ctx.console.warn)
        verify_shards(data.shards, runtime, ctx)
        with torch.device("meta"):  # no memory for values before it is known which are needed here
            model = Transformer(shape)
        if config.dtype == "float8":
            use_float8(model)
        if config.parallel == "fsdp" and not ranks.is_alone:
            shard_model(model, runtime)
        else:
            model.to_empty(device=runtime.device)
            model.tie_head()
        if start is None:
            initialize(model, torch.Generator().manual_seed(ctx.seed))
        else:
            load_weights(model, start)
        model.is_recomputed = config.recompute

        bos = tokenizer.bos_id
        complete = partial(write_tokenizer, tokens=tokens, bos=bos, pad=tokenizer.pad_id)
        if ranks.is_main:
            take_over_metrics(earlier, out)
        stats = train(
            model, data, budget, config, out, ctx, runtime, complete, extension, evaluations
        )
        memory = peak_memory_bytes(runtime.device)
        # The model was taught to write BOS where a document ends.
        save_model(model, out, bos_token_id=bos, eos_token_id=bos, ranks=ranks)
        if ranks.is_main:
            complete(out)
        runtime.barrier()
    return {"parameters": n_parameters(shape), **stats, "peak_memory_bytes": memory}


def announce(config: PretrainConfig, inputs: Inputs, console: Console) -> None:
    """Say the plan of a run that starts."""
    from llmpipe.stages.pretrain.plan import WARNING

    for name, text in plan(config, inputs).items():
        if name == WARNING:
            console.warn(f"pretrain: {text}")
        else:
            console.info(f"pretrain: {name:<14}{text}")


def open_data(config: PretrainConfig, all_tokens: Sequence[Artifact]) -> Data:
    """Open the shards of every corpus, checked against the one tokenizer, and their sizes."""
    from llmpipe.stages.pretrain.checks import check_tokens
    from llmpipe.stages.pretrain.data import CorpusShards, Data
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.shards import open_shards

    tokenizer = Tokenizer.load(all_tokens[0].path)
    weights = [corpus.weight for corpus in config.mixture] or [1.0]
    corpora = []
    for part, weight in zip(all_tokens, weights, strict=True):
        folder = part.path
        train_shards = open_shards(folder, "train", verify=False)
        val_shards = open_shards(folder, "val", verify=False)
        check_tokens(folder, tokenizer, train_shards, val_shards)
        corpora.append(CorpusShards(train_shards, val_shards, weight))
    return Data(corpora, tokenizer)


def open_evaluations(config: PretrainConfig, ctx: Context) -> list[Scheduled]:
    """Read what evaluations need; a user's own are beside the recipe, in the working folder or installed."""
    from llmpipe.training.evaluations.build import build_evaluations

    beside_recipe = [Path(ctx.recipe).parent] if ctx.recipe else []
    return build_evaluations(config.evaluations, [*beside_recipe, Path()])


def write_tokenizer(folder: Path, tokens: Artifact, bos: int, pad: int) -> None:
    """Write what makes a folder with weights one that opens as it is."""
    from llmpipe.model.weights import save_generation_config

    save_generation_config(folder, bos, [bos], pad)
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
    version=2,
    summary="Tokens -> base model",
    config=PretrainConfig,
    folder="base",
    writes="model",
    run=run,
    needs=needs,
    files=evaluation_files,
    plan=plan,
    plan_ahead=plan_ahead,
    headline=headline,
    report=report,
    examples=(
        "llmpipe pretrain configs/tiny.toml",
        "llmpipe pretrain configs/d12.toml --depth 16 --dry-run",
        "torchrun --standalone --nproc-per-node 2 -m llmpipe pretrain configs/tiny.toml",
    ),
    options=("depth", "profile"),
    uses=("llmpipe sample {path} --prompt 'The'",),
    distributed=True,
)
