"""Several processes: exact sums give the same bits on 1, 2 and 4; FSDP the same numbers to 1e-5.

Run as a script, this file is one of the processes that `run_on` starts.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmpipe.core.distributed import Runtime
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.sharded import whole
from llmpipe.model.transformer import Transformer
from llmpipe.training import checkpoint as checkpoint_module
from llmpipe.training import parallel
from llmpipe.training.checkpoint import CheckpointWriter, find_checkpoint, load_checkpoint
from llmpipe.training.config import AdamW, Muon
from llmpipe.training.evaluate import evaluate
from llmpipe.training.fsdp import reshard, shard_model
from llmpipe.training.optim import Optimizer, build_optimizer, deal_matrices
from llmpipe.training.parallel import my_share, tree_sum
from llmpipe.training.step import (
    Batch,
    BatchLoss,
    SpikeGuard,
    log_probs,
    sum_of_weights,
    train_step,
)

CONFIG = ModelConfig("qwen3", 32, 3, 4, 2, 8, 48, 61, 32)
TIED = replace(CONFIG, family="gpt2", n_kv_heads=4, tied_embeddings=True)
N_MICRO = 8


def train(
    runtime: Runtime, first: int, last: int, folder: Path | None, mode: str
) -> tuple[str, list[float]]:
    """Run the steps `first` to `last`, from a checkpoint if there is one.

    Returns:
        A hash of parameters and optimizer, and the losses.
    """
    is_spread = mode.startswith("fsdp") and not runtime.ranks.is_alone
    with torch.device("meta" if is_spread else "cpu"):
        model = Transformer(TIED if mode == "fsdp tied" else CONFIG)
    if is_spread:
        shard_model(model, runtime)
    initialize(model, torch.Generator().manual_seed(1))
    optimizer = build_optimizer(model, Muon(max_norm=0.5), runtime.ranks)
    checkpoint = find_checkpoint(folder, runtime) if folder is not None and first else None
    if checkpoint is not None:
        assert checkpoint.step == first
        load_checkpoint(checkpoint, model, optimizer, runtime)
    guard, losses = SpikeGuard(), []
    for step in range(first, last):
        batches = []
        for i in my_share(range(N_MICRO), runtime.ranks):
            generator = torch.Generator().manual_seed(100 * step + i)
            ids = torch.randint(61, (2, 13), generator=generator)
            batches.append(Batch(ids[:, :-1], ids[:, 1:]))
        result = train_step(
            model, optimizer, batches, 1.0, guard, runtime, is_exact=mode == "exact"
        )
        losses += [result.loss, result.grad_norm]
    if mode.startswith("fsdp"):  # a pass without gradients leaves the outer weights collected
        nats, _ = evaluate(model, batches, torch.ones(61, dtype=torch.long), runtime)
        losses.append(nats)
        reshard(model)
    if folder is not None:
        with CheckpointWriter(folder, runtime) as writer:
            writer.save(last, model, optimizer, {})
            writer.finish()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(whole(parameter.detach()).numpy().tobytes())
    for name, value in sorted(whole_state(optimizer, runtime).items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest(), losses


def whole_state(optimizer: Optimizer, runtime: Runtime) -> dict[str, Tensor]:
    """Put together what the processes keep."""
    mine = {name: whole(value) for name, value in optimizer.state().items()}
    if runtime.ranks.is_alone:
        return mine
    everyone: list[dict[str, Tensor]] = [{}] * runtime.ranks.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return {name: value for part in everyone for name, value in part.items()}


def write_several_files(runtime: Runtime, folder: Path) -> tuple[str, list[float]]:
    """Write weights as several files, which the processes do at the same time; name them all."""
    model = Transformer(CONFIG)
    initialize(model, torch.Generator().manual_seed(1))
    optimizer = build_optimizer(model, AdamW(), runtime.ranks)
    checkpoint_module.MAX_FILE_BYTES = 5_000
    with CheckpointWriter(folder / "several", runtime, keep=1) as writer:
        for step in range(1, 11):
            writer.save(step, model, optimizer, {})
            writer.finish()
            found = find_checkpoint(folder / "several", runtime)
            assert found is not None
            assert found.step == step
    files = sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob("*.safetensors"))
    # What both hold alike is written once, and by both.
    shards = [load_file(found.path / file) for file in files if file.startswith("optimizer/")]
    names = [name for shard in shards for name in shard]
    assert sorted(names) == sorted(optimizer.state())
    return " ".join(files), [float(len(shard)) for shard in shards]


def share_with_an_idle_process(
    runtime: Runtime, folder: Path | None = None
) -> tuple[str, list[float]]:
    """Train on one micro-batch, which the second process has no part in."""
    model = Transformer(CONFIG)
    initialize(model, torch.Generator().manual_seed(1))
    optimizer = build_optimizer(model, Muon(), runtime.ranks)
    ids = torch.randint(61, (2, 13), generator=torch.Generator().manual_seed(1))
    mine = [Batch(ids[:, :-1], ids[:, 1:])] if runtime.ranks.is_main else []
    results = [train_step(model, optimizer, mine, 1.0, SpikeGuard(), runtime) for _ in range(3)]
    return "", [result.loss for result in results]


def policy_loss(model: Transformer, batch: Batch, scale: Tensor) -> BatchLoss:
    """A loss that is no sum of log-probabilities, with a number to log."""
    assert batch.weights is not None
    chosen = log_probs(model, batch)
    probabilities = chosen.exp()
    total = -(batch.weights * probabilities).sum() * scale
    return BatchLoss(total, {"probability": probabilities.sum()})


def learn_by_policy(runtime: Runtime, mode: str, n_busy: int) -> tuple[str, list[float]]:
    """Train with that loss; only the first `n_busy` processes have micro-batches, each of another weight."""
    is_spread = "fsdp" in mode and not runtime.ranks.is_alone
    with torch.device("meta" if is_spread else "cpu"):
        model = Transformer(CONFIG)
    if is_spread:
        shard_model(model, runtime)
    initialize(model, torch.Generator().manual_seed(1))
    optimizer = build_optimizer(model, Muon(max_norm=0.5), runtime.ranks)
    numbers: list[float] = []
    for step in range(4):
        generator, batches = torch.Generator().manual_seed(step), []
        for i in range(N_MICRO):
            ids = torch.randint(61, (2, 13), generator=generator)
            weights = (1.0 + i) * torch.rand((2, 12), generator=generator)
            batches.append(Batch(ids[:, :-1], ids[:, 1:], weights=weights))
        n_each = N_MICRO // min(n_busy, runtime.ranks.world_size)
        mine = batches[runtime.ranks.rank * n_each :][:n_each]
        result = train_step(
            model,
            optimizer,
            mine,
            1.0,
            SpikeGuard(),
            runtime,
            is_exact="exact" in mode,
            loss=policy_loss,
            normalizer=sum_of_weights,
            logged=("probability",),
        )
        numbers += [result.loss, result.grad_norm, result.numbers["probability"]]
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(whole(parameter.detach()).numpy().tobytes())
    return digest.hexdigest(), numbers


def fail_to_write(runtime: Runtime, folder: Path) -> tuple[str, list[float]]:
    """Write a checkpoint where one process's disk fails: all must hear of it, and nothing must count."""
    folder = folder / "broken"
    model = Transformer(CONFIG)
    optimizer = build_optimizer(model, Muon(), runtime.ranks)

    def fail(path: Path) -> str:
        raise OSError(f"{path.name}: no space left")

    with CheckpointWriter(folder, runtime) as writer:
        hash_file = checkpoint_module.hash_file
        checkpoint_module.hash_file = fail if runtime.ranks.rank == 1 else hash_file
        writer.save(1, model, optimizer, {})
        with pytest.raises(OSError, match="no space left") as problem:
            writer.finish()
        checkpoint_module.hash_file = hash_file
        assert find_checkpoint(folder, runtime) is None
        writer.save(2, model, optimizer, {})
        writer.finish()
    found = find_checkpoint(folder, runtime)
    assert found is not None
    assert found.step == 2
    return str(problem.value), []


SPECIAL = {
    "broken": fail_to_write,
    "several": write_several_files,
    "idle": share_with_an_idle_process,
    "policy exact": lambda runtime, folder: learn_by_policy(runtime, "exact", 2),
    "policy": lambda runtime, folder: learn_by_policy(runtime, "plain", 2),
    "policy idle": lambda runtime, folder: learn_by_policy(runtime, "plain", 1),
    "policy fsdp": lambda runtime, folder: learn_by_policy(runtime, "fsdp", 2),
}


def work(
    rank: int, world_size: int, legs: Sequence[tuple[int, int, str | None, str]], folder: Path
) -> None:
    """Take part in a group of processes, and write down how each leg ended."""
    torch.set_num_threads(1)
    parallel.BUCKET_BYTES = 10_000  # several buckets, also of this small model
    store = f"file://{folder / f'store-{world_size}'}"
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world_size
    )
    runtime = Runtime(Ranks(rank, world_size, rank, world_size), torch.device("cpu"))
    results = [
        SPECIAL[mode](runtime, folder)
        if mode in SPECIAL
        else train(runtime, first, last, None if name is None else folder / name, mode)
        for first, last, name, mode in legs
    ]
    if rank == 0:
        (folder / f"{world_size}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def run_on(
    world_size: int, legs: Sequence[tuple[int, int, str | None, str]], folder: Path
) -> list[tuple[str, list[float]]]:
    """Run the legs on so many processes and return how each ended."""
    command = [sys.executable, __file__, json.dumps([world_size, legs, str(folder)])]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(world_size)]
    assert [process.wait(120) for process in processes] == [0] * world_size
    return [
        (digest, losses)
        for digest, losses in json.loads((folder / f"{world_size}.json").read_text())
    ]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[float]]]:
    """Run everything once: starting processes takes far longer than what they do."""
    folder = tmp_path_factory.mktemp("processes")
    alone = Runtime(Ranks(), torch.device("cpu"))
    two = run_on(
        2,
        [
            (0, 6, None, "exact"),
            (0, 2, "exact", "exact"),
            (0, 6, None, "fsdp"),
            (0, 3, "fsdp", "fsdp"),
            (0, 6, None, "fsdp tied"),
            (0, 6, None, "plain"),
            (0, 1, "broken", "broken"),
            (0, 1, "several", "several"),
            (0, 1, None, "idle"),
            *((0, 1, None, mode) for mode in SPECIAL if mode.startswith("policy")),
        ],
        folder,
    )
    policies = dict(zip((m for m in SPECIAL if m.startswith("policy")), two[9:], strict=True))
    shutil.copytree(folder / "fsdp", folder / "fsdp-again")
    legs = [
        (0, 6, None, "exact"),
        (2, 4, "exact", "exact"),
        (3, 6, "fsdp", "fsdp"),
        (0, 6, None, "plain"),
    ]
    four = run_on(4, legs, folder)
    return {
        **policies,
        "policy alone": learn_by_policy(alone, "exact", 1),
        "1": train(alone, 0, 6, None, "exact"),
        "2": two[0],
        "4": four[0],
        "2, 4, 1": train(alone, 4, 6, folder / "exact", "exact"),
        "plain": train(alone, 0, 6, None, "plain"),
        "plain 2": two[5],
        "broken": two[6],
        "several": two[7],
        "idle": two[8],
        "not idle": share_with_an_idle_process(alone),
        "plain 4": four[3],
        "plain tied": train(alone, 0, 6, None, "fsdp tied"),
        "fsdp 2 tied": two[4],
        "fsdp 2": two[2],
        "fsdp 2, 4": (four[2][0], two[3][1][:-1] + four[2][1]),
        "fsdp 2, 1": (
            (end := train(alone, 3, 6, folder / "fsdp-again", "fsdp"))[0],
            two[3][1][:-1] + end[1],
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["2", "4", "2, 4, 1"])
def test_exact_parameters_have_the_same_bits_whatever_the_processes(
    ended: dict[str, tuple[str, list[float]]], processes: str
) -> None:
    assert ended[processes][0] == ended["1"][0]


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["fsdp 2", "fsdp 2, 4", "fsdp 2, 1"])
def test_fsdp_gives_the_numbers_of_one_process_also_resumed_on_others(
    ended: dict[str, tuple[str, list[float]]], processes: str
) -> None:
    losses = ended[processes][1]
    assert len(losses) == 2 * 6 + 1  # loss and gradient norm of each step, validation at the end
    assert losses[:-1] == pytest.approx(ended["plain"][1], abs=1e-5)
    assert losses[-1] == pytest.approx(ended["fsdp 2"][1][-1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["plain 2", "plain 4"])
def test_gradients_summed_on_the_way_back_give_the_numbers_of_one_process(
    ended: dict[str, tuple[str, list[float]]], processes: str
) -> None:
    assert ended[processes][1] == pytest.approx(ended["plain"][1], abs=1e-5)


@pytest.mark.slow
def test_tied_embeddings_stay_tied_when_they_are_spread(
    ended: dict[str, tuple[str, list[float]]],
) -> None:
    assert ended["fsdp 2 tied"][1] == pytest.approx(ended["plain tied"][1], abs=1e-5)


@pytest.mark.slow
def test_a_failing_disk_of_one_process_is_heard_of_by_all(
    ended: dict[str, tuple[str, list[float]]],
) -> None:
    assert re.fullmatch(
        r"process 1 could not write its part: OSError: .*: no space left", ended["broken"][0]
    )


@pytest.mark.slow
def test_processes_write_their_files_at_the_same_time(
    ended: dict[str, tuple[str, list[float]]],
) -> None:
    files, sizes = ended["several"]
    assert sum(file.startswith("model-") for file in files.split()) > 10
    assert len(sizes) == 2
    assert min(sizes) > 5


@pytest.mark.slow
def test_a_process_without_a_micro_batch_takes_part(
    ended: dict[str, tuple[str, list[float]]],
) -> None:
    assert ended["idle"][1] == pytest.approx(ended["not idle"][1], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "", "idle", "fsdp"])
def test_two_processes_learn_by_a_policy_as_one_does(
    ended: dict[str, tuple[str, list[float]]], mode: str
) -> None:
    """Loss, gradient and logged numbers are over the weights of the whole global batch."""
    digest, numbers = ended[f"policy {mode}".strip()]
    assert numbers == pytest.approx(ended["policy alone"][1], abs=1e-6)
    assert len(set(numbers)) == 4 * 3
    if mode == "exact":
        assert digest == ended["policy alone"][0]


def test_tree_adds_by_halves() -> None:
    # In float32, 1e8 + 1 is 1e8 again, so each order of additions gives its own sum.
    leaves = [1e8, 1.0, -1e8, 1.0]
    assert float(tree_sum(leaves, torch.tensor)) == 0.0  # (1e8 + 1) + (-1e8 + 1)
    assert float(tree_sum([1e8, -1e8, 1.0, 1.0], torch.tensor)) == 2.0
    # Two processes with two leaves each add the same pairs.
    halves = [tree_sum(leaves[:2], torch.tensor), tree_sum(leaves[2:], torch.tensor)]
    assert float(tree_sum(halves, lambda x: x)) == 0.0


def test_exact_sum_equals_the_default_one_up_to_rounding() -> None:
    runtime = Runtime(Ranks(), torch.device("cpu"))
    model, other = Transformer(CONFIG), Transformer(CONFIG)
    for m in (model, other):
        initialize(m, torch.Generator().manual_seed(1))
    ids = torch.randint(61, (8, 13), generator=torch.Generator().manual_seed(2))
    batches = [Batch(ids[i : i + 2, :-1], ids[i : i + 2, 1:]) for i in range(0, 8, 2)]
    results = [
        train_step(m, build_optimizer(m, Muon()), batches, 0.0, SpikeGuard(), runtime, is_exact=e)
        for m, e in ((model, True), (other, False))
    ]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-5)


def test_matrices_are_dealt_evenly_and_in_batches_that_do_not_depend_on_the_processes() -> None:
    model = Transformer(CONFIG)
    matrices = {n: p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim > 1}
    dealt = {n: deal_matrices(matrices, n) for n in (1, 2, 4)}
    for n, batches in dealt.items():
        assert [list(b.named) for b in batches] == [list(b.named) for b in dealt[1]]
        assert sorted(name for b in batches for name in b.named) == sorted(matrices)
        assert {b.owner for b in batches} == set(range(n))


if __name__ == "__main__":  # one of the processes that `run_on` starts
    n_processes, asked, where = json.loads(sys.argv[1])
    work(int(sys.argv[2]), n_processes, asked, Path(where))
