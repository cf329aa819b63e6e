"""A small model behind a real server on a free port of this machine: random, or with its lines learned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

from llmpipe.apps.serve.app import LOOPBACK_NAMES, build_app
from llmpipe.apps.serve.parse import RequestLimits
from llmpipe.apps.serve.preferences import Preferences
from llmpipe.apps.serve.server import listen, make_server
from llmpipe.apps.serve.service import Service, ToolRunner
from llmpipe.apps.serve.worker import Worker
from llmpipe.inference.engine import Engine, Token
from llmpipe.inference.sampling import choose_tokens
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import IM_END, place_special

LIMITS = RequestLimits(
    max_body_bytes=20_000, max_requests=40, header_timeout_s=0.5, body_timeout_s=0.5
)


@dataclass
class Served:
    """A running server and the parts it is made of."""

    port: int
    service: Service
    model: Transformer

    @property
    def engine(self) -> Engine:
        return self.service.worker.engine

    def client(self, key: str = "any") -> OpenAI:
        url = f"http://127.0.0.1:{self.port}/v1"
        return OpenAI(base_url=url, api_key=key, max_retries=0, timeout=20)

    def wait_until_idle(self) -> None:
        """Wait until no request is left; a leaked one makes this fail."""
        end = time.monotonic() + 10
        while self.engine.n_requests or self.service.worker.n_open:
            assert time.monotonic() < end, "a request was leaked"
            time.sleep(0.01)
        assert self.engine.n_free_slots == 8


Line = str | Sequence[str] | frozenset[str]
"""What the model says, token by token. A set has characters of which it says one, all equally likely."""

ALTERNATIVE = "X"


class ScriptedEngine(Engine):
    """The engine, with a script in the model's place.

    To the user's last words it answers with the line for them. `X` is the second choice everywhere, and
    after it the answer ends. Text without turns is gone on with up to the end of the line it begins.

    Args:
        lines: by the words they answer.
        pause_s: takes this long for a step.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, lines: Mapping[str, Line], pause_s: float
    ) -> None:
        super().__init__(model, max_batch=8)
        self.tokenizer = tokenizer
        self.lines = lines
        self.pause_s = pause_s

    def _advance(self, rows: Any) -> list[Token]:
        time.sleep(self.pause_s)
        for row in rows:
            self._slots[row.slot].ids[:] = row.ids
        logits = torch.stack([self._scripted(row.ids) for row in rows])
        samplings = [row.sampling for row in rows]
        n_prompts = [row.n_prompt for row in rows]
        histories = [row.ids for row in rows]
        chosen = choose_tokens(
            logits, samplings, [row.generator for row in rows], histories, n_prompts
        )
        logprobs = self._logprobs(logits, chosen, [own.n_logprobs for own in samplings])
        return [self._accept(*one) for one in zip(rows, chosen, logprobs, strict=True)]

    def _scripted(self, ids: list[int]) -> torch.Tensor:
        likely, text = self._next(ids), self.tokenizer
        logits = torch.full((self.model.config.vocab_size,), -30.0)
        logits[text.encode(ALTERNATIVE)] = -12.0
        for token in likely:
            logits[text.special[token] if token in text.special else text.encode(token)] = 0.0
        return logits

    def _next(self, ids: list[int]) -> Sequence[str]:
        special = self.tokenizer.special
        if special["<|im_start|>"] not in ids:
            text = self.tokenizer.decode(ids[1:])
            line = next((own for own in self.lines if own.startswith(text)), "")
            return line[len(text)] if len(line) > len(text) else ["<|im_end|>"]
        turns = self.tokenizer.decode(ids).split("<|im_start|>")
        asked = next(turn for turn in reversed(turns[:-1]) if turn.startswith("user"))
        line = self.lines.get(asked[len("user\n") :].removesuffix("<|im_end|>\n"), "?")
        written = turns[-1].removeprefix("assistant\n")
        if ALTERNATIVE in written:
            return ["<|im_end|>"]
        if isinstance(line, frozenset):
            return ["<|im_end|>"] if written else sorted(line)
        for token in line:
            if not written.startswith(token):
                # What a tool has put in does not stand in the script.
                rest = written.partition("<|output_end|>")
                if not (token == "<|output|>" and rest[1]):
                    return [token] if token != "<|output|>" else ["<|im_end|>"]
                written = rest[2]
                continue
            written = written[len(token) :]
        return ["<|im_end|>"]


@contextmanager
def running(
    key: str | None = None,
    limits: RequestLimits = LIMITS,
    lines: Mapping[str, Line] | None = None,
    pause_s: float = 0.0,
    tools: ToolRunner | None = None,
    preferences: Path | None = None,
) -> Iterator[Served]:
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer(ranks, PATTERNS["qwen2"], place_special(256))
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16, d_ff=64,
        vocab_size=tokenizer.vocab_size, max_seq_len=400,
    )  # fmt: skip
    model = Transformer(config).eval()
    engine = Engine(model, max_batch=8)
    if lines is not None:
        engine = ScriptedEngine(model, tokenizer, lines, pause_s)
    stop_ids = (tokenizer.special[IM_END], tokenizer.bos_id)
    kept = Preferences(preferences) if preferences else None
    service = Service("run-sft", tokenizer, Worker(engine), stop_ids, limits, tools, kept)
    listener = listen("127.0.0.1", 0)
    server = make_server(build_app(service, key, LOOPBACK_NAMES), limits)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(listener.getsockname()[1], service, model)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running() as served:
        yield served


@pytest.fixture
def start() -> Callable[..., object]:
    """`with start(key="secret") as served:` runs a server with other settings."""
    return running


@pytest.fixture(scope="module")
def start_for_module() -> Callable[..., object]:
    """The same, for fixtures that last for a module."""
    return running
