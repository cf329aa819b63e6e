"""From logits to the next token, for many requests at once, each with its own settings and seed.

Order of the steps: repetition penalty, temperature, top-k, top-p, min-p (the order of Hugging Face
transformers; llama.cpp applies the temperature last, so equal numbers there mean something else).

Every request draws one uniform number per token from a generator of its own, and the token is found by
inverting the cumulative distribution in vocabulary order. So the same seed gives the same text
whatever else is in the batch, and a change of 1e-7 in the logits moves the borders between tokens
by as little instead of reordering them.
"""

# B batch  V vocab_size

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmpipe.core.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How one request chooses its tokens, and how many.

    Args:
        temperature: 0 takes the likeliest token always; 1 samples from the model as it is.
        top_k: keep the k likeliest tokens. Source: Fan et al. 2018, arXiv:1805.04833.
        top_p: keep the smallest set of likeliest tokens whose probability reaches p.
            Source: Holtzman et al. 2020, arXiv:1904.09751.
        min_p: keep tokens at least this fraction as likely as the likeliest.
            Source: Nguyen et al. 2024, arXiv:2407.01082.
        repetition_penalty: above 1 makes every token of the prompt and the reply less likely to come
            again. Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
        seed: of this request's generator.
        max_tokens: sampled tokens at most; tokens forced into the sequence do not count.

    Raises:
        UserError: if a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "1 or more")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "in [0, 1]")
        penalty = self.repetition_penalty
        _require(penalty > 0, "repetition_penalty", penalty, "more than 0")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "in [0, 2**63)")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")


def _require(is_valid: bool, name: str, value: object, expected: str) -> None:
    if not is_valid:
        raise UserError(f"{name} is `{value}` and must be {expected}")


def choose_tokens(
    logits: Float[Tensor, "batch vocab_size"],
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    histories: Sequence[Sequence[int]],
) -> list[int]:
    """Return one token id per row.

    Args:
        logits: of the next token.
        samplings: the settings of each row.
        generators: each row's own, on the CPU; only rows that do sample draw from theirs.
        histories: ids each row holds so far, for its repetition penalty.
    """
    logits = logits.float()
    for i_row, sampling in enumerate(samplings):
        if sampling.repetition_penalty != 1:
            row = _penalized(logits[i_row], histories[i_row], sampling.repetition_penalty)
            logits = logits.index_copy(0, torch.tensor([i_row], device=logits.device), row[None])
    tokens = logits.argmax(dim=-1)

    drawing = [i_row for i_row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawing:
        probs = probabilities(logits[drawing], [samplings[i] for i in drawing])
        uniforms = [torch.rand((), generator=generators[i], dtype=torch.float64) for i in drawing]
        tokens[drawing] = invert_cdf(probs, torch.stack(uniforms).to(logits.device))
    return tokens.tolist()


def probabilities(
    logits: Float[Tensor, "batch vocab_size"], samplings: Sequence[Sampling]
) -> Float[Tensor, "batch vocab_size"]:
    """Return the distribution each row is sampled from: tempered, filtered and summing to 1."""

    def column(values: Sequence[float]) -> Float[Tensor, "batch 1"]:
        return torch.tensor(values, dtype=logits.dtype, device=logits.device)[:, None]

    # The largest logit becomes 0 first, so that a tiny temperature cannot overflow.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / column([max(s.temperature, 1e-6) for s in samplings])
    if any(s.top_k or s.top_p for s in samplings):
        logits = logits.masked_fill(~_kept_by_rank(logits, samplings), -torch.inf)
    probs = logits.softmax(dim=-1)
    if any(s.min_p for s in samplings):
        floor = column([s.min_p or 0.0 for s in samplings]) * probs.amax(dim=-1, keepdim=True)
        probs = probs.masked_fill(probs < floor, 0.0)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs


def _kept_by_rank(
    logits: Float[Tensor, "batch vocab_size"], samplings: Sequence[Sampling]
) -> Bool[Tensor, "batch vocab_size"]:
    """Return which tokens top-k and top-p keep; one sort serves both."""
    n_vocab = logits.shape[-1]
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    top_k = torch.tensor([s.top_k or n_vocab for s in samplings], device=logits.device)
    ranks = torch.arange(n_vocab, device=logits.device)
    kept = ranks < top_k[:, None]

    probs = ordered.masked_fill(~kept, -torch.inf).softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # probability of all likelier tokens
    # 2 and not 1 where top-p is off: rounding can lift the sum before a rare token to 1.
    top_p = torch.tensor([s.top_p or 2.0 for s in samplings], device=logits.device)
    kept &= before < top_p[:, None]
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter(dim=-1, index=order, src=kept)


def invert_cdf(
    probs: Float[Tensor, "batch vocab_size"], uniforms: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Return, per row, the token in whose share of the cumulative distribution the uniform falls."""
    cdf = probs.double().cumsum(dim=-1)
    # Strictly right of the uniform: a token with probability 0 has no share and is never returned.
    targets = uniforms[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, targets, right=True).squeeze(1).clamp(max=probs.shape[-1] - 1)


def _penalized(
    logits: Float[Tensor, " vocab_size"], history: Sequence[int], penalty: float
) -> Float[Tensor, " vocab_size"]:
    seen = torch.tensor(sorted(set(history)), device=logits.device)
    values = logits[seen]
    lowered = torch.where(values > 0, values / penalty, values * penalty)
    return logits.index_copy(0, seen, lowered)
