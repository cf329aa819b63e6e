"""From the bytes of a page to the addresses it leads to."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from llmpipe.stages.crawl.urls import canonical

_META_CHARSET = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.I)
_XML_ENCODING = re.compile(rb"\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})", re.I)
DECLARED_WITHIN = 8192
"""The HTML standard looks at 1,024 bytes for a charset; real pages put scripts before it."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What the Encoding Standard means by a name where Python's codec of that name is narrower.
_WIDER = {
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
}

# WHATWG HTML, "shared declarative refresh steps": seconds, a separator, perhaps `url=`, perhaps in quotes.
_REFRESH = re.compile(
    r"\s*[\d.]+(?:\s*[;,]|\s)\s*(?:url\s*=\s*)?(?:'([^']*)|\"([^\"]*)|(.*))", re.I | re.S
)


@dataclass(frozen=True)
class Links:
    """What a page says of addresses."""

    anchors: tuple[str, ...] = ()
    """Where its links lead, in order, each once."""
    parts: tuple[str, ...] = ()
    """What a browser would show without a click: the pages in its frames, and the one it sends its reader on to."""
    canonical: str | None = None
    """The address that it gives as its own, by `<link rel="canonical">` (RFC 6596)."""


def extract_links(html: bytes, charset: str | None, url: str, refresh: str = "") -> Links:
    """Return the canonical spellings of the addresses in a page.

    Args:
        html: the page, decompressed.
        charset: from the Content-Type header; without it the page is searched for one.
        url: the address of the page, which relative links continue unless a `<base>` says otherwise.
        refresh: the `Refresh` header, which does what `<meta http-equiv="refresh">` does.
    """
    # Resiliparse's parser is that of the HTML standard, as in browsers. That of lxml ends where tags are nested 2,048 deep, and
    # says nothing of the links behind.
    from resiliparse.parse.html import HTMLTree

    encoding = find_encoding(html, charset)
    document = HTMLTree.parse(html.decode(encoding, errors="replace").lstrip("\ufeff")).document
    assert document is not None

    def values(selector: str, attribute: str) -> list[str]:
        # A slice is taken once; a collection that is iterated over asks the document anew for every element.
        found = document.query_selector_all(f"{selector}[{attribute}]")[:]
        return [element.getattr(attribute) or "" for element in found]

    base = url
    for stated in values("base", "href")[:1]:
        base = canonical(stated, url, _of_queries(encoding)) or url

    def spelled(links: list[str]) -> tuple[str, ...]:
        found = (canonical(link, base, _of_queries(encoding)) for link in links)
        return tuple(dict.fromkeys(link for link in found if link is not None))

    refreshes = [refresh, *values("meta[http-equiv=refresh i]", "content")]
    goals = [goal for content in refreshes if (goal := _refresh_goal(content))]
    own = [link for link in values("link[rel~=canonical i]", "href")[:1] if link.strip()]
    return Links(
        anchors=spelled(values(":is(a, area)", "href")),
        parts=spelled(goals + values(":is(frame, iframe)", "src")),
        canonical=next(iter(spelled(own)), None),
    )


def _refresh_goal(content: str) -> str | None:
    """Return where a page sends its reader on to, or None if it only comes anew."""
    found = _REFRESH.match(content)
    goal = next((group for group in found.groups() if group is not None), "") if found else ""
    return goal.strip() or None


def find_encoding(html: bytes, charset: str | None) -> str:
    """Return the codec of a page: by its mark, the header, what it says itself, or a guess, in the order of browsers."""
    from resiliparse.parse.encoding import detect_encoding

    for mark, encoding in _MARKS:
        if html.startswith(mark):
            return encoding
    labels = [charset] if charset else []
    for pattern in (_META_CHARSET, _XML_ENCODING):
        if found := pattern.search(html, 0, DECLARED_WITHIN):
            labels.append(found[1].decode("ascii", "replace"))
    for label in (*labels, detect_encoding(html, max_len=2**16) or ""):
        codec = _codec(label)
        # Letters that can be read as ASCII are not UTF-16, whatever they say (HTML standard, "prescan").
        if codec and not (codec.startswith(("utf-16", "utf-32")) and b"\0" not in html[:1024]):
            return codec
    return "utf-8"


def _codec(label: str) -> str | None:
    """Return the codec that browsers take a label for (`latin1` is windows-1252), or None if nobody knows it."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    try:
        name = codecs.lookup(map_encoding_to_html5(label, fallback_utf8=False) or label).name
        "".encode(name)  # `rot13` and `base64` are codecs, too, and none of text to bytes
    except (LookupError, ValueError):
        return None
    if name == "utf-7":  # no browser reads it: what looks harmless in ASCII would be markup
        return None
    return _WIDER.get(name, name)


def _of_queries(encoding: str) -> str:
    """Queries of pages in UTF-16 are sent as UTF-8: WHATWG Encoding, "get an output encoding"."""
    return "utf-8" if encoding.startswith(("utf-16", "utf-32")) else encoding
