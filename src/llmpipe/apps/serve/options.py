"""What `llmpipe serve` was asked for, and which server answers to it; light, so that help is quick."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from llmpipe.apps.serve.address import LOOPBACK, check_key, model_name
from llmpipe.apps.serve.vllm import become_vllm, vllm_launch
from llmpipe.assistant.tools import ToolName, parse_tool_names
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError, did_you_mean

BACKENDS = ("llmpipe", "vllm")


@dataclass(frozen=True)
class ServeOptions:
    """The options of the command.

    Attributes:
        folder: of the model.
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
        backend: `llmpipe` or `vllm`.
        device: `auto`, `cpu` or `cuda`.
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
    def tool_names(self) -> tuple[ToolName, ...] | None:
        """The tools that were asked for; None if nothing was said.

        Raises:
            UserError: if a name stands for no tool.
        """
        return None if self.tools is None else parse_tool_names(self.tools)


def run_serve(options: ServeOptions, console: Console) -> int:
    """Serve until the end, or become vLLM.

    Raises:
        UserError: if an option is wrong, or says nothing to the backend.
    """
    if options.backend not in BACKENDS:
        close = did_you_mean(options.backend, BACKENDS)
        raise UserError(f"unknown backend `{options.backend}`", hint=close or "llmpipe or vllm")
    if options.backend == "vllm":
        return _run_vllm(options, console)
    code: int = _server().serve(options, console)
    return code


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


def _run_vllm(options: ServeOptions, console: Console) -> int:
    unused = {
        "--tools": bool(options.tool_names),
        "--preferences": options.preferences is not None,
        "--allow-host": bool(options.allowed_hosts),
        "--device": options.device != "auto",
    }
    if given := [name for name, is_given in unused.items() if is_given]:
        raise UserError(f"`{given[0]}` has no effect with `--backend vllm`", hint="leave it out")
    check_key(options.host, options.key)
    launch = vllm_launch(
        options.folder,
        host=options.host,
        port=options.port,
        key=options.key,
        name=options.name or model_name(options.folder),
        max_batch=options.max_batch,
        max_len=options.max_len,
        environment=os.environ,
    )
    become_vllm(launch, console)
    return 0
