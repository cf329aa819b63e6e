"""Log-probabilities and token ids, in the shapes that clients read.

Logarithms, because the probability of a text is the product of those of its tokens: a few hundred of them are a
number too small for a float, while their logarithms simply add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmpipe.apps.serve.parse import Settings
from llmpipe.assistant.events import AddedTokens
from llmpipe.inference.engine import LogProb
from llmpipe.tokenizer.bpe import Tokenizer

_NEVER = -9999.0
"""JSON has no minus infinity; this is what OpenAI sends for a token that cannot come."""


def chat_logprobs(
    logprobs: Sequence[LogProb], tokenizer: Tokenizer, with_ids: bool = False
) -> dict[str, Any]:
    """Return log-probabilities in the shape of chat completions.

    Args:
        logprobs: of the tokens in order.
        with_ids: add each token's `id`: spellings are not unique.
    """

    def entry(id: int, logprob: float) -> dict[str, Any]:
        data = _bytes(tokenizer, id)
        shown: dict[str, Any] = {
            "token": data.decode(errors="replace"),
            "logprob": max(logprob, _NEVER),
            "bytes": list(data),
        }
        return shown | {"id": id} if with_ids else shown

    known = tokenizer.vocab_size
    content = [
        entry(of.id, of.logprob)
        | {"top_logprobs": [entry(id, logprob) for id, logprob in of.top if id < known]}
        for of in logprobs
    ]
    return {"content": content, "refusal": None}


def own_logprobs(tokens: Sequence[AddedTokens], keeps_end: bool) -> list[LogProb]:
    """Return the log-probabilities of the tokens that the model chose.

    Args:
        tokens: of an answer, or of a piece of it.
        keeps_end: include the stop token, which OpenAI leaves out.
    """
    return [one.logprob for one in tokens if one.logprob and (keeps_end or not one.is_end)]


def token_strings(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    r"""Spell tokens out; bytes that are no whole character become `\x` and two digits."""
    return [_bytes(tokenizer, id).decode(errors="backslashreplace") for id in ids]


def token_fields(
    settings: Settings, prefix: str, ids: Sequence[int], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return the fields that `return_token_ids` asks for: none, ids, or ids and spellings."""
    if not settings.wants_ids:
        return {}
    fields: dict[str, Any] = {f"{prefix}token_ids": list(ids)}
    if settings.wants_strings:
        fields[f"{prefix}token_strs"] = token_strings(ids, tokenizer)
    return fields


def _bytes(tokenizer: Tokenizer, id: int) -> bytes:
    # A model may have more rows than its tokenizer has tokens.
    return tokenizer.token_bytes(id) if id < tokenizer.vocab_size else b""


def completion_logprobs(
    logprobs: list[LogProb | None], first_id: int | None, tokenizer: Tokenizer, offset: int
) -> dict[str, Any]:
    """Return log-probabilities in the shape of completions.

    Args:
        logprobs: of the tokens in order; None for a first token, which nothing comes before.
        first_id: the id of that first token.
        offset: of the first token in the answer's text.
    """
    tokens, offsets = [], []
    for of in logprobs:
        id = first_id if of is None else of.id
        assert id is not None
        tokens.append(_bytes(tokenizer, id).decode(errors="replace"))
        offsets.append(offset)
        offset += len(tokens[-1])

    def top(of: LogProb) -> dict[str, float]:
        pairs = [(id, lp) for id, lp in (*of.top, (of.id, of.logprob)) if id < tokenizer.vocab_size]
        # Tokens of single bytes can share a spelling: the likelier one stays.
        best: dict[str, float] = {}
        for id, logprob in pairs:
            best.setdefault(_bytes(tokenizer, id).decode(errors="replace"), max(logprob, _NEVER))
        return best

    return {
        "tokens": tokens,
        "token_logprobs": [None if of is None else max(of.logprob, _NEVER) for of in logprobs],
        "top_logprobs": [None if of is None else top(of) for of in logprobs],
        "text_offset": offsets,
    }
