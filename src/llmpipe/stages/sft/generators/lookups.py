"""Questions about the corpus, answered from a search in it, with the source.

    user       What is Brimot?
    assistant  <|search_start|>about Brimot<|search_end|>
               <|output_start|>[1] Brimot (http://atlas.example/brimot)
               Brimot is a lake in the north of Karvia. …<|output_end|>
               Brimot is a lake in the north of Karvia. (http://atlas.example/brimot)

What the search gives back is what the search tool gives back, on the same corpus: names are only
asked about if it finds their sentence. They are names of functions in Python's documentation, and
what a document first defines ("Brimot is a lake …").
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import SearchCall, Text, ToolOutput
from llmpipe.assistant.rules import MAX_OUTPUT_TOKENS
from llmpipe.assistant.tools import open_tools
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.generators.documents import find_entries, read_pages
from llmpipe.tasks.base import is_in_share
from llmpipe.tokenizer.bpe import Tokenizer

HELD_OUT_FRAC = 0.1
MAX_NAMES = 3000

QUESTIONS = ("What is {name}?", "Tell me about {name}.", "What do you know about {name}?")
QUERY = "about {name}"

_DEFINITION = re.compile(
    r"^((?:[A-Z][\w\'-]+)(?: [A-Z][\w\'-]+){0,3}) (?:is|was) (?:an?|the) [^.\n]{8,90}\.(?=\s|$)",
    re.MULTILINE,
)
_RESULT = re.compile(r"^\[\d+\] .*?\((?P<url>\S+)\)$", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """A name with what the search tool gives for it."""

    name: str
    sentence: str
    output: str
    url: str


def make_lookups(corpus: Path, tokenizer: Tokenizer, n: int, rng: random.Random) -> Pool:
    """Make up to `n` conversations about the names in a corpus.

    Args:
        corpus: Folder of the artifact.
        tokenizer: The model's; what a tool returns is cut to `MAX_OUTPUT_TOKENS` of its tokens.
    """
    names = sorted(find_names(read_pages(corpus)).items())
    rng.shuffle(names)
    found = list(look_up(names[:MAX_NAMES], corpus, tokenizer))
    train = [
        _ask(one, question) for one in found if not is_held_out(one.name) for question in QUESTIONS
    ]
    rng.shuffle(train)
    held_out = [_ask(one, QUESTIONS[0]) for one in found if is_held_out(one.name)]
    return Pool(train[:n], held_out)


def find_names(pages: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the names that pages explain, with the sentence that does."""
    names: dict[str, str] = {}
    for url, text in pages:
        for entry in find_entries(url, text):
            names.setdefault(entry.name, entry.sentence)
        definition = _DEFINITION.search(text)
        if definition:
            names.setdefault(definition[1], definition[0])
    return names


def look_up(
    names: Iterable[tuple[str, str]], corpus: Path, tokenizer: Tokenizer
) -> Iterator[Found]:
    """Search for each name; yield those whose sentence is found."""
    with open_tools(("search",), corpus) as tools:
        for name, sentence in names:
            ids = tokenizer.encode(tools["search"].run(QUERY.format(name=name)))
            output = tokenizer.decode(ids[: MAX_OUTPUT_TOKENS - 2])
            url = _url_of(output, sentence)
            if url is not None:
                yield Found(name, sentence, output, url)


def _url_of(output: str, sentence: str) -> str | None:
    """Return the source of the first result that has the sentence."""
    heads = list(_RESULT.finditer(output))
    ends = [head.start() for head in heads[1:]] + [len(output)]
    for head, end in zip(heads, ends, strict=True):
        if sentence in output[head.end() : end]:
            return head["url"]
    return None


def _ask(found: Found, question: str) -> Conversation:
    answer = (
        SearchCall(QUERY.format(name=found.name)),
        ToolOutput(found.output),
        Text(f"{found.sentence} ({found.url})"),
    )
    return ask(question.format(name=found.name), answer, "lookups")


def is_held_out(name: str) -> bool:
    """Tell whether a name is never trained."""
    return is_in_share(f"lookup {name}", HELD_OUT_FRAC)
