"""A trace of a few steps, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

N_WAIT, N_WARMUP, N_TRACED = 2, 1, 3
"""The first steps are unlike the others: memory is taken, kernels are compiled."""


class StepProfiler:
    """Traces a few steps of a run into one file; does nothing when it is not wanted."""

    def __init__(self, path: Path, is_wanted: bool) -> None:
        self.path = path
        self._profiler: Any = None
        if is_wanted:
            self._profiler = torch.profiler.profile(
                schedule=torch.profiler.schedule(
                    wait=N_WAIT, warmup=N_WARMUP, active=N_TRACED, repeat=1
                ),
                on_trace_ready=self._write,
                profile_memory=True,
                acc_events=True,  # there is one cycle; without it torch 2.11 warns that earlier ones are lost
            )

    def __enter__(self) -> StepProfiler:
        if self._profiler is not None:
            self._profiler.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(*exception)

    def step(self) -> None:
        """Tell that a step is over."""
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.path))
