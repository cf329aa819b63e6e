"""What is wrong with conversations, as far as a program can see it: findings, not verdicts.

answer_first     mathematics whose result stands before the steps that lead to it; the model has
                 to guess it in one step and is then taught to justify the guess
missing_stop     an answer that breaks off, so that the model is taught to stop in the middle
other_identity   the assistant says that it is, or was made by, somebody else
empty_turn       a turn without words
open_place       a template's place that nobody has filled: {{name}}
control_token    a control token of some format, spelled out
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmpipe.assistant.conversation import Conversation
from llmpipe.assistant.render import Message, Text

MAX_EXCERPT_CHARS = 90

OTHER_MODELS = (
    r"Chat ?GPT|GPT-?[2345]\w*|Open ?AI|Claude|Anthropic|Gemini|Bard|Google(?: DeepMind)?|LLaMA|Llama|Meta AI|"
    r"Mistral|Mixtral|Qwen|Tongyi|Alibaba|DeepSeek|Grok|xAI|Copilot|Microsoft|Bing|Vicuna|Alpaca|Falcon|"
    r"ChatGLM|Zhipu|ERNIE|Baidu|Kimi|Moonshot|Phi-\d|Nemotron|Siri|Alexa|Open ?Assistant|Stability AI"
)
# "I am", "my name is", "I was trained by", "as a model from": and then the name, within the sentence.
_CLAIM = re.compile(
    r"(?P<claim>\b(?:I am|I'm|my name is|call me|"
    r"I(?:'ve| have)? (?:was|been|were) (?:\w+ ){0,2}(?:made|created|built|trained|developed|designed)(?: by)?|"
    r"as an? (?:\w+ ){0,4}(?:model|assistant|AI)(?:,? (?:\w+ ){0,2}(?:by|from|of))?|"
    r"(?:made|created|built|trained|developed|designed) by)\b)"
    r"(?P<between>[^.!?\n]{0,60}?)\b(?P<name>" + OTHER_MODELS + r")\b",
    re.IGNORECASE,
)
_FIRST_PERSON = re.compile(r"\b(?:I|I'm|me|my|as an?)\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|unlike|than)\b|n't\b", re.IGNORECASE)
_PLACE = re.compile(r"\{\{ ?\w+ ?\}\}|\[(?:your|insert) [\w ]{1,30}\]", re.IGNORECASE)
_CONTROL = re.compile(
    r"<\|\w{2,30}\|>|\[/?INST\]|<</?SYS>>|</s>|<(?:start|end)_of_turn>|### (?:Response|Instruction):"
)

_STEP = re.compile(r"\d[\d.,]*\s*(?:[-+*/×÷−]\s*\$?\d[\d.,]*\s*)+=\s*\$?(-?\d[\d.,]*)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_STATES_RESULT = re.compile(r"\b(?:answer|result|total|solution)\b|^\W*\d", re.IGNORECASE)
_FIRST_SENTENCE = re.compile(r".*?(?:[.!?](?=\s|$)|\n|$)", re.DOTALL)

MIN_CUT_OFF_WORDS = 25
"""Short answers end without a stop by right: "Paris", "42 km"."""


@dataclass(frozen=True)
class Finding:
    """Something that a rule has found in a conversation."""

    rule: str
    message: int
    """Place of the message, from 1."""
    excerpt: str


@dataclass(frozen=True)
class Asked:
    """What a rule may know besides the message."""

    own_name: str
    question: str
    """What the user has said last."""


def lint(conversation: Conversation, own_name: str = "") -> list[Finding]:
    """Apply all rules to a conversation; the assistant may say that it is called `own_name`."""
    findings = []
    asked = Asked(own_name, "")
    for number, message in enumerate(conversation.messages, start=1):
        for rule, look in RULES.items():
            for text in look(message, asked):
                excerpt = " ".join(text.split())[:MAX_EXCERPT_CHARS]
                findings.append(Finding(rule, number, excerpt))
        if message.role == "user":
            asked = Asked(own_name, message.text)
    return findings


def _answer_first(message: Message, asked: Asked) -> Iterator[str]:
    """Find a result in the first sentence that only later steps arrive at."""
    if message.role != "assistant" or not isinstance(message.parts[0], Text):
        return
    text = message.parts[0].text.strip()
    steps = list(_STEP.finditer(text))
    if not steps:
        return
    head = _FIRST_SENTENCE.match(text)
    first = head[0] if head else ""
    if _STEP.search(first) or steps[0].start() < len(first):
        return
    given = {_plain(number) for number in _NUMBER.findall(asked.question)}
    stated = {_plain(number) for number in _NUMBER.findall(first)}
    is_restated = stated <= given and not _STATES_RESULT.search(first)
    if stated & {_plain(step[1]) for step in steps[-2:]} and not is_restated:
        yield first


def _plain(number: str) -> str:
    text = number.replace(",", "").rstrip(".")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _missing_stop(message: Message, asked: Asked) -> Iterator[str]:
    if message.role != "assistant":
        return
    last = message.parts[-1]
    if not isinstance(last, Text):
        yield "the turn ends with a tool call or its result"
        return
    text = last.text.rstrip()
    line = text.rsplit("\n", 1)[-1]
    is_prose = len(text.split()) >= MIN_CUT_OFF_WORDS and len(line.split()) > 8
    if is_prose and line[-1].isalnum() and line.isascii():
        yield f"… {line[-60:]}"


def _other_identity(message: Message, asked: Asked) -> Iterator[str]:
    if message.role != "assistant":
        return
    for found in _CLAIM.finditer(message.text):
        start = max(message.text.rfind(end, 0, found.start()) for end in ".!?\n") + 1
        before = message.text[start : found.start()]
        said = before + found["claim"] + found["between"]
        is_own = found["name"].casefold() in asked.own_name.casefold()
        if _FIRST_PERSON.search(said) and not _NEGATION.search(said) and not is_own:
            yield found[0]


def _empty_turn(message: Message, asked: Asked) -> Iterator[str]:
    if not any(value.strip() for part in message.parts for value in vars(part).values()):
        yield f"a turn of role {message.role}"


def _open_place(message: Message, asked: Asked) -> Iterator[str]:
    if message.role == "assistant":
        yield from (found[0] for found in _PLACE.finditer(message.text))


def _control_token(message: Message, asked: Asked) -> Iterator[str]:
    yield from (found[0] for found in _CONTROL.finditer(message.text))


RULES: dict[str, Callable[[Message, Asked], Iterator[str]]] = {
    "answer_first": _answer_first,
    "missing_stop": _missing_stop,
    "other_identity": _other_identity,
    "empty_turn": _empty_turn,
    "open_place": _open_place,
    "control_token": _control_token,
}
