from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.errors import UserError
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.evaluations.config import MultipleChoice
from llmpipe.training.evaluations.multiple_choice import (
    MultipleChoiceEvaluation,
    Prompt,
    make_prompts,
    score,
)
from llmpipe.training.evaluations.questions import Question

SKY = Question(("The sky is",) * 2, ("blue", "loud"), 0, is_asked=False)
WHY = Question(("Question: Why?",) * 3, ("so", "no", "yes"), 2, is_asked=True)


def settings(**changed: Any) -> MultipleChoice:
    return MultipleChoice(files=("q.jsonl",), **changed)


def test_accuracies_by_three_rules_and_their_error() -> None:
    """Two questions, by hand.

    The first: -4 beats -6; per byte -4/2 loses to -6/6; per token -4/1 loses to -6/2. The second has
    one rule less to choose by, as its answers are equally long: -8 beats -9 in all.
    """
    prompts = [
        Prompt(("q", "q"), (" it", " really"), (2, 6), gold=0),
        Prompt(("q",) * 4, ("aa", "bb", "cc", "dd"), (2, 2, 2, 2), gold=3),
    ]
    numbers = score(prompts, [-4, -6, -9, -9, -9, -8], [1, 2, 1, 1, 1, 1])
    assert numbers == {
        "accuracy": 1.0,
        "accuracy_per_byte": 0.5,
        "accuracy_per_token": 0.5,
        "accuracy_stderr": 0.0,
        "accuracy_by_chance": (1 / 2 + 1 / 4) / 2,
        "bits_per_byte": pytest.approx((4 / 2 + 8 / 2) / 2 / math.log(2)),
    }


def test_standard_error_is_that_of_a_mean_of_ones_and_zeros() -> None:
    prompts = [Prompt(("q", "q"), ("a", "b"), (1, 1), gold=int(i < 3)) for i in range(8)]
    numbers = score(prompts, [-1, -2] * 8, [1] * 16)
    values = [0.0] * 3 + [1.0] * 5
    mean = sum(values) / 8
    variance = sum((value - mean) ** 2 for value in values) / 7
    assert numbers["accuracy"] == mean
    assert numbers["accuracy_stderr"] == pytest.approx(math.sqrt(variance / 8))
    assert math.isnan(score(prompts[:1], [-1, -2], [1, 1])["accuracy_stderr"])


def test_wording_of_texts_and_questions() -> None:
    text, question = make_prompts([SKY, WHY], settings())
    assert text == Prompt(("The sky is",) * 2, (" blue", " loud"), (4, 4), 0)
    assert question.stems[0] + question.answers[2] == "Question: Why?\nAnswer: yes"
    assert question.answers[2] == " yes"  # the blank belongs to the word
    assert question.n_bytes == (2, 2, 3)
    with_delimiter = make_prompts([SKY], settings(delimiter="\n=> "))[0]
    assert with_delimiter.stems[0] + with_delimiter.answers[0] == "The sky is\n=> blue"


def test_letters_are_listed_and_scored() -> None:
    (prompt,) = make_prompts([WHY], settings(letters=True))
    assert prompt.stems == ("Question: Why?\nA. so\nB. no\nC. yes\nAnswer:",) * 3
    assert (prompt.answers, prompt.n_bytes) == ((" A", " B", " C"), (1, 1, 1))


def test_more_answers_than_letters_are_refused() -> None:
    many = Question(("Q?",) * 27, tuple(str(i) for i in range(27)), 26, is_asked=True)
    assert len(make_prompts([many], settings())[0].answers) == 27
    with pytest.raises(UserError, match=r"`letters` is set, and `Q\?` has 27 answers"):
        make_prompts([many], settings(letters=True))


def test_shots_are_other_questions_with_their_right_answers() -> None:
    ann = Question(("Ann so Ann", "Ann so Eve"), ("won.", "won."), 1, is_asked=False)
    prompts = make_prompts([SKY, WHY, ann], settings(shots=2))
    solved = ["The sky is blue", "Question: Why?\nAnswer: yes", "Ann so Eve won."]
    for i, prompt in enumerate(prompts):
        *shown, asked = prompt.stems[prompt.gold].split("\n\n")
        assert sorted(shown) == sorted(solved[:i] + solved[i + 1 :])
        assert asked + prompt.answers[prompt.gold] == solved[i]
    # both beginnings of a question of the Winograd form come after the same shots
    assert prompts[2].stems[0].removesuffix("Ann so Ann") == prompts[2].stems[1].removesuffix(
        "Ann so Eve"
    )
    assert make_prompts([SKY], settings(shots=2))[0].stems[0] == "The sky is"  # there are no others


def test_questions_are_drawn_once_and_the_same_in_every_run() -> None:
    questions = [Question((str(i),) * 2, ("a", "b"), 0, is_asked=False) for i in range(100)]
    drawn = [prompt.stems[0] for prompt in make_prompts(questions, settings(examples=10))]
    assert len(set(drawn)) == 10
    assert drawn != [str(i) for i in range(10)]
    again = make_prompts(questions, settings(examples=10))
    assert drawn == [prompt.stems[0] for prompt in again]
    assert len(make_prompts(questions, settings(examples=1000))) == 100


def test_model_is_asked(tmp_path: Path, make_context: Callable[..., EvaluationContext]) -> None:
    path = tmp_path / "q.jsonl"
    row = {"query": "The sky is", "choices": ["blue", "loud", "a b"], "gold": 0}
    path.write_text("".join(json.dumps(row | {"gold": i % 3}) + "\n" for i in range(6)))
    evaluation = MultipleChoiceEvaluation(MultipleChoice(files=(str(path),)))
    first, second = evaluation(make_context()), evaluation(make_context(batch_tokens=30))
    assert second == pytest.approx(first)
    # the same question six times, with each answer right twice
    for name in ("accuracy", "accuracy_per_byte", "accuracy_per_token", "accuracy_by_chance"):
        assert first[name] == pytest.approx(1 / 3)
    assert first["bits_per_byte"] > 3
