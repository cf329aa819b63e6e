"""Calls the evaluations that are due, so that the training they interrupt does not notice.

An evaluation gets the model in evaluation mode and without gradients. Afterwards the mode, torch's,
Python's and NumPy's generators, and what FSDP collected are as before. An error in an evaluation is
written down and warned of, and training goes on.
"""

from __future__ import annotations

import contextlib
import random
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmpipe.core.console import Console
from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import Stopped
from llmpipe.model.sharded import is_sharded
from llmpipe.model.transformer import Transformer
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.evaluations.agreement import (
    Agreement,
    CheckedRuntime,
    Doing,
    NotTogether,
    passes_agreed_on,
)
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.evaluations.build import Scheduled
from llmpipe.training.fsdp import reshard


@dataclass
class EvaluationHook:
    """The evaluations of a run, their last numbers, and how often they failed."""

    evaluations: Sequence[Scheduled]
    model: Transformer
    tokenizer: Tokenizer
    runtime: Runtime
    dtype: torch.dtype
    n_steps: int
    row_tokens: int
    batch_tokens: int
    is_compiled: bool
    console: Console
    error_file: Path
    """Tracebacks are written here."""
    last: dict[str, float] = field(default_factory=dict)
    """Newest value of each number, by `evaluation/number`."""
    n_failed: int = 0

    def run(self, done: int) -> dict[str, float]:
        """Call what is due after `done` steps; return its numbers by `evaluation/number`."""
        numbers: dict[str, float] = {}
        for evaluation in self.evaluations:
            if evaluation.is_due(done, self.n_steps):
                numbers |= self._call(evaluation, done)
        return numbers

    def stats(self) -> dict[str, float]:
        """Give the last numbers, and the failures, for the artifact's manifest."""
        return {**self.last, "failed_evaluations": self.n_failed} if self.evaluations else {}

    def state(self) -> dict[str, Any]:
        """Give what a resumed run needs, as JSON values."""
        return {"last": self.last, "n_failed": self.n_failed}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take what `state` gave; numbers of evaluations that are not taken any more are dropped."""
        labels = {evaluation.label for evaluation in self.evaluations}
        last = state["last"].items()
        self.last = {key: value for key, value in last if key.split("/", 1)[0] in labels}
        self.n_failed = state["n_failed"]

    def _call(self, evaluation: Scheduled, done: int) -> dict[str, float]:
        started = time.monotonic()
        agreement = Agreement(self.runtime)
        try:
            with without_trace(self.model, self.runtime, agreement, self.is_compiled):
                context = EvaluationContext(
                    self.model,
                    self.tokenizer,
                    CheckedRuntime(self.runtime.ranks, self.runtime.device, agreement=agreement),
                    self.dtype,
                    done,
                    self.row_tokens,
                    self.batch_tokens,
                )
                numbers = check_numbers(evaluation.call(context))
            agreement.agree(Doing.RETURN)
        except Stopped:
            raise
        except Exception as error:
            agreement.fail()
            self._note_failure(evaluation, done, error)
            return {}
        named = {f"{evaluation.label}/{key}": value for key, value in numbers.items()}
        self.last |= named
        text = ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        self.console.info(f"step {done:,}: {evaluation.label}: {text}")
        seconds = round(time.monotonic() - started, 3)
        return {**named, f"{evaluation.label}/seconds": seconds}

    def _note_failure(self, evaluation: Scheduled, done: int, error: Exception) -> None:
        self.n_failed += 1
        if not isinstance(error, NotTogether):  # else the process that failed writes it down
            self.error_file.parent.mkdir(parents=True, exist_ok=True)
            with self.error_file.open("a", encoding="utf-8") as file:
                file.write(
                    f"step {done}, evaluation {evaluation.label}, process {self.runtime.ranks.rank}\n"
                    + "".join(traceback.format_exception(error))
                    + "\n"
                )
        what = str(error) if isinstance(error, NotTogether) else f"{type(error).__name__}: {error}"
        self.console.warn(
            f"step {done:,}: evaluation `{evaluation.label}` left out: {what} "
            f"(see {self.error_file.parent.name}/{self.error_file.name})"
        )


def check_numbers(found: Any) -> dict[str, float]:
    """Refuse what is not numbers by name; tensors of one number are taken.

    Raises:
        TypeError: saying what came.
    """
    if not isinstance(found, Mapping):
        raise TypeError(f"an evaluation returns numbers by name, got {type(found).__name__}")
    numbers = {}
    for key, value in found.items():
        try:
            numbers[str(key)] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"an evaluation returns numbers, `{key}` is {value!r}") from None
    return numbers


@contextlib.contextmanager
def without_trace(
    model: Transformer, runtime: Runtime, agreement: Agreement, is_compiled: bool
) -> Iterator[None]:
    """Let something look at the model, and leave everything as it was."""
    was_training = model.training
    of_python, of_numpy = random.getstate(), np.random.get_state()
    devices = [runtime.device] if runtime.is_cuda else []
    is_spread = any(is_sharded(parameter) for parameter in model.parameters())
    agreed = passes_agreed_on(model, agreement) if is_spread else contextlib.nullcontext()
    model.eval()
    try:
        with torch.random.fork_rng(devices), eager(is_compiled), torch.no_grad(), agreed:
            yield
    finally:
        reshard(model)
        model.train(was_training)
        for parameter in model.parameters():
            parameter.grad = None
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def eager(is_compiled: bool) -> contextlib.AbstractContextManager[Any]:
    """Run compiled blocks uncompiled: they would be compiled anew for each shape that comes."""
    return torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext()
