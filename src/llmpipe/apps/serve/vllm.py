"""`llmpipe serve --backend vllm`: the same model, address and key, with vLLM in this process's place.

vLLM pages its cache, batches over many users and uses several GPUs. Model folders are in Hugging Face's
format already, so there is nothing to convert.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmpipe.core.console import Console
from llmpipe.core.errors import UserError


@dataclass(frozen=True)
class Launch:
    """A program to become: arguments, the first of which is its path, and environment."""

    arguments: list[str]
    environment: dict[str, str]


def vllm_launch(
    folder: Path,
    *,
    host: str,
    port: int,
    key: str | None,
    name: str,
    max_batch: int | None,
    max_len: int | None,
    environment: Mapping[str, str],
) -> Launch:
    """Return the command that serves a model with vLLM.

    The key goes through the environment: other users of a machine can read command lines.

    Args:
        folder: of the model.
        host: address to listen on.
        port: to listen on.
        key: that clients send.
        name: of the model for clients.
        max_batch: answers at the same time; vLLM chooses by default.
        max_len: tokens of prompt and answer together; the model's own limit by default.
        environment: of this process.

    Raises:
        UserError: if vLLM is not installed, or the port is left open.
    """
    beside = Path(sys.executable).parent  # the same virtual environment, activated or not
    search = os.pathsep.join([str(beside), environment.get("PATH", os.defpath)])
    program = shutil.which("vllm", path=search)
    if program is None:
        raise UserError(
            "vLLM is not installed here",
            hint="`pip install vllm` (it needs a GPU), or serve without `--backend vllm`",
        )
    if port == 0:
        raise UserError("vLLM cannot take a free port", hint="name one with `--port`")
    arguments = [program, "serve", str(folder), "--host", host, "--port", str(port)]
    arguments += ["--served-model-name", name]
    if max_batch is not None:
        arguments += ["--max-num-seqs", str(max_batch)]
    if max_len is not None:
        arguments += ["--max-model-len", str(max_len)]
    return Launch(arguments, {**environment, **({"VLLM_API_KEY": key} if key else {})})


def become_vllm(launch: Launch, console: Console) -> None:
    """Turn this process into vLLM; does not return."""
    console.info(" ".join(launch.arguments))
    os.execve(launch.arguments[0], launch.arguments, launch.environment)
