from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmpipe.training import loss as loss_module
from llmpipe.training.loss import IGNORE, chunked_cross_entropy, token_losses

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

    def run() -> tuple[torch.Tensor, ...]:
        loss = chunked_cross_entropy(hidden, weight, targets, VOCAB, torch.tensor(0.25), z_loss=0.1)
        return loss, *torch.autograd.grad(loss, (hidden, weight))

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
