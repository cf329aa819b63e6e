"""64 clients at once for a minute, many of which leave in the middle of an answer.

The server is the command a person would run, in a process of its own, with a random model. Every stream is compared with
the answer that the same seed had when nobody else was there.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import torch
from measure import ENVIRONMENTS, header, table

from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special

N_CLIENTS = 64
N_NUISANCES = 8
SECONDS = 60
WARM_UP_S = 6
N_WARM_UPS = 4
N_QUESTIONS = 24
MAX_TOKENS = 48


def main(results: Path) -> None:
    """Write docs/results/serve.md."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ENVIRONMENTS) as folder:
        model = Path(folder) / "run" / "sft"
        _make_model(model)
        command = [sys.executable, "-m", "llmpipe", "serve", model, "--port", "0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            port = int(re.search(r":(\d+)/", process.stderr.readline())[1])  # type: ignore[index]
            page = _measure(port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
            process.stderr.close()  # type: ignore[union-attr]
    page += f"\nAfter SIGTERM the server ended with exit code {code}.\n"
    (results / "serve.md").write_text(header("Serving under load", "serve") + page)


def _make_model(folder: Path) -> None:
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer(ranks, PATTERNS["qwen2"], place_special(256))
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=128, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=32, d_ff=256,
        vocab_size=tokenizer.vocab_size, max_seq_len=256,
    )  # fmt: skip
    folder.mkdir(parents=True)
    save_model(Transformer(config), folder)
    tokenizer.save(folder)


def _question(i: int) -> dict[str, object]:
    """One of the questions: chat or completion, each with its own seed."""
    body = {"seed": i, "max_tokens": MAX_TOKENS, "temperature": 1.0}
    if i % 2:
        return {"path": "/v1/completions", "body": body | {"prompt": f"Question {i}"}}
    messages = [{"role": "user", "content": f"Question {i}"}]
    return {"path": "/v1/chat/completions", "body": body | {"messages": messages, "tools": []}}


def _stream(port: int, question: dict[str, object], n_wanted: int) -> tuple[str, int]:
    """Return the text of the first events, and how many came; then hang up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    text, n = "", 0
    try:
        body = json.dumps({**question["body"], "stream": True})  # type: ignore[dict-item]
        connection.request("POST", str(question["path"]), body)
        answer = connection.getresponse()
        if answer.status != 200:
            return f"status {answer.status}", 0
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            if n == n_wanted:
                break
            n += 1
            choice = json.loads(line[6:])["choices"][0]
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
    finally:
        connection.close()
    return text, n


class Crowd:
    """The clients, for some seconds, and what they have seen."""

    def __init__(self, port: int, expected: list[str], seconds: float) -> None:
        self.counts: Counter[str] = Counter()
        self.end = time.monotonic() + seconds
        self._port = port
        self._expected = expected
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(N_CLIENTS)]
        self._threads += [threading.Thread(target=self._nuisance) for _ in range(N_NUISANCES)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Wait until everybody has gone."""
        for thread in self._threads:
            thread.join()

    def _client(self, i: int) -> None:
        rng = random.Random(i)
        while time.monotonic() < self.end:
            k = rng.randrange(N_QUESTIONS)
            n_wanted = rng.choice([0, 1, 5, 20, 10**9, 10**9, 10**9])
            text, n = _stream(self._port, _question(k), n_wanted)
            is_whole = n < n_wanted
            expected = self._expected[k]
            is_right = text == expected if is_whole else expected.startswith(text)
            with self._lock:
                self.counts["whole" if is_whole else "left"] += 1
                self.counts["wrong"] += not is_right

    def _nuisance(self) -> None:
        """Announce bodies that are too large, and send headers that never end."""
        head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        while time.monotonic() < self.end:
            with socket.create_connection(("127.0.0.1", self._port), timeout=60) as raw:
                raw.sendall(head)
                was_refused = raw.recv(20).startswith(b"HTTP/1.1 413")
            with socket.create_connection(("127.0.0.1", self._port), timeout=60) as raw:
                raw.sendall(b"GET /health HT")
                was_cut = raw.recv(20) == b""
            with self._lock:
                self.counts["too large, refused"] += was_refused
                self.counts["too slow, cut off"] += was_cut


def _measure(port: int, pid: int) -> str:
    expected = [_stream(port, _question(i), 10**9)[0] for i in range(N_QUESTIONS)]
    memory: dict[str, float] = {"start": _resident_mb(pid)}
    for i in range(N_WARM_UPS):
        Crowd(port, expected, WARM_UP_S).leave()
        memory[f"after crowd {i + 1}"] = _resident_mb(pid)
    crowd = Crowd(port, expected, SECONDS)
    for second in range(0, SECONDS + 1, 10):
        time.sleep(max(0.0, crowd.end - SECONDS + second - time.monotonic()))
        memory[f"second {second}"] = _resident_mb(pid)
    crowd.leave()
    time.sleep(2)
    memory["idle after"] = _resident_mb(pid)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        metrics = dict(
            line.split(" ") for line in answer.read().decode().splitlines() if line[0] != "#"
        )
    return _page(crowd.counts, memory, metrics, _cpu_s(pid))


def _page(
    counts: Counter[str], memory: dict[str, float], metrics: dict[str, str], cpu_s: float
) -> str:
    rows = [
        ["streams read to their end", f"{counts['whole']:,}"],
        ["streams left in the middle", f"{counts['left']:,}"],
        ["streams with a text that is not their own", counts["wrong"]],
        ["requests too large, refused with 413", counts["too large, refused"]],
        ["connections too slow, cut off", counts["too slow, cut off"]],
        [
            "tokens generated, shorter crowds included",
            f"{int(metrics['llmpipe_generated_tokens_total']):,}",
        ],
        ["CPU seconds of the server, start included", f"{cpu_s:.0f}"],
        ["answers open at the end", metrics["llmpipe_open_answers"]],
        ["requests in the engine at the end", metrics["llmpipe_engine_requests"]],
        ["free slots at the end, of 16", metrics["llmpipe_free_slots"]],
        ["failed steps of the engine", metrics["llmpipe_engine_failures_total"]],
    ]
    times = [[when, f"{mb:.1f}"] for when, mb in memory.items()]
    return (
        f"{N_CLIENTS} clients stream answers of up to {MAX_TOKENS} tokens for {SECONDS} s; three in seven answers are "
        "to be read to the end, the others are left after 0, 1, 5 or 20 tokens. Each text is compared with the one that "
        f"its seed has when nobody else is there. Beside them {N_NUISANCES} connections send headers too slowly or "
        "announce bodies that are too large. The model is random (4 layers, width 128), so the figures are about the "
        f"server.\n\nBefore, {N_WARM_UPS} crowds of the same kind come for {WARM_UP_S} s each: memory settles while "
        "they come and go.\n\n"
        + table(["", ""], rows)
        + "\nMemory of the server's process:\n\n"
        + table(["when", "MB resident"], times)
    )


def _resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
