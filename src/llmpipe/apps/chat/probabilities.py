"""How likely the model found each token of the last answer, and what it might have said instead.

The model reads the conversation again. One pass gives, at every place, a probability for each token of
the vocabulary to come next, so answers that were loaded from a file have them too, and a chat pays for
them only when asked. They are those of the model itself, before temperature and top-k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from llmpipe.apps.chat.state import Chat
from llmpipe.apps.chat.token_view import spelling
from llmpipe.assistant.render import render
from llmpipe.core.errors import UserError
from llmpipe.inference.engine import LogProb

_BAR_WIDTH = 10
MIN_SHOWN = 0.0005
"""Less likely tokens would read as 0.0%."""


def answer_choices(chat: Chat, n_top: int) -> list[tuple[LogProb, bool]]:
    """Return each token of the last answer, and whether the model chose it: a tool's output was put in.

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
    logprobs = token.prompt_logprobs[begin - 1 :]
    return list(zip(logprobs, whole.mask[begin : len(ids)], strict=True))


def probability_table(choices: Sequence[tuple[LogProb, bool]], chat: Chat, has_color: bool) -> str:
    """Return a line for each token: how likely it was, and the likeliest ones; `>` marks surprises."""
    lines = []
    for own, is_chosen in choices:
        p = math.exp(own.logprob)
        if not is_chosen:
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
        if has_color:
            token = f"\x1b[{'32' if p > 0.5 else '33' if p > 0.1 else '31'}m{token}\x1b[0m"
        mark = " " if is_first else ">"
        lines.append(f"{mark} {bar:<{_BAR_WIDTH}} {p:>5.1%} {token}   {others}".rstrip())
    chosen = [own.logprob for own, is_chosen in choices if is_chosen]
    mean = math.exp(sum(chosen) / len(chosen)) if chosen else 1.0
    lines.append(
        f"{len(chosen)} tokens, each with probability {mean:.1%} in the geometric mean; "
        "> marks those that were not the likeliest"
    )
    return "\n".join(lines)


def _shown(id: int, chat: Chat) -> str:
    tokenizer = chat.loaded.tokenizer
    return spelling(tokenizer.token_bytes(id), id in tokenizer.special.values())
