"""The shape of a model as Hugging Face's `config.json` says it, in and out. Loads without torch.

transformers 5 writes `rope_parameters`, older versions `rope_theta` and `rope_scaling`: both are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError
from llmpipe.model.config import ModelConfig, RopeScaling

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


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
