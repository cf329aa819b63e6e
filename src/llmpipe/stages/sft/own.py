"""The conversations that we make ourselves, by the names of their weights in `[sft.mixture]`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmpipe.stages.sft.config import SFTConfig
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.generators.arithmetic import make_arithmetic, make_multiplication
from llmpipe.stages.sft.generators.dates import make_dates
from llmpipe.stages.sft.generators.documents import make_from_documents, read_pages
from llmpipe.stages.sft.generators.lookups import make_lookups
from llmpipe.stages.sft.generators.personas import make_personas
from llmpipe.stages.sft.generators.templates import make_from_templates
from llmpipe.stages.sft.generators.words import (
    Words,
    find_words,
    make_characters,
    make_letters,
)
from llmpipe.tokenizer.bpe import Tokenizer

HELD_OUT_PER_SOURCE = 30  # enough for a steady validation loss, few enough to cost nothing

AssistantFacts = Mapping[str, str | None]


@dataclass(frozen=True)
class Wish:
    """What a maker may need."""

    config: SFTConfig
    facts: AssistantFacts
    corpus: Path
    tokenizer: Tokenizer
    rng: random.Random
    probed: Pool | None

    @property
    def n(self) -> int:
        """Conversations that are enough, whatever the mixture."""
        return self.config.conversations

    def words(self) -> Words:
        """What questions about words are made of."""
        return find_words(read_pages(self.corpus), self.tokenizer)


def _from_templates(name: str) -> Callable[[Wish], Pool]:
    return lambda wish: make_from_templates(name, wish.facts)


MAKERS: dict[str, Callable[[Wish], Pool]] = {
    "arithmetic": lambda wish: make_arithmetic(wish.n, HELD_OUT_PER_SOURCE, wish.rng),
    "identity": _from_templates("identity"),
    "documents": lambda wish: make_from_documents(read_pages(wish.corpus), wish.config.max_names),
    "smalltalk": _from_templates("smalltalk"),
    "refusals": _from_templates("refusals"),
    "multiplication": lambda wish: make_multiplication(
        wish.n, HELD_OUT_PER_SOURCE, wish.rng, wish.config.use_tools
    ),
    "letters": lambda wish: make_letters(wish.n, HELD_OUT_PER_SOURCE, wish.words(), wish.rng),
    "characters": lambda wish: make_characters(wish.n, HELD_OUT_PER_SOURCE, wish.words(), wish.rng),
    "dates": lambda wish: make_dates(wish.n, HELD_OUT_PER_SOURCE, wish.rng),
    "lookups": lambda wish: make_lookups(wish.corpus, wish.tokenizer, wish.n, wish.rng),
    "personas": lambda wish: make_personas(wish.n, HELD_OUT_PER_SOURCE, wish.rng),
    "probed": lambda wish: wish.probed or Pool([], []),
}


def make_own(
    config: SFTConfig,
    facts: AssistantFacts,
    corpus: Path,
    tokenizer: Tokenizer,
    seed: int,
    probed: Pool | None = None,
) -> list[tuple[str, Pool, float]]:
    """Make the conversations of every kind that has a weight: (name, conversations, weight)."""
    pools = []
    for name, make in MAKERS.items():
        weight = getattr(config.mixture, name)
        if weight:
            rng = random.Random(f"sft {name} {seed}")
            wish = Wish(config, facts, corpus, tokenizer, rng, probed)
            pools.append((name, make(wish), weight))
    return pools
