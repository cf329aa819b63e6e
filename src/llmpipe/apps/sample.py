"""`llmpipe sample`: let a base model continue a text, streaming.

A base model has learned one thing: how documents go on. It answers a question only where an answer is
what usually comes next. And it gives probabilities, not words: each token is drawn from them, so another
seed gives another continuation of the same prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmpipe.apps.load import Loaded, load
from llmpipe.apps.printable import printable
from llmpipe.assistant.events import Done, TextDelta
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.rules import ReplyRules
from llmpipe.core.console import Console
from llmpipe.inference.sampling import Sampling
from llmpipe.tokenizer.special import IM_END

MAX_BATCH = 32
"""Samples made at the same time; more wait for their turn."""


def run_sample(
    folder: Path,
    *,
    prompt: str,
    n: int = 1,
    sampling: Sampling,
    device: str = "auto",
    console: Console,
) -> None:
    """Print `n` continuations of `prompt`; sample i has seed `sampling.seed + i`.

    Args:
        folder: of the model.
        prompt: text to continue; may be empty.
        console: the text goes to its stdout, the speed to its stderr.
    """
    loaded = load(folder, device, max_batch=min(n, MAX_BATCH), warn=console.warn)
    started = time.monotonic()
    samplings = [replace(sampling, seed=sampling.seed + i) for i in range(n)]
    page = _Page(console, prompt, n)
    n_tokens = _generate(loaded, prompt, samplings, page)
    seconds = time.monotonic() - started
    if console.json_output:
        console.document(
            {
                "prompt": prompt,
                "samples": [
                    {"text": text, "reason": reason, "seed": own.seed}
                    for text, reason, own in zip(page.texts, page.reasons, samplings, strict=True)
                ],
            }
        )
    console.info(f"{n_tokens:,} tokens in {seconds:.1f} s, {n_tokens / seconds:,.0f} tokens/s")


def _generate(loaded: Loaded, prompt: str, samplings: Sequence[Sampling], page: _Page) -> int:
    """Run all requests; return the number of sampled tokens."""
    engine, tokenizer = loaded.engine, loaded.tokenizer
    # The document mark precedes every document in training, so a model that writes it has ended one.
    ends = {*loaded.stop_ids, tokenizer.bos_id}
    if IM_END in tokenizer.special:
        ends.add(tokenizer.special[IM_END])
    rules = ReplyRules(ends=tuple(sorted(ends)), is_plain=True)
    prompt_ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    group = engine.submit_group(prompt_ids, samplings, rules.ends)
    numbers = {request: i for i, request in enumerate(group)}
    replies = [Reply(tokenizer, rules) for _ in group]
    for token in engine.run():
        i_sample = numbers[token.request]
        for event in replies[i_sample].push(token, room=0):
            if isinstance(event, TextDelta):
                page.add(i_sample, event.text)
            elif isinstance(event, Done):
                page.end(i_sample, event.reason)
    return sum(reply.n_sampled for reply in replies)


class _Page:
    """Prints samples in order: one streams, those after it wait until it has ended."""

    def __init__(self, console: Console, prompt: str, n: int) -> None:
        self._console = console
        self._prompt = prompt
        self._i_current = 0
        self.texts = [""] * n
        self.reasons: list[str | None] = [None] * n
        self._begin(0)

    def add(self, i_sample: int, text: str) -> None:
        """Take some more text of a sample."""
        self.texts[i_sample] += text
        if i_sample == self._i_current:
            self._write(text)

    def end(self, i_sample: int, reason: str) -> None:
        """Take the end of a sample, and print those that waited for it."""
        self.reasons[i_sample] = reason
        while self._i_current < len(self.texts) and self.reasons[self._i_current]:
            self._write("\n")
            self._i_current += 1
            if self._i_current < len(self.texts):
                self._begin(self._i_current)
                self._write(self.texts[self._i_current])

    def _begin(self, i_sample: int) -> None:
        if len(self.texts) > 1:
            gap = "\n" if i_sample else ""
            self._write(f"{gap}--- sample {i_sample + 1}\n")
        self._write(self._prompt)

    def _write(self, text: str) -> None:
        if text and not self._console.json_output:
            self._console.write(printable(text))
