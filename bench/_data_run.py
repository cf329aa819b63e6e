"""One run of the data stage as a process of its own: OUT ARCHIVES MODE WORKERS. Prints its numbers as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from llmpipe.core.console import Console
from llmpipe.core.metrics import Metrics
from llmpipe.core.stage import Context, Inputs, fingerprint_files
from llmpipe.core.stop import StopFlag
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.stage import files, run
from llmpipe.stages.data.steps.extraction import ExtractionConfig

if __name__ == "__main__":
    out, archives, mode, workers = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    config = DataConfig(inputs=(archives,), extraction=ExtractionConfig(mode=mode))  # type: ignore[arg-type]
    metrics = Metrics(out / "metrics.jsonl")
    context = Context("bench", 1, Console(quiet=True), metrics, StopFlag(), workers, "cpu")
    stats = run(config, Inputs({}, fingerprint_files(files(config))), out, context)
    print(
        json.dumps({name: stats[name] for name in ("documents_in", "documents", "funnel", "cpu_s")})
    )
