"""The Hugging Face folder, which transformers, vLLM, mlx-lm and llama.cpp's tools open.

A model artifact has these files already; an export differs in the type of the weights, in `config.json`
naming the tokens that begin and end texts, and in holding nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmpipe.core.errors import InputError
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import load_model, save_generation_config, save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import IM_END


@dataclass(frozen=True)
class Source:
    """The contents of a model folder.

    Attributes:
        model: in float32 on the CPU, in evaluation mode.
        chat_template: Jinja text; None for a model that does not chat.
        stop_ids: where generation ends, the first one being the `eos` of formats that know one only.
    """

    folder: Path
    model: Transformer
    tokenizer: Tokenizer
    chat_template: str | None
    stop_ids: tuple[int, ...]

    @property
    def stops(self) -> tuple[str, ...]:
        """The spellings of the stop ids."""
        return tuple(self.tokenizer.token_bytes(id).decode() for id in self.stop_ids)


def read_source(folder: Path) -> Source:
    """Read a model folder.

    Raises:
        InputError: if a file is missing or broken, or the tokenizer has ids the model does not know.
    """
    tokenizer = Tokenizer.load(folder)
    model = load_model(folder, dtype=torch.float32)
    model.eval()
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids "
            f"and the model knows {model.config.vocab_size}"
        )
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    return Source(folder, model, tokenizer, template, read_stop_ids(folder, tokenizer))


def read_stop_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids at which generation ends: those that the folder names, else those of our own models."""
    stops = read_json(folder / "generation_config.json").get("eos_token_id")
    if isinstance(stops, int):
        stops = [stops]
    if not stops:
        stops = [tokenizer.bos_id]
        if IM_END in tokenizer.special:
            stops.insert(0, tokenizer.special[IM_END])
    return tuple(stops)


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file, or nothing if there is no such file.

    Raises:
        InputError: if it holds no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: a JSON object is needed")
    return values


def write_hugging_face(source: Source, out: Path, dtype: str) -> None:
    """Write weights, settings, tokenizer, template and stop ids into the folder `out`.

    Args:
        source: stays as it is, the reference that `--verify` compares with.
        out: is created if missing.
        dtype: torch's name of the type of the weights.
    """
    model = source.model
    if dtype != "float32":
        model = load_model(source.folder, dtype=getattr(torch, dtype))
    tokenizer = source.tokenizer
    save_model(model, out, bos_token_id=tokenizer.bos_id, eos_token_id=source.stop_ids[0])
    tokenizer.save(out, source.chat_template)
    save_generation_config(out, tokenizer.bos_id, list(source.stop_ids), tokenizer.pad_id)
