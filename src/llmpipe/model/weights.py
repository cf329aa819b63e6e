"""Models on disk: Hugging Face folders, in and out.

A folder has `config.json` and `model.safetensors` (or several files and an index, when read). The
names are those of `GPT2LMHeadModel`, `LlamaForCausalLM` and `Qwen3ForCausalLM`, so that
transformers, vLLM and llama.cpp open what is written here. This is the only file that knows both
spellings. A round trip gives back every bit.

Traps this file knows of:
    * GPT-2 stores its matrices the other way round (`Conv1D`), and q, k, v as one.
    * Hub copies of GPT-2 lack the prefix `transformer.`, and carry the causal mask as a tensor
      named `h.0.attn.bias`, a suffix of the real bias `h.0.attn.c_attn.bias`.
    * transformers 5 writes `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
    * Padding rows of embedding and head are cut off on the way out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmpipe.core.artifact import atomic_file, write_atomic
from llmpipe.core.errors import InputError
from llmpipe.model.config import ModelConfig, RopeScaling
from llmpipe.model.transformer import Transformer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


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
# Settings


def to_hugging_face(
    config: ModelConfig,
    dtype: str = "float32",
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
) -> dict[str, Any]:
    """Write the shape as a Hugging Face `config.json`."""
    common: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_embeddings,
        "dtype": dtype,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "use_cache": True,
    }
    if config.family == "gpt2":
        return common | {
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.d_ff,
            "n_positions": config.max_seq_len,
            "n_ctx": config.max_seq_len,
            "layer_norm_epsilon": config.norm_eps,
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    shape = common | {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
    }
    if config.rope_scaling is not None:
        shape["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_max_seq_len,
        }
    if config.family == "llama":
        return shape | {"mlp_bias": False}
    return shape | {
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": config.n_layers,
    }


def from_hugging_face(values: Mapping[str, Any]) -> ModelConfig:
    """Read the shape from the contents of a `config.json`.

    Raises:
        InputError: if the model has a part that `Transformer` does not, naming it.
    """
    family = values.get("model_type")
    if family == "gpt2":
        return _from_gpt2(values)
    if family not in ARCHITECTURES:
        raise InputError(
            f"model_type is `{family}`, expected one of {', '.join(ARCHITECTURES)}",
            hint="models of other families cannot be read",
        )
    _require(values, hidden_act="silu", attention_bias=False, mlp_bias=False)
    _require(values, use_sliding_window=False)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    d_model, n_heads = values["hidden_size"], values["num_attention_heads"]
    return ModelConfig(
        family=family,
        d_model=d_model,
        n_layers=values["num_hidden_layers"],
        n_heads=n_heads,
        n_kv_heads=values.get("num_key_value_heads") or n_heads,
        head_dim=values.get("head_dim") or d_model // n_heads,
        d_ff=values["intermediate_size"],
        vocab_size=values["vocab_size"],
        max_seq_len=values["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
        rope_scaling=_read_rope_scaling(rope),
        norm_eps=values["rms_norm_eps"],
        tied_embeddings=values.get("tie_word_embeddings", False),
    )


def _read_rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise InputError(f"rope_type is `{kind}`, expected `default` or `llama3`")
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_seq_len=rope["original_max_position_embeddings"],
    )


def _from_gpt2(values: Mapping[str, Any]) -> ModelConfig:
    _require(values, activation_function="gelu_new", scale_attn_weights=True)
    _require(values, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    _require(values, tie_word_embeddings=True)
    d_model, n_heads = values["n_embd"], values["n_head"]
    return ModelConfig(
        family="gpt2",
        d_model=d_model,
        n_layers=values["n_layer"],
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_ff=values.get("n_inner") or 4 * d_model,
        vocab_size=values["vocab_size"],
        max_seq_len=values["n_positions"],
        norm_eps=values["layer_norm_epsilon"],
        tied_embeddings=True,
    )


def _require(values: Mapping[str, Any], **expected: Any) -> None:
    """Refuse a model whose settings ask for a part we do not have; absent means the default."""
    for key, value in expected.items():
        if values.get(key, value) != value:
            raise InputError(f"config.json: {key} is `{values[key]}`, only `{value}` is supported")


# ---------------------------------------------------------------------------------------------
# Folders


def save_model(
    model: Transformer,
    folder: Path,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
) -> None:
    """Write `config.json` and `model.safetensors`, each whole or not at all."""
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
    with atomic_file(folder / WEIGHTS_FILE) as path:
        # transformers refuses files that do not say which framework wrote them.
        save_file(tensors, path, metadata={"format": "pt"})
    write_atomic(folder / "config.json", json.dumps(values, indent=2, sort_keys=True) + "\n")


def load_config(folder: Path) -> ModelConfig:
    """Read the shape of the model in `folder`."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"no config.json in {folder}", hint="name a folder with a model") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    try:
        return from_hugging_face(values)
    except KeyError as error:
        raise InputError(f"{path} has no key {error}") from None


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
