from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmpipe.training import loss as loss_module
from llmpipe.training.loss import IGNORE, chunked_cross_entropy, chunked_log_probs, token_losses

VOCAB, ROWS = 37, 40  # three rows of padding


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, head and targets, with chunks of five tokens, which divide nothing evenly."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cpu": 5 * ROWS})
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 7, 16, generator=generator, requires_grad=True)
    weight = torch.randn(ROWS, 16, generator=generator, requires_grad=True)
    targets = torch.randint(VOCAB, (3, 7), generator=generator)
    targets[0, :3] = IGNORE
    targets[2] = IGNORE
    return hidden, weight, targets


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = (hidden @ weight.T)[..., :VOCAB]
    return F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def test_loss_and_gradients_equal_the_plain_ones(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, targets = parts
    ours = chunked_cross_entropy(hidden, weight, targets, VOCAB, scale=0.25)
    grads = torch.autograd.grad(3 * ours, (hidden, weight))
    expected = 0.25 * plain(hidden, weight, targets)
    expected_grads = torch.autograd.grad(3 * expected, (hidden, weight))
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(grads, expected_grads)


def test_z_loss_enters_the_gradients_and_not_the_result(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, targets = parts
    ours = chunked_cross_entropy(hidden, weight, targets, VOCAB, scale=0.25, z_loss=0.1)
    grads = torch.autograd.grad(ours, (hidden, weight))
    log_sums = (hidden @ weight.T)[..., :VOCAB].logsumexp(dim=-1)[targets != IGNORE]
    whole = 0.25 * (plain(hidden, weight, targets) + 0.1 * (log_sums**2).sum())
    expected_grads = torch.autograd.grad(whole, (hidden, weight), retain_graph=True)
    torch.testing.assert_close(ours, 0.25 * plain(hidden, weight, targets))
    torch.testing.assert_close(grads, expected_grads)


def assert_equal_as_on_a_gpu(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, targets = parts

    def run() -> list[torch.Tensor]:
        found = []
        for weights in (None, torch.linspace(-1, 1, targets.numel()).view(targets.shape)):
            scale = torch.tensor(0.25)
            loss = chunked_cross_entropy(
                hidden, weight, targets, VOCAB, scale, z_loss=0.1, weights=weights
            )
            found += [loss, *torch.autograd.grad(loss, (hidden, weight))]
        return found

    expected = run()
    monkeypatch.setattr(loss_module, "COMPILED_ON", ("cpu",))
    torch.testing.assert_close(run(), expected)


def test_what_a_gpu_compiles_gives_the_same(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = loss_module.logits_to_gradient
    monkeypatch.setattr(loss_module, "_one_kernel", lambda: rule)
    assert_equal_as_on_a_gpu(parts, monkeypatch)


@pytest.mark.slow  # compiles
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
def test_compiled_it_gives_the_same_for_chunks_of_every_size(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 21 tokens in chunks of six leave three: a second size, after which the kernel is for all sizes.
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", 6 * ROWS)
    assert_equal_as_on_a_gpu(parts, monkeypatch)
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", 8 * ROWS)
    hidden, weight, targets = parts
    with torch._dynamo.config.patch(error_on_recompile=True):
        chunked_cross_entropy(hidden, weight, targets, VOCAB, torch.tensor(0.25), z_loss=0.1)


def test_padding_rows_and_ignored_tokens_get_no_gradient(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, targets = parts
    chunked_cross_entropy(hidden, weight, targets, VOCAB).backward()
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad[2].abs().max() == 0
    assert weight.grad[VOCAB:].abs().max() == 0


def test_token_losses_are_the_plain_ones(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, targets = parts
    losses = token_losses(hidden, weight, targets, VOCAB)
    assert (losses[targets == IGNORE] == 0).all()
    torch.testing.assert_close(losses.sum(), plain(hidden, weight, targets))


def test_half_precision_is_close_to_full(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, targets = parts
    expected = plain(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = chunked_cross_entropy(hidden, weight, targets, VOCAB)
    ours.backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.float32
    # bfloat16 has 3 digits
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=0)


def test_log_probabilities_and_gradients_equal_the_plain_ones(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """Under a loss that treats every token in its own way; in float64, so only rounding is left."""
    hidden, weight, targets = (part.detach() for part in parts)
    hidden, weight = hidden.double().requires_grad_(), weight.double().requires_grad_()
    of_each = torch.randn(targets.shape, dtype=torch.float64)

    def loss_of(log_probs: torch.Tensor) -> torch.Tensor:
        return (of_each * (log_probs + 3.0).exp()).sum() + log_probs.sum(dim=1).sigmoid().sum()

    ours = chunked_log_probs(hidden, weight, targets, VOCAB)
    everything = (hidden @ weight.T)[..., :VOCAB].log_softmax(dim=-1)
    index = targets.clamp(min=0)[..., None]
    expected = everything.gather(2, index)[..., 0].masked_fill(targets == IGNORE, 0.0)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
    grads = torch.autograd.grad(loss_of(ours), (hidden, weight))
    expected_grads = torch.autograd.grad(loss_of(expected), (hidden, weight))
    torch.testing.assert_close(grads, expected_grads, atol=1e-10, rtol=1e-10)
    assert grads[0][2].count_nonzero() == 0  # a row without targets: exactly 0
    assert grads[1][VOCAB:].count_nonzero() == 0  # rows of padding


def test_log_probabilities_are_the_losses_of_tokens(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, targets = parts
    with torch.no_grad():
        found = chunked_log_probs(hidden, weight, targets, VOCAB)
    torch.testing.assert_close(-found, token_losses(hidden, weight, targets, VOCAB))


@pytest.mark.parametrize("is_as_on_a_gpu", [False, True])
def test_weighted_loss_equals_the_plain_one_token_by_token(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    is_as_on_a_gpu: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_as_on_a_gpu:
        rule = loss_module.logits_to_gradient
        monkeypatch.setattr(loss_module, "_one_kernel", lambda: rule)
        monkeypatch.setattr(loss_module, "COMPILED_ON", ("cpu",))
    hidden, weight, targets = parts
    weights = torch.randn(targets.shape)
    weights[1, ::2] = 0.0
    loss = chunked_cross_entropy(hidden, weight, targets, VOCAB, scale=0.25, weights=weights)
    grads = torch.autograd.grad(loss, (hidden, weight))
    logits = (hidden @ weight.T)[..., :VOCAB]
    each = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    expected = 0.25 * (weights.flatten() * each).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, (hidden, weight)))
    assert grads[0][1, ::2].count_nonzero() == 0  # weight 0: exactly 0


def test_weights_of_one_change_no_bit(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, targets = parts
    found = []
    for weights in (None, torch.ones(targets.shape)):
        scale = torch.tensor(1 / 3)
        loss = chunked_cross_entropy(hidden, weight, targets, VOCAB, scale, 0.1, weights=weights)
        found.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    for plain_one, weighted in zip(*found, strict=True):
        assert torch.equal(plain_one, weighted)
