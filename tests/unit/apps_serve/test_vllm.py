"""Options of the command, and the command line that it hands over with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from llmpipe.apps.serve.options import ServeOptions, run_serve
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError

DEFAULTS: dict[str, Any] = {
    "folder": Path("runs/tiny/sft"), "host": "127.0.0.1", "port": 8000, "key": None, "allowed_hosts": (),
    "name": None, "tools": None, "preferences": None, "max_batch": None, "max_len": None,
    "backend": "vllm", "device": "auto",
}  # fmt: skip


def run(**changed: Any) -> None:
    run_serve(ServeOptions(**DEFAULTS | changed), Console(quiet=True))


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that writes down how it was called."""
    program = tmp_path / "vllm"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(tmp_path / 'called')!r}, 'w').write(json.dumps([sys.argv[1:], os.environ.get('VLLM_API_KEY')]))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_process_becomes_vllm_with_the_same_model_address_and_key(
    vllm: Path, tmp_path: Path
) -> None:
    options = {"host": "0.0.0.0", "port": 8001, "key": "secret", "max_batch": 32, "max_len": 512}
    child = os.fork()
    if not child:
        run(**options)
        os._exit(9)  # not reached: the process is vLLM by then
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    arguments, key = json.loads((tmp_path / "called").read_text())
    assert arguments == [
        "serve", "runs/tiny/sft", "--host", "0.0.0.0", "--port", "8001", "--served-model-name", "tiny-sft",
        "--max-num-seqs", "32", "--max-model-len", "512",
    ]  # fmt: skip
    assert key == "secret"


def test_missing_vllm_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="vLLM is not installed here") as caught:
        run()
    assert "pip install vllm" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"backend": "vlm"}, "unknown backend `vlm`"),
        ({"tools": "pyton"}, "unknown tool `pyton`"),
        ({"tools": "python"}, "`--tools` has no effect"),
        ({"preferences": Path("p")}, "`--preferences` has no effect"),
        ({"port": 0}, "cannot take a free port"),
        ({"host": "0.0.0.0"}, "there is no key"),
    ],
)
def test_option_that_cannot_be_honored_is_an_error(vllm: Path, changed: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(**changed)
