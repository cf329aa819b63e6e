"""Multiple choice by likelihood: the model's answer is the one that it finds the likeliest.

Long answers are less likely than short ones whatever they say, so there are three choices per question:
by the log-probability itself, and divided by the answer's bytes or tokens. Accuracies of small models
stay at chance for long; `bits_per_byte` of the right answers falls from the first steps on.

Sources: Brown et al. 2020 (GPT-3), section 2.4; EleutherAI/lm-evaluation-harness (`acc`, `acc_norm`, which
counts characters where this counts bytes); Gu et al. 2024 (OLMES), arXiv:2406.08446, on which to use when.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmpipe.core.errors import UserError
from llmpipe.core.records.files import expand
from llmpipe.core.records.rows import READERS
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.evaluations.config import MultipleChoice
from llmpipe.training.evaluations.likelihood import Continuations, Scored, log_likelihoods
from llmpipe.training.evaluations.questions import LETTERS, Question, read_questions

SEED = 1
"""Of the draw of questions and of those shown before: the same ones in every run."""


@dataclass(frozen=True)
class Prompt:
    """One question as the model is given it: an answer's text follows its stem."""

    stems: tuple[str, ...]
    answers: tuple[str, ...]
    """With the blank before it, if there is one."""
    n_bytes: tuple[int, ...]
    """Of each answer, without the blank."""
    gold: int


class MultipleChoiceEvaluation:
    """Asks the questions of some files; they are read when it is made."""

    def __init__(self, settings: MultipleChoice) -> None:
        """Read the questions.

        Raises:
            InputError: if a file cannot be read, or a row is no question.
            UserError: if there are more answers than letters for them.
        """
        files = expand(settings.files, READERS)
        questions = [question for name in files for question in read_questions(name)]
        self.prompts = make_prompts(questions, settings)
        self._sequences: list[Scored] | None = None

    def __call__(self, context: EvaluationContext, /) -> dict[str, float]:
        """Let the model choose; accuracies by three rules, and bits per byte of the right answers."""
        sequences = self._encode(context)
        found = log_likelihoods(context, sequences)
        return score(self.prompts, found, [len(s.ids) - s.n_given for s in sequences])

    def _encode(self, context: EvaluationContext) -> list[Scored]:
        if self._sequences is None:
            continuations = Continuations(context.tokenizer)
            self._sequences = [
                continuations.encode(stem, answer, context.row_tokens + 1)
                for prompt in self.prompts
                for stem, answer in zip(prompt.stems, prompt.answers, strict=True)
            ]
        return self._sequences


def make_prompts(questions: Sequence[Question], settings: MultipleChoice) -> list[Prompt]:
    """Draw the questions that are asked, and word them."""
    draw = random.Random(SEED)
    numbers = list(range(len(questions)))
    asked = numbers
    if settings.examples is not None and settings.examples < len(numbers):
        asked = sorted(draw.sample(numbers, settings.examples))
    prompts = []
    for i in asked:
        # One more than is shown, because the question itself may be among them.
        drawn = draw.sample(numbers, min(settings.shots + 1, len(numbers)))
        others = [questions[k] for k in drawn if k != i][: settings.shots]
        prompts.append(make_prompt(questions[i], others, settings))
    return prompts


def make_prompt(question: Question, others: Sequence[Question], settings: MultipleChoice) -> Prompt:
    """Word one question, after others with their right answers."""
    shown = [_word(other, settings) for other in others]
    before = "".join(p.stems[p.gold] + p.answers[p.gold] + "\n\n" for p in shown)
    prompt = _word(question, settings)
    stems = tuple(before + stem for stem in prompt.stems)
    return Prompt(stems, prompt.answers, prompt.n_bytes, prompt.gold)


def _word(question: Question, settings: MultipleChoice) -> Prompt:
    stems, answers = question.stems, question.answers
    delimiter = settings.delimiter
    if delimiter is None:
        delimiter = "\nAnswer: " if question.is_asked or settings.letters else " "
    if settings.letters:
        if len(answers) > len(LETTERS):
            raise UserError(
                f"`letters` is set, and `{stems[0][:40]}` has {len(answers)} answers",
                hint="leave `letters` out: the answers' texts are scored then",
            )
        listed = zip(LETTERS, answers, strict=False)
        choices = "".join(f"\n{letter}. {answer}" for letter, answer in listed)
        stems = tuple(stem + choices for stem in stems)
        answers = tuple(LETTERS[: len(answers)])
    # Blanks belong to the word after them: tokenizers see it so, and the model learned it so.
    end = delimiter.rstrip(" ")
    blank = delimiter[len(end) :]
    return Prompt(
        tuple(stem + end for stem in stems),
        tuple(blank + answer for answer in answers),
        tuple(len(answer.encode(errors="replace")) for answer in answers),
        question.gold,
    )


def score(
    prompts: Sequence[Prompt], found: Sequence[float], n_tokens: Sequence[int]
) -> dict[str, float]:
    """Turn log-probabilities, answer by answer, into accuracies."""
    n_right = {"accuracy": 0, "accuracy_per_byte": 0, "accuracy_per_token": 0}
    bits = by_chance = 0.0
    at = 0
    for prompt in prompts:
        answers = range(at, at + len(prompt.answers))
        at += len(prompt.answers)
        sums = [found[i] for i in answers]
        per_byte = [nats / n for nats, n in zip(sums, prompt.n_bytes, strict=True)]
        per_token = [found[i] / n_tokens[i] for i in answers]
        for name, values in zip(n_right, (sums, per_byte, per_token), strict=True):
            n_right[name] += _likeliest(values) == prompt.gold
        bits -= per_byte[prompt.gold] / math.log(2)
        by_chance += 1 / len(prompt.answers)
    n = len(prompts)
    shares = {name: count / n for name, count in n_right.items()}
    return {
        **shares,
        "accuracy_stderr": _stderr(shares["accuracy"], n),
        "accuracy_by_chance": by_chance / n,
        "bits_per_byte": bits / n,
    }


def _likeliest(values: Sequence[float]) -> int:
    """Give the place of the largest number, the first of equal ones."""
    largest: Callable[[int], float] = values.__getitem__
    return max(range(len(values)), key=largest)


def _stderr(share: float, n: int) -> float:
    """Give the standard error of a share of `n` draws, from the sample's own spread."""
    return math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan
