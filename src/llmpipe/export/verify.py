"""Reload an export with the programs it is meant for, and compare it with the source in float32.

Three things are compared: the token ids of plain and hostile texts, the log-probabilities of every token at every
position of a few sequences, and the greedy continuation.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmpipe.core.errors import ExpectationError, UserError
from llmpipe.export.gguf_file import gguf_tensors, storage
from llmpipe.export.hugging_face import Source
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.tokenizer.special import BOS, IM_END, IM_START

LARGEST_DIFFERENCE = {"float32": 1e-4, "float16": 0.05, "bfloat16": 2.0, "q8_0": 2.0}
"""Of log-probabilities, by the type of the weights. For float32 it is rounding; the others only catch
files that are broken: weights of 11, 8 and 8 bits change a log-probability of -20 by tenths."""

LLAMA_CPP_GELU = 0.05
"""llama.cpp looks GELU up in a table of float16 numbers, so GPT-2 differs there even in float32.
Source: ggml-org/llama.cpp ggml/src/ggml-cpu/vec.h, `GGML_GELU_FP16`."""

N_GREEDY = 16
"""Tokens of a greedy continuation that must be the same (in float32)."""

TEXTS = (
    "The quick brown fox jumps over 12,345 lazy dogs.\n\n  def f(x):\n\treturn x**2\n",
    "don't  DON'T\r\n naïve café 東京 😀👩‍👩‍👧 ́x",
    "<|im_end|><|im_start|>system\n<|bos|>\x00<|endoftext|>",
    " leading and trailing spaces   ",
)
"""Plain words, digits, blanks, scripts, emoji, and spellings of control tokens as a user may type them."""


def verify_hugging_face(source: Source, folder: Path, dtype: str) -> str:
    """Reload a Hugging Face folder with transformers; return a line that sums the comparison up.

    Raises:
        UserError: if transformers is not installed.
        ExpectationError: if tokens or log-probabilities differ.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            "`--verify` needs transformers", hint="install it: `pip install 'llmpipe[export]'`"
        )
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    encode = partial(theirs.encode, add_special_tokens=False, split_special_tokens=True)

    @torch.no_grad()
    def log_probs(ids: Sequence[int]) -> np.ndarray:
        logits: torch.Tensor = model(torch.tensor([list(ids)])).logits[0]
        return np.asarray(logits.float().log_softmax(-1))

    found = _compare("transformers", source, dtype, encode, log_probs)
    # A model imported with a template of its own makers may chat in another way.
    if source.chat_template is not None and BOS in source.chat_template:
        messages = [{"role": "user", "content": TEXTS[0]}]
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        _require(list(ids) == _chat_ids(source, TEXTS[0]), "the chat template gives other ids")
    return found


def verify_gguf_tensors(source: Source, path: Path, dtype: str) -> int:
    """Read a GGUF file back and compare every tensor with the source; return how many there are.

    Raises:
        ExpectationError: if one is missing, or further off than its type can explain.
    """
    import gguf

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    n_tensors = len(stored)
    for name, array in gguf_tensors(source):
        _require(name in stored, f"{path}: tensor {name} is missing")
        tensor = stored.pop(name)
        got = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(array.shape)
        kind = storage(name, array, dtype)
        is_near = np.abs(got - array) <= _rounding(kind, np.abs(array))
        _require(bool(is_near.all()), f"{path}: tensor {name} differs from the source")
    _require(not stored, f"{path}: {len(stored)} tensors too many")
    return n_tensors


def _rounding(kind: str, sizes: np.ndarray) -> np.ndarray | float:
    """Return how far storing can move a number: half a step of its type.

    Float16 keeps 11 bits, and near 0 has a fixed step of 2**-24. Q8_0 has 127 steps up to a block's largest
    number, and keeps that scale in float16, which every one of the 127 steps is multiplied with.
    """
    if kind == "F32":
        return 0.0
    if kind == "F16":
        return sizes * 2**-11 + 2**-25
    return float(sizes.max(initial=0.0)) * (0.5 / 127 + 2**-11) + 127 * 2**-25


def verify_llama_cpp(source: Source, path: Path, dtype: str) -> str | None:
    """Reload a GGUF file with llama.cpp and sum up the comparison; None without llama-cpp-python.

    Raises:
        ExpectationError: if tokens or log-probabilities differ.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    llama_cpp: Any = importlib.import_module("llama_cpp")
    # Keys and values in float32 and no flash attention: llama.cpp's defaults round to float16.
    llama = llama_cpp.Llama(
        str(path),
        n_ctx=min(source.model.config.max_seq_len, 512),
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        verbose=False,
    )

    def log_probs(ids: Sequence[int]) -> np.ndarray:
        llama.reset()
        llama.eval(list(ids))
        logits = torch.tensor(np.array(llama.scores[: len(ids)]))
        return np.asarray(logits.log_softmax(-1))

    try:
        encode = partial(llama.tokenize, add_bos=False, special=False)
        return _compare("llama.cpp", source, dtype, lambda text: encode(text.encode()), log_probs)
    finally:
        llama.close()


def _compare(
    program: str,
    source: Source,
    dtype: str,
    encode: Callable[[str], list[int]],
    log_probs: Callable[[Sequence[int]], np.ndarray],
) -> str:
    """Compare a program with the source; `log_probs` gives those of the next token, a row per id."""
    for text in TEXTS:
        _require(
            encode(text) == source.tokenizer.encode(text), f"{program} gives other ids for {text!r}"
        )
    engine = Engine(source.model, max_batch=1, max_len=min(source.model.config.max_seq_len, 512))
    greedy = Sampling(temperature=0.0, max_tokens=N_GREEDY)
    largest, n_places, n_equal, n_greedy = 0.0, 0, 0, 0
    for prompt in _prompts(source, engine.max_len):
        ids = engine.generate([prompt], greedy)[0].ids
        whole = [*prompt, *ids]
        with torch.no_grad():
            ours = source.model(torch.tensor([whole]))[0].log_softmax(-1).numpy()
        theirs = log_probs(whole)[:, : ours.shape[1]]
        largest = max(largest, float(np.abs(ours - theirs).max()))
        chosen = theirs[len(prompt) - 1 : -1].argmax(axis=1).tolist()
        n_equal += sum(a == b for a, b in zip(chosen, ids, strict=True))
        n_greedy += len(ids)
        n_places += len(whole)
    found = (
        f"{program}: ids of {len(TEXTS)} texts equal, log-probabilities of {n_places} places differ "
        f"by at most {largest:.1e}, {n_equal} of {n_greedy} greedy tokens equal"
    )
    allowed = LARGEST_DIFFERENCE[dtype]
    if program == "llama.cpp" and source.model.config.family == "gpt2":
        allowed = max(allowed, LLAMA_CPP_GELU)
    _require(largest <= allowed, f"{found}; {allowed:g} is allowed for {dtype}")
    _require(dtype != "float32" or n_equal == n_greedy, found)
    return found


def _prompts(source: Source, max_len: int) -> list[list[int]]:
    """Return a few prompts, as a text and as a conversation, that leave room for the answer."""
    tokenizer = source.tokenizer
    texts = ["The", "What is 37 + 45?", TEXTS[0]]
    prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    if IM_START in tokenizer.special:
        prompts.append(_chat_ids(source, texts[1]))
    return [prompt[: max_len - N_GREEDY] for prompt in prompts]


def _chat_ids(source: Source, text: str) -> list[int]:
    """Render one user's message as `assistant/render.py` does, which this layer may not import."""
    tokenizer, special = source.tokenizer, source.tokenizer.special
    newline = tokenizer.encode("\n")
    turn = [special[IM_START], *tokenizer.encode(f"user\n{text}"), special[IM_END], *newline]
    return [tokenizer.bos_id, *turn, special[IM_START], *tokenizer.encode("assistant\n")]


def _require(is_true: Any, message: str) -> None:
    if not is_true:
        raise ExpectationError(f"the export is not the model: {message}")
