"""From logits to the next token, for many requests at once, each with its own settings and seed.

The model gives every token of the vocabulary a probability, and somebody has to choose. Always taking the likeliest
makes texts that repeat themselves; drawing from the whole distribution now and then takes one of the many thousand
unlikely tokens, which together come up often enough to derail a text. The settings below lie between the two.

Order of the steps: logit bias, repetition, presence and frequency penalties, temperature, top-k, top-p,
min-p (the order of Hugging Face transformers and vLLM; llama.cpp applies the temperature last, so equal
numbers there mean something else). Log-probabilities are those of the model before any of these.

Every request draws one uniform number per token from a generator of its own, and the token is found by
inverting the cumulative distribution in vocabulary order. So the same seed gives the same text
whatever else is in the batch, and a change of 1e-7 in the logits moves the borders between tokens
by as little instead of reordering them.
"""

# B batch  V vocab_size

import math
from collections import Counter
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
        presence_penalty: taken off the logit of every token that the reply holds already.
        frequency_penalty: taken off as often as the reply holds the token. Source of both: OpenAI's
            API reference; as in vLLM, the prompt does not count.
        logit_bias: pairs of a token id and what is added to its logit; 0 probability is -inf.
        n_logprobs: report the log-probability of each token, and this many of the likeliest ones
            beside it; None reports nothing.
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_logprobs: int | None = None
    seed: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "1 or more")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "in [0, 1]")
        penalty = self.repetition_penalty
        _require(penalty > 0, "repetition_penalty", penalty, "more than 0")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-2 <= value <= 2, name, value, "in [-2, 2]")
        biases = [bias for _, bias in self.logit_bias]
        _require(not any(map(math.isnan, biases)), "logit_bias", biases, "numbers")
        n_logprobs = self.n_logprobs
        _require(n_logprobs is None or n_logprobs >= 0, "n_logprobs", n_logprobs, "0 or more")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "in [0, 2**63)")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")

    @property
    def shifts_logits(self) -> bool:
        """Whether anything but temperature and filters changes this request's distribution."""
        return bool(
            self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
        )


def _require(is_valid: bool, name: str, value: object, expected: str) -> None:
    if not is_valid:
        raise UserError(f"{name} is `{value}` and must be {expected}")


def choose_tokens(
    logits: Float[Tensor, "batch vocab_size"],
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    histories: Sequence[Sequence[int]],
    n_prompts: Sequence[int] | None = None,
) -> list[int]:
    """Return one token id per row.

    Args:
        logits: of the next token.
        samplings: of each row.
        generators: each row's own, on the CPU; only rows that do sample draw from theirs.
        histories: ids each row holds so far, for its penalties.
        n_prompts: how many of those are the prompt; none by default.
    """
    logits = logits.float()
    if any(sampling.shifts_logits for sampling in samplings):
        logits = _shifted(logits, samplings, histories, n_prompts or [0] * len(samplings))
    tokens = logits.argmax(dim=-1)

    drawing = [i_row for i_row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawing:
        probs = probabilities(logits[drawing], [samplings[i] for i in drawing])
        uniforms = [torch.rand((), generator=generators[i], dtype=torch.float64) for i in drawing]
        tokens[drawing] = invert_cdf(probs, torch.stack(uniforms).to(logits.device))
    return tokens.tolist()  # the one place where the host waits for the device


def probabilities(
    logits: Float[Tensor, "batch vocab_size"], samplings: Sequence[Sampling]
) -> Float[Tensor, "batch vocab_size"]:
    """Return the distribution each row is sampled from: tempered, filtered and summing to 1."""

    def column(values: Sequence[float]) -> Float[Tensor, "batch 1"]:
        return torch.tensor(values, dtype=logits.dtype, device=logits.device)[:, None]

    # The largest logit becomes 0 first, so that a tiny temperature cannot overflow.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / column([max(s.temperature, 1e-6) for s in samplings])
    limited = [i for i, s in enumerate(samplings) if s.top_k or (s.top_p or 1.0) < 1]
    if limited:
        kept = _kept_by_rank(logits[limited], [samplings[i] for i in limited])
        logits[limited] = logits[limited].masked_fill(~kept, -torch.inf)
    probs = logits.softmax(dim=-1)
    if any(s.min_p for s in samplings):
        floor = column([s.min_p or 0.0 for s in samplings]) * probs.amax(dim=-1, keepdim=True)
        probs = probs.masked_fill(probs < floor, 0.0)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs


def _kept_by_rank(
    logits: Float[Tensor, "batch vocab_size"], samplings: Sequence[Sampling]
) -> Bool[Tensor, "batch vocab_size"]:
    """Return which tokens top-k and top-p keep; one ordering serves both.

    Sorting a vocabulary takes a CPU longer than a small model's step, and the tokens that are kept are nearly
    always among the likeliest few: those are tried first. Each row decides that for itself, so that it
    does not depend on the others.
    """
    n_vocab = logits.shape[-1]
    top_k = torch.tensor([s.top_k or n_vocab for s in samplings], device=logits.device)[:, None]
    # 2 and not 1 where top-p is off: rounding can lift the sum before a rare token to 1.
    limits = [s.top_p if s.top_p and s.top_p < 1 else 2.0 for s in samplings]
    top_p = torch.tensor(limits, device=logits.device)[:, None]
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    everything = torch.zeros_like(logits, dtype=torch.bool)
    rows = torch.arange(len(logits), device=logits.device)
    if logits.device.type == "cpu" and n_vocab > 4 * _FEW:
        ordered, order = logits.topk(_FEW, dim=-1)
        kept = _kept_in_order(ordered, top_k, top_p, log_total)
        everything.scatter_(-1, order, kept)
        is_cut = (top_k[:, 0] > _FEW) & (top_k[:, 0] < n_vocab)  # what top-k keeps is not all there
        rows = rows[kept[:, -1] & (top_k[:, 0] > _FEW) | is_cut]
    if len(rows):
        ordered, order = logits[rows].sort(dim=-1, descending=True, stable=True)
        kept = _kept_in_order(ordered, top_k[rows], top_p[rows], log_total[rows])
        everything[rows] = torch.zeros_like(kept).scatter(-1, order, kept)
    return everything


_FEW = 512
"""Likeliest tokens that are looked at before a whole vocabulary is sorted."""


def _kept_in_order(
    ordered: Float[Tensor, "batch ranks"],
    top_k: Int[Tensor, "batch 1"],
    top_p: Float[Tensor, "batch 1"],
    log_total: Float[Tensor, "batch 1"],
) -> Bool[Tensor, "batch ranks"]:
    """Return which of the likeliest logits, in descending order, top-k and then top-p keep.

    Args:
        ordered: all of them, or the first ones.
        top_k: at most this many.
        top_p: of the probability of what top-k keeps.
        log_total: logarithm of the sum of the exponentials of all logits, kept or not.
    """
    by_rank = torch.arange(ordered.shape[-1], device=ordered.device) < top_k
    # Where top-k keeps more than these, the sum over the kept ones is not at hand, nor needed.
    has_all = top_k > ordered.shape[-1]
    log_kept = ordered.masked_fill(~by_rank, -torch.inf).logsumexp(dim=-1, keepdim=True)
    probs = (ordered - torch.where(has_all, log_total, log_kept)).exp()
    probs = probs.masked_fill(~by_rank, 0.0)
    before = probs.cumsum(dim=-1) - probs  # probability of all likelier tokens
    kept = by_rank & (before < top_p)
    kept[:, 0] = True
    return kept


def invert_cdf(
    probs: Float[Tensor, "batch vocab_size"], uniforms: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Return, per row, the token in whose share of the cumulative distribution the uniform falls."""
    cdf = probs.double().cumsum(dim=-1)
    # Strictly right of the uniform: a token with probability 0 has no share and is never returned.
    targets = uniforms[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, targets, right=True).squeeze(1).clamp(max=probs.shape[-1] - 1)


def _shifted(
    logits: Float[Tensor, "batch vocab_size"],
    samplings: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    n_prompts: Sequence[int],
) -> Float[Tensor, "batch vocab_size"]:
    """Return logits with biases and penalties applied.

    What concerns which token of which row is listed on the host, and applied to all rows at once:
    a device gets the same few operations for one row and for hundreds.
    """
    biases: list[tuple[int, int, float]] = []  # row, id, value
    seen, written = biases.copy(), biases.copy()
    for row, (sampling, history) in enumerate(zip(samplings, histories, strict=True)):
        for id, bias in sampling.logit_bias:
            biases.append((row, id, bias))
        if sampling.repetition_penalty != 1:
            seen += [(row, id, sampling.repetition_penalty) for id in set(history)]
        presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
        if presence or frequency:
            for id, times in Counter(history[n_prompts[row] :]).items():
                written.append((row, id, -presence - frequency * times))

    logits = logits.clone()
    for entries, is_penalty in ((biases, False), (seen, True), (written, False)):
        if not entries:
            continue
        rows, ids, numbers = zip(*entries, strict=True)
        places = tuple(torch.tensor([rows, ids], device=logits.device))
        values = torch.tensor(numbers, device=logits.device, dtype=logits.dtype)
        if (
            is_penalty
        ):  # divides what is positive and multiplies what is not: both make it less likely
            found = logits[places]
            logits[places] = torch.where(found > 0, found / values, found * values)
        else:
            logits.index_put_(places, values, accumulate=True)
    return logits
