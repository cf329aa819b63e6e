"""A small random model behind a real server on a free port of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from openai import OpenAI

from llmpipe.apps.serve.app import LOOPBACK_NAMES, build_app
from llmpipe.apps.serve.limits import Limits
from llmpipe.apps.serve.server import make_server
from llmpipe.apps.serve.service import Service
from llmpipe.apps.serve.worker import Worker
from llmpipe.inference.engine import Engine
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import IM_END, place_special

LIMITS = Limits(max_body_bytes=20_000, max_requests=40, header_timeout_s=0.5, body_timeout_s=0.5)


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


@contextmanager
def running(key: str | None = None, limits: Limits = LIMITS) -> Iterator[Served]:
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = Tokenizer.from_ranks(ranks, PATTERNS["qwen2"], place_special(256))
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16, d_ff=64,
        vocab_size=tokenizer.vocab_size, max_seq_len=400,
    )  # fmt: skip
    model = Transformer(config).eval()
    engine = Engine(model, max_batch=8)
    stop_ids = (tokenizer.special[IM_END], tokenizer.bos_id)
    service = Service("run-sft", tokenizer, Worker(engine), stop_ids, limits)
    listener = socket.create_server(("127.0.0.1", 0))
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
