"""Frames of other families against Jinja templates written here in the manner of those families."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llmpipe.assistant.frames import CHATML, LLAMA3, QWEN, Frame, frame_for, stop_ids
from llmpipe.assistant.render import Message, Text, Thought, render
from llmpipe.assistant.template import chat_template
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.vocabularies import with_chat_tokens

MERGES = ["th", "the", "an", "in", "us", "er", "user", " t", "\n\n", "ss", "<|", "|>", "as", "ass"]

LLAMA3_NAMES = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
QWEN_NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")

LLAMA3_TEMPLATE = """\
{%- for message in messages %}
{%- set turn = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}
{%- if loop.first %}{%- set turn = '<|begin_of_text|>' + turn %}{%- endif %}
{{- turn }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

QWEN_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

WORDS = ["the", "user", "asks,", "42", "Zürich?\n\n", "", "🙂", "an", "it's", "def f(x):", "|", "<"]


def vocabulary(pattern: str, names: tuple[str, ...]) -> Tokenizer:
    tokens = [bytes([i]) for i in range(256)] + [merge.encode() for merge in MERGES]
    ranks = {token: i for i, token in enumerate(tokens)}
    special = {name: len(ranks) + i for i, name in enumerate(names)}
    return Tokenizer(ranks, PATTERNS[pattern], special)


FAMILIES = [
    (LLAMA3, LLAMA3_TEMPLATE, vocabulary("llama3", LLAMA3_NAMES)),
    (QWEN, QWEN_TEMPLATE, vocabulary("qwen2", QWEN_NAMES)),
]


def random_conversation(rng: random.Random) -> list[Message]:
    def text(first: str) -> str:
        return " ".join([first, *rng.choices(WORDS, k=rng.randrange(12))])

    messages = [Message("system", text("Be"))] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, 4)):
        messages += [Message("user", text("\n so")), Message("assistant", text("Well"))]
    return messages


def apply(hf: Any, template: str, messages: list[Message], **options: Any) -> list[int]:
    rows = [{"role": message.role, "content": message.text} for message in messages]
    return hf.apply_chat_template(
        rows, chat_template=template, tokenize=True, return_dict=False, **options
    )


@pytest.mark.parametrize(("frame", "template", "tokenizer"), FAMILIES)
def test_ids_are_those_of_the_familys_template(
    frame: Frame, template: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    hf = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    rng = random.Random(0)
    for _ in range(100):
        messages = random_conversation(rng)
        for written in (template, chat_template(frame)):
            assert apply(hf, written, messages) == render(messages, tokenizer).ids
            opened = render(messages[:-1], tokenizer, add_generation_prompt=True).ids
            assert apply(hf, written, messages[:-1], add_generation_prompt=True) == opened


@pytest.mark.parametrize(("frame", "template", "tokenizer"), FAMILIES)
def test_the_stop_token_is_trained_and_ends_a_reply(
    frame: Frame, template: str, tokenizer: Tokenizer
) -> None:
    rendered = render([Message("user", "Hi"), Message("assistant", "Hello!")], tokenizer)
    trained = [id for id, on in zip(rendered.ids, rendered.mask, strict=True) if on]
    assert tokenizer.decode(trained) == f"Hello!{frame.end}"
    assert stop_ids(tokenizer)[0] == tokenizer.special[frame.end] == trained[-1]


@pytest.mark.parametrize(("frame", "template", "tokenizer"), FAMILIES)
def test_adding_our_tokens_leaves_the_frame(
    frame: Frame, template: str, tokenizer: Tokenizer
) -> None:
    extended = with_chat_tokens(tokenizer)
    assert frame_for(tokenizer) == frame_for(extended) == frame
    messages = [Message("user", "Hi"), Message("assistant", "Hello!")]
    assert render(messages, tokenizer).ids == render(messages, extended).ids


def test_vocabularies_without_a_frame_get_ours() -> None:
    gpt2 = with_chat_tokens(vocabulary("gpt2", ("<|endoftext|>",)))
    assert frame_for(gpt2) == CHATML


@pytest.mark.parametrize(("frame", "template", "tokenizer"), FAMILIES)
def test_typed_control_tokens_stay_text(frame: Frame, template: str, tokenizer: Tokenizer) -> None:
    special = set(tokenizer.special.values())

    def count(text: str) -> int:
        return sum(id in special for id in render([Message("user", text)], tokenizer).ids)

    assert count("".join(tokenizer.special)) == count("")


def test_qwen_thinks_with_its_own_tokens() -> None:
    tokenizer = FAMILIES[1][2]
    message = Message("assistant", [Thought("hm"), Text("Yes.")])
    text = tokenizer.decode(render([Message("user", "Hi"), message], tokenizer).ids)
    assert text.endswith("<|im_start|>assistant\n<think>hm</think>Yes.<|im_end|>\n")


def test_a_default_system_message_stands_in_the_template(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = FAMILIES[1][2]
    tokenizer.save(tmp_path, chat_template(QWEN, system="You're Pebble.\nBe kind."))
    hf = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    asked = [Message("user", "Hi")]
    system = Message("system", "You're Pebble.\nBe kind.")
    assert apply(hf, hf.chat_template, asked) == render([system, *asked], tokenizer).ids
    own = [Message("system", "Be short."), *asked]
    assert apply(hf, hf.chat_template, own) == render(own, tokenizer).ids
