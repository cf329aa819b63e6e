"""The special tokens, in one list.

Special tokens are ids that no text can produce: only code puts them into a sequence. They mark
where a document begins (`BOS`), who speaks (`IM_START`, `IM_END`), and where a tool is used or a
thought is kept. All are reserved from the first training run on, with spare ones, so that a later
stage never has to grow the vocabulary of a trained model.
"""

from __future__ import annotations

BOS = "<|bos|>"  # stands in front of every document
IM_START = "<|im_start|>"  # "im": imaginary monologue, OpenAI's ChatML
IM_END = "<|im_end|>"
PYTHON_START = "<|python_start|>"
PYTHON_END = "<|python_end|>"
SEARCH_START = "<|search_start|>"
SEARCH_END = "<|search_end|>"
OUTPUT_START = "<|output_start|>"
OUTPUT_END = "<|output_end|>"
THINK_START = "<|think_start|>"
THINK_END = "<|think_end|>"
PAD = "<|pad|>"

NAMED_TOKENS: tuple[str, ...] = (
    BOS,
    IM_START,
    IM_END,
    PYTHON_START,
    PYTHON_END,
    SEARCH_START,
    SEARCH_END,
    OUTPUT_START,
    OUTPUT_END,
    THINK_START,
    THINK_END,
    PAD,
)

N_SPECIAL = 32
"""Special tokens of a vocabulary trained here; the ones without a name yet are spare."""

VOCAB_MULTIPLE = 128
"""The vocabulary's size is a multiple of this, so that the model's output matrix has a shape that
GPUs multiply at full speed. Source: karpathy/nanoGPT README (50,257 padded to 50,304) and
NVIDIA's guide to matrix multiplication, which asks for multiples of 64 or 128."""


def reserved(index: int) -> str:
    """Name the spare special token number `index`."""
    return f"<|reserved_{index}|>"


SPECIAL_TOKENS: tuple[str, ...] = NAMED_TOKENS + tuple(
    reserved(i) for i in range(N_SPECIAL - len(NAMED_TOKENS))
)


def place_special(n_ordinary: int) -> dict[str, int]:
    """Give every special token its id, after `n_ordinary` byte and merge tokens."""
    return {token: n_ordinary + i for i, token in enumerate(SPECIAL_TOKENS)}


def extend_special(n_ordinary: int, existing: dict[str, int]) -> dict[str, int]:
    """Add the special tokens of this project to those of an existing vocabulary.

    Ids that the existing vocabulary leaves unused become spare tokens, because Hugging Face's
    loader renumbers added tokens when there is a gap; more spare tokens fill the vocabulary up to
    a multiple of `VOCAB_MULTIPLE`.

    The ids of byte and merge tokens are 0 to `n_ordinary - 1`.
    """
    special = dict(existing)
    end = max([n_ordinary - 1, *existing.values()]) + 1
    for token in NAMED_TOKENS:
        if token not in special:
            special[token] = end
            end += 1
    end += -end % VOCAB_MULTIPLE
    taken = set(special.values())
    spare = (name for i in range(end) if (name := reserved(i)) not in special)
    special |= {next(spare): i for i in range(n_ordinary, end) if i not in taken}
    return dict(sorted(special.items(), key=lambda item: item[1]))
