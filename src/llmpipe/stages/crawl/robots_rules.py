"""The text of a robots.txt, and what it allows: RFC 9309 to the letter, and a little more obedient.

The first public crawlers agreed on this file in 1994, and every reader of it has read it differently since. Ours is exact where
it matters: a group is chosen by the whole name, the longest rule decides, and a line that is not understood changes nothing.
Where people write what the RFC does not know (`Dissalow`, no colon, no leading slash, UTF-16), the rule that forbids is
obeyed all the same. Source of the misspellings: google/robotstxt, robots.cc.
"""

from __future__ import annotations

import codecs
import re
import string
from dataclasses import dataclass
from urllib.parse import quote

# The octets outside these sets are percent-encoded before anything is compared (RFC 9309, section 2.2.2).
_RESERVED = "/?:@!$&'()*+,;="
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")

_NAMES = {
    "agent": r"user[ -]?agent",
    "disallow": r"disallow|dissallow|dissalow|disalow|diasllow|disallaw",
    "allow": r"allow",
    "delay": r"crawl[ -]?delay",
    "sitemap": r"site-?maps?",
}
_LINE = re.compile(
    "(?:"
    + "|".join(f"(?P<{kind}>{names})" for kind, names in _NAMES.items())
    + r")(?:\s*:|\s|$)(?P<value>.*)",
    re.I,
)
_LINE_ENDS = re.compile(r"\r\n|\r|\n")  # and no others: RFC 9309, section 2.2
_ORIGIN = re.compile(r"https?://[^/]*", re.I)
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_PRODUCT = re.compile(r"[^\s/;,(*]+")
_NOT_ASCII_FIRST = re.compile(r"\A[^\x01-\x7f]+")


@dataclass(frozen=True)
class _Pattern:
    """A path in which `*` stands for anything, and `$` for the end."""

    pieces: tuple[str, ...]
    is_anchored: bool

    def matches(self, address: str) -> bool:
        """Look for each piece where it first fits after the one before: that misses no match, and takes linear time."""
        first, *others = self.pieces
        if not address.startswith(first):
            return False
        position = len(first)
        if not others:
            return not self.is_anchored or position == len(address)
        *middle, last = others
        for piece in middle:
            found = address.find(piece, position)
            if found < 0:
                return False
            position = found + len(piece)
        if self.is_anchored:
            return address.endswith(last) and len(address) - len(last) >= position
        return address.find(last, position) >= 0


@dataclass(frozen=True)
class _Rule:
    """One Allow or Disallow line."""

    allows: bool
    plain: _Pattern
    strict: _Pattern
    n_octets: int

    @classmethod
    def read(cls, allows: bool, path: str) -> _Rule:
        is_anchored = path.endswith("$")
        text = re.sub(r"\*+", "*", _spelled(path.removesuffix("$")).replace("$", "%24"))
        plain, strict = (
            _Pattern(tuple(spelling.split("*")), is_anchored) for spelling in (text, _strict(text))
        )
        return cls(allows, plain, strict, len(text) + is_anchored)


@dataclass(frozen=True)
class RobotsRules:
    """What one robots.txt says to one crawler."""

    rules: tuple[_Rule, ...] = ()
    crawl_delay_s: float = 0.0
    sitemaps: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """Tell whether a path, with its query, may be fetched: the longest rule decides, and the milder of two equals."""
        if path == "/robots.txt":
            return True
        # `*` and `$` in an address are themselves (section 2.2.3).
        plain = _spelled(path).replace("*", "%2A").replace("$", "%24")
        strict = _strict(plain)
        about_it = (
            (rule.n_octets, rule.allows)
            for rule in self.rules
            if rule.plain.matches(plain) or rule.strict.matches(strict)
        )
        return max(about_it, default=(0, True))[1]


def parse_robots(content: bytes, product: str) -> RobotsRules:
    """Read the rules for one product token, or those for `*` where none are for it; never fails.

    Args:
        content: the file, decompressed.
        product: who asks, without a version: `llmpipe`.
    """
    groups: dict[str, list[_Rule]] = {}
    delays: dict[str, float] = {}
    sitemaps: list[str] = []
    group: list[str] = []  # whom the next rule is for
    addressed: list[str] = []  # whom the next Crawl-delay is for: the agents named right above it
    has_rules = says_delay = False
    for line in _LINE_ENDS.split(_text(content)):
        found = _LINE.match(line.partition("#")[0].strip().lstrip("\ufeff"))
        if found is None:
            continue
        kind = next(kind for kind in _NAMES if found[kind] is not None)
        value = found["value"].strip()
        if kind == "agent":
            # Rules end the list of agents; other lines are no part of the protocol and may not (section 2.2.4).
            group = [] if has_rules else group
            addressed = [] if has_rules or says_delay else addressed
            has_rules = says_delay = False
            if name := _product_of(value):
                group.append(name)
                addressed.append(name)
                groups.setdefault(name, [])
        elif kind == "sitemap":
            sitemaps.append(value)
        elif kind == "delay":
            says_delay = True
            for name in addressed:
                delays[name] = max(delays.get(name, 0.0), _seconds(value))
        else:
            has_rules = True
            if rule := _rule(kind == "allow", value):
                for name in group:
                    groups[name].append(rule)
    name = product.lower() if product.lower() in groups else "*"
    return RobotsRules(tuple(groups.get(name, ())), delays.get(name, 0.0), tuple(sitemaps))


def _text(content: bytes) -> str:
    """Decode as UTF-8, or as UTF-16 where a mark says so; bytes that are neither stay what they are."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", errors="replace").encode()
    text = content.decode("utf-8", errors="surrogateescape")
    # What is left of a mark, and every second byte of UTF-16 without one, would hide the first line or all of them.
    return _NOT_ASCII_FIRST.sub("", text).replace("\0", "")


def _product_of(value: str) -> str | None:
    """Return the product token of a User-agent line in lower case: `llmpipe` of `llmpipe/1.0 (+http...)`, or `*`."""
    if value.startswith("*") and not value[1:2].strip():
        return "*"
    found = _PRODUCT.match(value)
    return found[0].lower() if found else None


def _rule(allows: bool, value: str) -> _Rule | None:
    """Return a rule, or None for one that says nothing: an empty one, or leave given without a path."""
    path = _ORIGIN.sub("", value, count=1) if not allows else value
    if not value or (allows and not value.startswith(("/", "*"))):
        return None
    return _Rule.read(allows, path if path.startswith(("/", "*")) else f"/{path}")


def _seconds(value: str) -> float:
    found = re.match(r"\d+(?:\.\d+)?|\.\d+", value)
    return float(found[0]) if found else 0.0


def _spelled(path: str) -> str:
    """Return the one spelling in which paths are compared; `*` and `$` are kept."""
    octets = _LONE_PERCENT.sub("%25", path).encode("utf-8", errors="surrogateescape")
    return _ESCAPE.sub(_unescaped, quote(octets, safe=_RESERVED + "%"))


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _strict(spelled: str) -> str:
    """Also encode `:`, `@` and, in a query, `/` and `?`, as the table of section 2.2.2 has it.

    Servers take both spellings of these for the same, and few writers of rules know of the other one.
    """
    path, question_mark, query = spelled.partition("?")
    query = query.replace("/", "%2F").replace("?", "%3F")
    return (path + question_mark + query).replace(":", "%3A").replace("@", "%40")
