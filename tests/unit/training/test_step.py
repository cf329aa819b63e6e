from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

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
    BatchLoss,
    SpikeGuard,
    batch_loss,
    document_mask,
    document_starts,
    log_probs,
    sum_of_weights,
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
    assert torch.equal(batch_loss(model, counted).total, batch_loss(model, batch).total)


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
            losses.append(batch_loss(model, packed).total)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        unmasked = batch_loss(model, Batch(batch.ids, batch.targets)).total
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


# ----------------------------------------------------------------------------------------------
# Other losses


def gradients_of(
    batches: list[Batch], **how: object
) -> tuple[dict[str, Tensor], object, Transformer]:
    """Take one step, and catch the gradients on their way to the optimizer."""
    model = Transformer(CONFIG)
    initialize(model, torch.Generator().manual_seed(1))
    perturb(model)
    found: dict[str, Tensor] = {}

    class Catcher:
        def clip(self) -> None:
            found.update(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )

        def step(self, lr_factor: float, is_taken: Tensor) -> None:
            pass

    catcher, guard = Catcher(), SpikeGuard(n_sigma=None)
    result = train_step(model, catcher, batches, 1.0, guard, ALONE, **how)  # type: ignore[arg-type]
    return found, result, model


def weighted(batch: Batch, seed: int) -> Batch:
    weights = torch.randn(batch.ids.shape, generator=torch.Generator().manual_seed(seed))
    weights[:, ::3] = 0.0
    return replace(batch, weights=weights)


def packed(batch: Batch) -> Batch:
    return replace(batch, segments=(torch.arange(batch.ids.shape[1]) // 5).expand_as(batch.ids))


def slow_log_probs(model: Transformer, batch: Batch) -> Tensor:
    """With all logits, by torch alone; packed documents one at a time."""
    found = torch.zeros(batch.ids.shape)
    for row in range(len(batch.ids)):
        segments = torch.zeros(16) if batch.segments is None else batch.segments[row]
        for number in segments.unique():
            of_document = (segments == number).nonzero()[:, 0]
            logits = model(batch.ids[row, of_document][None])[0]
            for i, place in enumerate(of_document.tolist()):
                target = int(batch.targets[row, place])
                if target != IGNORE:
                    found[row, place] = logits[i].log_softmax(-1)[target]
    return found


def policy_loss(model: Transformer, batch: Batch, scale: Tensor) -> BatchLoss:
    """A clipped ratio to the policy that wrote the tokens, as in PPO and GRPO."""
    assert isinstance(batch, Rollouts) and batch.weights is not None and batch.old is not None
    return clipped(log_probs(model, batch), batch.old, batch.weights, batch.targets, scale)


def clipped(
    new: Tensor, old: Tensor, advantages: Tensor, targets: Tensor, scale: Tensor
) -> BatchLoss:
    ratio = (new - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    is_asked = targets != IGNORE
    was_clipped = ((ratio - ratio.clamp(0.8, 1.2)).abs() > 0) & is_asked
    return BatchLoss(-(gain * is_asked).sum() * scale, {"clipped": was_clipped.sum()})


@dataclass(frozen=True)
class Rollouts(Batch):
    """Batches with more of each token than the step knows of."""

    old: Tensor | None = None


def rollouts(seed: int, change: Callable[[Batch], Batch]) -> Rollouts:
    batch = change(weighted(random_batch(2, seed=seed, n_ignored=4), seed))
    old = -4.1 + 0.5 * torch.randn(batch.ids.shape, generator=torch.Generator().manual_seed(seed))
    return Rollouts(batch.ids, batch.targets, batch.segments, weights=batch.weights, old=old)


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("change", [lambda batch: batch, packed], ids=["rows", "packed"])
def test_policy_gradient_equals_the_one_through_all_logits(
    is_exact: bool, change: Callable[[Batch], Batch]
) -> None:
    batches = [rollouts(1, change), rollouts(2, change)]
    found, result, model = gradients_of(
        list(batches), loss=policy_loss, logged=("clipped",), is_exact=is_exact
    )
    n = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    total, n_clipped = torch.zeros(()), 0.0
    for batch in batches:
        assert batch.weights is not None and batch.old is not None
        new = slow_log_probs(model, batch)
        slow = clipped(new, batch.old, batch.weights, batch.targets, torch.tensor(1 / n))
        total = total + slow.total
        n_clipped += float(slow.numbers["clipped"])
    expected = torch.autograd.grad(total, list(model.parameters()))
    for (name, gradient), by_torch in zip(found.items(), expected, strict=True):
        # float32 sums in another order, of gradients of about 0.1
        torch.testing.assert_close(gradient, by_torch, atol=1e-6, rtol=1e-4, msg=name)
    assert result.loss == pytest.approx(float(total.detach()), abs=1e-6)  # type: ignore[attr-defined]
    assert n / 10 < n_clipped < n
    assert result.numbers["clipped"] == pytest.approx(n_clipped / n)  # type: ignore[attr-defined]
    assert result.n_trained == n  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [lambda batch: batch, packed], ids=["rows", "packed"])
def test_weighted_step_is_averaged_over_the_weights_of_all_micro_batches(
    change: Callable[[Batch], Batch],
) -> None:
    batches = [change(weighted(random_batch(2, seed, 4), seed)) for seed in (1, 2)]
    batches = [replace(b, weights=b.weights.abs() / 50) for b in batches]  # type: ignore[union-attr]
    found, result, model = gradients_of(batches, normalizer=sum_of_weights)
    weights = [torch.where(b.targets == IGNORE, 0.0, b.weights) for b in batches]
    n = float(sum(w.sum() for w in weights))
    assert 0 < n < 1  # less than a token's worth is divided by, too
    total = sum(
        -(w * slow_log_probs(model, b)).sum() / n for b, w in zip(batches, weights, strict=True)
    )
    expected = torch.autograd.grad(total, list(model.parameters()))  # type: ignore[arg-type]
    for (name, gradient), by_torch in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, by_torch, atol=1e-6, rtol=1e-4, msg=name)
    assert result.loss == pytest.approx(total.item(), rel=1e-5)  # type: ignore[union-attr]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("change", [lambda batch: batch, packed], ids=["rows", "packed"])
def test_weights_of_one_are_the_plain_step_to_the_bit(
    is_exact: bool, change: Callable[[Batch], Batch]
) -> None:
    batches = [change(random_batch(2, seed, 4)) for seed in (1, 2)]
    plain, result, _ = gradients_of(batches, is_exact=is_exact)
    batches = [replace(batch, weights=torch.ones(2, 16)) for batch in batches]
    ones, other, _ = gradients_of(batches, is_exact=is_exact, normalizer=sum_of_weights)
    assert result == other
    for name, gradient in plain.items():
        assert torch.equal(gradient, ones[name]), name


def test_tokens_of_weight_zero_take_no_part_at_all() -> None:
    batch = weighted(random_batch(2), 1)
    assert batch.weights is not None
    masked = replace(batch, targets=torch.where(batch.weights == 0, IGNORE, batch.targets))
    found, _, _ = gradients_of([batch], normalizer=lambda batch: 1.0)
    without, _, _ = gradients_of([masked], normalizer=lambda batch: 1.0)
    for name, gradient in found.items():
        assert torch.equal(gradient, without[name]), name
    nothing, result, _ = gradients_of(
        [replace(batch, weights=torch.zeros(2, 16))], normalizer=sum_of_weights
    )
    assert all(gradient.count_nonzero() == 0 for gradient in nothing.values())
    assert (result.loss, result.grad_norm) == (0.0, 0.0)  # type: ignore[attr-defined]


def test_tensors_of_a_subclass_travel_with_the_batch() -> None:
    batch = rollouts(1, packed)
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Rollouts) and moved.old is not None and moved.weights is not None
    assert moved.old.device.type == moved.weights.device.type == "meta"
    assert isinstance(batch.counted(), Rollouts) and batch.counted().starts is not None
