from __future__ import annotations

import json
from pathlib import Path

from llmpipe.assistant.conversation import ask
from llmpipe.stages.sft.clean import conversation_key, deduplicate, read_evaluations
from llmpipe.stages.sft.config import DecontaminationSettings
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.mixture import MixtureSource

QUESTION = "Natalia sold clips to 48 of her friends in April, and then half as many clips in May."


def test_equal_up_to_case_spacing_and_forms_of_characters() -> None:
    first = ask("What is  ﬁne?", "This.", "a")
    assert conversation_key(first) == conversation_key(ask("what is fine?", "this.\n", "b"))
    assert conversation_key(first) != conversation_key(ask("What is fine?", "That.", "a"))
    assert conversation_key(ask("a", "b c", "x")) != conversation_key(ask("a b", "c", "x"))


def test_the_first_of_equal_ones_is_kept() -> None:
    pool = Pool([ask("Hi", "Hello", "a"), ask("hi ", "hello", "a"), ask("Hi", "Bye", "a")], [])
    [kept], n_dropped = deduplicate(
        [MixtureSource("a", pool, 1.0, 1.0, is_own=False, license="MIT")]
    )
    assert [c.messages[1].text for c in kept.pool.train] == ["Hello", "Bye"]
    assert (n_dropped, kept.license) == (1, "MIT")


def test_our_own_spellings_of_a_question_stay() -> None:
    pool = Pool([ask("Hi", "Hello", "a"), ask("hi", "Hello", "a"), ask("Hi", "Hello", "a")], [])
    [kept], n_dropped = deduplicate([MixtureSource("a", pool, 1.0, 1.0, is_own=True)])
    assert (len(kept.pool.train), n_dropped) == (2, 1)


def test_what_evaluations_hold_is_found(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"question": QUESTION}) + "\n")
    evaluations = read_evaluations(DecontaminationSettings((str(path),)), "Pebble", seed=1)
    assert evaluations.find(ask(f"Solve: {QUESTION.upper()}", "72", "x")) is not None
    assert evaluations.find(ask("Tell me.", f"It goes: {QUESTION}", "x")) is not None
    assert evaluations.find(ask("Natalia sold clips.", "How many?", "x")) is None


def test_questions_of_the_built_in_tasks_are_found() -> None:
    evaluations = read_evaluations(DecontaminationSettings(), "Pebble", seed=1)
    found = evaluations.find(ask("how many r are in  strawberry?", "3", "x"))
    assert found == "question of a task: how many r are in  strawberry?"
    assert evaluations.find(ask("Please describe yourself.", "I am Bot.", "x")) is not None
    assert evaluations.find(ask("Describe yourself.", "I am Bot.", "x")) is None
