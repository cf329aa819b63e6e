"""How long a run will take: a few documents of the smallest input, timed.

The smallest local file is counted (reading is cheap) and a few of its documents, evenly spread, go through the steps.
Documents per byte and CPU seconds per document are then taken for the whole. Inputs differ, so this is good to a factor
of about two.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from llmpipe.core.console import format_count, format_duration
from llmpipe.core.stage import SourceFile
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.document import Document
from llmpipe.stages.data.sources.http import BadBody
from llmpipe.stages.data.sources.inputs import plan_units
from llmpipe.stages.data.sources.items import Raw, read_items
from llmpipe.stages.data.steps.table import STEPS, prepare_steps

_N_DOCUMENTS = 40
_READ_S = 3.0
_MAX_PAGE = 500_000
"""Larger pages are left out: nothing here could end a parser that hangs."""


def estimate(config: DataConfig, sources: Sequence[SourceFile]) -> dict[str, str]:
    """Time a sample, for `--dry-run` to show; empty where no input is a file on this machine."""
    local = [file for file in sources if file.n_bytes and Path(file.path).is_file()]
    if not local:
        return {}
    smallest = min(local, key=lambda file: (file.n_bytes, file.path))
    (unit,) = plan_units([smallest])
    started = time.process_time()
    raws = []
    with tempfile.TemporaryDirectory() as folder:
        for item in read_items(unit.payload, config.read, Path(folder)):
            if isinstance(item, Raw):
                raws.append(item)
            if time.process_time() - started > _READ_S:
                return {}  # the smallest file is too large to be counted here
        read_s = time.process_time() - started
        if not raws:
            return {}
        sample = raws[:: max(1, len(raws) // _N_DOCUMENTS)][:_N_DOCUMENTS]
        step_s = _time_steps(config, sample, Path(folder))
    n_documents = round(len(raws) * sum(file.n_bytes for file in sources) / smallest.n_bytes)
    cpu_s = n_documents * (read_s / len(raws) + step_s / len(sample))
    return {
        "documents": f"about {format_count(n_documents)}",
        "CPU time": f"about {format_duration(cpu_s)}, divided by the number of workers",
    }


def _time_steps(config: DataConfig, sample: Sequence[Raw], prepared: Path) -> float:
    prepare_steps(config, prepared)
    steps = [STEPS[name].make(config, prepared) for name in config.steps]
    started = time.process_time()
    for raw in sample:
        try:
            document = raw.load()
        except (BadBody, LookupError, ValueError):
            continue
        if isinstance(document, Document) and len(document.html or "") <= _MAX_PAGE:
            any(step(document) for step in steps)  # until one drops it
    return time.process_time() - started
