"""The server under people who mean harm, or who just go away."""

from __future__ import annotations

import json
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from llmpipe.apps.serve import server
from llmpipe.apps.serve.options import ServeOptions, is_loopback
from llmpipe.apps.serve.parse import RequestLimits
from llmpipe.apps.serve.server import default_tools, listen, serve
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError
from llmpipe.inference.engine import Engine


def http(
    served: Any, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request by hand: status, headers, body."""
    url = f"http://127.0.0.1:{served.port}{path}"
    request = urllib.request.Request(url, body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_tokenize_and_back_with_hostile_text(served: Any) -> None:
    text = "<|im_end|>\x00 😀 naïve <|bos|>"
    status, _, data = http(served, "/tokenize", json.dumps({"prompt": text}).encode())
    tokens = json.loads(data)["tokens"]
    assert status == 200 and tokens[0] == served.service.tokenizer.bos_id
    assert not set(tokens[1:]) & set(served.service.tokenizer.special.values())
    _, _, data = http(served, "/detokenize", json.dumps({"tokens": tokens[1:]}).encode())
    assert json.loads(data) == {"prompt": text}
    status, _, data = http(served, "/tokenize", b'{"prompt": "a\\ud800b"}')  # a lone surrogate
    assert status == 200 and json.loads(data)["count"] == 1 + len("a\ufffdb".encode())


def test_key_covers_every_route_but_health(start: Callable[..., Any]) -> None:
    with start(key="s3cret-\xe9") as served:
        closed = ("/v1/models", "/metrics", "/tokenize", "/no/such/route", "/v1/completions")
        for path in (*closed, "/info", "/preferences", "/page"):
            assert http(served, path)[0] == 401
            assert http(served, path, headers={"authorization": "Bearer wrong"})[0] == 401
        assert http(served, "/health")[0] == 200
        assert http(served, "/tokens", b'{"text": "x"}')[0] == 401
        for path in ("/", "/tokens", "/page/main.js"):  # the pages themselves ask for the key
            assert http(served, path)[0] == 200
        assert http(served, "/page/..%2fapp.py")[0] == 404
        with pytest.raises(openai.AuthenticationError):
            served.client("wrong").models.list()


def test_foreign_host_name_is_refused_and_no_page_may_read(served: Any) -> None:
    for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        assert http(served, "/health", headers={"host": name})[0] == 403
    assert http(served, "/health", headers={"host": "LOCALHOST:8000"})[0] == 200
    _, headers, _ = http(served, "/health", headers={"origin": "https://evil.example"})
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_unknown_fields_and_routes_are_told(served: Any) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 1, "surprise": 1}).encode()
    status, headers, _ = http(served, "/v1/completions", body)
    assert status == 200 and headers["x-llmpipe-ignored"] == "surprise"
    status, _, data = http(served, "/admin/load?path=/etc/passwd")
    assert status == 404 and json.loads(data)["error"]["type"] == "not_found_error"
    assert http(served, "/v1/completions")[0] == 405


def test_oversized_body_is_refused_before_it_is_read(served: Any) -> None:
    assert http(served, "/v1/completions", b"x" * 20_001)[0] == 413
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as raw:
        # 1 TB is announced and never sent: the answer must not wait for it.
        raw.sendall(
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as raw:
        raw.sendall(
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(6):
            raw.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_slow_headers_and_bodies_are_cut_off_and_hurt_nobody(served: Any) -> None:
    slow = [socket.create_connection(("127.0.0.1", served.port), timeout=5) for _ in range(40)]
    late_body = socket.create_connection(("127.0.0.1", served.port), timeout=5)
    try:
        for raw in slow[:20]:
            raw.sendall(b"GET /health HT")
        late_body.sendall(
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )
        started = time.monotonic()
        assert http(served, "/health")[0] == 200
        for raw in slow:  # the deadline is 0.5 s; nothing is answered
            assert raw.recv(100) == b""
        assert late_body.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5
    finally:
        for raw in (*slow, late_body):
            raw.close()


def test_random_bodies_never_break_the_server(served: Any) -> None:
    rng = random.Random(3)
    values: list[Any] = [
        None, True, -1, 0, 3, 2**70, 1e308, float("nan"), "", "x", "\ud800\x00", [], [[]], [-1], [10**9],
        {}, {"role": 3}, [{"role": "user", "content": "\udfff<|im_end|>"}], [{"content": None}],
        [{"role": "user"}, {"role": "tool"}],
    ]  # fmt: skip
    names = ["prompt", "messages", "n", "stop", "seed", "temperature", "logprobs", "top_p", "tools",
             "logit_bias", "stream", "max_tokens", "echo", "model", "stream_options", "top_k", "tool_choice"]  # fmt: skip
    seen = set()
    for _ in range(150):
        body = {"max_tokens": 2, **{rng.choice(names): rng.choice(values) for _ in range(4)}}
        data = json.dumps(body).encode()
        if rng.random() < 0.1:
            data = data[: rng.randrange(len(data))] + bytes([rng.randrange(256)])
        path = rng.choice(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
        status, _, answer = http(served, path, data)
        seen.add(status)
        assert status in (200, 400, 404), (path, data, answer)
    assert http(served, "/tokenize", b"[" * 19_000)[0] == 400
    assert {200, 400} <= seen
    served.wait_until_idle()


def test_client_that_leaves_before_the_whole_answer_frees_its_slot(served: Any) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 390, "logit_bias": {"120": 100}}).encode()
    raw = socket.create_connection(("127.0.0.1", served.port), timeout=5)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    raw.sendall(head.encode() + body)
    while not served.engine.n_requests:
        time.sleep(0.001)
    before = served.service.worker.n_generated
    raw.close()
    served.wait_until_idle()
    assert served.service.worker.n_generated - before < 390


def test_full_queue_is_429_with_a_time_to_come_back(start: Callable[..., Any]) -> None:
    with start(limits=RequestLimits(max_requests=2)) as served:
        body = json.dumps({"prompt": "a", "max_tokens": 2, "n": 3}).encode()
        status, headers, data = http(served, "/v1/completions", body)
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(data)["error"]["code"] == "queue_full"
        assert http(served, "/v1/completions", body.replace(b"3", b"2"))[0] == 200


def test_failing_engine_costs_the_requests_in_it_and_no_others(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with start() as served:
        body = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "_advance", lambda *a, **k: 1 / 0)
            status, _, data = http(served, "/v1/completions", body)
            assert status == 500 and "ZeroDivisionError" in data.decode()
        assert http(served, "/v1/completions", body)[0] == 200
        served.wait_until_idle()


def test_answer_that_takes_too_long_is_ended(start: Callable[..., Any]) -> None:
    with start(limits=RequestLimits(answer_timeout_s=0.05)) as served:
        body = {"prompt": "a", "max_tokens": 390, "logit_bias": {"120": 100}}
        assert http(served, "/v1/completions", json.dumps(body).encode())[0] == 504
        served.wait_until_idle()


def test_metrics_count_and_hold_no_text(start: Callable[..., Any]) -> None:
    with start() as served:
        body = json.dumps({"prompt": "topsecret", "max_tokens": 3, "temperature": 0}).encode()
        n_answer = json.loads(http(served, "/v1/completions", body)[2])["usage"][
            "completion_tokens"
        ]
        text = http(served, "/metrics")[2].decode()
        assert 'llmpipe_requests_total{route="/v1/completions",status="200"} 1' in text
        assert f"llmpipe_generated_tokens_total {n_answer}" in text
        assert "llmpipe_prompt_tokens_total 10" in text  # 9 letters and the document mark
        assert "llmpipe_free_slots 8" in text and "topsecret" not in text


def test_address_that_others_can_reach_needs_a_key(tmp_path: Path) -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(UserError, match="there is no key"):
            serve(ServeOptions(tmp_path, host=host), Console(quiet=True))


def test_taken_port_is_an_error_with_a_hint(served: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{served.port}"):
        serve(ServeOptions(tmp_path, port=served.port), Console(quiet=True))


def test_small_answers_do_not_wait_for_an_acknowledgment() -> None:
    """asyncio sets TCP_NODELAY on connections whose socket names its protocol."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_machine_without_a_sandbox_serves_without_tools(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def open_tools(*_: object) -> None:
        raise UserError("there is nothing to build a sandbox from")

    monkeypatch.setattr(server, "open_tools", open_tools)
    assert default_tools(tmp_path, Console()) is None
    assert "no tools: there is nothing" in capsys.readouterr().err
    with pytest.raises(UserError, match="sandbox"):  # who asks for one is told
        serve(ServeOptions(tmp_path, tools="python"), Console(quiet=True))
