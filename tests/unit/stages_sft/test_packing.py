from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.assistant.render import Message, PythonCall, Text, ToolOutput, render
from llmpipe.core.distributed import open_runtime
from llmpipe.model.transformer import Transformer
from llmpipe.stages.sft import loop, packing
from llmpipe.stages.sft.loop import ConversationRows
from llmpipe.stages.sft.packing import (
    MaskedSequence,
    fit_length,
    make_batch,
    make_sample,
    pack,
    refold,
)
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.loss import IGNORE
from llmpipe.training.step import batch_loss


def best_fit_by_search(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The slow twin: look at all rows for every conversation; of equal rows the latest filled."""
    rows: list[list[int]] = []
    touched: list[int] = []
    for clock, i in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        fits = [
            (sum(lengths[j] for j in row), touched[number], number)
            for number, row in enumerate(rows)
            if sum(lengths[j] for j in row) + lengths[i] <= capacity
        ]
        if fits:
            number = max(fits)[2]
            rows[number].append(i)
            touched[number] = clock
        else:
            rows.append([i])
            touched.append(clock)
    return rows


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_packing_equals_its_slow_twin(lengths: list[int]) -> None:
    assert pack(lengths, 20) == best_fit_by_search(lengths, 20)


def test_every_conversation_is_packed_once_and_rows_hold() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(5, 200) for _ in range(2000)]
    rows = pack(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(2000))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 256
    assert sum(lengths) / (len(rows) * 256) > 0.98


@given(st.lists(st.integers(1, 1024), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_folding_keeps_every_conversation_in_a_row_that_holds_it(lengths: list[int]) -> None:
    samples = [MaskedSequence(np.full(n, i), np.ones(n, bool), "x") for i, n in enumerate(lengths)]
    folded = refold(samples, 1024)
    assert set(folded) <= {256, 512, 1024}
    assert list(folded) == sorted(folded, reverse=True)
    seen = []
    for n_time, rows in folded.items():
        for row in rows:
            assert sum(len(sample.ids) for sample in row) <= n_time
            assert max(len(sample.ids) for sample in row) > (n_time // 2 if n_time > 256 else 0)
            seen += [int(sample.ids[0]) for sample in row]
    assert sorted(seen) == list(range(len(lengths)))


def test_folding_leaves_short_rows_as_long_as_they_are() -> None:
    samples = [MaskedSequence(np.arange(9), np.ones(9, bool), "x")] * 3
    assert list(refold(samples, 256)) == [256]
    assert list(refold(samples, 300)) == [300]
    assert list(refold(samples, 512)) == [256]


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_folded_rows_train_the_same(
    model: Transformer, tokenizer: Tokenizer, n_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all processes the loss of folded rows is that of the rows as they were."""
    samples = conversations(tokenizer) * 2
    rows = [samples[:3], samples[3:]]
    expected = float(batch_loss(model, make_batch(rows, 256, tokenizer.pad_id)).total.detach())
    for module in (packing, loop):
        monkeypatch.setattr(module, "SHORTEST_ROW", 64)
    total, shapes = 0.0, set()
    with open_runtime("cpu") as runtime:
        for rank in range(n_processes):
            ranks = dataclasses.replace(runtime.ranks, rank=rank, world_size=n_processes)
            mine = dataclasses.replace(runtime, ranks=ranks)
            for batch in ConversationRows(rows, {}, 256, tokenizer.pad_id).batches(rows, 2, mine):
                total += float(batch_loss(model, batch).total.detach())
                shapes.add(batch.ids.shape[1])
    assert shapes < {64, 128, 256}
    assert total == pytest.approx(expected, rel=1e-5)


def conversations(tokenizer: Tokenizer) -> list[MaskedSequence]:
    answers = [
        (Message("user", "Hi"), Message("assistant", "Hello!")),
        (
            Message("user", "2 + 3?"),
            Message("assistant", (PythonCall("2+3"), ToolOutput("5"), Text("5."))),
            Message("user", "Thanks"),
            Message("assistant", "Welcome"),
        ),
        (Message("system", "Be kind."), Message("user", "Who?"), Message("assistant", "Me")),
    ]
    return [make_sample(render(messages, tokenizer), "x") for messages in answers]


def test_loss_of_a_packed_row_is_the_sum_of_its_conversations_losses(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    samples = conversations(tokenizer)
    together = batch_loss(model, make_batch([samples], 256, tokenizer.pad_id)).total
    alone = [
        batch_loss(model, make_batch([[s]], len(s.ids), tokenizer.pad_id)).total for s in samples
    ]
    # Sums of about 100 float32 losses, added in another order: seven digits.
    torch.testing.assert_close(together, sum(alone), rtol=1e-5, atol=1e-5)


def test_gradient_of_packed_rows_is_that_of_separate_ones(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    samples = conversations(tokenizer)

    def gradient(rows: list[list[MaskedSequence]]) -> torch.Tensor:
        model.zero_grad()
        for row in rows:
            n_time = sum(len(sample.ids) for sample in row) + 3
            batch_loss(model, make_batch([row], n_time, tokenizer.pad_id)).total.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return torch.cat(gradients)

    separate = gradient([[sample] for sample in samples])
    packed = gradient([samples])
    assert float((packed - separate).norm() / separate.norm()) < 1e-5


def test_padding_does_not_change_the_loss(model: Transformer, tokenizer: Tokenizer) -> None:
    samples = conversations(tokenizer)
    short = sum(len(sample.ids) for sample in samples)
    losses = [
        batch_loss(model, make_batch([samples], n_time, tokenizer.pad_id)).total
        for n_time in (short, short + 1, 256)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-6, atol=1e-5)


def test_only_the_assistants_tokens_are_targets(tokenizer: Tokenizer) -> None:
    [_, with_tool, _] = conversations(tokenizer)
    batch = make_batch([[with_tool]], len(with_tool.ids), tokenizer.pad_id)
    trained = [int(i) for i in batch.targets[0] if i != IGNORE]
    assert tokenizer.decode(trained) == (
        "<|python_start|>2+3<|python_end|>5.<|im_end|>Welcome<|im_end|>"
    )


def test_no_conversation_predicts_the_start_of_its_neighbor(tokenizer: Tokenizer) -> None:
    ids = np.array([7, 8, 9])
    sample = MaskedSequence(ids, np.array([True, True, True]), "x")
    batch = make_batch([[sample, sample]], 7, pad_id=0)
    assert batch.targets[0].tolist() == [8, 9, IGNORE, 8, 9, IGNORE, IGNORE]
    assert batch.segments is not None
    assert batch.segments[0].tolist() == [1, 1, 1, 2, 2, 2, 0]


@pytest.mark.parametrize("over_long", ["cut", "drop"])
def test_over_long_conversations(over_long: str) -> None:
    mask = np.array([False] * 6 + [True] * 4)
    sample = MaskedSequence(np.arange(10), mask, "x")
    assert fit_length(sample, 10, over_long) is sample
    fitted = fit_length(sample, 8, over_long)
    if over_long == "drop":
        assert fitted is None
    else:
        assert fitted is not None
        assert fitted.ids.tolist() == list(range(8))
        assert fitted.n_trained == 2


def test_a_conversation_without_a_trained_token_is_dropped() -> None:
    sample = MaskedSequence(np.arange(10), np.array([False] * 6 + [True] * 4), "x")
    assert fit_length(sample, 6, "cut") is None
