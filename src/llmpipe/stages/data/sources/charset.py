"""Bytes of a page to text: byte order mark, HTTP header, meta tag, then detection.

Labels are wrong often enough that bytes which are valid UTF-8 beyond ASCII are read as UTF-8 whatever a
single-byte label says: by chance that happens to no real text of some length.
"""

from __future__ import annotations

import re

_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.I)
_XML = re.compile(rb"\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})", re.I)
_META_WINDOW = 8192
"""The HTML standard looks at 1,024 bytes; real pages put scripts before the tag."""
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_STATEFUL = ("iso2022", "hz", "utf-7", "utf-16", "utf-32")
"""Encodings whose bytes may all be ASCII."""
_SUPERSETS = {
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
}
"""What the Encoding Standard means by a name where Python's codec of that name is narrower."""


def decode_page(data: bytes, http_charset: str | None = None) -> str:
    """Decode a page; what cannot be decoded becomes U+FFFD, and NUL bytes go."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, errors="replace").replace("\0", "")
    return data.decode(find_charset(data, http_charset), errors="replace").replace("\0", "")


def find_charset(data: bytes, http_charset: str | None = None) -> str:
    """Return the name of the codec to decode with."""
    from resiliparse.parse.encoding import detect_encoding

    matches = [pattern.search(data, 0, _META_WINDOW) for pattern in (_XML, _META)]
    labels = [http_charset, *(match[1].decode() for match in matches if match)]
    declared = [codec for label in labels if label and (codec := _codec(label))]
    for codec in declared:
        # A page that says UTF-16 in ASCII letters is not UTF-16 (the HTML standard reads it as UTF-8).
        is_wrong = codec.startswith(("utf-16", "utf-32")) and b"\0" not in data[:1024]
        if codec.startswith(_STATEFUL) and not is_wrong and _decodes(data, codec):
            return codec
    if (codec := _by_pattern(data)) and _decodes(data, codec):
        return codec
    if _decodes(data, "utf-8"):
        return "utf-8"
    for codec in declared:
        if codec != "utf-8" and _decodes(data, codec):
            return codec
    if declared and declared[0] != "utf-8":
        return declared[0]
    detected = _codec(detect_encoding(data, max_len=1 << 16) or "")
    if declared and (
        detected is None or data.decode("utf-8", "replace").count("\ufffd") < len(data) / 200
    ):
        return "utf-8"  # declared, with a few broken bytes
    if detected == "utf-8":  # which it is not
        detected = _second_opinion(data)
    return detected or "windows-1252"


def _by_pattern(data: bytes) -> str | None:
    """Recognize encodings whose bytes are all ASCII or half NUL, where neither a mark nor a label names them."""
    head = data[:4096]
    n_nul = head.count(0)
    if n_nul > len(head) // 5:
        wide = "utf-32" if n_nul > len(head) * 5 // 8 else "utf-16"
        step = 4 if wide == "utf-32" else 2
        is_big = head[::step].count(0) > head[step - 1 :: step].count(0)
        return f"{wide}-be" if is_big else f"{wide}-le"
    if b"\x1b$)C" in head:
        return "iso2022_kr"
    if any(escape in head for escape in (b"\x1b$B", b"\x1b$@", b"\x1b(J")):
        return "iso2022_jp_2"
    return None


def _second_opinion(data: bytes) -> str | None:
    """Ask charset-normalizer (which trafilatura brings along) where the fast detector has no answer."""
    from charset_normalizer import from_bytes

    best = from_bytes(data[: 1 << 14]).best()
    return None if best is None else _SUPERSETS.get(best.encoding, best.encoding)


def _codec(label: str) -> str | None:
    """Map a label as browsers do (`latin1` is windows-1252) to a Python codec."""
    import codecs

    from resiliparse.parse.encoding import map_encoding_to_html5

    try:
        mapped = map_encoding_to_html5(label, fallback_utf8=False) or label
        name = codecs.lookup(mapped).name
    except (LookupError, ValueError):
        return None
    return _SUPERSETS.get(name, name)


def _decodes(data: bytes, codec: str) -> bool:
    try:
        data.decode(codec)
    except (UnicodeDecodeError, LookupError):
        return False
    return True
