"""What this machine can do, measured, in a form to paste into a bug report. No network, no host name."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llmpipe
from llmpipe.core.console import Console, format_bytes
from llmpipe.core.errors import ExpectationError, InputError, UserError
from llmpipe.core.machine import n_usable_cores

PACKAGES = (
    "torch",
    "numpy",
    "pyarrow",
    "trafilatura",
    "fastwarc",
    "gigatoken",
    "tiktoken",
    "bm25s",
)
MIN_FREE_DISK_BYTES = 2_000_000_000


def run_doctor(console: Console) -> None:
    """Check and measure, show the findings.

    Raises:
        InputError: if something would keep llmpipe from working here.
    """
    facts, problems = examine()
    shown = {**facts, "verdict": "; ".join(problems) or "all well"}
    lines = (f"{key:<18}{value}" for key, value in shown.items())
    console.result({**facts, "problems": problems}, lines)
    if problems:
        raise InputError("; ".join(problems))


def run_sandbox_doctor(console: Console) -> None:
    """Let the attack table loose on the sandbox of the python tool, show how each attack went.

    Raises:
        UserError: if there can be no sandbox on this system.
        ExpectationError: if an attack came through.
    """
    from llmpipe.assistant.tools.attacks import try_attacks
    from llmpipe.assistant.tools.python import PythonTool

    def say(line: str) -> None:
        if not console.json_output:
            console.out(line)

    findings = []
    with PythonTool(cpu_s=2) as tool:
        in_force = tool.in_force()
        say(f"in force: {in_force}\n")
        for finding in try_attacks(tool):
            findings.append(finding)
            verdict = "held" if finding.held else "CAME THROUGH"
            say(f"{finding.name:<42}{verdict:<14}{finding.detail[:72]}")
    if console.json_output:
        console.document({"in_force": in_force, "attacks": [asdict(f) for f in findings]})
    if through := [finding.name for finding in findings if not finding.held]:
        raise ExpectationError(
            f"{len(through)} of {len(findings)} attacks came through: {', '.join(through)}",
            hint="leave the tool out with `--tools none`, and report this with the lines above",
        )
    say(f"\nall {len(findings)} attacks were held")


def examine() -> tuple[dict[str, Any], list[str]]:
    """Return what was found and what is wrong."""
    problems: list[str] = []
    facts: dict[str, Any] = {
        "llmpipe": llmpipe.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system().lower()}-{platform.machine()}",
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "missing"
            problems.append(f"the package `{package}` is not installed")
    facts["cores"] = n_usable_cores()
    facts["memory"] = format_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    free = shutil.disk_usage(Path.cwd()).free
    facts["free disk"] = format_bytes(free)
    if free < MIN_FREE_DISK_BYTES:
        problems.append(f"only {format_bytes(free)} of disk are free here")
    facts["sandbox"] = _sandbox()
    facts["write test"] = _write_speed(problems)
    facts |= _torch_facts()
    return facts, problems


def _sandbox() -> str:
    """Return what would shut in the programs of the python tool; `--sandbox` tries whether it does."""
    from llmpipe.assistant.tools.python import PythonTool

    try:
        with PythonTool() as tool:
            return tool.in_force()
    except UserError as error:
        return f"none, so no python tool: {error.message}"


def _write_speed(problems: list[str]) -> str:
    data = os.urandom(16_000_000)
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
            started = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return f"{format_bytes(len(data) / (time.perf_counter() - started))}/s"
    except OSError as error:
        problems.append(f"cannot write in this folder: {error.strerror}")
        return "failed"


def _torch_facts() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"torch threads": torch.get_num_threads()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts["device"] = torch.cuda.get_device_name(0) if device == "cuda" else "cpu"
    if device == "cuda":
        facts["bf16"] = torch.cuda.is_bf16_supported()
        facts["device memory"] = format_bytes(torch.cuda.get_device_properties(0).total_memory)
    facts["training speed"] = (
        f"{_training_speed(device):,.0f} tokens/s (3.4M parameters, random tokens)"
    )
    return facts


def _training_speed(device: str, steps: int = 20) -> float:
    """Tokens per second of a small model trained on random tokens, the first two steps left out."""
    import torch
    from torch.nn.functional import cross_entropy

    from llmpipe.model.config import ModelConfig
    from llmpipe.model.transformer import Transformer

    torch.manual_seed(1)
    config = ModelConfig(
        d_model=192, n_layers=4, n_heads=4, n_kv_heads=4, vocab_size=4096, max_seq_len=256
    )
    model = Transformer(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(0, config.vocab_size, (8, 257), device=device)
    started = 0.0
    for step in range(steps):
        if step == 2:
            started = time.perf_counter()
        logits = model(ids[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return (steps - 2) * 8 * 256 / (time.perf_counter() - started)
