"""Counts in Prometheus' text format. They hold no text and no address of any client."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmpipe.apps.serve.worker import Worker


class Counters:
    """What has happened since the start; touched by the event loop alone."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._first_token_s = 0.0
        self._n_first_tokens = 0

    def request(self, route: str, status: int) -> None:
        """Count an answered request."""
        self._requests[route, status] += 1

    def first_token(self, seconds: float) -> None:
        """Note how long a first token took."""
        self._first_token_s += seconds
        self._n_first_tokens += 1

    def text(self, worker: Worker) -> str:
        """Write everything down."""
        lines = ["# TYPE llmpipe_requests_total counter"]
        for (route, status), n in sorted(self._requests.items()):
            lines.append(f'llmpipe_requests_total{{route="{route}",status="{status}"}} {n}')
        engine = worker.engine
        for name, kind, value in (
            ("prompt_tokens_total", "counter", worker.n_prompt),
            ("generated_tokens_total", "counter", worker.n_generated),
            ("engine_failures_total", "counter", worker.n_failures),
            ("open_answers", "gauge", worker.n_open),
            ("engine_requests", "gauge", engine.n_requests),
            ("free_slots", "gauge", engine.n_free_slots),
        ):
            lines += [f"# TYPE llmpipe_{name} {kind}", f"llmpipe_{name} {value}"]
        lines += [
            "# TYPE llmpipe_first_token_seconds summary",
            f"llmpipe_first_token_seconds_sum {self._first_token_s:.6f}",
            f"llmpipe_first_token_seconds_count {self._n_first_tokens}",
        ]
        return "\n".join(lines) + "\n"
