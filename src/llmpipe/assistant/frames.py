r"""How families of models mark the turns of a conversation; the first one is ours.

            front               a turn opens                          … and closes
    ours    <|bos|>             <|im_start|>ROLE\n                    <|im_end|>\n
    Llama 3 <|begin_of_text|>   <|start_header_id|>ROLE<|end_header_id|>\n\n   <|eot_id|>
    Qwen                        <|im_start|>ROLE\n                    <|im_end|>\n

A model that others trained as an assistant keeps its own frame. Tool calls and thoughts inside the
assistant's turn have our tokens in every frame (`llmpipe import` adds them to a vocabulary), because
the engine waits for those; Qwen's `<think>` is used where a vocabulary has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import BOS, IM_END, IM_START, THINK_END, THINK_START


@dataclass(frozen=True)
class Frame:
    """The tokens and the text around the turns."""

    front: str | None
    """Special token that a conversation begins with."""
    start: str
    """Special token that a turn begins with; the role follows as text."""
    role_end: str | None
    """Special token after the role."""
    gap: str
    """Text between that and the content."""
    end: str
    """Special token that ends a turn. The assistant is trained to write it."""
    after: str
    """Text behind a turn."""
    is_trimmed: bool = False
    """Whether whitespace around a turn's content goes."""
    think: tuple[str, str] = (THINK_START, THINK_END)
    """Around a thought, where the vocabulary has them."""


CHATML = Frame(BOS, IM_START, None, "\n", IM_END, "\n")
LLAMA3 = Frame(
    front="<|begin_of_text|>",
    start="<|start_header_id|>",
    role_end="<|end_header_id|>",
    gap="\n\n",
    end="<|eot_id|>",
    after="",
    is_trimmed=True,
)
QWEN = Frame(None, IM_START, None, "\n", IM_END, "\n", think=("<think>", "</think>"))


def frame_for(tokenizer: Tokenizer) -> Frame:
    """Return the frame of the model that a vocabulary belongs to.

    Adding our tokens to an imported vocabulary does not change its frame: Llama 3 is known by its
    header tokens. A Qwen has had `<|im_start|>` before `<|bos|>` was added; where both are ours,
    `<|bos|>` comes first.
    """
    special = tokenizer.special
    if LLAMA3.start in special and LLAMA3.end in special:
        return LLAMA3
    if IM_START in special and special.get(BOS, len(special) + 2**32) > special[IM_START]:
        return QWEN
    return CHATML


def can_chat(tokenizer: Tokenizer) -> bool:
    """Tell whether a vocabulary has the tokens that mark turns."""
    frame = frame_for(tokenizer)
    return {frame.start, frame.end} <= tokenizer.special.keys()


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that end a reply: the end of the turn, and a new turn or document.

    The latter are ends as well: the model has left its own turn.
    """
    frame = frame_for(tokenizer)
    names = (frame.end, frame.start, frame.front or BOS, BOS)
    return list(dict.fromkeys(tokenizer.special[n] for n in names if n in tokenizer.special))
