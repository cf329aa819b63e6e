"""E-mail and IP addresses: what is one, and what only looks like one (pictures, versions, remotes of git)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from llmpipe.stages.data.steps.labels import (
    is_called_version,
    speaks_of_internet,
    speaks_of_versions,
)

Span = tuple[int, int]

# Python's `\w` has the letters and digits of all scripts, but not the vowel signs of the Indic ones, nor accents that stand apart.
_SIGN = r"\w\u0300-\u036f\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0df3\u0e30-\u0e4e\u0eb0-\u0ecd\u1000-\u109f\u17b4-\u17d3\u200c\u200d"
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
"""Scripts in which a word before or behind an address may touch it: Thai to Khmer, Kana, Han, and Hangul with its particles."""

# RFC 6531: any letter may stand in a local part. Of RFC 5322's other signs those that people have; the quote of O'Brien only inside.
_LOCAL = re.compile(
    rf"(?:[{_SIGN}](?:[{_SIGN}.+%&~-]|(?<=[oOD])['’](?=[{_SIGN}])){{0,63}}|\"[^\"\n]{{1,62}}\")\Z"
)
_LOCAL_ASCII = re.compile(rf"(?<=[{_UNSPACED}])[A-Za-z0-9_](?:[A-Za-z0-9_.+%&~'-]{{0,63}})\Z")
_LABEL = rf"[{_SIGN}](?:[{_SIGN}-]{{0,62}})"
_DOMAIN = re.compile(
    rf"(?:{_LABEL}[.。．｡]){{1,6}}"  # the three full stops of RFC 3490
    # A domain of top level in Latin letters ends where they do: Han and Kana may follow at once. In other scripts it has no digits.
    rf"(?:xn--[a-z0-9-]{{1,59}}(?![\w@-])|[A-Za-z]{{2,24}}(?![A-Za-z0-9_@])(?=[{_UNSPACED}]|(?![{_SIGN}]))|(?![A-Za-z])[^\W\d_A-Za-z][{_SIGN}]{{1,15}}(?![\w@]))"
    r"|\[(?:IPv6:)?[0-9A-Fa-f.:]{3,45}\]",
    re.I,
)
_FILE_ENDING = re.compile(
    r"png|jpg|jpeg|gif|svg|webp|bmp|ico|tif|tiff|avif|heic|css|scss|less|js|mjs|jsx|ts|tsx|vue|html|htm|php|asp|aspx|jsp|json|"
    r"yml|yaml|xml|toml|ini|conf|cfg|log|txt|csv|tsv|pdf|doc|docx|xls|xlsx|ppt|pptx|odt|epub|gz|tgz|bz2|xz|zst|tar|rar|exe|dll|"
    r"bin|iso|dmg|apk|deb|rpm|jar|war|whl|mp3|mp4|wav|ogg|flac|avi|mkv|webm|ttf|otf|woff|woff2|eot|psd|tex|bib|bak|tmp|lock|"
    r"git|java|cpp|hpp"
)
"""Endings of files that are no domain of top level (IANA's list); `.zip`, `.mov`, `.py` and `.md` are some, and stay addresses."""
_SCALE = re.compile(r"\d+(?:\.\d+)?x[.\-_]", re.I)
_VERSION_DOMAIN = re.compile(r"v?\d+\.\d")
_REMOTE = re.compile(r":(?!//)(?:[\w.~-]*/|[\w.-]+\.git\b)")
_REMOTE_USERS = ("git", "hg", "svn")


def find_emails(text: str) -> Iterator[Span]:
    """Find e-mail addresses, in any script (RFC 6531), with a domain of at least two parts or an address in brackets."""
    at = text.find("@")
    while at >= 0:
        span = _email_at(text, at)
        if span:
            yield span
        at = text.find("@", span[1] if span else at + 1)


def _email_at(text: str, at: int) -> Span | None:
    domain = _DOMAIN.match(text, at + 1)
    if domain is None:
        return None
    before = text[max(0, at - 66) : at]
    local = (not before.isascii() and _LOCAL_ASCII.search(before)) or _LOCAL.search(before)
    if not local:
        return None
    if before[: -len(local[0])].endswith("%"):
        return None  # an address of a page: %3C is a bracket there
    parts = domain[0].lower().split(".")
    if (
        _FILE_ENDING.fullmatch(parts[-1])
        or _SCALE.match(domain[0])
        or _VERSION_DOMAIN.match(domain[0])
    ):
        return None
    if "_" in domain[0]:  # no name of a host has one
        return None
    if _REMOTE.match(text, domain.end()) or (
        local[0] in _REMOTE_USERS and text[domain.end() : domain.end() + 1] in (":", "/")
    ):
        return None  # what git and rsync call a remote: user@host:path
    return at - len(local[0]), domain.end()


_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\w|-[A-Za-z]| (?:alpha|beta|rc)\b)", re.ASCII)
_COLONS = re.compile(r":(?=[0-9A-Fa-f]{0,4}:)", re.ASCII)
_IPV6_HEAD = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}\Z", re.ASCII)
_IPV6_TAIL = re.compile(r"(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", re.ASCII)
_AS_IN_LOGS = re.compile(r"(?::\d{1,5}|/\d{1,2})(?!\d)|(?:[ \t]-){2}")
_BEFORE_ADDRESS = re.compile(
    r"(?:://|@|\[(?:ip|email)\][^\w\n]{0,3}|[\[=]|[a-z-]\.[a-z]{2,6}[ \t(]{1,3})\Z"
)


def find_ipv4(text: str, public_only: bool) -> Iterator[Span]:
    """Find IPv4 addresses that are meant as such.

    Four numbers with dots are often a version or a section. Called that, they are none; and if all four are small, as in one of 200
    addresses and in most versions, something has to speak for an address.
    """
    for match in _IPV4.finditer(text):
        start, end = match.span()
        before = text[max(0, start - 2) : start]
        if before and (before[-1].isalnum() or before[-1] in "_."):
            continue
        if before.strip()[-1:] in tuple("$€£¥₹₽₺₩"):
            continue  # thousands with dots
        if before[-1:] == "-" and (before[:-1].isalpha() or before[:-1] == "_"):
            continue  # a package: lib-1.2.3.4
        if not is_ip(match[0], public_only) or is_called_version(text, start):
            continue
        octets = sorted(map(int, match[0].split(".")))
        if (
            octets[1] <= 20
            and octets[3] < 100
            and not (
                _AS_IN_LOGS.match(text, end)
                or _BEFORE_ADDRESS.search(text, max(0, start - 12), start)
                or (
                    speaks_of_internet(text, start, end)
                    and not speaks_of_versions(text, start, end)
                )
            )
        ):
            continue
        yield start, end


def find_ipv6(text: str, public_only: bool) -> Iterator[Span]:
    """Find IPv6 addresses; a sentence's colon behind one is not part of it."""
    done = 0
    for colon in _COLONS.finditer(text):
        if colon.start() < done:
            continue
        head = _IPV6_HEAD.search(text, max(0, colon.start() - 5), colon.start())
        tail = _IPV6_TAIL.match(text, colon.start())
        if head is None or tail is None:
            continue
        start, end = head.start(), tail.end()
        done = end
        if text[end - 1] == ":" and text[end - 2] != ":":
            end -= 1
        groups = text[start:end].split(":")
        # Eight pairs of signs are a name in a storage network or a long hardware address.
        if all(len(group) == 2 for group in groups[1:]) or not is_ip(text[start:end], public_only):
            continue
        yield start, end


def is_ip(text: str, public_only: bool) -> bool:
    """Tell whether a text is an address, and one of the public Internet if that is asked."""
    if public_only:
        return is_public_ip(text)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_public_ip(text: str) -> bool:
    """Tell whether an address is one of the public Internet.

    IPv6 has 2000::/3 for that (RFC 4291); beyond it, only what is written out in eight groups is taken for an address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6:
        is_written_out = text.count(":") == 7 and "::" not in text
        return address.is_global and (address in _GLOBAL_UNICAST or is_written_out)
    return address.is_global and not address.is_multicast and int(address) >> 24 < 224


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
