"""Questions about the letters of a word, which a model that reads tokens cannot see; Python can.

Which words are never trained is decided here by a hash of the word, so that the maker of training
conversations and the examiner cannot disagree. The examiner asks about words of a list that comes
with the package; the talk's two, "strawberry" and "ubiquitous", are always kept back.
"""

from __future__ import annotations

import random
import re
from functools import cache
from importlib.resources import files

from llmpipe.tasks.arithmetic import is_right_with_tool
from llmpipe.tasks.base import Answer, AssistantFacts, Example, Task, is_in_share
from llmpipe.tasks.templates import load_file

HELD_OUT_FRAC = 0.25
TALK_WORDS = ("strawberry", "ubiquitous")

RESOURCE = load_file("words")
COUNT_QUESTIONS, THIRD_QUESTIONS = (entry["examiner"] for entry in RESOURCE["exercise"][:2])
_QUOTED = re.compile(r"'([^']*)'")


def is_held_out_word(word: str) -> bool:
    """Tell whether a word is kept from training."""
    return word in TALK_WORDS or is_in_share(f"word {word}", HELD_OUT_FRAC)


@cache
def english_words() -> tuple[str, ...]:
    """Return the words of the list, in its order."""
    path = files("llmpipe") / "resources" / "words" / "english.txt"
    return tuple(path.read_text(encoding="utf-8").split())


def count_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return up to `n` questions about how often a letter is in a held-out word."""
    rng = random.Random(f"letters {seed}")
    examples = []
    for i, word in enumerate(_asked_words(n, rng)):
        # Mostly a letter that is there, the more often the likelier.
        letter = rng.choice(word) if rng.random() < 0.9 else rng.choice("aeiorst")
        question = COUNT_QUESTIONS[i % len(COUNT_QUESTIONS)].format(letter=letter, word=word)
        examples.append(Example(question, str(word.count(letter))))
    if examples:
        examples[0] = Example("How many r are in strawberry?", "3")
    return examples


def third_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return up to `n` questions for every third character of a held-out word."""
    rng = random.Random(f"characters {seed}")
    examples = [
        Example(THIRD_QUESTIONS[i % len(THIRD_QUESTIONS)].format(word=word), word[::3])
        for i, word in enumerate(_asked_words(n, rng))
    ]
    if examples:
        examples[0] = Example(THIRD_QUESTIONS[0].format(word="ubiquitous"), "uqts")
    return examples


def _asked_words(n: int, rng: random.Random) -> list[str]:
    words = [w for w in english_words() if is_held_out_word(w) and w not in TALK_WORDS]
    return rng.sample(words, min(n, len(words)))


def gives_the_text(example: Example, answer: Answer) -> bool:
    """Accept an answer whose first text in single quotes is the expected one, if a tool was called."""
    found = _QUOTED.search(answer.text)
    return bool(answer.tool_calls) and found is not None and found[1] == example.expected


LETTERS = Task(
    name="letters",
    version=1,
    summary="how often a letter is in a word that was not trained, counted with the Python tool",
    examples=count_examples,
    is_right=is_right_with_tool,
)

CHARACTERS = Task(
    name="characters",
    version=1,
    summary="every third character of a word that was not trained, with the Python tool",
    examples=third_examples,
    is_right=gives_the_text,
)
