"""Pretraining by torchrun: lost processes, signals, and two machines.

A machine is a network namespace with a host name of its own; a pair of virtual cables joins two of
them. Making one needs root on Linux; without it those tests are skipped, and say so.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from steps import Steps

from llmpipe.core.artifact import Artifact, open_artifact
from llmpipe.core.metrics import Metrics, read_metrics
from llmpipe.core.stage import Context, Inputs
from llmpipe.stages.pretrain.config import ModelSettings, PretrainConfig
from llmpipe.stages.pretrain.stage import SPEC

RECIPE = """
name = "small"
[tokenize]
vocab_size = 384
val_frac = 0.05
inputs = ["text.jsonl"]
[pretrain]
exact = true
max_tokens = 20_480
global_batch_tokens = 256
micro_batch_size = 2
eval_every = 40
eval_tokens = 512
sample_every = 40
sample_tokens = 8
checkpoint_every_s = 0.3
peer_timeout_s = 60.0
dtype = "float32"
compile = "never"
[pretrain.model]
d_model = 32
head_dim = 16
n_layers = 2
max_seq_len = 32
"""
TOKENS = ["--from", "tokens=runs/small/tokens"]
MODEL = "model.safetensors"
LIMIT_S = 90.0
N_KILLS = int(os.environ.get("LLMPIPE_TEST_KILLS", "5"))
"""Per way to share the work. 50 take minutes, so they are left to whoever sets the variable."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a recipe and its tokens, and the base model that one process makes."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "small.toml").write_text(RECIPE)
    draw = random.Random(1)
    syllables = ["ba", "ke", "mi", "no", "ru", "sta", "lo", "ven", "dri", "tu", "oo", "er"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(300)]
    texts = (" ".join(draw.choices(words, k=draw.randint(5, 60))) for _ in range(600))
    (folder / "text.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    for stage, *options in (["tokenize"], ["pretrain", "--out", "runs/alone/base", *TOKENS]):
        command = [sys.executable, "-m", "llmpipe", stage, "small.toml", *options, "-q"]
        subprocess.run(command, cwd=folder, check=True, timeout=LIMIT_S)
    return folder


@dataclass
class Launch:
    """One torchrun, and what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def ends(self) -> tuple[int, str]:
        """Wait for its end; return the exit code and all it said."""
        code = self.process.wait(LIMIT_S)
        return code, self.log.read_text()

    def workers(self) -> list[int]:
        """List the processes it started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                pid, rest = stat.read_text().split(" ", 1)
                if int(rest.rsplit(") ", 1)[1].split()[1]) == self.process.pid:
                    found.append(int(pid))
        return sorted(found)


@dataclass
class Launcher:
    """Starts torchrun, and ends what is left of it."""

    folder: Path
    launches: list[Launch] = field(default_factory=list)

    def __call__(
        self, name: str, *options: str, prefix: Sequence[str] = (), more: Sequence[str] = ()
    ) -> Launch:
        log = self.folder / f"{name}-{len(self.launches)}.log"
        command = [
            *(*prefix, sys.executable, "-m", "torch.distributed.run", *options),
            *("-m", "llmpipe", "pretrain", "small.toml", "--out", f"runs/{name}/base"),
            *(*TOKENS, *more),
        ]
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=file, stderr=subprocess.STDOUT
            )
        self.launches.append(Launch(process, log))
        return self.launches[-1]

    def reaches(self, name: str, step: int) -> None:
        """Wait until the run has done so many steps."""
        metrics = self.folder / f"runs/{name}/.base.partial/metrics.jsonl"
        deadline = time.monotonic() + LIMIT_S
        while not any(row["step"] >= step for row in read_metrics(metrics)):
            said = self.launches[-1].log.read_text()
            assert time.monotonic() < deadline and not self.launches[-1].process.poll(), said
            time.sleep(0.01)


@pytest.fixture
def torchrun(work: Path) -> Iterator[Launcher]:
    """Give a way to start torchrun."""
    launcher = Launcher(work)
    yield launcher
    for launch in launcher.launches:
        if launch.process.poll() is None:
            workers = launch.workers()
            launch.process.kill()
            launch.process.wait()
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def same_as_alone(work: Path, name: str) -> bool:
    made, alone = (work / f"runs/{run}/base/{MODEL}" for run in (name, "alone"))
    return made.read_bytes() == alone.read_bytes()


# ---------------------------------------------------------------------------------------------
# one machine

TWO = ("--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_restarts_after_a_lost_process_and_the_model_is_the_same(
    work: Path, torchrun: Launcher, victim: int
) -> None:
    name = f"lost-{victim}"
    launch = torchrun(name, *TWO, "--max-restarts", "3")
    torchrun.reaches(name, 30)
    os.kill(launch.workers()[victim], signal.SIGKILL)
    code, said = launch.ends()
    assert code == 0, said
    assert said.count("pretrain: resuming what was started") == 1, said
    assert said.count("error: another process of this run was lost") <= 1, said
    assert "Traceback" not in said and "bug in llmpipe" not in said, said
    assert same_as_alone(work, name)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_torchrun_saves_and_one_process_says_so(
    work: Path, torchrun: Launcher, signum: signal.Signals
) -> None:
    name = signum.name
    launch = torchrun(name, *TWO, "--max-restarts", "3")
    torchrun.reaches(name, 20)
    workers = launch.workers()
    launch.process.send_signal(signum)
    for pid in workers if signum == signal.SIGTERM else ():
        os.kill(pid, signum)  # as a scheduler does that signals all processes of a job
    code, said = launch.ends()
    assert code == 1, said  # torchrun's own, whatever its processes say
    assert said.count("nothing is lost") == 1, said
    assert not (work / f"runs/{name}/base").exists()
    steps = [row["step"] for row in read_metrics(work / f"runs/{name}/.base.partial/metrics.jsonl")]
    code, said = torchrun(name, *TWO).ends()
    assert code == 0, said
    assert f"going on after step {steps[-1]}" in said
    assert same_as_alone(work, name)


def test_processes_leave_when_torchrun_is_killed(work: Path, torchrun: Launcher) -> None:
    launch = torchrun("orphans", *TWO)
    torchrun.reaches("orphans", 10)
    workers = launch.workers()
    assert len(workers) == 2
    launch.process.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert torchrun("orphans", *TWO).ends()[0] == 0
    assert same_as_alone(work, "orphans")


def test_damaged_shard_ends_all_processes_and_is_named_once(work: Path, torchrun: Launcher) -> None:
    tokens = work / "damaged"
    shutil.copytree(work / "runs/small/tokens", tokens)
    shard = tokens / "train-00000.tok.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    _, said = torchrun("damaged", *TWO, more=["--from", f"tokens={tokens}"]).ends()
    assert said.count("train-00000.tok.npy is damaged: its checksum is not the one") == 1, said
    assert "exitcode: 3" in said or "exitcode  : 3" in said, said


# ---------------------------------------------------------------------------------------------
# killed at random moments


def start_forked(
    config: PretrainConfig,
    tokens: Artifact,
    out: Path,
    make_context: Callable[..., Context],
    steps: Steps,
    at: int = 0,
) -> list[int]:
    """Run the stage in two copies of this process; before step `at` the one that takes it waits while `reached` is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def wait() -> None:
        reached(steps).touch()
        while reached(steps).exists():
            time.sleep(0.001)

    def work(rank: str) -> None:
        os.environ |= {**place, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        ctx = make_context(out)
        ctx.metrics = Metrics(out / "metrics.jsonl", enabled=rank == "0")
        SPEC.run(config, Inputs({"tokens": tokens}), out, ctx)

    steps.counter.unlink(missing_ok=True)
    reached(steps).unlink(missing_ok=True)
    return [steps.fork(partial(work, rank), wait, at) for rank in ("0", "1")]


def reached(steps: Steps) -> Path:
    """Return the file that is there while a run waits for the kill."""
    return steps.counter.with_name("reached")


def ends_of(pids: Sequence[int], limit_s: float) -> list[int]:
    """Wait for processes and return how they ended, as `os.waitpid` does."""
    ended: dict[int, int] = {}
    deadline = time.monotonic() + limit_s
    while len(ended) < len(pids):
        for pid in set(pids) - set(ended):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended[pid] = status
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [ended[pid] for pid in pids]


def is_running(pid: int) -> bool:
    """Tell whether a child has not ended yet, and leave its exit code to `ends_of`."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@pytest.mark.parametrize("parallel", ["replicate", "fsdp"])
def test_one_or_all_of_two_processes_killed_at_random_moments_end_with_the_same_files(
    work: Path, tmp_path: Path, make_context: Callable[..., Context], steps: Steps, parallel: Any
) -> None:
    tokens = open_artifact(work / "runs/small/tokens")
    config = PretrainConfig(
        model=ModelSettings(d_model=32, n_layers=2, head_dim=16, max_seq_len=32),
        max_tokens=40 * 256,
        global_batch_tokens=256,
        micro_batch_size=2,
        eval_every=20,
        eval_tokens=512,
        sample_every=10,
        sample_tokens=4,
        dtype="float32",
        parallel=parallel,
        exact=parallel == "replicate",
        checkpoint_every_s=1e-6,
        peer_timeout_s=3.0,
    )
    start = partial(start_forked, config, tokens, make_context=make_context, steps=steps)
    assert ends_of(start(tmp_path / "whole"), LIMIT_S) == [0, 0]
    n_steps = steps.taken()
    draw, parts, n_hit = random.Random(1), tmp_path / "parts", 0

    def is_same() -> bool:
        pairs = ((parts / name, tmp_path / "whole" / name) for name in (MODEL, "samples.jsonl"))
        return all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in pairs)

    while n_hit < N_KILLS:
        pids = start(parts, at=draw.randint(1, max(1, 2 * n_steps // N_KILLS)))
        deadline = time.monotonic() + LIMIT_S
        while not reached(steps).exists() and all(map(is_running, pids)):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        victims = draw.choice([pids, pids[:1], pids[1:]])
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        reached(steps).unlink(missing_ok=True)
        ended = ends_of(pids, 30)  # whoever is left writes on for as long as it can
        assert all(status in (0, 1 << 8, signal.SIGKILL) for status in ended)
        n_hit += any(status != 0 for status in ended)
        if ended == [0, 0]:  # it was done; the next ones are killed in a run of their own
            assert is_same()
            shutil.rmtree(parts)
    assert ends_of(start(parts), LIMIT_S) == [0, 0]
    assert is_same()


# ---------------------------------------------------------------------------------------------
# two machines


@dataclass(frozen=True)
class Machine:
    """A network of its own, under a host name of its own."""

    host: str
    network: str
    hosts_file: Path

    def prefix(self) -> list[str]:
        """Return what to put before a command to run it there."""
        script = 'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"'
        inside = ["unshare", "--mount", "--uts", "sh", "-ec", script]
        return ["ip", "netns", "exec", self.network, *inside, self.host, str(self.hosts_file)]

    def crash(self) -> None:
        """End everything that runs there, without a word."""
        pids = subprocess.run(
            ["ip", "netns", "pids", self.network], capture_output=True, text=True, check=True
        ).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="module")
def machines(work: Path) -> Iterator[tuple[Machine, Machine]]:
    """Make two machines, joined by a cable."""
    hosts = work / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.77.0.1 node-a\n10.77.0.2 node-b\n")
    a, b = (Machine(f"node-{x}", f"llmpipe-{os.getpid()}-{x}", hosts) for x in "ab")
    cable = [f"lp{os.getpid() % 10**6}{x}" for x in "ab"]
    steps = [
        f"netns add {a.network}",
        f"netns add {b.network}",
        f"link add {cable[0]} netns {a.network} type veth peer name {cable[1]} netns {b.network}",
        *(
            f"-n {machine.network} {step}"
            for machine, end, address in zip((a, b), cable, ("10.77.0.1", "10.77.0.2"), strict=True)
            for step in (f"addr add {address}/24 dev {end}", f"link set {end} up", "link set lo up")
        ),
    ]
    try:
        for step in steps:
            subprocess.run(["ip", *step.split()], check=True, capture_output=True, timeout=10)
        subprocess.run([*a.prefix(), "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", b"") or str(error).encode()
        pytest.skip(f"no network namespaces here (they need root): {why.decode().strip()}")
    else:
        yield a, b
    finally:
        for machine in (a, b):
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                machine.crash()
            subprocess.run(
                ["ip", "netns", "del", machine.network], capture_output=True, check=False
            )


def on_both(
    torchrun: Launcher, machines: tuple[Machine, Machine], name: str, *options: str
) -> list[Launch]:
    """Start the same command on both machines, the meeting place on the first."""
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "node-a:29500", *options]
    return [torchrun(name, *place, prefix=machine.prefix()) for machine in machines]


def test_two_machines_make_the_model_of_one_process(
    work: Path, torchrun: Launcher, machines: tuple[Machine, Machine]
) -> None:
    options = ("--nnodes", "2", "--nproc-per-node", "1")
    ended = [launch.ends() for launch in on_both(torchrun, machines, "two", *options)]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "llmpipe" not in ended[1][1]  # only the main process speaks
    assert same_as_alone(work, "two")
    losses = [
        [row["loss"] for row in read_metrics(work / f"runs/{name}/base/metrics.jsonl")]
        for name in ("two", "alone")
    ]
    assert losses[0] == losses[1]


def test_lost_machine_leaves_the_other_to_go_on_alone(
    work: Path, torchrun: Launcher, machines: tuple[Machine, Machine]
) -> None:
    options = ("--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3")
    options += ("--rdzv-conf", "last_call_timeout=5")  # how long to wait for the second machine
    launches = on_both(torchrun, machines, "crash", *options)
    torchrun.reaches("crash", 20)
    machines[1].crash()
    code, said = launches[0].ends()
    launches[1].process.wait(LIMIT_S)
    assert code == 0, said
    assert "error: another process of this run was lost" in said
    assert same_as_alone(work, "crash")
