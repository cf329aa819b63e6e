from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from llmpipe.assistant.conversation import Conversation
from llmpipe.assistant.render import PythonCall, Text, ToolOutput
from llmpipe.assistant.tools.python import PythonTool
from llmpipe.stages.sft.generators.arithmetic import make_arithmetic, make_multiplication
from llmpipe.stages.sft.generators.dates import make_dates
from llmpipe.stages.sft.generators.documents import (
    FUNCTION_QUESTIONS,
    MODULE_QUESTIONS,
    find_entries,
    make_from_documents,
)
from llmpipe.stages.sft.generators.personas import make_personas
from llmpipe.stages.sft.generators.templates import make_from_templates, say_count, say_date
from llmpipe.stages.sft.generators.words import (
    Words,
    find_words,
    make_characters,
    make_letters,
)
from llmpipe.tasks.arithmetic import is_held_out
from llmpipe.tasks.base import AssistantFacts
from llmpipe.tasks.identity import identity_examples
from llmpipe.tasks.templates import load_dialogues, load_topics
from llmpipe.tasks.words import is_held_out_word
from llmpipe.tokenizer.bpe import Tokenizer

FACTS = {
    "name": "Pebble",
    "maker": "the llmpipe project",
    "corpus": "the documentation of Python",
    "parameters": "2.6 million",
    "date": "21 November 2026",
}

PAGE = """
| posixpath | index /usr/lib/posixpath.py Module Reference |
Common operations on Posix pathnames.
Instead of importing this module directly, import os.
| Functions | | |
| | | abspath(path) Return an absolute path. commonprefix(m) Given a list of pathnames, returns the
longest common leading component dirname(p) Returns the directory component of a pathname
join(a, *p) -> str Join two or more pathname components. If any component is an absolute path, all
previous path components will be discarded. fill(self, text) Reformat the paragraph in text. |
"""


def split_numbers(expression: str) -> tuple[int, str, int]:
    for operator in "+*-":
        left, found, right = expression.partition(operator)
        if found:
            return int(left), operator, int(right)
    raise AssertionError(expression)


def test_every_arithmetic_answer_is_right() -> None:
    """Results are computed with Decimal, and read back from the three places where they stand."""
    pool = make_arithmetic(1500, 100, random.Random(1))
    for conversation in pool.train + pool.held_out:
        call, output, _ = conversation.messages[1].parts
        assert isinstance(call, PythonCall)
        assert isinstance(output, ToolOutput)
        a, operator, b = split_numbers(call.code)
        x, y = Decimal(a), Decimal(b)
        expected = {"+": x + y, "-": x - y, "*": x * y}[operator]
        assert Decimal(output.text) == expected
        assert conversation.messages[1].text == f"{a} {operator} {b} is {output.text}."
        question = conversation.messages[0].text
        assert str(a) in question
        assert str(b) in question


def test_arithmetic_pairs_are_disjoint() -> None:
    pool = make_arithmetic(3000, 100, random.Random(1))

    def pairs(conversations: list) -> set[tuple[int, int]]:
        found = set()
        for conversation in conversations:
            call = conversation.messages[1].parts[0]
            a, _, b = split_numbers(call.code)
            found.add((min(a, b), max(a, b)))
        return found

    assert not pairs(pool.train) & pairs(pool.held_out)
    assert all(is_held_out(a, b) for a, b in pairs(pool.held_out))


def test_arithmetic_follows_from_the_seed() -> None:
    assert make_arithmetic(50, 5, random.Random(1)) == make_arithmetic(50, 5, random.Random(1))
    assert make_arithmetic(50, 5, random.Random(1)) != make_arithmetic(50, 5, random.Random(2))


def test_identity_is_filled_in_and_leaves_the_examiners_questions_out() -> None:
    pool = make_from_templates("identity", FACTS)
    asked = {example.question for example in identity_examples(AssistantFacts("Pebble"), 1000, 1)}
    trained = {conversation.messages[0].text for conversation in pool.train}
    assert not asked & trained
    answers = {
        message.text for c in pool.train for message in c.messages if message.role == "assistant"
    }
    assert all("Pebble" in answer and "{" not in answer for answer in answers)
    assert "I am Pebble, and I have 2.6 million parameters." in answers


def test_answers_that_need_an_unknown_fact_are_left_out() -> None:
    pool = make_from_templates("identity", {**FACTS, "date": None})
    questions = {conversation.messages[0].text for conversation in pool.train}
    assert "When were you made?" not in questions
    assert "Who are you?" in questions


@pytest.mark.parametrize("name", ["identity", "smalltalk", "refusals"])
def test_templates_have_no_open_places(name: str) -> None:
    pool = make_from_templates(name, FACTS)
    for conversation in pool.train + pool.held_out:
        assert all("{" not in message.text for message in conversation.messages)


def test_entries_of_a_documentation_page() -> None:
    found = {e.name: e.sentence for e in find_entries("http://127.0.0.1:1/posixpath.html", PAGE)}
    assert found["os.path"] == "Common operations on Posix pathnames."
    assert found["os.path.abspath"] == "Return an absolute path."
    assert found["os.path.join"] == "Join two or more pathname components."
    assert "os.path.commonprefix" not in found  # its sentence has no end
    assert "os.path.fill" not in found  # a method


def test_a_page_that_is_no_documentation_gives_nothing() -> None:
    assert list(find_entries("http://example.com/shop/item?id=3", PAGE)) == []
    assert list(find_entries("http://example.com/about.html", "We sell boats (red) A lot.")) == []


def test_document_questions_ask_for_their_sentence() -> None:
    pool = make_from_documents([("http://h/posixpath.html", PAGE)], None)
    answers = {c.messages[0].text: c.messages[1].text for c in pool.train + pool.held_out}
    asked = [form.format(name="os.path.join") for form in FUNCTION_QUESTIONS]
    assert {answers[question] for question in asked if question in answers} == {
        "Join two or more pathname components."
    }


def test_the_most_mentioned_names_come_first() -> None:
    pages = [
        ("http://h/posixpath.html", PAGE),
        ("http://h/a.html", "Use os.path.join and os.path.abspath."),
        ("http://h/b.html", "See os.path.join here. And os.path.join there."),
    ]
    few = make_from_documents(pages, 4).train
    names = {c.messages[1].text for c in few}
    assert "Join two or more pathname components." in names
    rest = make_from_documents(pages, None)
    assert len(few) == len(FUNCTION_QUESTIONS) + len(MODULE_QUESTIONS)
    assert few == rest.train  # os.path, os.path.join; the hash keeps os.path.abspath back
    assert [c.messages[1].text for c in rest.held_out] == ["Return an absolute path."]


def test_dates_and_counts_in_words() -> None:
    assert say_date("2026-11-21") == "21 November 2026"
    assert say_date("2026-01-02T03:04:05Z") == "2 January 2026"
    assert say_date(None) is None
    assert say_count(2_613_248) == "2.61 million"
    assert say_count(124_000_000) == "124 million"
    assert say_count(7_200) == "7.2 thousand"
    assert say_count(999) == "999"


def test_the_identity_set_has_about_240_conversations_of_its_own() -> None:
    topics, dialogues = load_topics("identity"), load_dialogues("identity")
    n_questions = sum(len(topic.questions) + len(topic.held_out) for topic in topics)
    assert n_questions + len(dialogues) >= 235
    assert all(len(turns) % 2 == 0 for turns in dialogues)
    trained = make_from_templates("identity", FACTS).train
    several = [c for c in trained if len(c.messages) > 2]
    assert len(several) == len(dialogues)
    assert [m.role for m in several[0].messages] == ["user", "assistant"] * 2
    denied = [c for c in trained if c.messages[-1].text.startswith("No, ")]
    assert len(denied) > 30


def test_products_have_three_digits_and_their_baseline_no_tool() -> None:
    with_tool = make_multiplication(50, 20, random.Random(1))
    without = make_multiplication(50, 20, random.Random(1), with_tool=False)
    for conversation, direct in zip(with_tool.train, without.train, strict=True):
        call = conversation.messages[1].parts[0]
        assert isinstance(call, PythonCall)
        a, operator, b = split_numbers(call.code)
        assert (operator, len(str(a)), len(str(b))) == ("*", 3, 3)
        assert direct.messages[0] == conversation.messages[0]
        assert direct.messages[1].parts == (Text(f"{a} * {b} is {Decimal(a) * Decimal(b)}."),)
    assert all(is_held_out(*pair_of(c)) for c in with_tool.held_out)
    assert not any(is_held_out(*pair_of(c)) for c in with_tool.train)


def pair_of(conversation: Conversation) -> tuple[int, int]:
    a, _, b = split_numbers(conversation.messages[1].parts[0].code)
    return a, b


WORDS = Words(
    ("function", "object", "returns", "strings"),
    ("ing", "str", "un"),
    ("ing", "str", "ation", "un", "able"),
)


@pytest.mark.parametrize("make", [make_letters, make_characters])
def test_calls_about_words_give_what_python_gives(make: Any, sandboxed: PythonTool) -> None:
    """The output in a conversation is what the tool itself says to the call in it."""
    pool = make(40, 20, WORDS, random.Random(1))
    for conversation in [*pool.train[:12], *pool.held_out[:8]]:
        call, output, _ = conversation.messages[1].parts
        assert sandboxed.run(call.code) == output.text
        assert output.text in conversation.messages[1].text


def test_words_are_kept_back() -> None:
    pool = make_letters(300, 60, WORDS, random.Random(1))

    def words(conversations: list[Conversation]) -> set[str]:
        codes = [c.messages[1].parts[0].code for c in conversations]
        return {code.split('"')[1] for code in codes}

    assert not any(is_held_out_word(word) for word in words(pool.train))
    assert all(is_held_out_word(word) for word in words(pool.held_out))
    assert len(words(pool.train)) > 150  # from five tokens and a list


def test_words_for_calls_come_from_pages_and_vocabulary(tokenizer: Tokenizer) -> None:
    found = find_words(
        [("u", "The os.path functions return Strings and objects() of bytes")], tokenizer
    )
    assert found.corpus == ["functions", "return", "bytes"]
    assert "a" in found.tokens  # the tokenizer of these tests has single bytes only


def test_dates_are_what_python_says(sandboxed: PythonTool) -> None:
    pool = make_dates(12, 4, random.Random(1))
    for conversation in pool.train + pool.held_out:
        call, output, _ = conversation.messages[1].parts
        assert sandboxed.run(call.code) == output.text
        assert output.text in conversation.messages[1].text


def test_personas_say_what_their_system_message_says() -> None:
    pool = make_personas(60, 10, random.Random(1))
    names = set()
    for conversation in pool.train + pool.held_out:
        system, question, answer = conversation.messages
        name = system.text.removeprefix("You are ").partition(",")[0]
        names.add(name)
        assert name in answer.text
        assert "{" not in system.text + question.text + answer.text
    assert len(names) > 60


@pytest.fixture(scope="module")
def sandboxed() -> Iterator[PythonTool]:
    with PythonTool() as tool:
        yield tool
