"""One second pass as a process of its own: UNITS OUT WORKERS. Prints its numbers as JSON.

It also runs under the llmpipe of an older checkout (`PYTHONPATH=older/src`), whose second pass was one function.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

from llmpipe.core.artifact import artifact_id, list_files
from llmpipe.core.executors import Limits, LocalProcesses
from llmpipe.core.units import Unit, read_commit
from llmpipe.stages.data import corpus
from llmpipe.stages.data.arrow import leave_out_pandas
from llmpipe.stages.data.config import DataConfig

if __name__ == "__main__":
    units, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    leave_out_pandas()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    names = sorted(path.name for path in units.iterdir() if path.is_dir())
    commits = [read_commit(units, Unit(name, name, None)) for name in names]
    limits = Limits(5.0, 120.0, 2_000_000_000)
    executor = LocalProcesses(workers, limits, lambda now: None, lambda: False)
    config = DataConfig()
    started, waiting = time.perf_counter(), os.getloadavg()[0]
    if hasattr(corpus, "plan_corpus"):
        plan = corpus.plan_corpus(config, commits, out / "state", executor)
        planned = time.perf_counter()
        account = corpus.write_corpus(plan, out, executor)
    else:
        planned = started
        account = corpus.write_corpus(config, commits, out, lambda: None, executor)
    ended = time.perf_counter()
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(
        json.dumps(
            {
                "wall_s": ended - started,
                "plan_s": planned - started,
                "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in (own, children)),
                "parent_mb": own.ru_maxrss * 1024 / 1e6,
                "worker_mb": children.ru_maxrss * 1024 / 1e6,
                "load": waiting,
                "documents": account.n_documents,
                "kept": account.n_kept,
                "text_bytes": account.n_bytes,
                "parts": len(list(out.glob("part-*.parquet"))),
                "id": artifact_id("corpus", list_files(out)),
            }
        )
    )
