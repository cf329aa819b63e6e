"""How likely each token of the last answer was in the model's eyes, and what it might have said instead.

The conversation is read again by the model, which gives the probabilities of all its tokens at once. So
answers that were loaded from a file have them too, and a chat pays for them only when asked. They
are those of the model itself, before temperature and top-k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmpipe.apps.chat.state import Chat
from llmpipe.apps.chat.token_view import spelling
from llmpipe.assistant.render import render
from llmpipe.core.errors import UserError
from llmpipe.inference.engine import LogProb

_BAR_WIDTH = 10
MIN_SHOWN = 0.0005
"""Less likely tokens would read as 0.0%."""


@dataclass(frozen=True)
class TokenChoice:
    """One token of an answer.

    Attributes:
        logprob: of the token, with the likeliest ones in its place.
        is_chosen: whether the model chose it; a tool's output was put in.
    """

    logprob: LogProb
    is_chosen: bool


def answer_choices(chat: Chat, n_top: int) -> list[TokenChoice]:
    """Return the tokens of the last answer.

    Raises:
        UserError: if there is no answer yet.
    """
    if not chat.messages or chat.messages[-1].role != "assistant":
        raise UserError("there is no answer yet")
    tokenizer, engine = chat.loaded.tokenizer, chat.loaded.engine
    whole = chat.rendered()
    messages = chat.prompt_messages()
    begin = len(render(messages[:-1], tokenizer, add_generation_prompt=True).ids)
    # The trained tokens end with the stop token: what is behind it is no part of the answer.
    end = max(i for i, is_trained in enumerate(whole.mask) if is_trained) + 1
    ids = whole.ids[: min(end, engine.max_len - 1)]
    sampling = replace(chat.sampling, n_logprobs=n_top, max_tokens=1)
    request = engine.submit(ids, sampling, prompt_logprobs=True)
    try:
        [token] = engine.step()
    finally:
        engine.cancel(request)
    assert token.prompt_logprobs, "the request asked for them"
    # The first token of a sequence has no probability, so the list is one behind.
    return [
        TokenChoice(logprob, is_trained)
        for logprob, is_trained in zip(
            token.prompt_logprobs[begin - 1 :], whole.mask[begin : len(ids)], strict=True
        )
    ]


def probability_table(choices: Sequence[TokenChoice], chat: Chat, has_colour: bool) -> str:
    """Return a line for each token: how likely it was, and the likeliest ones; `>` marks surprises.

    Args:
        choices: of `answer_choices`.
        chat: whose tokenizer spells the tokens.
        has_colour: colour each token by its probability too.
    """
    lines = []
    for choice in choices:
        own = choice.logprob
        p = math.exp(own.logprob)
        if not choice.is_chosen:
            lines.append(f"  {'':<{_BAR_WIDTH}}       {_shown(own.id, chat)}  (put in by a tool)")
            continue
        is_first = bool(own.top) and own.top[0][0] == own.id
        bar = "█" * round(p * _BAR_WIDTH)
        others = "  ".join(
            f"{_shown(id, chat)} {math.exp(value):.1%}"
            for id, value in own.top
            if id != own.id and math.exp(value) >= MIN_SHOWN
        )
        token = _shown(own.id, chat)
        if has_colour:
            token = f"\x1b[{'32' if p > 0.5 else '33' if p > 0.1 else '31'}m{token}\x1b[0m"
        mark = " " if is_first else ">"
        lines.append(f"{mark} {bar:<{_BAR_WIDTH}} {p:>5.1%} {token}   {others}".rstrip())
    chosen = [c.logprob.logprob for c in choices if c.is_chosen]
    mean = math.exp(sum(chosen) / len(chosen)) if chosen else 1.0
    lines.append(
        f"{len(chosen)} tokens, each with probability {mean:.1%} in the geometric mean; "
        "> marks those that were not the likeliest"
    )
    return "\n".join(lines)


def _shown(id: int, chat: Chat) -> str:
    tokenizer = chat.loaded.tokenizer
    return spelling(tokenizer.token_bytes(id), id in tokenizer.special.values())
