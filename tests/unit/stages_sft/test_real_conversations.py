"""Published conversations through reading, rendering, packing and the loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmpipe.assistant.conversation import Conversation
from llmpipe.assistant.render import render_for_training
from llmpipe.core.distributed import Runtime, open_runtime
from llmpipe.model.transformer import Transformer
from llmpipe.stages.sft.loop import ConversationRows
from llmpipe.stages.sft.packing import fit_length, make_batch, make_sample, pack
from llmpipe.stages.sft.sources import read_conversations
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.vocabularies import load_vocabulary, with_chat_tokens
from llmpipe.training.loss import IGNORE
from llmpipe.training.step import batch_loss


@pytest.fixture(scope="module")
def real(test_data: Path) -> list[Conversation]:
    """Some of every file, short enough for a model of bytes to be quick about them."""
    found = []
    for path in sorted((test_data / "conversations").glob("*/*.gz")):
        conversations, _ = read_conversations(path, path.name, limit=60)
        found += [c for c in conversations if sum(len(m.text) for m in c.messages) < 2000]
    assert len(found) > 200
    return found


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), n_time=st.integers(32, 256))
def test_loss_is_finite_and_every_row_trains_something_at_any_length(
    real: list[Conversation],
    tokenizer: Tokenizer,
    model: Transformer,
    data: st.DataObject,
    n_time: int,
) -> None:
    """The packed loss is also the sum of what the conversations lose alone, to seven digits."""
    chosen = data.draw(st.lists(st.sampled_from(real), min_size=1, max_size=6))
    sequences = [r for c in chosen for r in render_for_training(c.messages, tokenizer)]
    fitted = [fit_length(make_sample(r, "x"), n_time, "cut") for r in sequences]
    samples = [sample for sample in fitted if sample is not None]
    rows = [[samples[i] for i in row] for row in pack([len(s.ids) for s in samples], n_time)]
    if not rows:
        return  # nothing of these answers fits, and no batch is made of nothing
    batch = make_batch(rows, n_time, tokenizer.pad_id)
    assert bool((batch.targets != IGNORE).any(dim=1).all())
    model.zero_grad()
    loss = batch_loss(model, batch, scale=1 / sum(s.n_trained for s in samples)).total
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        alone = [
            batch_loss(model, make_batch([[s]], len(s.ids), tokenizer.pad_id)).total
            for s in samples
        ]
        together = batch_loss(model, batch).total
    torch.testing.assert_close(together, sum(alone), rtol=1e-5, atol=1e-5)


def test_no_process_gets_a_batch_without_a_trained_token(
    real: list[Conversation], tokenizer: Tokenizer
) -> None:
    sequences = [r for c in real[:40] for r in render_for_training(c.messages, tokenizer)]
    fitted = [fit_length(make_sample(r, "x"), 200, "cut") for r in sequences]
    samples = [sample for sample in fitted if sample is not None]
    packed = [[samples[i] for i in row] for row in pack([len(s.ids) for s in samples], 200)]
    assert len(packed) > 5
    rows = ConversationRows(packed, {}, 200, tokenizer.pad_id)
    with open_runtime("cpu") as runtime:
        for n_processes in (1, 2, 3):
            for rank in range(n_processes):
                mine = _as_process(runtime, rank, n_processes)
                for batch in rows.batches(packed[:5], 2, mine):
                    assert bool((batch.targets != IGNORE).any())


def _as_process(runtime: Runtime, rank: int, n_processes: int) -> Runtime:
    ranks = dataclasses.replace(runtime.ranks, rank=rank, world_size=n_processes)
    return dataclasses.replace(runtime, ranks=ranks)


@pytest.mark.slow
def test_rows_are_filled_to_98_percent(test_data: Path) -> None:
    """All 12,000 published conversations, with GPT-2's vocabulary."""
    tokenizer = with_chat_tokens(load_vocabulary(test_data / "tokenizers" / "r50k_base.tiktoken"))
    lengths = []
    for path in sorted((test_data / "conversations").glob("*/*.gz")):
        for conversation in read_conversations(path, path.name)[0]:
            sequences = render_for_training(conversation.messages, tokenizer)
            lengths += [len(rendered.ids) for rendered in sequences]
    assert len(lengths) > 12_000
    for n_time in (512, 1024, 2048):
        fitted = [min(length, n_time) for length in lengths]
        assert sum(fitted) / (len(pack(fitted, n_time)) * n_time) >= 0.98
