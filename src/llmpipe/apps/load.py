"""From a model folder to an engine that generates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from llmpipe.core.errors import InputError, UserError
from llmpipe.export.hugging_face import read_stop_ids
from llmpipe.inference.engine import Engine
from llmpipe.inference.int8 import quantize_int8
from llmpipe.model.weights import INDEX_FILE, WEIGHTS_FILE, load_model
from llmpipe.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model's engine and tokenizer, and where its texts and answers end, as its folder says."""

    tokenizer: Tokenizer
    engine: Engine
    stop_ids: tuple[int, ...]


def load(
    folder: Path,
    device: str = "auto",
    max_batch: int = 1,
    max_len: int | None = None,
    int8: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> Loaded:
    """Read a model folder.

    Args:
        folder: holds `model.safetensors` (or several files and their index), `config.json` and `tokenizer.json`.
        device: `auto` takes a GPU if there is one.
        max_batch: sequences generated at the same time.
        max_len: tokens of the longest one; the model's own limit by default.
        int8: turn the matrices into 8 bits, which is faster and a little less exact.
        warn: as in `Engine`.

    Raises:
        InputError: if the folder is no model, or its tokenizer has ids the model does not know.
    """
    # Whatever is wrong is said before anything is read, in words about models.
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder",
            hint="name a model, such as runs/tiny/sft; see `llmpipe ls`",
        )
    weights = INDEX_FILE if (folder / INDEX_FILE).is_file() else WEIGHTS_FILE
    needed = (weights, "config.json", "tokenizer.json")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise InputError(
            f"{folder} is not a model: {', '.join(missing)} is missing",
            hint="name the folder of a model, such as runs/tiny/base or runs/tiny/sft",
        )
    tokenizer = Tokenizer.load(folder)
    model = load_model(folder, device=pick_device(device))
    model.eval()
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids "
            f"and the model knows {model.config.vocab_size}"
        )
    if int8:
        quantize_int8(model)
    engine = Engine(model, max_batch=max_batch, max_len=max_len, warn=warn)
    return Loaded(tokenizer, engine, read_stop_ids(folder, tokenizer))


def pick_device(device: str) -> str:
    """Return `cpu` or `cuda`, resolving `auto`.

    Raises:
        UserError: if `cuda` is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device.startswith("cuda") and not has_cuda:
        raise UserError("no CUDA device is available here", hint="use `--device cpu`")
    return device
