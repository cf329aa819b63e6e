"""The engine's bookkeeping: slots, ends, pauses, forced tokens, prefixes.

What the model computes is compared in tests/parity/test_engine.py.
"""

import random

import pytest
import torch

from llmpipe.core.errors import UserError
from llmpipe.inference.engine import Engine, Token
from llmpipe.inference.sampling import Sampling
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer

GREEDY = Sampling(temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=16,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        head_dim=8,
        d_ff=32,
        vocab_size=50,
        max_seq_len=48,
    )
    return Transformer(config).eval()


def drain(engine: Engine, request: int) -> list[Token]:
    return [token for token in engine.run() if token.request == request]


def test_stop_id_ends_a_request_and_is_reported_last(model: Transformer) -> None:
    free = Engine(model).generate([[1, 2, 3]], GREEDY)[0]
    assert (len(free.ids), free.reason) == (8, "length")
    stop = free.ids[4]
    stopped = Engine(model).generate([[1, 2, 3]], GREEDY, stop_ids=[stop])[0]
    assert stopped.ids == free.ids[: free.ids.index(stop)]
    assert stopped.reason == "stop"
    engine = Engine(model)
    tokens = drain(engine, engine.submit([1, 2, 3], GREEDY, [stop]))
    assert (tokens[-1].id, tokens[-1].reason) == (stop, "stop")
    assert [token.reason for token in tokens[:-1]] == [None] * (len(tokens) - 1)


def test_full_context_ends_a_request(model: Transformer) -> None:
    engine = Engine(model, max_len=10)
    answer = engine.generate([list(range(7))], Sampling(max_tokens=100))[0]
    assert (len(answer.ids), answer.reason) == (3, "context")


def test_prompt_that_leaves_no_room_is_refused_with_both_numbers(model: Transformer) -> None:
    engine = Engine(model, max_len=10)
    with pytest.raises(UserError, match="10 tokens and the context holds 10"):
        engine.submit([1] * 10, GREEDY)
    with pytest.raises(UserError, match="empty"):
        engine.submit([], GREEDY)
    assert len(engine.generate([[1] * 9], GREEDY)[0].ids) == 1


def test_paused_row_waits_and_goes_on_after_feed(model: Transformer) -> None:
    reference = Engine(model).generate([[1, 2, 3]], GREEDY)[0].ids
    engine = Engine(model)
    request = engine.submit([1, 2, 3], GREEDY, pause_ids=[reference[2]])
    i_pause = reference.index(reference[2])
    before = list(engine.run())
    assert [token.id for token in before] == reference[: i_pause + 1]
    assert before[-1].is_paused
    assert engine.step() == []

    engine.feed(request, [7, 8, 9])
    after = [token.id for token in engine.run()]
    n_left = GREEDY.max_tokens - len(before)
    forced = [1, 2, 3, *reference[: i_pause + 1], 7, 8, 9]
    expected = Engine(model).generate([forced], Sampling(temperature=0.0, max_tokens=n_left))[0].ids
    assert after[: len(expected)] == expected[: len(after)]
    assert after


def test_paused_row_does_not_hold_up_the_others(model: Transformer) -> None:
    first = Engine(model).generate([[4, 5]], GREEDY)[0].ids[0]
    engine = Engine(model, max_batch=2)
    parked = engine.submit([4, 5], GREEDY, pause_ids=[first])
    others = [engine.submit([6 + i], GREEDY) for i in range(3)]
    reasons = {token.request: token.reason for token in engine.run()}
    assert reasons == {parked: None, **dict.fromkeys(others, "length")}
    engine.cancel(parked)
    assert engine.n_free_slots == 2


def test_next_turn_computes_only_what_is_new(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    hidden = Transformer.hidden

    def counting(self: Transformer, ids: torch.Tensor, **arguments: object) -> torch.Tensor:
        widths.append(ids.shape[1])
        return hidden(self, ids, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "hidden", counting)
    engine = Engine(model, max_batch=2, is_compiled=False)
    prompt = list(range(12))
    answer = engine.generate([prompt], GREEDY)[0].ids
    widths.clear()
    following = [*prompt, *answer, 3, 4]
    got = engine.generate([following], GREEDY)[0].ids
    # The last sampled token was never sent through the model, so three ids are new.
    assert widths[0] == 3
    assert got == Engine(model).generate([following], GREEDY)[0].ids


def test_changed_weights_are_used_after_refresh(model: Transformer) -> None:
    engine = Engine(model)
    before = engine.generate([[1, 2, 3, 4]], GREEDY)[0].ids
    original = model.embed.weight.detach().clone()
    try:
        with torch.no_grad():
            model.embed.weight.copy_(original.flip(0))
        engine.refresh()
        after = engine.generate([[1, 2, 3, 4]], GREEDY)[0].ids
        assert after == Engine(model).generate([[1, 2, 3, 4]], GREEDY)[0].ids
        assert after != before
    finally:
        with torch.no_grad():
            model.embed.weight.copy_(original)


def test_long_prompt_goes_through_in_pieces(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [list(range(30)), [5, 6], list(range(20, 41))]
    whole = [answer.ids for answer in Engine(model).generate(prompts, GREEDY)]
    monkeypatch.setattr("llmpipe.inference.engine.PREFILL_TOKENS", 7)
    assert [answer.ids for answer in Engine(model).generate(prompts, GREEDY)] == whole


def test_random_requests_with_cancels_leave_no_slot_taken(model: Transformer) -> None:
    rng = random.Random(5)
    engine = Engine(model, max_batch=4, max_len=24)
    wanted: dict[int, tuple[list[int], Sampling]] = {}
    got: dict[int, list[int]] = {}
    ended: set[int] = set()
    cancelled: set[int] = set()
    n_left = 200
    while n_left or len(ended | cancelled) < 200:
        for _ in range(min(n_left, rng.randrange(4))):
            prompt = [rng.randrange(50) for _ in range(rng.randrange(1, 15))]
            sampling = Sampling(seed=rng.randrange(99), max_tokens=rng.randrange(1, 12), top_k=20)
            request = engine.submit(prompt, sampling, stop_ids=[0, 1])
            wanted[request], got[request] = (prompt, sampling), []
            n_left -= 1
        for token in engine.step():
            assert token.request not in ended | cancelled, "a request that has ended still writes"
            got[token.request].append(token.id)
            if token.reason:
                ended.add(token.request)
        open_requests = sorted(wanted.keys() - ended - cancelled)
        if open_requests and rng.random() < 0.15:
            victim = rng.choice(open_requests)
            engine.cancel(victim)
            cancelled.add(victim)
    assert engine.n_free_slots == 4
    assert engine.step() == []
    assert len(ended) > 100 and len(cancelled) > 10
    for request in sorted(ended)[::10]:  # those that ended wrote what they would have written alone
        prompt, sampling = wanted[request]
        alone = Engine(model, max_batch=1, max_len=24).generate([prompt], sampling, [0, 1])[0]
        stop = got[request][-1:] if alone.reason == "stop" else []
        assert got[request] == alone.ids + stop


def test_cancelling_twice_or_after_the_end_is_harmless(model: Transformer) -> None:
    engine = Engine(model, max_batch=1)
    first, second = engine.submit([1], GREEDY), engine.submit([2], GREEDY)
    engine.step()
    engine.cancel(second)  # still waiting
    engine.cancel(second)
    assert {token.request for token in engine.run()} == {first}
    engine.cancel(first)
    assert engine.n_free_slots == 1


def test_group_computes_its_prompt_once_and_writes_what_single_requests_write(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = list(range(20))
    samplings = [Sampling(seed=seed, max_tokens=6) for seed in range(5)]
    expected = [Engine(model).generate([prompt], own)[0].ids for own in samplings]
    n_ids = 0
    hidden = Transformer.hidden

    def counting(self: Transformer, ids: torch.Tensor, **arguments: object) -> torch.Tensor:
        nonlocal n_ids
        n_ids += ids.numel()
        return hidden(self, ids, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "hidden", counting)
    engine = Engine(model, max_batch=3, is_compiled=False)
    requests = engine.submit_group(prompt, samplings)
    got: dict[int, list[int]] = {request: [] for request in requests}
    for token in engine.run():
        got[token.request].append(token.id)
    assert [got[request] for request in requests] == expected
    # The prompt once; for each of the others its last token; and five sampled tokens for each.
    assert n_ids == 20 + 4 + 5 * 5
    assert (engine.n_free_slots, engine.n_requests) == (3, 0)


def test_group_survives_the_loss_of_any_member(model: Transformer) -> None:
    for i_victim in range(3):
        for n_steps in range(3):
            engine = Engine(model, max_batch=2)
            requests = engine.submit_group(
                [1, 2, 3], [Sampling(seed=s, max_tokens=4) for s in range(3)]
            )
            ended = {
                token.request for _ in range(n_steps) for token in engine.step() if token.reason
            }
            engine.cancel(requests[i_victim])
            ended |= {token.request for token in engine.run() if token.reason}
            assert ended >= set(requests) - {requests[i_victim]}
            assert (engine.n_free_slots, engine.n_requests) == (2, 0)


def test_log_probabilities_of_prompt_and_answer_are_the_models(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmpipe.inference.engine.PREFILL_TOKENS", 4)
    prompt = [5, 9, 2, 7, 7, 1, 30, 31, 32]
    engine = Engine(model, max_batch=2)
    engine.generate([prompt], GREEDY)  # leaves a prefix that must not be reused
    sampling = Sampling(temperature=0.7, max_tokens=5, n_logprobs=3, repetition_penalty=1.5)
    tokens = drain(engine, engine.submit(prompt, sampling, prompt_logprobs=True))
    ids = [*prompt, *(token.id for token in tokens)]
    with torch.no_grad():
        reference = model(torch.tensor([ids]))[0].log_softmax(-1)
    found = [*(tokens[0].prompt_logprobs or ()), *(token.logprob for token in tokens)]
    assert len(found) == len(ids) - 1
    for i, of in enumerate(found):
        assert of is not None and of.id == ids[i + 1]
        assert of.logprob == pytest.approx(reference[i, of.id].item(), abs=1e-4)
        top = reference[i].topk(3)
        assert [id for id, _ in of.top] == top.indices.tolist()
        assert [value for _, value in of.top] == pytest.approx(top.values.tolist(), abs=1e-4)
    plain = drain(engine, engine.submit(prompt, GREEDY))
    assert {(token.logprob, token.prompt_logprobs) for token in plain} == {(None, None)}


def test_ids_out_of_range_are_refused(model: Transformer) -> None:
    for prompt, bias in (([1, 50], ()), ([-1], ()), ([1], ((50, 1.0),))):
        with pytest.raises(UserError, match="is not in 0 to 49"):
            Engine(model).submit(prompt, Sampling(logit_bias=bias))


@pytest.mark.slow
def test_thousand_requests_with_groups_pauses_and_cancels_leak_nothing(model: Transformer) -> None:
    rng = random.Random(8)
    engine = Engine(model, max_batch=6, max_len=20)
    n_submitted = 0
    open_requests: set[int] = set()
    paused: set[int] = set()
    while n_submitted < 1000 or open_requests:
        if n_submitted < 1000 and rng.random() < 0.6:
            n = rng.choice([1, 1, 4])
            prompt = [rng.randrange(2, 5) for _ in range(rng.randrange(1, 12))]
            samplings = [
                Sampling(seed=rng.randrange(99), max_tokens=rng.randrange(1, 6)) for _ in range(n)
            ]
            open_requests |= set(engine.submit_group(prompt, samplings, [0, 1], [2, 3, 4, 5]))
            n_submitted += n
        for token in engine.step():
            assert token.request in open_requests
            if token.reason:
                open_requests.remove(token.request)
            elif token.is_paused:
                paused.add(token.request)
        for request in sorted(paused):
            if rng.random() < 0.5:
                paused.remove(request)
                engine.feed(request, [7] * min(2, engine.room(request)))
        if open_requests and rng.random() < 0.3:
            victim = rng.choice(sorted(open_requests))
            engine.cancel(victim)
            open_requests.discard(victim)
            paused.discard(victim)
    assert (engine.n_free_slots, engine.n_requests) == (6, 0)
    assert not engine._waiting and engine.step() == []
