"""The conversations that we make ourselves, by the names of their weights in `[sft.mixture]`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from llmpipe.stages.sft.config import SFTConfig
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.generators.arithmetic import make_arithmetic, make_multiplication
from llmpipe.stages.sft.generators.dates import make_dates
from llmpipe.stages.sft.generators.documents import make_from_documents, read_pages
from llmpipe.stages.sft.generators.lookups import make_lookups
from llmpipe.stages.sft.generators.personas import make_personas
from llmpipe.stages.sft.generators.templates import make_from_templates
from llmpipe.stages.sft.generators.words import Words, find_words, make_characters, make_letters
from llmpipe.tokenizer.bpe import Tokenizer

HELD_OUT_PER_SOURCE = 30  # enough for a steady validation loss, few enough to cost nothing

Facts = Mapping[str, str | None]
"""What the assistant can say about itself, by the places of the templates; None is not known."""


def make_own(
    config: SFTConfig,
    facts: Facts,
    corpus: Path,
    tokenizer: Tokenizer,
    seed: int,
    probed: Pool | None = None,
) -> list[tuple[str, Pool, float]]:
    """Make the conversations of every kind that has a weight: (name, conversations, weight)."""
    n, n_held_out = config.conversations, HELD_OUT_PER_SOURCE  # n is enough, whatever the mixture

    def words() -> Words:
        return find_words(read_pages(corpus), tokenizer)

    makers: dict[str, Callable[[random.Random], Pool]] = {
        "arithmetic": lambda rng: make_arithmetic(n, n_held_out, rng),
        "identity": lambda rng: make_from_templates("identity", facts),
        "documents": lambda rng: make_from_documents(read_pages(corpus), config.max_names),
        "smalltalk": lambda rng: make_from_templates("smalltalk", facts),
        "refusals": lambda rng: make_from_templates("refusals", facts),
        "multiplication": lambda rng: make_multiplication(n, n_held_out, rng, config.use_tools),
        "letters": lambda rng: make_letters(n, n_held_out, words(), rng),
        "characters": lambda rng: make_characters(n, n_held_out, words(), rng),
        "dates": lambda rng: make_dates(n, n_held_out, rng),
        "lookups": lambda rng: make_lookups(corpus, tokenizer, n, rng),
        "personas": lambda rng: make_personas(n, n_held_out, rng),
        "probed": lambda rng: probed or Pool([], []),
    }
    # Each source draws from a generator of its own, so that one more source changes no other.
    return [
        (name, make(random.Random(f"sft {name} {seed}")), weight)
        for name, make in makers.items()
        if (weight := getattr(config.mixture, name))
    ]
