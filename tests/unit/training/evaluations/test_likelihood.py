from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.evaluations.likelihood import Continuations, Scored, log_likelihoods


def slow(context: EvaluationContext, sequence: Scored) -> float:
    """One sequence alone, through all logits and a softmax."""
    with torch.no_grad():
        logits = context.model(torch.tensor([list(sequence.ids[:-1])]))[0].double()
    log_probs = torch.log_softmax(logits, dim=-1)
    scored = range(sequence.n_given, len(sequence.ids))
    return sum(float(log_probs[i - 1, sequence.ids[i]]) for i in scored)


def some_sequences(n_ids: int) -> list[Scored]:
    draw = random.Random(1)
    sequences = []
    for _ in range(13):
        ids = [draw.randrange(n_ids) for _ in range(draw.randint(2, 65))]
        sequences.append(Scored(ids, draw.randint(1, len(ids) - 1)))
    return sequences


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_equals_one_sequence_at_a_time(
    make_context: Callable[..., EvaluationContext], batch_tokens: int
) -> None:
    context = make_context(batch_tokens=batch_tokens)
    sequences = some_sequences(context.tokenizer.vocab_size)
    expected = [slow(context, sequence) for sequence in sequences]
    assert log_likelihoods(context, sequences) == pytest.approx(expected, abs=1e-4)


def test_nothing_goes_through_the_model_above_the_limit_of_tokens(
    make_context: Callable[..., EvaluationContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(batch_tokens=100)
    shapes = []
    hidden = context.model.hidden

    def note(ids: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return hidden(ids)

    monkeypatch.setattr(context.model, "hidden", note)
    log_likelihoods(context, some_sequences(256))
    assert sum(rows for rows, _ in shapes) == 13
    assert all(rows * longest <= 100 for rows, longest in shapes)
    assert [longest for _, longest in shapes] == sorted((s[1] for s in shapes), reverse=True)
    assert log_likelihoods(context, []) == []


def test_tokens_with_a_byte_of_the_continuation_are_scored(tokenizer: Tokenizer) -> None:
    encode = Continuations(tokenizer).encode
    space_ab, ab = 257, 258
    bos = tokenizer.bos_id
    apart = encode("x", " ab", 99)
    assert (list(apart.ids), apart.n_given) == ([bos, ord("x"), space_ab], 2)
    # ` ab` is one token of ` a` and `b`, so it belongs to both: it is scored
    across = encode("x a", "b", 99)
    assert (list(across.ids), across.n_given) == ([bos, ord("x"), space_ab], 2)
    assert encode("", "ab", 99) == Scored([bos, ab], 1)
    letters = encode("é", "é!", 99)
    assert (len(letters.ids), letters.n_given) == (1 + 2 + 2 + 1, 1 + 2)


def test_start_of_what_is_too_long_is_cut_off(tokenizer: Tokenizer) -> None:
    encode = Continuations(tokenizer).encode
    cut = encode("wxyz", "!?", 4)
    assert (list(cut.ids), cut.n_given) == ([tokenizer.bos_id, ord("z"), ord("!"), ord("?")], 2)
    even_more = encode("wxyz", "!?.:", 4)
    assert (list(even_more.ids), even_more.n_given) == (
        [tokenizer.bos_id, ord("?"), ord("."), ord(":")],
        1,
    )
