"""One second pass as a process of its own: UNITS OUT WORKERS. Prints its numbers as JSON.

On a machine that others use too, wall time says how busy they are. So the time for which processes stood ready and got no CPU
is taken from the scheduler's own account (`/proc/PID/schedstat`), and the wall time without it is told as well.

It also runs under the llmpipe of an older checkout (`PYTHONPATH=older/src`), whose second pass was one function.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import threading
import time
from pathlib import Path

from llmpipe.core.artifact import artifact_id, list_files
from llmpipe.core.executors import Limits, LocalProcesses
from llmpipe.core.units import Unit, read_commit
from llmpipe.stages.data import corpus
from llmpipe.stages.data.arrow import leave_out_pandas
from llmpipe.stages.data.config import DataConfig


class Watch(threading.Thread):
    """Looks at this process and its workers every 50 ms: peak memory, and seconds spent waiting for a CPU."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb: dict[int, float] = {}
        self.waited_s: dict[int, float] = {}
        self.forked_by: dict[int, int] = {}
        self.alone_s = 0.0
        self.is_over = threading.Event()

    def run(self) -> None:
        own, before = os.getpid(), 0.0
        while not self.is_over.wait(0.05):
            self._look(own)
            servers = _children(own)
            for server in servers:
                self._look(server)
                for worker in _children(server):
                    self._look(worker)
                    self.forked_by[worker] = server
            # While workers run, nobody waits for this process.
            if not any(server in self.forked_by.values() for server in servers):
                self.alone_s += self.waited_s.get(own, 0.0) - before
            before = self.waited_s.get(own, 0.0)

    def _look(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            waited = Path(f"/proc/{pid}/schedstat").read_text().split()[1]
        except OSError:
            return
        peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
        if peak:
            self.peak_mb[pid] = int(peak.split()[1]) * 1024 / 1e6
            self.waited_s[pid] = int(waited) / 1e9

    def waited(self) -> float:
        """Seconds that would not have passed on a machine of one's own: of workers side by side, those of the luckiest."""
        phases: dict[int, list[float]] = {}
        for worker, server in self.forked_by.items():
            phases.setdefault(server, []).append(self.waited_s[worker])
        servers = sum(self.waited_s[server] for server in phases)
        return self.alone_s + servers + sum(min(each) for each in phases.values())


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


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
    watch = Watch()
    watch.start()
    read = resource.getrusage(resource.RUSAGE_SELF)
    started, waiting = time.perf_counter(), os.getloadavg()[0]
    if hasattr(corpus, "plan_corpus"):
        plan = corpus.plan_corpus(config, commits, out / "state", executor)
        planned = time.perf_counter()
        account = corpus.write_corpus(plan, out, executor)
    else:
        planned = started
        account = corpus.write_corpus(config, commits, out, lambda: None, executor)
    ended = time.perf_counter()
    watch.is_over.set()
    watch.join()
    others = [peak for pid, peak in watch.peak_mb.items() if pid != os.getpid()]
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in usages) - read.ru_utime - read.ru_stime
    print(
        json.dumps(
            {
                "wall_s": ended - started,
                "plan_s": planned - started,
                "quiet_s": ended - started - watch.waited(),
                "cpu_s": cpu_s,
                "parent_mb": watch.peak_mb[os.getpid()],
                "worker_mb": max(others, default=0.0),
                "load": waiting,
                "documents": account.n_documents,
                "kept": account.n_kept,
                "text_bytes": account.n_bytes,
                "parts": len(list(out.glob("part-*.parquet"))),
                "id": artifact_id("corpus", list_files(out)),
            }
        )
    )
