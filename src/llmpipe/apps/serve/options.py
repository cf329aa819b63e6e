"""What `llmpipe serve` was asked for, and which server answers to it: ours or vLLM. Light, so that help is quick."""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from llmpipe.assistant.tools import ToolName, parse_tool_names
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError, did_you_mean

BACKENDS = ("llmpipe", "vllm")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ServeOptions:
    """The options of the command.

    Attributes:
        host: address to listen on. One that other machines can reach needs a key.
        port: 0 takes a free one.
        key: that clients send as `Authorization: Bearer KEY`; it covers every route but /health.
        allowed_hosts: more names that this server may be called by.
        name: of the model for clients; by default that of its run and folder.
        tools: those that run here, within answers, joined by commas. By default `python` where only
            this machine can reach the server, and none elsewhere.
        preferences: file for orders of answers; by default `preferences.jsonl` in the run's folder.
        max_batch: answers written at the same time.
        max_len: tokens of prompt and answer together; by default the model's own limit.
    """

    folder: Path
    host: str = LOOPBACK
    port: int = 8000
    key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    name: str | None = None
    tools: str | None = None
    preferences: Path | None = None
    max_batch: int | None = None
    max_len: int | None = None
    backend: str = "llmpipe"
    device: str = "auto"

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.name or "-".join(self.folder.resolve().parts[-2:])

    @property
    def tool_names(self) -> tuple[ToolName, ...] | None:
        """The tools that were asked for; None if nothing was said.

        Raises:
            UserError: if a name stands for no tool.
        """
        return None if self.tools is None else parse_tool_names(self.tools)

    def check_key(self) -> None:
        """Refuse to let other machines in without a key.

        Raises:
            UserError: if there is none.
        """
        if not is_loopback(self.host) and not self.key:
            raise UserError(
                f"other machines can reach {self.host}, and there is no key",
                hint="set LLMPIPE_API_KEY, or listen on 127.0.0.1",
            )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run_serve(options: ServeOptions, console: Console) -> None:
    """Serve until the end, or become vLLM.

    Raises:
        UserError: if an option is wrong, or says nothing to the backend.
    """
    if options.backend not in BACKENDS:
        close = did_you_mean(options.backend, BACKENDS)
        raise UserError(f"unknown backend `{options.backend}`", hint=close or "llmpipe or vllm")
    if options.backend == "vllm":
        become_vllm(options, console)
    _server().serve(options, console)


def run_tokens_page(names: tuple[str, ...], port: int, console: Console) -> None:
    """Serve the page of `llmpipe tokens --web` until the end.

    Args:
        names: of tokenizers, see `find_tokenizer`; none means `ours`.
        port: 0 takes a free one.
        console: says where the page is.

    Raises:
        UserError: if the port is taken, or a name stands for nothing.
    """
    from llmpipe.apps.tokens.find import OURS, find_tokenizer

    server = _server()
    server.serve_tokens({name: find_tokenizer(name) for name in names or (OURS,)}, port, console)


def _server() -> ModuleType:
    """Import the server.

    Raises:
        UserError: if what it needs is not installed.
    """
    try:
        from llmpipe.apps.serve import server
    except ModuleNotFoundError as error:
        raise UserError(
            f"the server needs {error.name}", hint="install it: `pip install 'llmpipe[serve]'`"
        ) from None
    return server


def become_vllm(options: ServeOptions, console: Console) -> NoReturn:
    """Turn this process into vLLM, with the same model, address and key; does not return.

    vLLM pages its cache, batches over many users and uses several GPUs. Model folders are in Hugging
    Face's format already, so there is nothing to convert.

    Raises:
        UserError: if vLLM is not installed, or an option says nothing to it.
    """
    unused = {
        "--tools": bool(options.tool_names),
        "--preferences": options.preferences is not None,
        "--allow-host": bool(options.allowed_hosts),
        "--device": options.device != "auto",
    }
    if given := [name for name, is_given in unused.items() if is_given]:
        raise UserError(f"`{given[0]}` has no effect with `--backend vllm`", hint="leave it out")
    options.check_key()
    beside = Path(sys.executable).parent  # the same virtual environment, activated or not
    search = os.pathsep.join([str(beside), os.environ.get("PATH", os.defpath)])
    program = shutil.which("vllm", path=search)
    if program is None:
        raise UserError(
            "vLLM is not installed here",
            hint="`pip install vllm` (it needs a GPU), or serve without `--backend vllm`",
        )
    if options.port == 0:
        raise UserError("vLLM cannot take a free port", hint="name one with `--port`")
    arguments = [program, "serve", str(options.folder), "--host", options.host]
    arguments += ["--port", str(options.port), "--served-model-name", options.model_name]
    if options.max_batch is not None:
        arguments += ["--max-num-seqs", str(options.max_batch)]
    if options.max_len is not None:
        arguments += ["--max-model-len", str(options.max_len)]
    console.info(" ".join(arguments))
    # The key goes through the environment: other users of a machine can read command lines.
    key = {"VLLM_API_KEY": options.key} if options.key else {}
    os.execve(program, arguments, {**os.environ, **key})
