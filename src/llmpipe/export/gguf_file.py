"""GGUF: the one-file format of llama.cpp, Ollama and LM Studio.

llama.cpp's own converter recognizes tokenizers by a hash of the ids they give, and so refuses every
newly trained one. Our split patterns are ones that llama.cpp has by name, so the file is written here.

Where llama.cpp differs from Hugging Face's weights:

    * GPT-2's matrices stand the other way round.
    * Llama's queries and keys pair neighboring numbers for rotary positions, so their rows are
      reordered; Qwen3's are not.
    * Llama 3.1's stretched wavelengths are a tensor of divisors.
    * Norms, biases and learned positions stay in float32.

Source: ggml-org/llama.cpp convert_hf_to_gguf.py and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.artifact import atomic_file
from llmpipe.core.errors import UserError
from llmpipe.export.hugging_face import Source
from llmpipe.model.config import ModelConfig
from llmpipe.model.rope import rope_frequencies
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.hf import spell
from llmpipe.tokenizer.patterns import pattern_name

FILE = "model.gguf"
GGUF_DTYPES = ("float32", "float16", "q8_0")

PRE_TOKENIZERS = {
    "qwen2": "qwen2",
    "gpt2": "gpt-2",
    "llama3": "llama-bpe",
    "o200k": "gpt-4o",
}
"""Our name of a split pattern, and llama.cpp's. It has none that cuts white space at a text's end as cl100k
does. Source: ggml-org/llama.cpp src/llama-vocab.cpp."""

_Q8_BLOCK = 32
"""Numbers that share one scale in Q8_0; matrices whose rows are no multiple of it stay in float16."""

# llama.cpp's names are these with an underscore and `ffn` for `mlp`, except for one (`_block_tensors`).
_BLOCK_PARTS = (
    "attn_norm", "attn.q", "attn.k", "attn.v", "attn.o", "attn.q_norm", "attn.k_norm",
    "mlp_norm", "mlp.gate", "mlp.up", "mlp.down",
)  # fmt: skip


def write_gguf(source: Source, path: Path, dtype: str, name: str) -> None:
    """Write a model as one file.

    Args:
        source: the model.
        path: of the file.
        dtype: one of `GGUF_DTYPES`, for the matrices.
        name: of the model, for people.

    Raises:
        UserError: if llama.cpp does not know the tokenizer's split pattern, or a weight is too large
            for float16.
    """
    import gguf

    pre_tokenizer = pre_tokenizer_name(source.tokenizer)
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, source.model.config.family)
        writer.add_name(name)
        _add_shape(writer, source.model.config)
        file_types = gguf.LlamaFileType
        types = (file_types.ALL_F32, file_types.MOSTLY_F16, file_types.MOSTLY_Q8_0)
        writer.add_file_type(types[GGUF_DTYPES.index(dtype)])
        if dtype == "q8_0":
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_tokenizer(writer, source, pre_tokenizer)
        for tensor_name, array in gguf_tensors(source):
            kind = storage(tensor_name, array, dtype)
            largest = np.abs(array).max(initial=0.0)
            if kind == "F16" and largest > np.finfo(np.float16).max:
                raise UserError(
                    f"{tensor_name} holds a weight of {largest:.3g}, and float16 ends at 65504",
                    hint="export with `--dtype float32`",
                )
            stored_as = gguf.GGMLQuantizationType[kind]
            data = gguf.quants.quantize(array, stored_as)
            writer.add_tensor(tensor_name, data, raw_dtype=stored_as)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """Return llama.cpp's name for the tokenizer's split pattern.

    Raises:
        UserError: if it has none.
    """
    name = PRE_TOKENIZERS.get(pattern_name(tokenizer.pattern) or "")
    if name is None:
        raise UserError(
            "the tokenizer's split pattern is none that llama.cpp knows",
            hint=f"train the tokenizer with one of the patterns {', '.join(PRE_TOKENIZERS)}, "
            "or export with `--to hf`",
        )
    return name


def storage(name: str, array: np.ndarray, dtype: str) -> str:
    """Return ggml's name of the type a tensor is stored in."""
    if array.ndim == 1 or dtype == "float32" or name == "position_embd.weight":
        return "F32"
    return "Q8_0" if dtype == "q8_0" and array.shape[-1] % _Q8_BLOCK == 0 else "F16"


# ------------------------------------------------------------------------------------------
# Tensors


def gguf_tensors(source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor in float32, under llama.cpp's name and in its layout."""
    model, config = source.model, source.model.config
    ours = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    yield "token_embd.weight", ours["embed.weight"][: config.vocab_size]
    if config.family == "gpt2":
        yield "position_embd.weight", ours["position.weight"]
    if config.rope_scaling is not None:
        yield "rope_freqs.weight", _rope_divisors(config)
    for i in range(config.n_layers):
        yield from _block_tensors(ours, f"blocks.{i}.", f"blk.{i}.", config)
    for kind in ("weight", "bias"):
        if f"norm.{kind}" in ours:
            yield f"output_norm.{kind}", ours[f"norm.{kind}"]
    if not config.tied_embeddings:
        yield "output.weight", ours["head.weight"][: config.vocab_size]


def _block_tensors(
    ours: dict[str, np.ndarray], prefix: str, theirs: str, config: ModelConfig
) -> Iterator[tuple[str, np.ndarray]]:
    parts = list(_BLOCK_PARTS)
    if config.family == "gpt2":
        for kind in ("weight", "bias"):
            qkv = [ours[f"{prefix}attn.{part}.{kind}"] for part in "qkv"]
            yield f"{theirs}attn_qkv.{kind}", np.concatenate(qkv)
        parts = [part for part in parts if part not in ("attn.q", "attn.k", "attn.v")]
    for part in parts:
        name = {"attn.o": "attn_output"}.get(part, part.replace("mlp", "ffn").replace(".", "_"))
        for kind in ("weight", "bias"):
            array = ours.get(f"{prefix}{part}.{kind}")
            if array is None:
                continue
            if config.family == "llama" and part in ("attn.q", "attn.k"):
                array = _neighbors(array, config.head_dim)
            yield f"{theirs}{name}.{kind}", array


def _neighbors(matrix: np.ndarray, head_dim: int) -> np.ndarray:
    """Bring the rows `i` and `i + head_dim / 2` of each head together, for llama.cpp's Llama."""
    halves = matrix.reshape(-1, 2, head_dim // 2, matrix.shape[1])
    return halves.swapaxes(1, 2).reshape(matrix.shape)


def _rope_divisors(config: ModelConfig) -> np.ndarray:
    """Return what each pair's angle is divided by: 1 where Llama 3.1 leaves it alone."""
    plain = rope_frequencies(config.head_dim, config.rope_theta, None)
    stretched = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    divisors: np.ndarray = (plain / stretched).numpy()
    return divisors


# ------------------------------------------------------------------------------------------
# Settings


def _add_shape(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.family == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_tokenizer(writer: Any, source: Source, pre_tokenizer: str) -> None:
    from gguf import TokenType

    tokenizer, n_rows = source.tokenizer, source.model.config.vocab_size
    special = {id: name for name, id in tokenizer.special.items()}
    ordinary = {id: spell(token) for token, id in tokenizer.ranks.items()}
    tokens, kinds = [], []
    for id in range(n_rows):
        if id in special:
            tokens.append(special[id])
            kinds.append(TokenType.CONTROL)
        else:
            # Rows of the embedding beyond the vocabulary need a name of their own.
            tokens.append(ordinary.get(id, f"[unused {id}]"))
            kinds.append(TokenType.NORMAL if id in ordinary else TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{spell(a)} {spell(b)}" for a, b in tokenizer.merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(source.stop_ids[0])
    if len(source.stop_ids) > 1:
        writer.add_eot_token_id(source.stop_ids[1])
    writer.add_pad_token_id(tokenizer.pad_id)
    # llama.cpp takes the mark away again where a chat template writes it as well.
    writer.add_add_bos_token(True)
    if source.chat_template is not None:
        writer.add_chat_template(source.chat_template)
