"""What does an assistant know? Ask it several times, and teach "I do not know" where it does not.

A model imitates the confident tone of its training conversations, whether it knows the answer or
not. The cure is to find out what it knows: a question is asked several times at temperature 1 and
the answers are compared with the right one. What comes out right (nearly) always is known; what
never or hardly ever does is not, and becomes a conversation that ends in "I do not know". Questions
in between teach nothing certain and are left out.

The assistant asked is an earlier one, trained without these conversations: a base model does not
answer questions.

Source: Dubey et al. 2024, arXiv:2407.21783 (Llama 3), section 4.3.6.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.generate import answer_many
from llmpipe.assistant.render import Message
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.model.weights import load_model
from llmpipe.stages.sft.config import Probing, SFTConfig
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.generators.documents import make_from_documents, read_pages
from llmpipe.tasks.overlap import is_same_answer
from llmpipe.tasks.templates import load_file
from llmpipe.tokenizer.bpe import Tokenizer

MAX_ANSWER_TOKENS = 60
BATCH = 32

REFUSALS: list[str] = load_file("unable")["unknown"]

Answerer = Callable[[Sequence[str]], list[str]]
"""Questions -> an answer to each, sampled at temperature 1."""


@dataclass(frozen=True)
class Probed:
    """A question with what came back."""

    question: str
    expected: str
    answers: tuple[str, ...]
    n_right: int
    verdict: str
    """`known`, `unknown` or `unsure`."""


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


def probe(conversations: Sequence[Conversation], answer: Answerer, config: Probing) -> list[Probed]:
    """Ask the questions of conversations with one turn, and judge the answers."""
    asked = [(c.messages[0].text, c.messages[1].text) for c in conversations]
    rounds = [answer([question for question, _ in asked]) for _ in range(config.samples)]
    probed = []
    for i, (question, expected) in enumerate(asked):
        answers = tuple(one_round[i] for one_round in rounds)
        n_right = sum(is_same_answer(text, expected) for text in answers)
        is_known, is_unknown = n_right >= config.min_right, n_right == 0
        verdict = "known" if is_known else "unknown" if is_unknown else "unsure"
        probed.append(Probed(question, expected, answers, n_right, verdict))
    return probed


def teach(probed: Sequence[Probed], rng: random.Random) -> Pool:
    """Make conversations: what is known with its answer, what is not with a refusal."""
    train = []
    for one in probed:
        if one.verdict == "known":
            train.append(ask(one.question, one.expected, "probed"))
        elif one.verdict == "unknown":
            train.append(ask(one.question, rng.choice(REFUSALS), "probed"))
    return Pool(train, [])
