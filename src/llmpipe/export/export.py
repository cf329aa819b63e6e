"""`llmpipe export`: a model folder as a Hugging Face folder, a GGUF file, or a folder for Ollama.

Ollama's folder is the GGUF file and a Modelfile: how a conversation is written out, and where an answer ends. An
import without these two is the usual reason for models that babble on there. Its template is in Go's language, and
leaves the document mark out, because llama.cpp puts it in front itself.

Source: ollama/ollama docs/modelfile.md (instructions and parameters) and docs/template.md (example ChatML).
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from llmpipe.core.artifact import write_atomic
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError
from llmpipe.export.card import model_card
from llmpipe.export.gguf_file import FILE as GGUF_FILE
from llmpipe.export.gguf_file import GGUF_DTYPES, write_gguf
from llmpipe.export.hugging_face import Source, read_source, write_hugging_face
from llmpipe.tokenizer.special import BOS, IM_END, IM_START

DTYPES = {
    "hf": ("float32", "float16", "bfloat16"),
    "gguf": GGUF_DTYPES,
    "ollama": GGUF_DTYPES,
}
"""The formats, and the types that each has for weights."""

OLLAMA_CHAT_TEMPLATE = (
    "{{- range .Messages }}" + IM_START + "{{ .Role }}\n{{ .Content }}" + IM_END + "\n"
    "{{ end }}" + IM_START + "assistant\n"
)
OLLAMA_TEXT_TEMPLATE = "{{ .Prompt }}"


@dataclass(frozen=True)
class Exported:
    """What was written, and what reloading it showed.

    Attributes:
        n_bytes: of all files.
        checks: one line per program that reloaded it; empty without `verify`.
    """

    folder: Path
    n_bytes: int
    checks: tuple[str, ...]


def export_model(
    source: Path,
    to: str,
    out: Path,
    verify: bool = False,
    dtype: str = "float32",
    console: Console | None = None,
    *,
    name: str | None = None,
    license: str | None = None,
) -> Exported:
    """Write the model in `source` in another program's format.

    Args:
        source: folder of a model.
        to: `hf` for transformers and vLLM, `gguf` for llama.cpp, `ollama` for GGUF with a Modelfile.
        out: folder to make; it must not exist.
        verify: reload it with the program it is for, and compare tokens and log-probabilities.
        dtype: type of the matrices.
        name: of the model; by default that of its run.
        license: SPDX name for the model card.

    Raises:
        UserError: if `out` exists, the format has no such dtype, or a package is missing.
        InputError: if `source` is no model.
        ExpectationError: if verifying finds a difference; nothing is left at `out` then.
    """
    console = console or Console(quiet=True)
    _check_arguments(to, out, dtype)
    model = read_source(source)
    name = name or "-".join(source.resolve().parts[-2:])
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if to == "hf":
            write_hugging_face(model, partial, dtype)
        else:
            write_gguf(model, partial / GGUF_FILE, dtype, name)
        if to == "ollama":
            write_atomic(partial / "Modelfile", _modelfile(model))
        write_atomic(partial / "README.md", model_card(model, name, license))
        checks = _verify(model, to, partial, dtype, console) if verify else ()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    n_bytes = sum(path.stat().st_size for path in out.iterdir())
    console.info(f"{out}: {n_bytes / 1e6:,.1f} MB, weights in {dtype}")
    return Exported(out, n_bytes, checks)


def _check_arguments(to: str, out: Path, dtype: str) -> None:
    if to not in DTYPES:
        raise UserError(f"no format is called `{to}`", hint=f"formats: {', '.join(DTYPES)}")
    if dtype not in DTYPES[to]:
        raise UserError(
            f"format {to} has no weights in `{dtype}`", hint=f"it has {', '.join(DTYPES[to])}"
        )
    if out.exists():
        raise UserError(f"{out} exists", hint="name a folder that does not, or delete this one")
    if to != "hf" and importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"format {to} needs the package gguf",
            hint="install it: `pip install 'llmpipe[export]'`",
        )


def _modelfile(source: Source) -> str:
    stops = [name for name in source.stops if name != BOS]
    template = OLLAMA_TEXT_TEMPLATE
    if source.chat_template is not None and {IM_START, IM_END} <= source.tokenizer.special.keys():
        template = OLLAMA_CHAT_TEMPLATE
        stops += [name for name in (IM_END, IM_START) if name not in stops]
    lines = [
        f"FROM ./{GGUF_FILE}",
        f'TEMPLATE """{template}"""',
        f"PARAMETER num_ctx {source.model.config.max_seq_len}",
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    return "\n".join(lines) + "\n"


def _verify(source: Source, to: str, folder: Path, dtype: str, console: Console) -> tuple[str, ...]:
    from llmpipe.export.verify import verify_gguf_tensors, verify_hugging_face, verify_llama_cpp

    if to == "hf":
        lines = [verify_hugging_face(source, folder, dtype)]
    else:
        path = folder / GGUF_FILE
        n_tensors = verify_gguf_tensors(source, path, dtype)
        lines = [f"gguf: {n_tensors} tensors read back equal to the source"]
        if check := verify_llama_cpp(source, path, dtype):
            lines.append(check)
        else:
            console.warn(
                "llama.cpp was not tried: install `llama-cpp-python` to compare with it as well"
            )
    for line in lines:
        console.info(line)
    return tuple(lines)
