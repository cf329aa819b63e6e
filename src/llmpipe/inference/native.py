"""The decoding step on a CPU, in C: `decode.c` beside this file.

It is compiled for this machine when an engine first needs it, which takes about two seconds, and kept in the user's
cache (`$XDG_CACHE_HOME` or `~/.cache`). Without a C compiler, on a GPU, for a model with parts that it does not know, or
with mathematics that it does not follow (`decoder.py` tries that out), the engine takes the same step through torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from llmpipe.core.machine import cache_folder
from llmpipe.inference.int8 import Int8Linear
from llmpipe.inference.kv_cache import SlotCache
from llmpipe.model.mlp import SwiGLU
from llmpipe.model.transformer import Block, Transformer

SOURCE = Path(__file__).with_name("decode.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = shlex.split(
    "-O3 -std=gnu11 -march=native -fno-math-errno -fno-tree-vectorize -shared -fPIC"
)
MOST_TOKENS = 256
"""In a step. Of a model of 126M parameters on one core, C takes half of torch's time for 16 tokens of a
prompt, nine tenths for 256, and torch's is the better way to compute more."""

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_FLOATS = {torch.float32, torch.bfloat16}


class NativeDecoder:
    """Takes the decoding step of one model, which `supports` accepts, with the weights where they are."""

    def __init__(self, model: Transformer, cache: SlotCache) -> None:
        library = compiled()
        assert library is not None and supports(model, cache)
        self.most_tokens, self.takes_prompts = MOST_TOKENS, True
        self._decode = library.decode
        self._model, self._cache = model, cache
        self.refresh()

    def refresh(self) -> None:
        """See `Decoder`."""
        self._weights = _tensors(self._model)
        self._found: tuple[int, ...] = ()

    @torch.inference_mode()
    def __call__(
        self,
        ids: Sequence[int],
        slots: Sequence[int],
        lengths: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """See `Decoder`."""
        model = self._model
        # Weights move when a checkpoint is loaded, say; then their addresses are read again.
        found = tuple([tensor.data_ptr() for tensor in self._weights])
        if found != self._found:
            self._description, self._found = _describe(model, self._cache), found
        self._description.n_threads = torch.get_num_threads()
        x = model.embed(torch.tensor(ids)).float()
        positions = torch.tensor(lengths)
        if model.position is not None:
            x = x + model.position(positions).float()
        rotation = model.rope(positions[:, None], torch.float32) if model.rope else (None, None)
        logits = torch.empty(len(wanted), model.config.vocab_size)
        where, which = torch.tensor(slots), torch.tensor(wanted)
        before = [_address(t) for t in (where, positions, *rotation, x)]
        after = len(wanted), _address(which), _address(logits)
        if self._decode(ctypes.byref(self._description), len(ids), *before, *after):
            raise MemoryError("no memory for the decoding step")
        return logits


def supports(model: Transformer, cache: SlotCache) -> bool:
    """Tell whether a model's parts and types are ones that the step in C knows.

    What the parts compute cannot be seen from their types: `decoder.build_decoder` tries that out.
    """
    n_known = sum(type(m) in (nn.Linear, Int8Linear) for m in model.modules())
    n_expected = 1 + model.config.n_layers * (6 if model.config.family == "gpt2" else 7)
    return (
        type(model) is Transformer  # and none that computes something else
        and n_known == n_expected
        and {cache.keys.dtype} | {t.dtype for t in model.parameters()} <= _FLOATS
        and all(t.device.type == "cpu" and t.is_contiguous() for t in _tensors(model))
    )


def _tensors(model: Transformer) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


# ----------------------------------------------------------------------------------------------
# The structures of decode.c


class _CLinear(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("n_out", ctypes.c_int64),
        ("n_in", ctypes.c_int64),
        ("kind", ctypes.c_int32),
        ("bias_kind", ctypes.c_int32),
    )


class _CNorm(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("kind", ctypes.c_int64))


class _CBlock(ctypes.Structure):
    _fields_ = (
        *((name, _CNorm) for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, _CLinear) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    )


_SIZES = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff")
"""Of the model's settings."""


class _CModel(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.POINTER(_CBlock)),
        ("norm", _CNorm),
        ("head", _CLinear),
        *((name, ctypes.c_int64) for name in (*_SIZES, "n_columns")),
        ("cache_kind", ctypes.c_int32),
        ("n_threads", ctypes.c_int32),
        ("eps", ctypes.c_float),
    )


def _describe(model: Transformer, cache: SlotCache) -> _CModel:
    config = model.config
    blocks = (_CBlock * config.n_layers)()
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        gate = {"gate": _linear(block.mlp.gate)} if isinstance(block.mlp, SwiGLU) else {}
        blocks[i] = _CBlock(
            **{name: _norm(getattr(block, name)) for name in ("attn_norm", "mlp_norm")},
            **{name: _norm(getattr(block.attn, name)) for name in ("q_norm", "k_norm")},
            **{name: _linear(getattr(block.attn, name)) for name in "qkvo"},
            **gate,
            **{name: _linear(getattr(block.mlp, name)) for name in ("up", "down")},
            keys=cache.keys[i].data_ptr(),
            values=cache.values[i].data_ptr(),
        )
    head = _linear(model.head)
    head.n_out = config.vocab_size  # without the padding rows
    return _CModel(
        blocks=blocks,
        norm=_norm(model.norm),
        head=head,
        **{name: getattr(config, name) for name in _SIZES},
        n_columns=cache.keys.shape[3],
        cache_kind=_KINDS[cache.keys.dtype],
        eps=config.norm_eps,
    )


def _norm(norm: nn.Module) -> _CNorm:
    if isinstance(norm, nn.Identity):
        return _CNorm()
    assert isinstance(norm, nn.RMSNorm | nn.LayerNorm) and norm.weight is not None
    bias = getattr(norm, "bias", None)
    return _CNorm(norm.weight.data_ptr(), _address(bias), _KINDS[norm.weight.dtype])


def _linear(linear: nn.Linear | Int8Linear) -> _CLinear:
    bias, weight = linear.bias, linear.weight
    assert isinstance(weight, Tensor)
    return _CLinear(
        weight=weight.data_ptr(),
        bias=_address(bias),
        scale=_address(linear.scale) if isinstance(linear, Int8Linear) else None,
        n_out=weight.shape[0],
        n_in=weight.shape[1],
        kind=_KINDS[weight.dtype],
        bias_kind=0 if bias is None else _KINDS[bias.dtype],
    )


def _address(tensor: Tensor | nn.Module | None) -> int | None:
    return tensor.data_ptr() if isinstance(tensor, Tensor) else None


# ----------------------------------------------------------------------------------------------
# The compiler


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """Return the library, made at first use; None if this machine cannot make it."""
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    try:
        with _library_folder() as folder:
            target = folder / f"decode-{_fingerprint(compiler)}.so"
            if not target.is_file():
                _compile(compiler, target)
            library = ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    library.decode.argtypes = [ctypes.POINTER(_CModel), size, *[pointer] * 5, size, *[pointer] * 2]
    library.decode.restype = ctypes.c_int
    return library


@contextlib.contextmanager
def _library_folder() -> Iterator[Path]:
    """Yield the user's cache folder, or a private temporary one for a user without a cache.

    Never a fixed place that others can write to, such as one below `/tmp`: what lies here is executed.
    """
    if (cache := cache_folder()) is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _compile(compiler: str, target: Path) -> None:
    """Compile under another name first, so that nobody loads half a library."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "decode.so"
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
        try:
            subprocess.run([*command, "-fopenmp"], check=True, capture_output=True, timeout=120)
        except subprocess.CalledProcessError:  # a compiler without OpenMP: one thread
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        made.replace(target)


def _fingerprint(compiler: str) -> str:
    """Name what the library depends on: source, flags, compiler, and the processor it is made for."""
    cpu = Path("/proc/cpuinfo")
    features = [platform.machine(), platform.processor()]
    if cpu.is_file():
        lines = cpu.read_text(errors="replace").splitlines()
        features += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    version = str(Path(compiler).resolve().stat().st_mtime_ns)
    parts = [SOURCE.read_text(), *FLAGS, compiler, version, *features]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
