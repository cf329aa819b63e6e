"""SIGTERM: what is being written is finished, and the exit code is 0."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from llmpipe.model.weights import save_model

PROGRAM = """
import sys
from pathlib import Path
from llmpipe.apps.serve.options import ServeOptions
from llmpipe.apps.serve.server import serve
from llmpipe.core.console import Console
serve(ServeOptions(Path(sys.argv[1]), port=0), Console())
"""


@pytest.mark.slow
def test_sigterm_lets_a_stream_end_and_exits_with_0(served: Any, tmp_path: Path) -> None:
    save_model(served.model, tmp_path)
    served.service.tokenizer.save(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
        assert address
        # "x" is forced, so that the answer is long: 390 tokens.
        body = {"prompt": "a", "max_tokens": 390, "stream": True, "logit_bias": {"120": 100}}
        url = f"{address[0]}/v1/completions"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=30) as stream:
            stream.readline()
            process.send_signal(signal.SIGTERM)
            events = stream.read().decode().split("\n\n")
        assert events[-2] == "data: [DONE]"
        assert sum('"text": "x"' in event for event in events) == 389
        assert process.wait(timeout=30) == 0
        said = process.stderr.read()
        assert "all answers are finished" in said and "Traceback" not in said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
