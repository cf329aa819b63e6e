"""Questions about the letters of words, answered through Python.

To a model a word is a few tokens, and " happiness" in a question has other tokens than "happiness"
in a call: what has to be learned is to copy a word from one into the other. That takes each token of
the vocabulary many times. So words come from the list of the package, from the corpus, from the
beginning of one and the end of another, from syllables, and most from tokens put together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import PythonCall, Text, ToolOutput
from llmpipe.stages.sft.generators import Pool, draw_pool
from llmpipe.tasks.words import RESOURCE, english_words, is_held_out_word
from llmpipe.tokenizer.bpe import Tokenizer

MAX_CORPUS_WORDS = 4000
LIST, CORPUS, SPLICED, MADE_UP, TOKENS = 0.1, 0.1, 0.1, 0.1, 0.6
"""Shares of where words come from."""
MAX_WORD_CHARS = 14
OTHER_CASE_FRAC = 0.1
ABSENT_LETTER_FRAC = 0.1

_TOKEN = re.compile(rb" ?[a-z]{1,10}")
_WORD = re.compile(r"(?<![\w.])[a-z]{4,12}(?![\w(])")


@dataclass(frozen=True)
class Exercise:
    """One kind of question about a word."""

    questions: tuple[str, ...]
    """With the places {word} and, for counting, {letter}."""
    code: str
    """With the same places."""
    solve: Callable[[str, str], str | int]
    """(word, letter) -> what the code gives."""
    answer: str
    """With the same places and {result}."""


SOLVERS: dict[str, Callable[[str, str], str | int]] = {
    "count": lambda word, letter: word.count(letter),
    "third": lambda word, letter: word[::3],
    "length": lambda word, letter: len(word),
    "every_third": lambda word, letter: word[2::3],
    "every_second": lambda word, letter: word[::2],
    "backwards": lambda word, letter: word[::-1],
    "spelled": lambda word, letter: "-".join(word),
}
"""What the code of an exercise gives, by its name in `resources/conversations/words.toml`."""
COUNT, THIRD, *OTHERS = (
    Exercise(
        (*entry.get("examiner", ()), *entry["questions"]),
        entry["code"],
        SOLVERS[entry["name"]],
        entry["answer"],
    )
    for entry in RESOURCE["exercise"]
)


@dataclass(frozen=True)
class Words:
    """Where words come from."""

    corpus: Sequence[str]
    starts: Sequence[str]
    """Tokens of letters that begin a word: behind a space they are one token, behind a quote not."""
    tokens: Sequence[str]
    """All tokens of letters."""


def find_words(pages: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> Words:
    """Collect the words of a corpus and the tokens that words are made of."""
    special = set(tokenizer.special.values())
    spelled = (tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size) if i not in special)
    tokens = sorted({token.decode() for token in spelled if _TOKEN.fullmatch(token)})
    starts = [token[1:] for token in tokens if token.startswith(" ") and len(token) > 1]
    within = sorted({token.strip() for token in tokens} - {""})
    return Words(corpus_words(pages), starts or within, within)


def make_letters(n: int, n_held_out: int, words: Words, rng: random.Random) -> Pool:
    """Draw questions about how often a letter is in a word."""
    return _draw_pool((COUNT,), "letters", n, n_held_out, words, rng)


def make_characters(n: int, n_held_out: int, words: Words, rng: random.Random) -> Pool:
    """Draw questions for every third character, and in a quarter of them other things."""
    thirds = (THIRD,) * (3 * len(OTHERS))
    return _draw_pool((*thirds, *OTHERS), "characters", n, n_held_out, words, rng)


def _draw_pool(
    exercises: tuple[Exercise, ...],
    source: str,
    n: int,
    n_held_out: int,
    words: Words,
    rng: random.Random,
) -> Pool:
    listed = [word for word in english_words() if not is_held_out_word(word)]
    kept_back = [word for word in english_words() if is_held_out_word(word)]
    # Pieces of words that are kept back are not trained on either.
    found = [word for word in words.corpus if not is_held_out_word(word)] or listed
    makers: list[Callable[[], str]] = [
        lambda: rng.choice(listed),
        lambda: rng.choice(found),
        lambda: splice(rng.choice((listed, found)), rng),
        lambda: make_up(rng),
        lambda: put_together(words, rng),
    ]

    def word_to_train() -> str:
        [make] = rng.choices(makers, [LIST, CORPUS, SPLICED, MADE_UP, TOKENS])
        return make()

    def next_conversation(held_out: bool) -> Conversation | None:
        word = rng.choice(kept_back) if held_out else word_to_train()
        if is_held_out_word(word) != held_out:
            return None
        return solve(rng.choice(exercises), word, source, rng)

    return draw_pool(next_conversation, n, n_held_out)


def put_together(words: Words, rng: random.Random) -> str:
    """Join tokens to a word of bearable length."""
    word = rng.choice(words.starts)
    for _ in range(rng.randint(1, 3)):
        longer = word + rng.choice(words.tokens)
        word = longer if len(longer) <= MAX_WORD_CHARS else word
    return word


def splice(words: Sequence[str], rng: random.Random) -> str:
    """Join the beginning of a word to the end of another."""
    first, last = rng.choice(words), rng.choice(words)
    return first[: rng.randint(2, len(first) - 1)] + last[rng.randint(1, len(last) - 2) :]


def corpus_words(pages: Iterable[tuple[str, str]]) -> list[str]:
    """Return words of a corpus, each once, in the order in which they come."""
    words: dict[str, None] = {}
    for _, text in pages:
        for word in _WORD.findall(text):
            words.setdefault(word)
            if len(words) >= MAX_CORPUS_WORDS:
                return list(words)
    return list(words)


def make_up(rng: random.Random) -> str:
    """Make a word that can be spoken."""
    parts = [
        "".join(rng.choice(RESOURCE["syllables"][part]) for part in ("onsets", "vowels", "codas"))
        for _ in range(rng.choice((2, 2, 3)))
    ]
    return "".join(parts)


def solve(exercise: Exercise, word: str, source: str, rng: random.Random) -> Conversation:
    """Return the conversation in which a question is answered through Python."""
    is_absent = rng.random() < ABSENT_LETTER_FRAC
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz" if is_absent else word)
    question = rng.choice(exercise.questions)
    asked = letter.upper() if rng.random() < OTHER_CASE_FRAC else letter
    # As at a Python prompt: a text comes with its quotes.
    result = repr(exercise.solve(word, letter))
    return ask(
        question.format(word=word, letter=asked),
        (
            PythonCall(exercise.code.format(word=word, letter=letter)),
            ToolOutput(result),
            Text(exercise.answer.format(result=result)),
        ),
        source,
    )
