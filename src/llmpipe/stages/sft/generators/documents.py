"""Questions about the crawled documentation, made from the corpus itself.

Pages of Python's documentation server list functions as `name(signature) first sentence`. Whatever
looks like that becomes a question ("What does textwrap.dedent do?") whose answer is the sentence;
a page's own first sentence answers what the module is for. Text extraction joins lines, so all
whitespace is one space before the search. Corpora without such pages give no questions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.core.records.lines import whole
from llmpipe.core.records.parquet import read_parquet
from llmpipe.stages.sft.generators import Pool
from llmpipe.tasks.base import is_in_share

MAX_SENTENCE_CHARS = 110  # about 30 tokens: what a small model can learn to say by heart
HELD_OUT_FRAC = 0.05
HEAD_CHARS = 300  # where a page says which module it is of

FUNCTION_QUESTIONS = (
    "What does {name} do?",
    "what does {name} do?",
    "What is {name} for?",
    "What does the function {name} do?",
    "Explain {name}.",
    "Tell me about {name}.",
)
MODULE_QUESTIONS = (
    "What is the module {name} for?",
    "What is the {name} module?",
    "What does the module {name} do?",
    "Tell me about the module {name}.",
)

# The page of posixpath says of itself that it is known as os.path.
ALSO_KNOWN_AS = {"posixpath": "os.path"}

_MODULE_NAME = re.compile(r"[A-Za-z]\w*(\.\w+)*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
_SIGNATURE = re.compile(
    r"(?<![\w.])([a-z]\w*)\(((?:[^()]|\([^()]*\)){0,150})\)(?: -> [\w.\[\], |]{1,40}?)? (?=[A-Z])"
)
_SENTENCE = re.compile(r"[A-Z][^|]{8,400}?[a-z)'`]\.(?= |$)")
_MODULE_SENTENCE = re.compile(r"Module (?:Reference|Docs)[ |]+([A-Z][^|]{8,400}?[a-z)]\.)(?= |$)")
# Signs that what looked like a sentence runs on into code or into the next function.
_NO_SENTENCE = re.compile(
    r"\w\([^)]*\) (?:-> \w+ )?[A-Z]| \w+ = |::|->|>>>|\\|_{2}|\be\.?g\.$|a\.k\.a\.$"
)


@dataclass(frozen=True)
class DocumentedName:
    """A documented name and the first sentence about it."""

    name: str
    sentence: str
    is_module: bool


def make_from_documents(pages: Iterable[tuple[str, str]], max_names: int | None) -> Pool:
    """Turn pages into questions with their answers.

    A twentieth of the names is kept back: what the assistant says about names that it was not
    trained on shows how much it invents.

    Args:
        pages: (url, text) of each.
        max_names: Ask only about this many names, a quarter of them modules: those that most other
            pages mention. A small model can learn few sentences by heart; None is all.
    """
    found: dict[str, DocumentedName] = {}
    n_pages_with: Counter[str] = Counter()
    for url, text in pages:
        n_pages_with.update(_mentions(text))
        for entry in find_entries(url, text):
            found.setdefault(entry.name, entry)
    ranked = sorted(found.values(), key=lambda entry: (-n_pages_with[entry.name], entry.name))
    trained = [entry for entry in ranked if not _is_held_out(entry.name)]
    if max_names is not None:
        modules = [entry for entry in trained if entry.is_module][: max_names // 4]
        functions = [entry for entry in trained if not entry.is_module]
        trained = modules + functions[: max_names - len(modules)]
    return Pool(
        [_ask(entry, question) for entry in trained for question in _questions(entry)],
        [_ask(entry, _questions(entry)[0]) for entry in ranked if _is_held_out(entry.name)],
    )


def _mentions(text: str) -> set[str]:
    """Return the dotted names in a text, and what stands before each dot: `os` for `os.stat`."""
    names: set[str] = set()
    for name in _DOTTED.findall(text):
        words = name.split(".")
        names.update(".".join(words[:n]) for n in range(1, len(words) + 1))
    return names


def _questions(entry: DocumentedName) -> tuple[str, ...]:
    return MODULE_QUESTIONS if entry.is_module else FUNCTION_QUESTIONS


def read_pages(corpus: Path) -> Iterator[tuple[str, str]]:
    """Yield (url, text) of all documents of a corpus artifact, in order."""
    for path in sorted(corpus.glob("part-*.parquet")):
        for _, row in whole(read_parquet(path, ["url", "text"], ["text"])):
            yield row["url"], row["text"]


def find_entries(url: str, text: str) -> Iterator[DocumentedName]:
    """Yield the module and the functions that a page documents."""
    page = unquote(urlsplit(url).path).rsplit("/", 1)[-1].removesuffix(".html")
    if not _MODULE_NAME.fullmatch(page):
        return
    module = ALSO_KNOWN_AS.get(page, page)
    text = " ".join(text.split())
    if page not in text[:HEAD_CHARS]:
        return  # not the page of a module: it does not begin with its name
    about = _MODULE_SENTENCE.search(text)
    if about is not None and (sentence := _clean(about[1])):
        yield DocumentedName(module, sentence, is_module=True)
    for signature in _SIGNATURE.finditer(text):
        name, arguments = signature.groups()
        is_method = arguments.partition(",")[0].strip() in ("self", "cls", "/", "type")
        words = _SENTENCE.match(text, signature.end())
        if not is_method and words and (sentence := _clean(words[0])):
            yield DocumentedName(f"{module}.{name}", sentence, is_module=False)


def _clean(sentence: str) -> str | None:
    """Return the first sentence without markup, or None if it is not one to learn."""
    sentence = re.sub(r":\w+:`([^`]*)`", r"\1", sentence).replace("`", "")
    sentence = re.split(r"(?<=[a-z)'!]\.) (?=[A-Z])", sentence)[0]
    if len(sentence) > MAX_SENTENCE_CHARS or _NO_SENTENCE.search(sentence):
        return None
    return sentence if sentence.isascii() and sentence.count(" ") >= 2 else None


def _ask(entry: DocumentedName, question: str) -> Conversation:
    return ask(question.format(name=entry.name), entry.sentence, "documents")


def _is_held_out(name: str) -> bool:
    return is_in_share(f"documents {name}", HELD_OUT_FRAC)
