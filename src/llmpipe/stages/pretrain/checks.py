"""What is looked at before any work starts, so that it does not fail at step 900."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmpipe.core.console import format_bytes
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig, n_parameters
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.shards import TokenShards, read_index
from llmpipe.training.throughput import checkpoint_bytes, state_bytes, training_bytes

if TYPE_CHECKING:
    from llmpipe.core.distributed import Runtime

LESS_MEMORY = (
    "lower `pretrain.micro_batch_size`, or use `--set pretrain.recompute=true`; with several "
    "processes, `--set pretrain.parallel=fsdp`"
)
"""What helps where memory ends."""


def check_processes(config: PretrainConfig, ranks: Ranks) -> None:
    """Refuse settings that this number of processes cannot carry out.

    Raises:
        UserError: naming the settings.
    """
    if not config.exact:
        return
    if ranks.world_size & (ranks.world_size - 1):
        raise UserError(
            f"`exact` needs a power of two of processes, and there are {ranks.world_size}",
            hint="start 1, 2, 4, 8 ... processes, or leave `exact` out",
        )
    if config.parallel == "fsdp":
        raise UserError(
            '`exact` and `parallel = "fsdp"` exclude each other: FSDP adds in an order of its own',
            hint="leave one of them out",
        )


def check_float8(config: PretrainConfig, runtime: Runtime) -> None:
    """Refuse 8 bits for batches that they cannot multiply, and on a GPU that has no instructions for them.

    Raises:
        UserError: naming the settings, or the GPU.
    """
    if config.dtype != "float8":
        return
    import torch

    from llmpipe.training.float8 import MULTIPLE

    n_tokens = config.micro_batch_size * (config.row_tokens or 0)
    if n_tokens % MULTIPLE:
        raise UserError(
            f"with float8 a micro-batch must be a multiple of {MULTIPLE} tokens, and it is "
            f"micro_batch_size * row_tokens = {config.micro_batch_size} * {config.row_tokens}",
            hint="change one of them, or use `--set pretrain.dtype=bfloat16`",
        )
    if not runtime.is_cuda:
        return
    # Source: NVIDIA's CUDA programming guide: 8.9 is Ada, 9.0 is Hopper.
    if torch.cuda.get_device_capability(runtime.device) < (8, 9):
        raise UserError(
            f"{torch.cuda.get_device_name(runtime.device)} does not compute in 8 bits",
            hint="use `--set pretrain.dtype=bfloat16`",
        )


def check_tokens(folder: Path, tokenizer: Tokenizer, train: TokenShards, val: TokenShards) -> None:
    """Refuse tokens that are missing, or that another tokenizer made.

    Raises:
        InputError: saying what does not fit what.
    """
    for split, shards in (("training", train), ("validation", val)):
        if shards.n_tokens == 0:
            raise InputError(f"{folder} has no {split} tokens", "raise `tokenize.val_frac`")
        if shards.digest != tokenizer.digest:
            raise InputError(
                f"{folder}: the shards were not made with the tokenizer that is used",
                hint="tokenize all corpora of a run with one tokenizer",
            )
    n_ids = read_index(folder).get("vocab_size")
    if n_ids != tokenizer.vocab_size:
        raise InputError(
            f"{folder}: the shards hold ids up to {n_ids}, the tokenizer has {tokenizer.vocab_size}"
        )


def check_start(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse to go on from a model that reads other tokens.

    Raises:
        InputError: saying how to get tokens that fit.
    """
    own = Tokenizer.load(folder)
    if own.digest != tokenizer.digest:
        raise InputError(
            f"the tokens were not made with the tokenizer of {folder}",
            hint=f"tokenize again with `--set tokenize.tokenizer={folder}`",
        )


def check_disk(config: PretrainConfig, model: ModelConfig, out: Path, n_steps: int) -> None:
    """Refuse to start where checkpoints and copies will not fit.

    One checkpoint more than is kept exists while it is written.

    Raises:
        UserError: with both numbers.
    """
    n_checkpoints = config.keep_checkpoints + 1 + config.keep_level
    n_copies = n_steps // config.export_every if config.export_every else 0
    model_bytes = 4 * n_parameters(model)
    needed = n_checkpoints * checkpoint_bytes(model) + (1 + n_copies) * model_bytes
    # On a resumed run a part of it is there already.
    held = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    free = shutil.disk_usage(out).free + held
    if needed > free:
        copies = f" ({n_copies:,} copies of it are {format_bytes(n_copies * model_bytes)})"
        raise UserError(
            f"checkpoints and model need {format_bytes(needed)}{copies if n_copies else ''}, and "
            f"`{out}` has {format_bytes(free)} free",
            hint="free some, write elsewhere with --out, lower `pretrain.keep_checkpoints`, or raise "
            "`pretrain.export_every`"
            if n_copies
            else "free some, write elsewhere with --out, or lower `pretrain.keep_checkpoints`",
        )


def check_memory(
    config: PretrainConfig,
    model: ModelConfig,
    ranks: Ranks,
    total: int,
    warn: Callable[[str], None],
) -> None:
    """Refuse a model whose weights, gradients and moments alone exceed the memory.

    All that training takes can only be estimated, so that is warned of and not refused.

    Args:
        config: With every setting filled in.
        model: Shape.
        ranks: How many processes share the work, and how many this machine.
        total: Bytes of memory of the device of one process, or of the machine on a CPU, divided by
            its processes.
        warn: Where to say that it may not be enough.

    Raises:
        UserError: with both numbers.
    """
    all_state = state_bytes(model)
    state = all_state // ranks.world_size if config.parallel == "fsdp" else all_state
    if state > total:
        raise UserError(
            f"weights, gradients and moments need {format_bytes(state)} per process, and there "
            f"are {format_bytes(total)}",
            hint="use a smaller model, or more processes with `--set pretrain.parallel=fsdp`",
        )
    micro_tokens = config.micro_batch_size * (config.row_tokens or model.max_seq_len)
    needed = training_bytes(model, micro_tokens, config.recompute, config.dtype) - all_state + state
    if needed > total:
        warn(
            f"pretrain: training takes an estimated {format_bytes(needed)} per process, and there "
            f"are {format_bytes(total)}; if it runs out of memory, {LESS_MEMORY}"
        )
