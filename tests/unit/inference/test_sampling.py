"""Sampling against probabilities worked out by hand or by plain Python."""

import math
import random
from dataclasses import replace

import pytest
import torch

from llmpipe.core.errors import UserError
from llmpipe.inference.sampling import Sampling, choose_tokens, invert_cdf, probabilities

PROBS = [0.5, 0.25, 0.15, 0.07, 0.03]
LOGITS = torch.tensor([PROBS]).log()


def draw(
    logits: torch.Tensor, sampling: Sampling, n: int, history: tuple[int, ...] = ()
) -> list[int]:
    generator = torch.Generator().manual_seed(sampling.seed)
    return [choose_tokens(logits, [sampling], [generator], [history])[0] for _ in range(n)]


def assert_frequencies(tokens: list[int], expected: list[float]) -> None:
    """Five standard deviations of a binomial: fails by chance less than once in a million runs."""
    n = len(tokens)
    for id, p in enumerate(expected):
        allowed = 5 * math.sqrt(n * p * (1 - p))
        assert abs(tokens.count(id) - n * p) <= allowed, (
            f"token {id}: {tokens.count(id)} of {n}, p={p}"
        )


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), PROBS),
        (Sampling(top_k=2), [2 / 3, 1 / 3, 0, 0, 0]),
        # 0.5 + 0.25 is short of 0.8, so the third token is needed as well; the sum is 0.9.
        (Sampling(top_p=0.8), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]),
        # At least 0.2 * 0.5 = 0.1 is asked for.
        (Sampling(min_p=0.2), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]),
        # Temperature 1/2 squares: 0.25, 0.0625, 0.0225, 0.0049, 0.0009; their sum is 0.3408.
        (Sampling(temperature=0.5), [p * p / 0.3408 for p in PROBS]),
        # Temperature first: after squaring, the first token holds 0.73 and is enough for p = 0.7.
        (Sampling(temperature=0.5, top_p=0.7), [1, 0, 0, 0, 0]),
        # top-k before top-p: among two, the first holds 2/3 and is enough for p = 0.6.
        (Sampling(top_k=2, top_p=0.6), [1, 0, 0, 0, 0]),
        (Sampling(top_k=99, top_p=1.0, min_p=0.0), PROBS),
    ],
)
def test_distribution_is_the_one_worked_out_by_hand(
    sampling: Sampling, expected: list[float]
) -> None:
    got = probabilities(LOGITS, [sampling])[0].tolist()
    assert got == pytest.approx(expected, abs=1e-6)


def test_drawn_tokens_follow_the_distribution() -> None:
    assert_frequencies(draw(LOGITS, Sampling(), 2000), PROBS)
    nucleus = [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]
    assert_frequencies(draw(LOGITS, Sampling(top_p=0.8, seed=3), 2000), nucleus)


def test_temperature_zero_is_argmax_and_draws_nothing() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.999, -1.0]])
    assert draw(logits, Sampling(temperature=0.0), 5) == [1] * 5
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    choose_tokens(logits, [Sampling(temperature=0.0)], [generator], [()])
    assert torch.equal(generator.get_state(), before)


def test_tiny_temperature_gives_the_likeliest_token_and_no_nan() -> None:
    assert (
        draw(torch.tensor([[1000.0, -1000.0, 999.0]]), Sampling(temperature=1e-30), 20) == [0] * 20
    )


def test_rows_keep_their_own_settings() -> None:
    settings = [Sampling(top_k=1), Sampling(), Sampling(min_p=1.0), Sampling(top_p=0.6)]
    got = probabilities(LOGITS.repeat(4, 1), settings)
    for i, own in enumerate(settings):
        assert torch.allclose(got[i], probabilities(LOGITS, [own])[0])


def test_same_seed_gives_the_same_tokens_whatever_is_beside_it() -> None:
    noise = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    own = Sampling(seed=11, top_p=0.95)
    alone = draw(LOGITS, own, 50)

    generators = [torch.Generator().manual_seed(seed) for seed in (1, 11, 2, 3)]
    settings = [Sampling(top_k=2), own, Sampling(temperature=0.0), Sampling(min_p=0.1)]
    batch = torch.cat([noise[:1], LOGITS, noise[1:]])
    beside = [choose_tokens(batch, settings, generators, [()] * 4)[1] for _ in range(50)]
    assert beside == alone
    assert draw(LOGITS, Sampling(seed=12, top_p=0.95), 50) != alone


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    # 2 / 4 = 0.5 and -1 * 4 = -4, so of (2, 1, -1) the second token becomes the likeliest.
    logits = torch.tensor([[2.0, 1.0, -1.0]])
    greedy = Sampling(temperature=0.0, repetition_penalty=4.0)
    assert draw(logits, greedy, 1, history=(0, 2, 0)) == [1]
    generator = torch.Generator().manual_seed(0)
    sampled = Sampling(repetition_penalty=4.0)
    tokens = [choose_tokens(logits, [sampled], [generator], [(0, 2)])[0] for _ in range(2000)]
    weights = [math.exp(0.5), math.exp(1.0), math.exp(-4.0)]
    assert_frequencies(tokens, [w / sum(weights) for w in weights])


def test_token_without_probability_is_never_drawn() -> None:
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).repeat(4, 1)
    uniforms = torch.tensor([0.0, 0.4999999, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert invert_cdf(probs, uniforms).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("max_tokens", 0),
    ],
)
def test_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} is `{value}` and must be"):
        Sampling(**{name: value})  # type: ignore[arg-type]


def test_bias_and_penalties_shift_the_logits_by_the_formula() -> None:
    """Of the reply (0, 0, 1): 0.5 - (0.3 + 2 * 0.2) = -0.2; 0.4 - (0.3 + 0.2) = -0.1; 0 stays."""
    logits = torch.tensor([[0.5, 0.4, 0.0, -5.0]])
    both = Sampling(presence_penalty=0.3, frequency_penalty=0.2, seed=2)
    generator = torch.Generator().manual_seed(0)
    history = (2, 2, 0, 0, 1)  # the first two are the prompt, which does not count
    tokens = [choose_tokens(logits, [both], [generator], [history], [2])[0] for _ in range(2000)]
    weights = [math.exp(-0.2), math.exp(-0.1), math.exp(0.0), math.exp(-5.0)]
    assert_frequencies(tokens, [w / sum(weights) for w in weights])

    banned = Sampling(temperature=0.0, logit_bias=((0, float("-inf")), (3, 5.3)))
    assert draw(logits, banned, 1) == [1]
    assert draw(logits, Sampling(temperature=0.0, logit_bias=((3, 5.6),)), 1) == [3]
    assert logits.tolist()[0] == pytest.approx([0.5, 0.4, 0.0, -5.0])  # the input is left alone


def shifted_row_by_row(
    logits: torch.Tensor,
    samplings: list[Sampling],
    histories: list[list[int]],
    n_prompts: list[int],
) -> torch.Tensor:
    """Plain Python over every token, in the documented order."""
    values = logits.tolist()
    for row, own, history, n in zip(values, samplings, histories, n_prompts, strict=True):
        for id, bias in own.logit_bias:
            row[id] += bias
        for id in set(history):
            row[id] *= own.repetition_penalty ** (-1 if row[id] > 0 else 1)
        for id in set(history[n:]):
            row[id] -= own.presence_penalty + own.frequency_penalty * history[n:].count(id)
    return torch.tensor(values)


def kept_by_sorting(row: list[float], own: Sampling) -> set[int]:
    """Plain Python: order, cut at k, then keep until p is reached."""
    order = sorted(range(len(row)), key=lambda id: -row[id])[: own.top_k]
    weights = [math.exp(row[id]) for id in order]
    kept, before = set(), 0.0
    for id, weight in zip(order, weights, strict=True):
        if kept and before >= (own.top_p or 2.0) * sum(weights):
            break
        kept.add(id)
        before += weight
    return kept


def test_a_mixed_batch_is_chosen_as_row_by_row() -> None:
    rng = random.Random(6)
    n_vocab = 3000
    samplings = [
        Sampling(
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_k=rng.choice([None, 5, 700]),
            top_p=rng.choice([None, 0.8, 0.999]),
            min_p=rng.choice([None, 0.05]),
            repetition_penalty=rng.choice([1.0, 1.4]),
            presence_penalty=rng.choice([0.0, 0.6]),
            frequency_penalty=rng.choice([0.0, -0.3]),
            logit_bias=rng.choice([(), ((3, 2.5), (9, -4.0), (3, 1.0))]),
            seed=seed,
        )
        for seed in range(40)
    ]
    logits = 2 * torch.randn(40, n_vocab, generator=torch.Generator().manual_seed(1))
    histories = [[rng.randrange(20) for _ in range(rng.randrange(1, 9))] for _ in samplings]
    n_prompts = [rng.randrange(len(history) + 1) for history in histories]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(own.seed) for own in samplings]

    together = choose_tokens(logits, samplings, generators(), histories, n_prompts)
    plain = shifted_row_by_row(logits, samplings, histories, n_prompts)
    bare = [
        replace(
            own, logit_bias=(), repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
        )
        for own in samplings
    ]
    alone = [
        choose_tokens(plain[i : i + 1], [bare[i]], [generators()[i]], [()])[0] for i in range(40)
    ]
    assert together == alone


@pytest.mark.parametrize("top_k", [None, 1, 40, 511, 512, 513, 700])
@pytest.mark.parametrize("top_p", [0.3, 0.99])
def test_filters_of_a_large_vocabulary_equal_sorting(
    top_k: int | None, top_p: float | None
) -> None:
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(2))
    logits[1] *= 4  # one row where few tokens are enough, one where they are not
    own = Sampling(top_k=top_k, top_p=top_p)
    got = probabilities(logits, [own, own])
    for row, probs in zip(logits.tolist(), got, strict=True):
        assert set(probs.nonzero()[:, 0].tolist()) == kept_by_sorting(row, own)


def test_top_p_of_one_keeps_every_token() -> None:
    """Clients send it as a default; the sum of float32 probabilities passes 1 before the rarest ones."""
    logits = 3 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(2))
    assert torch.equal(
        probabilities(logits, [Sampling(top_p=1.0)]), probabilities(logits, [Sampling()])
    )
    assert (probabilities(logits, [Sampling(top_p=1.0, top_k=2999)]) > 0).sum() == 2999
