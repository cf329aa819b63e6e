from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llmpipe.core.distributed import Runtime
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.training.config import AdamW, Muon
from llmpipe.training.loss import IGNORE
from llmpipe.training.optim import Optimizer, build_optimizer
from llmpipe.training.step import (
    Batch,
    SpikeGuard,
    batch_loss,
    document_mask,
    document_starts,
    train_step,
)

ALONE = Runtime(Ranks(), torch.device("cpu"))
CONFIG = ModelConfig("qwen3", 32, 2, 4, 2, 8, 48, 61, 32)
GPT2 = ModelConfig("gpt2", 32, 2, 4, 4, 8, 64, 61, 32, tied_embeddings=True)


def make(optim: Muon | AdamW) -> tuple[Transformer, Optimizer]:
    model = Transformer(CONFIG)
    initialize(model, torch.Generator().manual_seed(1))
    return model, build_optimizer(model, optim)


def perturb(model: Transformer) -> None:
    """Change all weights: fresh ones make every block add nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(2)
            )


def random_batch(n_rows: int, seed: int = 1, n_ignored: int = 0) -> Batch:
    ids = torch.randint(61, (n_rows, 17), generator=torch.Generator().manual_seed(seed))
    targets = ids[:, 1:].clone()
    targets[:, :n_ignored] = IGNORE
    return Batch(ids[:, :-1], targets)


@pytest.mark.parametrize("optim", [Muon(), AdamW(lr=1e-2)], ids=["muon", "adamw"])
def test_overfits_32_tokens(optim: Muon | AdamW) -> None:
    model, optimizer = make(optim)
    batch = random_batch(2)
    guard = SpikeGuard(n_sigma=None)
    losses = [train_step(model, optimizer, [batch], 1.0, guard, ALONE).loss for _ in range(80)]
    assert losses[0] == pytest.approx(math.log(61), abs=0.1)
    assert losses[-1] < 0.1


def test_micro_batches_of_uneven_weight_equal_one_batch() -> None:
    # One micro-batch has 2 trained tokens a row and the other 16: averaging their means would
    # give another gradient.
    sparse, dense = random_batch(2, seed=1, n_ignored=14), random_batch(2, seed=2)
    both = Batch(torch.cat((sparse.ids, dense.ids)), torch.cat((sparse.targets, dense.targets)))
    results, weights = [], []
    for batches in ([sparse, dense], [both]):
        model, optimizer = make(AdamW())
        results.append(train_step(model, optimizer, batches, 1.0, SpikeGuard(), ALONE))
        weights.append(model.blocks[0].attn.q.weight)  # type: ignore[union-attr]
    assert results[0].n_trained == results[1].n_trained == 2 * 2 + 2 * 16
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-5)
    torch.testing.assert_close(weights[0], weights[1])


def test_what_is_counted_on_the_way_to_a_gpu_changes_nothing() -> None:
    model, _ = make(AdamW())
    perturb(model)
    batch = random_batch(2, n_ignored=6)
    batch = replace(batch, segments=(torch.arange(16) // 5).expand(2, 16))
    counted = batch.counted()
    assert counted.starts is not None and counted.trained is not None
    assert counted.starts.tolist() == [0, 5, 10, 15, 16, 21, 26, 31, 32]
    assert counted.trained.tolist() == [*range(6, 16), *range(22, 32)]
    assert torch.equal(batch_loss(model, counted), batch_loss(model, batch))


def test_update_that_is_not_finite_is_skipped_and_counted() -> None:
    model, optimizer = make(Muon())
    guard = SpikeGuard()
    train_step(model, optimizer, [random_batch(2)], 1.0, guard, ALONE)
    with torch.no_grad():
        kept = model.norm.weight.clone()
        model.norm.weight[0] = torch.nan
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = {name: value.clone() for name, value in optimizer.state().items()}
    result = train_step(model, optimizer, [random_batch(2)], 1.0, guard, ALONE)
    assert result.skipped == "the loss is not finite"
    assert (guard.n_skipped, guard.n_in_a_row) == (1, 1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num())
        assert parameter.grad is None
    for name, value in optimizer.state().items():
        assert torch.equal(value, state[name])
    with torch.no_grad():
        model.norm.weight.copy_(kept)
    assert train_step(model, optimizer, [random_batch(2)], 1.0, guard, ALONE).skipped is None
    assert (guard.n_skipped, guard.n_in_a_row) == (1, 0)


@pytest.mark.parametrize("config", [Muon(weight_decay=0.1), AdamW()], ids=["muon", "adamw"])
def test_far_out_update_changes_nothing_at_all(config: Muon | AdamW) -> None:
    model, optimizer = make(config)
    guard = SpikeGuard(losses=[1e-3] * 128, norms=[1e-3] * 128)  # any real step is far out
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = {name: value.clone() for name, value in optimizer.state().items()}
    result = train_step(model, optimizer, [random_batch(2)], 1.0, guard, ALONE)
    assert result.skipped is not None
    assert result.skipped.endswith("and 0.001 is usual")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    for name, value in optimizer.state().items():
        assert torch.equal(value, state[name])


def test_guard_finds_what_is_far_out_and_not_what_is_usual() -> None:
    guard = SpikeGuard(window=128)
    # losses 4.0 and 4.2 in turn: mean 4.1, sigma 0.1, so the line is at 4.7
    # norms 1.0 and 1.2: mean 1.1, sigma 0.1, below a quarter of the mean: the line is at 2.75
    for i in range(64):
        assert guard.judge(4.0 + 0.2 * (i % 2), 1.0 + 0.2 * (i % 2)) is None
    assert guard.judge(4.8, 1.1) == "the loss is 4.8, and 4.1 is usual"
    assert guard.judge(4.65, 1.1) is None
    assert guard.judge(4.1, 2.8) == "the gradient is 2.8, and 1.1 is usual"
    assert guard.judge(4.1, 2.7) is None
    assert guard.judge(math.inf, 1.1) == "the loss is not finite"
    assert guard.judge(4.1, math.nan) == "the gradient is not finite"
    assert guard.judge(1.0, 0.1) is None  # better than usual is fine
    assert guard.n_skipped == 4


def test_guard_says_nothing_while_it_knows_too_little() -> None:
    guard = SpikeGuard(window=128)
    assert all(guard.judge(loss, 1.0) is None for loss in [8.0] * 63 + [80.0])


def test_guard_state_survives_json() -> None:
    guard = SpikeGuard()
    for loss in (3.1, 2.9, math.nan):
        guard.judge(loss, 1.0)
    other = SpikeGuard()
    other.load_state(guard.state())
    assert other == guard


def test_clipping_leaves_muons_gradients_alone_and_reports_the_whole_norm() -> None:
    model, optimizer = make(Muon(max_norm=1e-3))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.clip()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        is_muon = name.startswith("blocks.") and parameter.ndim == 2
        assert (parameter.grad.max() == 1) == is_muon, name


def test_document_mask_hides_other_documents() -> None:
    mask = document_mask(torch.tensor([[1, 1, 2]]))
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [False, False, True]]


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_documents_without_a_mask_equal_those_with_one(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_document(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *rest: object, window_size: object
    ) -> Tensor:
        """Do what torch's kernel for CUDA does, a document at a time."""
        assert starts.dtype == torch.int32
        assert (window_size, q.shape, v.dtype) == ((-1, 0), k.shape, q.dtype)
        parts = []
        for first, end in itertools.pairwise(starts.tolist()):
            of_one = [x[first:end].transpose(0, 1)[None] for x in (q, k, v)]  # 1 H T D
            y = torch.nn.functional.scaled_dot_product_attention(*of_one, is_causal=True)
            parts.append(y[0].transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_document)
    config = CONFIG if family == "qwen3" else GPT2
    model = Transformer(config)
    initialize(model, torch.Generator().manual_seed(1))
    perturb(model)
    batch = random_batch(2)
    segments = torch.tensor([[1] * 5 + [2] * 11, [2] * 1 + [3] * 14 + [4]])
    # The second row's first token continues no document of the first row: rows do not see each other.
    starts = document_starts(segments)
    assert starts.tolist() == [0, 5, 16, 17, 31, 32]
    losses = []
    for known_starts in (None, starts):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            packed = Batch(batch.ids, batch.targets, segments, known_starts)
            losses.append(batch_loss(model, packed))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        unmasked = batch_loss(model, Batch(batch.ids, batch.targets))
    assert unmasked.item() != pytest.approx(losses[1].item(), rel=1e-3)


def test_masked_documents_equal_documents_alone() -> None:
    model, _ = make(Muon())
    perturb(model)
    with torch.no_grad():
        ids = torch.tensor([[3, 4, 5, 6, 7]])
        together = model(ids, mask=document_mask(torch.tensor([[1, 1, 2, 2, 2]])))
        # Rotary positions count distances alone, so the second document may start at 2.
        alone = model(ids[:, 2:])
    torch.testing.assert_close(together[:, 2:], alone, atol=1e-4, rtol=1e-4)
