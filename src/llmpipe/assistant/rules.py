"""What a reply may hold, where it ends, and where it waits: one set of rules for chat, evaluation and server."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llmpipe.assistant.frames import frame_for, stop_ids
from llmpipe.assistant.tool_list import TOOLS
from llmpipe.assistant.tools import TOOL_NAMES, ToolName
from llmpipe.inference.sampling import Sampling
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import THINK_END, THINK_START

MAX_OUTPUT_TOKENS = 256
"""Of one tool output, so that a single call cannot fill the context."""

ANSWER_TOKENS = 48
"""Kept free behind a tool output where the context is short, for the answer that it is meant for."""

MIN_OUTPUT_TOKENS = 3  # the two control tokens and one of text


@dataclass(frozen=True)
class ReplyRules:
    """What the model may write, and where it stops or waits. A call of any other tool is ruled out.

    Attributes:
        runs: tools that are run here: a call of one waits for its output.
        hands_over: tools that the client runs: a call of one ends the turn.
        max_thought: tokens it may think; 0 keeps it from thinking, None sets no bound.
        stops: strings that end the text; none of them is shown.
        ends: ids that end it, besides those that end a turn in the model's frame: a model's folder
            can name more.
        is_plain: the text of a base model: no turns, thoughts or calls, and control tokens are not shown.
    """

    runs: frozenset[ToolName] = frozenset(TOOL_NAMES)
    hands_over: frozenset[ToolName] = frozenset()
    max_thought: int | None = None
    stops: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    is_plain: bool = False

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids that end a reply.

        A model has no other way to stop than to write such a token, which it learned as the last one
        of every answer it was trained on.
        """
        if self.is_plain:
            return list(self.ends)
        calls = _known([TOOLS[name].end for name in self.hands_over], tokenizer)
        return [*self.ends, *stop_ids(tokenizer), *calls]

    def pause_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids after which the engine waits for what the reply injects."""
        if self.is_plain:
            return []
        return _known([TOOLS[name].end for name in self.runs], tokenizer)

    def applied_to(self, sampling: Sampling, tokenizer: Tokenizer) -> Sampling:
        """Return settings in which what is ruled out has no probability at all.

        To ask a model for something is to make it likelier; a logit of minus infinity makes a token
        impossible. The token that opens a call is enough: without it there is no call.
        """
        if self.is_plain:
            return sampling
        allowed = self.runs | self.hands_over
        ruled_out = _known([TOOLS[n].start for n in TOOL_NAMES if n not in allowed], tokenizer)
        begin, _ = thought_ids(tokenizer)
        if self.max_thought == 0 and begin is not None:
            ruled_out.append(begin)
        bias = tuple((id, -math.inf) for id in ruled_out)
        return replace(sampling, logit_bias=(*sampling.logit_bias, *bias))


def thought_ids(tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Return the ids that open and close a thought; None, None in a vocabulary without them."""
    for begin, end in (frame_for(tokenizer).think, (THINK_START, THINK_END)):
        if begin in tokenizer.special and end in tokenizer.special:
            return tokenizer.special[begin], tokenizer.special[end]
    return None, None


def _known(names: Iterable[str], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of those control tokens that the vocabulary has."""
    return [tokenizer.special[name] for name in names if name in tokenizer.special]
