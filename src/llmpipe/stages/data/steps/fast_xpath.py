"""trafilatura's XPath expressions as Python predicates: the same elements, in a fraction of the time.

Half of trafilatura's time goes into expressions such as

    .//*[self::div or self::p][@role='nav' or re:test(@class, 'share|social|...')]

because `re:test` makes libxml2 call Python for every element, with new proxies for its arguments. Pages use the same few
attribute values again and again, so here such an expression becomes a function of an element's attributes whose
answers are remembered. Only a subset of XPath is understood; an expression outside of it stays what it is, and one
that is understood in part (a condition on children behind one on attributes) is only asked where the first part holds.

`accelerate` replaces the expressions inside the imported trafilatura. It changes nothing else there, and a test compares
the extracted text of real pages with and without it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

Attributes = dict[str, str]
Value = Callable[[str, Attributes], Any]
"""From a tag and its attributes (in source order) to a list of strings, a string or a truth value.

Python takes these for true or false just as XPath does: a set of nodes is true if it has one, a string if it has a letter."""

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'[^']*'|\"[^\"]*\")|(?P<name>self::[\w-]+|re:test|[\w-]+)|(?P<sign>[@()|=,]))"
)
_BRANCH = re.compile(r"\s*\.//(?P<tag>\*|[\w-]+)\s*(?P<conditions>(?:\[.*\])?)\s*\Z", re.S)
_TAGS = re.compile(r"\s*self::[\w-]+(?:\s+or\s+self::[\w-]+)*\s*\Z")
_MEMORY = 100_000
"""Remembered answers per expression; a worker that has seen more distinct elements begins anew."""


class NotUnderstood(Exception):
    """The expression is outside of the subset."""


class FastXPath:
    """An XPath expression, called with an element, that is answered from remembered attributes."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self._branches = [_Branch(part) for part in _split(original.path, "|")]
        self.is_complete = all(branch.is_complete for branch in self._branches)
        tags = [branch.tags for branch in self._branches]
        self._tags = sorted(set().union(*tags)) if all(tags) else []
        self._names = frozenset().union(*(branch.names for branch in self._branches))
        self._known: dict[Any, bool] = {}

    def __call__(self, tree: Any) -> list[Any]:
        """Return the elements below `tree` that fit, in document order."""
        names, known = self._names, self._known
        found = []
        for element in tree.iterdescendants(*self._tags):
            tag = element.tag
            if not isinstance(tag, str):
                continue
            attributes = [item for item in element.items() if item[0] in names]
            key = (tag, *attributes)
            fits = known.get(key)
            if fits is None:
                if len(known) > _MEMORY:
                    known.clear()
                values = dict(attributes)
                fits = any(branch.fits(tag, values) for branch in self._branches)
                known[key] = fits
            if fits:
                found.append(element)
        if found and not self.is_complete:
            return list(self._original(tree))
        return found


class _Branch:
    """`.//tag[condition][condition]`."""

    def __init__(self, text: str) -> None:
        match = _BRANCH.match(text)
        if match is None:
            raise NotUnderstood(text)
        self.tags = set() if match["tag"] == "*" else {match["tag"]}
        self.is_complete = True
        conditions = _conditions(match["conditions"])
        if conditions and _TAGS.match(conditions[0]):
            self.tags = set(re.findall(r"self::([\w-]+)", conditions.pop(0)))
        parsers = []
        for condition in conditions:
            try:
                parsers.append(_Parser(condition))
            except NotUnderstood:
                self.is_complete = False
                break
        if conditions and not parsers:
            raise NotUnderstood(text)
        self.names = frozenset().union(*(parser.names for parser in parsers))
        self._tests = [parser.result for parser in parsers]

    def fits(self, tag: str, attributes: Attributes) -> bool:
        """Whether an element fits, as far as its own tag and attributes tell."""
        if self.tags and tag not in self.tags:
            return False
        return all(test(tag, attributes) for test in self._tests)


class _Parser:
    """A condition in brackets, by recursive descent: or, and, not, =, contains, starts-with, translate, re:test."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self._tokens = _tokens(text)
        self.result = self._either()
        if self._tokens:
            raise NotUnderstood(text)

    def _either(self) -> Value:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _any_of(parts)

    def _both(self) -> Value:
        parts = [self._comparison()]
        while self._take("and"):
            parts.append(self._comparison())
        return parts[0] if len(parts) == 1 else lambda tag, a: all(p(tag, a) for p in parts)

    def _comparison(self) -> Value:
        left = self._value()
        if not self._take("="):
            return left
        right = self._value()
        return lambda tag, a: bool(set(_strings(left(tag, a))) & set(_strings(right(tag, a))))

    def _value(self) -> Value:
        if not self._tokens:
            raise NotUnderstood("nothing where a value was expected")
        token = self._tokens.pop(0)
        if token == "@":
            return self._attributes()
        if token[0] in "'\"":
            text = token[1:-1]
            return lambda tag, a: text
        if token.startswith("self::"):
            wanted = token[6:]
            return lambda tag, a: tag == wanted
        if token in _FUNCTIONS and self._take("("):
            arguments = [self._either()]
            while self._take(","):
                arguments.append(self._either())
            if self._take(")"):
                return _FUNCTIONS[token](*arguments)
        raise NotUnderstood(token)

    def _attributes(self) -> Value:
        names = [self._tokens.pop(0)]
        while self._tokens[:2] == ["|", "@"]:
            names.append(self._tokens[2])
            del self._tokens[:3]
        self.names.update(names)
        if len(names) == 1:
            (only,) = names
            return lambda tag, a: [a[only]] if only in a else _NOTHING
        return lambda tag, a: [text for name, text in a.items() if name in names]

    def _take(self, token: str) -> bool:
        if self._tokens and self._tokens[0] == token:
            del self._tokens[0]
            return True
        return False


def _tokens(text: str) -> list[str]:
    found, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotUnderstood(text[position:])
        found.append(match["string"] or match["name"] or match["sign"])
        position = match.end()
    return found


def _conditions(text: str) -> list[str]:
    """Split `[a][b]` into its conditions; brackets inside of strings do not count."""
    return [part.strip()[1:-1] for part in _split(text, "]") if part.strip()]


def _split(text: str, sign: str) -> Iterator[str]:
    """Split at a sign outside of brackets and strings: `|` between branches, or behind each closing bracket."""
    depth, start, quote = 0, 0, ""
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[(":
            depth += 1
        elif letter in "])":
            depth -= 1
        if depth == 0 and not quote and letter == sign:
            end = i + 1 if sign == "]" else i
            yield text[start:end]
            start = i + 1
    if text[start:].strip():
        yield text[start:]


# ---------------------------------------------------------------------------- XPath's conversions and functions


_NOTHING: list[str] = []


def _any_of(parts: list[Value]) -> Value:
    def fits(tag: str, attributes: Attributes) -> bool:
        for part in parts:  # noqa: SIM110 - a loop is twice as fast as any() here, and this runs a million times
            if part(tag, attributes):
                return True
        return False

    return fits


def _string(value: Any) -> str:
    """The first node in document order, as XPath's string() does."""
    if isinstance(value, list):
        return value[0] if value else ""
    return str(value)


def _strings(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _translate(text: Value, old: Value, new: Value) -> Value:
    table = str.maketrans(_string(old("", {})), _string(new("", {})))
    return lambda tag, a: _string(text(tag, a)).translate(table)


def _test(text: Value, pattern: Value, flags: Value | None = None) -> Value:
    ignore_case = flags is not None and "i" in _string(flags("", {}))
    search = re.compile(_string(pattern("", {})), re.I if ignore_case else 0).search
    fits_nothing = search("") is not None

    def test(tag: str, attributes: Attributes) -> bool:
        value = text(tag, attributes)
        return search(_string(value)) is not None if value else fits_nothing

    return test


_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "contains": lambda text, part: lambda tag, a: _string(part(tag, a)) in _string(text(tag, a)),
    "starts-with": lambda text, part: (
        lambda tag, a: _string(text(tag, a)).startswith(_string(part(tag, a)))
    ),
    "translate": _translate,
    "re:test": _test,
    "not": lambda value: lambda tag, a: not value(tag, a),
}


# ------------------------------------------------------------------------------------------- inside trafilatura


def accelerate() -> list[str]:
    """Replace the expressions of the imported trafilatura; returns the names of the lists it found.

    Also lets lxml make elements without asking a Python function for the class of each one.
    """
    from lxml import etree, html

    # By name: `trafilatura.baseline` is also a function of the package.
    baseline, main_extractor, utils, xpaths = (
        importlib.import_module(f"trafilatura.{name}")
        for name in ("baseline", "main_extractor", "utils", "xpaths")
    )
    done = []
    for name, value in vars(xpaths).items():
        if isinstance(value, list) and value and all(isinstance(x, etree.XPath) for x in value):
            make = _first if value is getattr(main_extractor, "BODY_XPATH", None) else _fast
            value[:] = [make(expression) for expression in value]
            done.append(name)
    if isinstance(getattr(baseline, "BASIC_CLEAN_XPATH", None), etree.XPath):
        vars(baseline)["BASIC_CLEAN_XPATH"] = _fast(baseline.BASIC_CLEAN_XPATH)
        done.append("BASIC_CLEAN_XPATH")
    parser = getattr(utils, "HTML_PARSER", None)
    if isinstance(parser, etree.HTMLParser):
        parser.set_element_class_lookup(etree.ElementDefaultClassLookup(element=html.HtmlElement))
    return done


def _fast(expression: Any) -> Any:
    try:
        return FastXPath(expression)
    except NotUnderstood:
        return expression


def _first(expression: Any) -> Any:
    """`(.//tag[condition])[1]`: of these only the first element is asked for."""
    text = expression.path.strip()
    if text.endswith("[1]"):
        text = text.removesuffix("[1]").strip()
        text = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    try:
        inside = FastXPath(SimpleNamespace(path=text))
    except NotUnderstood:
        return expression
    if not inside.is_complete:
        return expression
    return lambda tree: inside(tree)[:1]
