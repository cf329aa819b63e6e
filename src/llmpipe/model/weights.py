"""Models on disk: Hugging Face folders, in and out.

A folder has `config.json` and `model.safetensors`, or several files and an index. The names are
those of `GPT2LMHeadModel`, `LlamaForCausalLM` and `Qwen3ForCausalLM`, so that transformers, vLLM and
llama.cpp open what is written here. This is the only file that knows both spellings of the tensors'
names. A round trip gives back every bit.

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
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.config_file import load_config, to_hugging_face
from llmpipe.model.sharded import local_part, part_like, whole
from llmpipe.model.transformer import Transformer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

MAX_FILE_BYTES = 5_000_000_000
"""Of one file of weights. Source: the size at which Hugging Face's `save_pretrained` cut for years."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a Hugging Face file, and which of ours it is made of."""

    name: str
    parts: tuple[str, ...]
    """Our parameters, one below the other."""
    is_transposed: bool = False


# ---------------------------------------------------------------------------------------------
# Names


def stored_tensors(config: ModelConfig) -> list[StoredTensor]:
    """List the tensors of a file for this model, in the order of the forward pass."""
    if config.family == "gpt2":
        return _gpt2_tensors(config)
    stored = [StoredTensor("model.embed_tokens.weight", ("embed.weight",))]
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
                StoredTensor(f"model.layers.{i}.{theirs}.weight", (f"blocks.{i}.{ours}.weight",))
            )
    stored.append(StoredTensor("model.norm.weight", ("norm.weight",)))
    if not config.tied_embeddings:
        stored.append(StoredTensor("lm_head.weight", ("head.weight",)))
    return stored


def _gpt2_tensors(config: ModelConfig) -> list[StoredTensor]:
    stored = [
        StoredTensor("transformer.wte.weight", ("embed.weight",)),
        StoredTensor("transformer.wpe.weight", ("position.weight",)),
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
                stored.append(StoredTensor(f"{theirs}.{name}.{kind}", (f"{ours}.{norm}.{kind}",)))
            for name, parts in linears.items():
                stored.append(
                    StoredTensor(
                        f"{theirs}.{name}.{kind}",
                        tuple(f"{ours}.{part}.{kind}" for part in parts),
                        is_transposed=kind == "weight",
                    )
                )
    stored.append(StoredTensor("transformer.ln_f.weight", ("norm.weight",)))
    stored.append(StoredTensor("transformer.ln_f.bias", ("norm.bias",)))
    return stored


def _is_known_extra(name: str, config: ModelConfig) -> bool:
    """Tell tensors that some files carry and no model needs."""
    if name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")):
        return True
    return name == "lm_head.weight" and config.tied_embeddings


# ---------------------------------------------------------------------------------------------
# Folders


@dataclass(frozen=True)
class Weights:
    """A model's weights on the CPU, cut into files: those that fall to this process."""

    config: ModelConfig
    dtype: str
    """Of the numbers, as torch and Hugging Face spell it."""
    n_bytes: int
    """Of all files together."""
    weight_map: Mapping[str, str]
    """File of each tensor, of all files."""
    files: Mapping[str, Mapping[str, Tensor]]
    """Tensors of each file that this process writes."""
    is_main: bool
    """Whether this process also writes what there is once."""


def collect_weights(
    model: Transformer,
    ranks: Ranks | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    is_copied: bool = False,
) -> Weights:
    """Bring the weights to the CPU, under their Hugging Face names.

    Which tensors share a file follows from the model alone. The files are dealt to the processes, so
    none holds more than its share of the model and one tensor.

    Args:
        model: All its processes must call this together, as each may hold a part of every tensor.
        ranks: The processes; default: this one alone.
        max_file_bytes: A larger model becomes several files.
        is_copied: Copy also what is on the CPU already, because training is about to go on.
    """
    ranks = ranks or Ranks()
    config = model.config
    ours = {name: parameter.detach() for name, parameter in model.named_parameters()}
    stored = {tensor.name: tensor for tensor in stored_tensors(config)}
    sizes = {
        name: sum(
            _shape(part, ours[part], config).numel() * ours[part].itemsize for part in s.parts
        )
        for name, s in stored.items()
    }
    groups = _group_by_size(sizes, max_file_bytes)
    weight_map: dict[str, str] = {}
    files: dict[str, dict[str, Tensor]] = {}
    for i, names in enumerate(groups):
        several = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        file = WEIGHTS_FILE if len(groups) == 1 else several
        weight_map |= dict.fromkeys(names, file)
        for name in names:
            wholes = {part: whole(ours[part]) for part in stored[name].parts}  # all must ask
            if i % ranks.world_size != ranks.rank:
                continue
            parts = [tensor[: _shape(part, tensor, config)[0]] for part, tensor in wholes.items()]
            tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
            tensor = (tensor.T if stored[name].is_transposed else tensor).contiguous()
            files.setdefault(file, {})[name] = tensor.to("cpu", copy=is_copied)
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    return Weights(config, dtype, sum(sizes.values()), weight_map, files, ranks.is_main)


def write_weights(
    weights: Weights,
    folder: Path,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
) -> list[Path]:
    """Write `config.json` and this process's files, each whole or not at all; return what was written.

    Where there are several files of weights, an index says which tensor is in which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, tensors in weights.files.items():
        with atomic_file(folder / file) as path:
            # transformers refuses files that do not say which framework wrote them.
            save_file(dict(tensors), path, metadata={"format": "pt"})
    written = [folder / file for file in weights.files]
    if not weights.is_main:
        return written
    if len(set(weights.weight_map.values())) > 1:
        size = {"total_size": weights.n_bytes}
        index = {"metadata": size, "weight_map": dict(weights.weight_map)}
        write_atomic(folder / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")
        written.append(folder / INDEX_FILE)
    values = to_hugging_face(weights.config, weights.dtype, bos_token_id, eos_token_id)
    write_atomic(folder / CONFIG_FILE, json.dumps(values, indent=2, sort_keys=True) + "\n")
    return [*written, folder / CONFIG_FILE]


def save_model(
    model: Transformer,
    folder: Path,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    ranks: Ranks | None = None,
) -> None:
    """Write a model as a Hugging Face folder; with `ranks`, all of them together, each its files."""
    weights = collect_weights(model, ranks, max_file_bytes)
    write_weights(weights, folder, bos_token_id, eos_token_id)


def _group_by_size(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Cut the names, in order, into groups of at most `max_bytes`; a larger tensor is alone."""
    groups: list[list[str]] = [[]]
    n_bytes = 0
    for name, size in sizes.items():
        if groups[-1] and n_bytes + size > max_bytes:
            groups.append([])
            n_bytes = 0
        groups[-1].append(name)
        n_bytes += size
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
    with torch.device("meta"):  # no time and memory for weights that are overwritten anyway
        model = Transformer(load_config(folder))
    ours = dict(model.named_parameters())
    read: dict[str, Tensor] = {}
    for name, tensor in _read_parameters(folder, model):
        padded = torch.zeros(ours[name].shape, dtype=dtype or tensor.dtype, device=device)
        padded[: len(tensor)] = tensor
        read[name] = padded
    model.load_state_dict(read, strict=False, assign=True)
    model.tie_head()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


@torch.no_grad()
def load_weights(model: Transformer, folder: Path) -> None:
    """Fill the weights of a model in place, one after the other; where it is sharded, this process's rows.

    Raises:
        InputError: if the folder holds a model of another shape.
    """
    ours = dict(model.named_parameters())
    for name, tensor in _read_parameters(folder, model):
        parameter = ours[name]
        padded = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        padded[: len(tensor)] = tensor
        local_part(parameter.data).copy_(part_like(padded, parameter))


def _read_parameters(folder: Path, model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Read the tensors of a folder as the parameters of `model` they are, without rows of padding."""
    config, ours = model.config, dict(model.named_parameters())
    missing = {_bare(stored.name): stored for stored in stored_tensors(config)}
    for name, tensor in _read_tensors(folder):
        stored = missing.pop(_bare(name), None)
        if stored is None:
            if not _is_known_extra(name, config):
                raise InputError(f"{folder}: unexpected tensor `{name}`")
            continue
        expected = [_shape(part, ours[part], config) for part in stored.parts]
        n_rows = [shape[0] for shape in expected]
        stacked = [sum(n_rows), *expected[0][1:]]
        found = tensor.T if stored.is_transposed else tensor
        if list(found.shape) != stacked:
            raise InputError(
                f"{folder}: `{name}` has shape {list(tensor.shape)}, expected "
                f"{stacked[::-1] if stored.is_transposed else stacked} for this model"
            )
        yield from zip(stored.parts, torch.split(found, n_rows), strict=True)
    if missing:
        names = ", ".join(sorted(missing)[:3])
        raise InputError(f"{folder}: {len(missing)} tensors are missing: {names}")


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


def _shape(name: str, tensor: Tensor, config: ModelConfig) -> torch.Size:
    """Give a tensor's shape without rows of padding."""
    n_rows = config.vocab_size if name in {"embed.weight", "head.weight"} else tensor.shape[0]
    return torch.Size((n_rows, *tensor.shape[1:]))


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
