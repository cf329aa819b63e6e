"""Multiple-choice questions, from rows as published sets have them.

    | rows of                              | keys                                      | asked as                   |
    |--------------------------------------|-------------------------------------------|----------------------------|
    | llm-foundry's ICL sets, DCLM's CORE  | query, choices, gold                      | query, answer              |
    | Winograd, Winogrande (llm-foundry)   | context_options, continuation, gold       | each beginning, one ending |
    | HellaSwag (Hugging Face)             | ctx_a, ctx_b, activity_label, endings, label | activity: context, ending |
    | ARC, CommonsenseQA, OpenBookQA (HF)  | question or question_stem, choices.text, answerKey | Question: ..., answer |
    | MMLU (HF; CSV with choice0, ...)     | question, choices, answer                 | Question: ..., answer      |

Which form a row has is told by its keys. Wording as in EleutherAI/lm-evaluation-harness, lm_eval/tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError
from llmpipe.core.records.lines import Row, whole
from llmpipe.core.records.rows import read_rows

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """One question: every answer has what comes before it, which is mostly the same for all."""

    stems: tuple[str, ...]
    answers: tuple[str, ...]
    gold: int
    """Number of the right answer, from 0."""
    is_asked: bool
    """Whether the stem is a question, which an answer follows; otherwise it is the beginning of a text."""

    def __post_init__(self) -> None:
        if len(self.answers) < 2:
            raise ValueError(f"expected two answers or more, got {len(self.answers)}")
        if not 0 <= self.gold < len(self.answers):
            raise ValueError(
                f"answer {self.gold} is the right one, and there are {len(self.answers)}"
            )


def read_questions(path: str | Path) -> list[Question]:
    """Read all questions of a file, but for those with an empty answer, which published sets do have.

    Raises:
        InputError: naming file and line.
    """
    questions = []
    for where, row in whole(read_rows(path)):
        try:
            question = parse_question(row)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            text = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{where}: {text}") from None
        if all(question.answers):
            questions.append(question)
    if not questions:
        raise InputError(f"`{path}` holds no questions")
    return questions


def parse_question(row: Row) -> Question:
    """Read one row.

    Raises:
        ValueError: if it has none of the known forms; others where it has one and is damaged.
    """
    for keys, parse in FORMS.items():
        if keys <= row.keys():
            return parse(row)
    known = "; ".join(", ".join(sorted(keys)) for keys in FORMS)
    raise ValueError(f"no known form: it has {', '.join(row)}, and known are {known}")


def _icl(row: Row) -> Question:
    answers = tuple(row["choices"])
    return Question((row["query"],) * len(answers), answers, int(row["gold"]), is_asked=False)


def _schema(row: Row) -> Question:
    stems = tuple(row["context_options"])
    return Question(stems, (row["continuation"],) * len(stems), int(row["gold"]), is_asked=False)


def _hellaswag(row: Row) -> Question:
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    stem = _clean_hellaswag(f"{row['activity_label']}: {context}")
    answers = tuple(_clean_hellaswag(ending) for ending in row["endings"])
    return Question((stem,) * len(answers), answers, int(row["label"]), is_asked=False)


def _clean_hellaswag(text: str) -> str:
    """Take out what is left of WikiHow's pages, such as `[title]`."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()


def _arc(row: Row) -> Question:
    choices, stem = row["choices"], row.get("question_stem") or row["question"]
    answers = tuple(choices["text"])
    gold = list(choices["label"]).index(row["answerKey"])
    return Question((f"Question: {stem}",) * len(answers), answers, gold, is_asked=True)


def _mmlu(row: Row) -> Question:
    choices: Any = row.get("choices")
    if choices is None:
        choices = [row[f"choice{i}"] for i in range(4)]
    answers = tuple(str(choice) for choice in choices)
    answer = str(row["answer"])
    gold = LETTERS.index(answer) if answer.isalpha() else int(answer)
    return Question((f"Question: {row['question']}",) * len(answers), answers, gold, is_asked=True)


FORMS: dict[frozenset[str], Callable[[Row], Question]] = {
    frozenset({"query", "choices", "gold"}): _icl,
    frozenset({"context_options", "continuation", "gold"}): _schema,
    frozenset({"ctx_a", "ctx_b", "activity_label", "endings", "label"}): _hellaswag,
    frozenset({"question_stem", "choices", "answerKey"}): _arc,
    frozenset({"question", "choices", "answerKey"}): _arc,
    frozenset({"question", "choices", "answer"}): _mmlu,
    frozenset({"question", "choice0", "answer"}): _mmlu,
}
"""Keys that a row has -> how it is read; the first that fits."""
