"""Questions about the documentation, put to an earlier assistant (`probing.py` says what for)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from llmpipe.assistant.generate import answer_many
from llmpipe.assistant.render import Message
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.model.weights import load_model
from llmpipe.stages.sft.config import SFTConfig
from llmpipe.stages.sft.generators.documents import make_from_documents, read_pages
from llmpipe.stages.sft.probing import Probed, probe
from llmpipe.tokenizer.bpe import Tokenizer

MAX_ANSWER_TOKENS = 60
BATCH = 32


def ask_earlier(
    folder: Path,
    corpus: Path,
    config: SFTConfig,
    device: torch.device,
    seed: int,
    warn: Callable[[str], None],
) -> list[Probed]:
    """Ask the assistant in `folder` about the names in the corpus, all of them."""
    pool = make_from_documents(read_pages(corpus), max_names=None)
    questions = [*pool.train, *pool.held_out]
    rng = random.Random(f"sft probing {seed}")
    chosen = rng.sample(questions, min(len(questions), config.probing.max_questions))
    tokenizer = Tokenizer.load(folder)
    engine = Engine(load_model(folder, device).eval(), max_batch=BATCH, warn=warn)
    sampling = Sampling(temperature=1.0, seed=seed, max_tokens=MAX_ANSWER_TOKENS)
    n_rounds = 0

    def answer(texts: Sequence[str]) -> list[str]:
        nonlocal n_rounds
        # Rounds differ by their seed; within a round `answer_many` counts it up.
        own = replace(sampling, seed=seed + n_rounds * len(texts))
        n_rounds += 1
        conversations = [[Message("user", text)] for text in texts]
        replies = answer_many(engine, tokenizer, conversations, own, {})
        return [reply.message.text for reply in replies]

    return probe(chosen, answer, config.probing)
