"""Models on disk: Hugging Face folders, in and out.

A folder has `config.json` and `model.safetensors` (or several files and an index, when read). The
names are those of `GPT2LMHeadModel`, `LlamaForCausalLM` and `Qwen3ForCausalLM`, so that
transformers, vLLM and llama.cpp open what is written here. This is the only file that knows both
spellings of the tensors' names. A round trip gives back every bit.

Traps this file knows of:
    * GPT-2 stores its matrices the other way round (`Conv1D`), and q, k, v as one.
    * Hub copies of GPT-2 lack the prefix `transformer.`, and carry the causal mask as a tensor
      named `h.0.attn.bias`, a suffix of the real bias `h.0.attn.c_attn.bias`.
    * Padding rows of embedding and head are cut off on the way out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmpipe.core.artifact import atomic_file, write_atomic
from llmpipe.core.errors import InputError
from llmpipe.model.config import ModelConfig
from llmpipe.model.config_file import load_config, to_hugging_face
from llmpipe.model.transformer import Transformer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

MAX_FILE_BYTES = 5_000_000_000
"""Of one file of weights. Source: the size at which Hugging Face's `save_pretrained` cut for years."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a Hugging Face file, and which of ours it is made of."""

    name: str
    parts: tuple[str, ...]
    """Our parameters, one below the other."""
    is_transposed: bool = False


# ---------------------------------------------------------------------------------------------
# Names


def stored_tensors(config: ModelConfig) -> list[Stored]:
    """List the tensors of a file for this model, in the order of the forward pass."""
    if config.family == "gpt2":
        return _gpt2_tensors(config)
    stored = [Stored("model.embed_tokens.weight", ("embed.weight",))]
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn.q",
        "self_attn.k_proj": "attn.k",
        "self_attn.v_proj": "attn.v",
        "self_attn.o_proj": "attn.o",
        "post_attention_layernorm": "mlp_norm",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "mlp.down_proj": "mlp.down",
    }
    if config.has_qk_norm:
        names |= {"self_attn.q_norm": "attn.q_norm", "self_attn.k_norm": "attn.k_norm"}
    for i in range(config.n_layers):
        for theirs, ours in names.items():
            stored.append(
                Stored(f"model.layers.{i}.{theirs}.weight", (f"blocks.{i}.{ours}.weight",))
            )
    stored.append(Stored("model.norm.weight", ("norm.weight",)))
    if not config.tied_embeddings:
        stored.append(Stored("lm_head.weight", ("head.weight",)))
    return stored


def _gpt2_tensors(config: ModelConfig) -> list[Stored]:
    stored = [
        Stored("transformer.wte.weight", ("embed.weight",)),
        Stored("transformer.wpe.weight", ("position.weight",)),
    ]
    norms = {"ln_1": "attn_norm", "ln_2": "mlp_norm"}
    linears = {
        "attn.c_attn": ("attn.q", "attn.k", "attn.v"),
        "attn.c_proj": ("attn.o",),
        "mlp.c_fc": ("mlp.up",),
        "mlp.c_proj": ("mlp.down",),
    }
    for i in range(config.n_layers):
        theirs, ours = f"transformer.h.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            for name, norm in norms.items():
                stored.append(Stored(f"{theirs}.{name}.{kind}", (f"{ours}.{norm}.{kind}",)))
            for name, parts in linears.items():
                stored.append(
                    Stored(
                        f"{theirs}.{name}.{kind}",
                        tuple(f"{ours}.{part}.{kind}" for part in parts),
                        is_transposed=kind == "weight",
                    )
                )
    stored.append(Stored("transformer.ln_f.weight", ("norm.weight",)))
    stored.append(Stored("transformer.ln_f.bias", ("norm.bias",)))
    return stored


def _is_known_extra(name: str, config: ModelConfig) -> bool:
    """Tell tensors that some files carry and no model needs."""
    if name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")):
        return True
    return name == "lm_head.weight" and config.tied_embeddings


# ---------------------------------------------------------------------------------------------
# Folders


def save_model(
    model: Transformer,
    folder: Path,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write `config.json` and the weights, each file whole or not at all.

    Weights of more than `max_file_bytes` become several files, and an index that is written last.
    """
    config = model.config
    ours = dict(model.named_parameters())
    tensors = {}
    for stored in stored_tensors(config):
        parts = [_without_padding(name, ours[name].detach(), config) for name in stored.parts]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        tensors[stored.name] = (tensor.T if stored.is_transposed else tensor).contiguous().cpu()
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    values = to_hugging_face(config, dtype, bos_token_id, eos_token_id)
    folder.mkdir(parents=True, exist_ok=True)
    groups = _group_by_size(tensors, max_file_bytes)
    weight_map: dict[str, str] = {}
    for i, names in enumerate(groups, start=1):
        several = f"model-{i:05d}-of-{len(groups):05d}.safetensors"
        file = WEIGHTS_FILE if len(groups) == 1 else several
        weight_map |= dict.fromkeys(names, file)
        with atomic_file(folder / file) as path:
            # transformers refuses files that do not say which framework wrote them.
            save_file({name: tensors[name] for name in names}, path, metadata={"format": "pt"})
    if len(groups) > 1:
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_atomic(folder / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")
    write_atomic(folder / "config.json", json.dumps(values, indent=2, sort_keys=True) + "\n")


def _group_by_size(tensors: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    """Cut the names, in order, into groups of at most `max_bytes`; a larger tensor is alone."""
    groups: list[list[str]] = [[]]
    n_bytes = 0
    for name, tensor in tensors.items():
        if groups[-1] and n_bytes + tensor.nbytes > max_bytes:
            groups.append([])
            n_bytes = 0
        groups[-1].append(name)
        n_bytes += tensor.nbytes
    return groups


def load_model(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Transformer:
    """Read a model.

    Args:
        folder: A Hugging Face folder.
        device: Where the weights go.
        dtype: Turn the weights into this; default: as they are in the file.

    Raises:
        InputError: if a file or a tensor is missing, too many, or of another shape than config.json
            says.
    """
    config = load_config(folder)
    with torch.device("meta"):  # no time and memory for weights that are overwritten anyway
        model = Transformer(config)
    ours = dict(model.named_parameters())
    read: dict[str, Tensor] = {}
    missing = {_bare(stored.name): stored for stored in stored_tensors(config)}
    for name, tensor in _read_tensors(folder):
        stored = missing.pop(_bare(name), None)
        if stored is None:
            if not _is_known_extra(name, config):
                raise InputError(f"{folder}: unexpected tensor `{name}`")
            continue
        tensor = tensor.T if stored.is_transposed else tensor
        shapes = {part: _without_padding(part, ours[part], config).shape for part in stored.parts}
        if tensor.shape[1:] != next(iter(shapes.values()))[1:] or len(tensor) != sum(
            shape[0] for shape in shapes.values()
        ):
            raise InputError(
                f"{folder}: `{name}` has shape {list(tensor.shape)}, which is not what "
                "config.json says"
            )
        pieces = torch.split(tensor, [shape[0] for shape in shapes.values()])
        for part, piece in zip(shapes, pieces, strict=True):
            padded = torch.zeros(ours[part].shape, dtype=dtype or piece.dtype, device=device)
            padded[: len(piece)] = piece
            read[part] = padded
    if missing:
        names = ", ".join(sorted(missing)[:3])
        raise InputError(f"{folder}: {len(missing)} tensors are missing: {names}")
    model.load_state_dict(read, strict=False, assign=True)
    model.tie_head()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def save_generation_config(
    folder: Path, bos_token_id: int, eos_token_ids: list[int], pad_token_id: int
) -> None:
    """Write `generation_config.json`: where generation starts and stops."""
    values = {
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_ids,
        "pad_token_id": pad_token_id,
    }
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_atomic(folder / "generation_config.json", text)


def _bare(name: str) -> str:
    """Drop the prefix that base models lack and models with a head have."""
    return name.removeprefix("transformer.").removeprefix("model.")


def _without_padding(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    return tensor[: config.vocab_size] if name in {"embed.weight", "head.weight"} else tensor


def _read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Read all tensors of the folder's one file, or of the files its index names."""
    index = folder / INDEX_FILE
    names = [WEIGHTS_FILE]
    if not (folder / WEIGHTS_FILE).exists() and index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{index} names a file outside its folder: `{name}`")
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    yield key, file.get_tensor(key)
        except FileNotFoundError:
            raise InputError(f"no {name} in {folder}") from None
        except SafetensorError as error:
            raise InputError(f"{folder / name} cannot be read: {error}") from None
