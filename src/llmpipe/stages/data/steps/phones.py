"""Telephone numbers: what shows that a run of digits is one.

A number plan alone decides little: most runs of ten digits are valid somewhere, and few of those on web pages are telephones. So what is
plainly something else goes first (dates, times, decimals, thousands, ISBN, years). Of the rest a number counts if one of three things speaks
for it: a plus or 00 and a country code that fit a number plan, the spelling that its country has for it, or a word beside it that
speaks of telephones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers

from llmpipe.stages.data.steps.check_digits import is_isbn_10, is_issn
from llmpipe.stages.data.steps.labels import is_called_version, number_label

Span = tuple[int, int]

_MIN_DIGITS, _MAX_DIGITS = 7, 15
"""Source: ITU-T E.164, section 6.1 (15); shorter than 7 is a town's own business, and anything."""
_DIGITS = re.compile(r"\d+", re.ASCII)
_EXTENSION = re.compile(r" ?(?:x|ext\.?|extension|#) ?\d{1,6}(?!\w)", re.I | re.ASCII)
_BEFORE_EXTENSION = re.compile(r"(?:1[ .-]|001[ .-])?\d{3}\)?[ .-]?\d{3}[.-]\d{4}")
_LOCAL = re.compile(r"\d{3,4}\.\d{4}")
"""A town's number in two groups; without a word about telephones a decimal fraction."""
_WORD_BEHIND = re.compile(
    r"[^\w\n]{1,3}(?:mobile|fax|cell|phone|desk|office|home)\b(?! ?(?!or\b|and\b)[a-z])", re.I
)
_DATE = re.compile(
    r"(?:(?P<a>\d{1,2})(?P<sep>[./-] ?)(?P<b>\d{1,2})(?P=sep)(?P<y>(?:19|20)?\d\d)|(?:19|20)\d\d(?P<sep2>[./-] ?)(?P<m>\d{1,2})(?P=sep2)(?P<d>\d{1,2})"
    r"|(?:19\d\d|20[0-3]\d)(?P<m2>\d\d)(?P<d2>[0-3]\d)(?=[ ]))(?!\d)(?:,? {1,2}-? ?\d{1,2}[.:h]?\d\d(?:[.:]\d\d)?(?![\d-]))?",
    re.ASCII,
)
_SPACED_DATE = re.compile(
    r"(?:[0-3]?\d [01]?\d (?:19|20)\d\d|(?:19|20)\d\d [01]?\d [0-3]?\d)(?: [0-2]?\d(?: [0-5]\d)?)?"
)
_YEARS = re.compile(r"(?:1[5-9]|20)\d\d(?:[ ./-]{1,3}(?:1[5-9]|20)\d\d)+")
_TIMES = re.compile(r"[0-2]?\d[.][0-5]\d(?: ?[-/] ?| )[0-2]?\d[.][0-5]\d")
_DECIMALS = re.compile(r"\d+\.\d+(?:(?: {1,2}| ?- ?| ?/ ?)\d+\.\d+)*")
_THOUSANDS = re.compile(r"\d{1,3}(?:([ .])\d{3})(?:\1\d{3})+")
# A noun behind spaced digits makes them a quantity; these words go on with a sentence about a telephone.
_GOES_ON = re.compile(
    r" ?(?:\(|or\b|and\b|for\b|to\b|is\b|if\b|at\b|ext|x\d|fax\b|from\b|in\b|on\b|after\b|before\b|today\b|now\b|any|with\b|please\b|when\b|between\b|mobile\b"
    r"|cell\b|office\b|home\b|desk\b|phone\b|tel\b|toll\b)"
)


@dataclass(frozen=True)
class _Run:
    """Digits with separators between them, in groups; the separators stay in the text."""

    text: str
    groups: list[Span]

    @property
    def start(self) -> int:
        return self.groups[0][0]

    @property
    def end(self) -> int:
        return self.groups[-1][1]

    @property
    def n_digits(self) -> int:
        return sum(end - start for start, end in self.groups)

    @property
    def raw(self) -> str:
        return self.text[self.start : self.end]

    @property
    def digits(self) -> list[str]:
        return [self.text[start:end] for start, end in self.groups]

    @property
    def separators(self) -> list[str]:
        return [self.text[a[1] : b[0]] for a, b in zip(self.groups, self.groups[1:], strict=False)]

    def part(self, first: int, last: int | None = None) -> _Run:
        return _Run(self.text, self.groups[first:last])


def find_phones(text: str, runs: Sequence[Span], regions: Sequence[str]) -> Iterator[Span]:
    """Find telephone numbers.

    Args:
        text: the text, with ASCII digits.
        runs: where digits stand, with at most three of ` ./()-` between two of them.
        regions: ISO 3166 codes of the countries whose national spelling counts without a word about telephones.
    """
    for start, end in runs:
        groups = [match.span() for match in _DIGITS.finditer(text, start, end)]
        for run in _without_dates(_trimmed(_Run(text, groups))):
            yield from _phones_of(run, regions)


def _trimmed(run: _Run) -> _Run:
    """Leave out groups at the ends that belong to a word, a time or a fraction; of an amount of money leave nothing."""
    text, groups = run.text, run.groups
    if _MONEY_BEFORE.search(text, max(0, run.start - 5), run.start) or _MONEY_BEHIND.match(
        text, run.end
    ):
        return run.part(0, 0)
    first, last = 0, len(groups)
    while first < last and _belongs_before(text, groups[first][0]):
        first = _behind_word(run, first)
    while first < last and _belongs_behind(text, groups[last - 1][1]):
        last = _before_word(run, last - 1) if text[groups[last - 1][1]] not in ":," else last - 1
    return run.part(first, max(first, last))


def _behind_word(run: _Run, i: int) -> int:
    """Return the first group after a space behind group `i`."""
    for later in range(i + 1, len(run.groups)):
        if run.text[run.groups[later - 1][1]] == " ":
            return later
    return len(run.groups)


def _before_word(run: _Run, i: int) -> int:
    """Return how many groups are left before the word that has group `i`."""
    while i and run.text[run.groups[i][0] - 1] in "-.":
        i -= 1
    return i


_MONEY_BEFORE = re.compile(r"(?:[$€£¥₹₽₺₩฿%]|\b(?:EUR|USD|GBP|CHF|JPY|CNY|INR|RUB|R\$))[ ]{0,2}\Z")
_MONEY_BEHIND = re.compile(
    r"(?:[.,]\d{1,2}(?!\d)|,\d{3}(?!\d))?[ ]{0,2}(?:[€£¥$₽₺₩฿%°元円]|(?:EUR|USD|GBP|CHF|JPY|CNY|INR|RUB|Euro|Rs)\b)"
)


def _belongs_before(text: str, start: int) -> bool:
    before = text[max(0, start - 3) : start].lstrip("(")
    before = before[:-1] if before.endswith(("(", "+")) else before
    last, other = before[-1:], before[-2:-1]
    if not last:
        return False
    if last == "_" or (last.isalnum() and last.isascii()):
        return True
    if last in ".,:" and other.isdigit():
        return True
    if last in "./=" and _INSIDE_IDENTIFIER.search(text[max(0, start - 64) : start - 1]):
        return True
    return last == "-" and (other.isalnum() or other == "_")


_INSIDE_IDENTIFIER = re.compile(r"[\d./?&][^\s./]*\Z")
"""A dot, a slash or a digit earlier in the same word: an address of a page, a DOI, a path."""
_GOES_ON_BEHIND = re.compile(r"[A-Za-z_%]|[:.]\d|,\d{1,3}(?!\d)|-[a-f][a-f\d]\b")


def _belongs_behind(text: str, end: int) -> bool:
    return _GOES_ON_BEHIND.match(text, end) is not None and not _EXTENSION.match(text, end)


def _without_dates(run: _Run) -> Iterator[_Run]:
    """Cut dates, with a time behind them, out of a run."""
    first = 0
    for i, (start, _) in enumerate(run.groups):
        if i < first:
            continue
        is_new = i == 0 or run.text[start - 1] in " (/"
        match = _DATE.match(run.text, start) if is_new else None
        if match and _is_date(match, run.text):
            if i > first:
                yield run.part(first, i)
            first = i + sum(match.start() <= a < match.end() for a, _ in run.groups[i : i + 8])
    if first < len(run.groups):
        yield run.part(first)


def _is_date(match: re.Match[str], text: str) -> bool:
    a, b = match["a"], match["b"]
    if a:
        year = match["y"]
        if len(year) == 2 and text[match.end("y") : match.end("y") + 1] == match["sep"]:
            return False  # 06.12.34.56.78
        return (0 < int(a) <= 31 and 0 < int(b) <= 12) or (0 < int(a) <= 12 and 0 < int(b) <= 31)
    month, day = int(match["m"] or match["m2"]), int(match["d"] or match["d2"])
    behind = text[match.end() : match.end() + 2]
    return 0 < month <= 12 and 0 < day <= 31 and not (match["d2"] and behind[:1] == "-")


def _phones_of(run: _Run, regions: Sequence[str]) -> Iterator[Span]:
    """Find the numbers in a run: it is one, or several in a row, or one with other numbers around it."""
    if run.n_digits < _MIN_DIGITS:
        return
    label = number_label(run.text, _opening(run))
    if _is_phone(run, label, regions):
        yield _span(run)
        return
    if not 1 < len(run.groups) <= _MAX_ROW or _is_of_a_book(run):
        return
    if label == "other" and " " not in run.raw:
        return
    # Look at what plainly belongs together.
    first = 0
    while first < len(run.groups):
        last = first + 1
        if first and not _may_begin(run, first, label):
            first = last
            continue
        for part in _parts(run, first, label if first == 0 else None):
            if _is_phone(part, label if first == 0 else None, regions, is_inner=True):
                yield _span(part)
                last = first + len(part.groups)
                break
        first = last


_MAX_GROUPS = 8
_MAX_ROW = 200
"""More groups than that in one line are a table, and not searched."""
_PREFIXED = re.compile(r" (?:00[1-9]|011 )")
_MAY_BEGIN = re.compile(r"[ /](?:\d{2,5}[./-]|1[.-])|\(\d{2,5}\)", re.ASCII)


def _may_begin(run: _Run, i: int, label: str | None) -> bool:
    """Tell whether a number may begin inside a row: with a prefix, brackets, or hyphens where the row has spaces."""
    start = run.groups[i][0]
    if _PREFIXED.match(run.text, start - 1):
        return label != "other"
    return (
        _MAY_BEGIN.match(run.text, start - 1) is not None
        and ")" not in run.text[run.groups[i - 1][1] : start]
    )


def _parts(run: _Run, first: int, label: str | None) -> Iterator[_Run]:
    """Return the numbers that may begin with a group of a longer run, the longest first."""
    around = run.part(max(0, first - 1), first + _MAX_GROUPS + 1)
    separators, offset = around.separators, first - max(0, first - 1)
    if offset and not _BOUND.search(separators[0]):
        return
    before, separators = separators[0] if offset else "", separators[offset:]
    for n in range(min(_MAX_GROUPS, len(run.groups) - first), 0, -1):
        is_whole = first + n == len(run.groups) or _BOUND.search(separators[n - 1])
        if is_whole and (n > 1 or label == "phone"):
            part = run.part(first, first + n)
            after = separators[n - 1] if n <= len(separators) else ""
            is_fraction = "/" in part.raw and "/" in (before, after)
            if _MIN_DIGITS <= part.n_digits <= _MAX_DIGITS and not is_fraction:
                yield part


_BOUND = re.compile(r"[ /(]")


def _opening(run: _Run) -> int:
    """Return where the number begins, with the plus and the bracket before its digits."""
    start = run.start
    while start and run.text[start - 1] in "(+" and run.start - start < 3:
        start -= 1
    return start


def _span(run: _Run) -> Span:
    start, end = _opening(run), run.end
    raw = run.text[start:end]
    if "(" in raw and raw.count("(") > raw.count(")"):
        if run.text[end : end + 1] == ")":
            end += 1
        elif raw.startswith("(") and ")" not in raw:
            start += 1  # the bracket is around more than the number
    extension = _EXTENSION.match(run.text, end)
    return start, extension.end() if extension else end


def _is_phone(run: _Run, label: str | None, regions: Sequence[str], is_inner: bool = False) -> bool:
    """Tell whether a run is a telephone number.

    Args:
        run: one number, if it is any.
        label: what the words before it call it (`number_label`).
        regions: countries whose spelling counts.
        is_inner: whether the run is a part of a longer one; then it has to show more.
    """
    text, raw, digits = run.text, run.raw, run.digits
    if not _MIN_DIGITS <= run.n_digits <= _MAX_DIGITS + 3:
        # E.164 allows 15 digits; a prefix such as 00 or 011 and a written-out (0) come on top.
        return False
    if label == "letter":
        label = "call" if text[_opening(run)] in "(+0" and not is_inner else None
    extension = _EXTENSION.match(text, run.end)
    is_called = (
        label in ("phone", "call")
        or _WORD_BEHIND.match(text, extension.end() if extension else run.end) is not None
        or (extension is not None and _BEFORE_EXTENSION.fullmatch(raw) is not None)
    )
    if _is_something_else(run) and not (is_called and _LOCAL.fullmatch(raw)):
        return False
    is_thousands = _THOUSANDS.fullmatch(raw) is not None
    # First: a plus, which a label can at most make doubtful.
    if "+" in text[_opening(run) : run.start]:
        if _fits_plan("+" + raw):
            return True
        is_doubtful = is_inner or label == "other" or (is_thousands and not is_called)
        return not is_doubtful and _may_be_assigned("+" + raw)
    if label in ("card", "other") or _FORMULA_BEHIND.match(text, run.end):
        return False
    is_sure = is_called and not (label == "call" and len(digits) > 1)
    if not is_sure and (_is_of_a_book(run) or (len(digits) > 2 and {"/"} == set(run.separators))):
        return False
    # Second: the prefixes that stand for a plus in most countries, and in North America.
    if (prefix := re.match("00|011", digits[0])) and (len(digits) > 1 or label):
        number = "+" + raw[prefix.end() :].lstrip(" -./")
        if run.n_digits > 9 and (_fits_plan(number) or (not is_inner and _has_code(number))):
            return True
    # Third: a word about telephones. After a verb, three digits thrice may still be what is counted: they called 12 345 678 people.
    if is_thousands and (digits[-1] == "000" or (label == "call" and not _stands_alone(run))):
        return False
    if is_called and (not is_inner or label == "phone") and run.n_digits <= _MAX_DIGITS:
        return True
    # Last: the spelling alone.
    if is_thousands:
        return False
    return any(_fits_spelling(run, region, is_inner) for region in regions)


def _is_something_else(run: _Run) -> bool:
    raw = run.raw
    return bool(
        _YEARS.fullmatch(raw)
        or _SPACED_DATE.fullmatch(raw)
        or _TIMES.fullmatch(raw)
        or (_DECIMALS.fullmatch(raw) and not _is_dotted_international(run))
    )


def _is_of_a_book(run: _Run) -> bool:
    """Tell whether it is an ISBN or ISSN; one telephone number in eleven passes their check digit, so a label counts more."""
    return (
        is_isbn_10(run.raw)
        or run.digits[0] in ("978", "979")
        or is_isbn_10(run.raw + run.text[run.end : run.end + 2])
        or is_issn(run.raw)
    )


def _is_dotted_international(run: _Run) -> bool:
    """Tell `+1.4155552671`, as registries of domains write (RFC 5733), from a coordinate."""
    is_one = len(run.groups) == 2 and "+" in run.text[_opening(run) : run.start]
    return is_one and _fits_plan("+" + run.raw)


def _fits_plan(number: str) -> bool:
    """Ask the number plans about a number with its country code."""
    parsed = _parsed(number, None)
    return parsed is not None and phonenumbers.is_valid_number(parsed)


def _may_be_assigned(number: str) -> bool:
    """Tell whether a country has the code: behind a plus a number that nobody has any more, or yet, can be meant as nothing else."""
    parsed = _parsed(number, None)
    return parsed is not None and (
        phonenumbers.is_possible_number(parsed) or sum(map(str.isdigit, number)) >= 10
    )


def _has_code(number: str) -> bool:
    """Tell whether the digits up to the first space or hyphen are a country code, and the length is one of that country's."""
    parsed = _parsed(number, None)
    code = re.match(r"\+(\d+)\D", number)
    return (
        parsed is not None
        and code is not None
        and code[1] == str(parsed.country_code)
        and phonenumbers.is_possible_number(parsed)
    )


def _parsed(number: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None


@lru_cache
def _trunk_prefix(region: str) -> str:
    plan = phonenumbers.PhoneMetadata.metadata_for_region(region)
    return (plan and plan.national_prefix) or ""


def _fits_spelling(run: _Run, region: str, is_inner: bool) -> bool:
    """Tell whether a country writes a number so.

    Either it is in the groups in which the number plan prints it, or it has the trunk prefix (a leading 0, mostly) or brackets around
    the area code and is valid there. Bare digits are mostly ids.
    """
    digits, separators = run.digits, run.separators
    prefix = _trunk_prefix(region)
    opens, rest = "(" in run.text[_opening(run) : run.start], separators
    if rest and digits[0] in ("0", "1", "8", "01") and rest[0].endswith("("):
        opens, rest = True, rest[1:]  # 8 (495) 123-45-67: the trunk prefix stands apart
    # A figure never begins with 0, so a trunk prefix of 0 says much.
    is_zero = prefix.startswith("0") and digits[0].startswith(prefix) and len(digits[0]) > 1
    is_japanese = is_zero and separators[:2] == ["(", ")"]  # 03(1234)5678
    has_brackets = is_japanese or (opens and any(")" in separator for separator in rest[:2]))
    if len(digits) < 2 or not 8 <= run.n_digits <= _MAX_DIGITS or _QUAD.fullmatch(run.raw):
        return False
    if is_japanese:
        rest = rest[2:]
    if any("(" in separator or separator in _APART for separator in rest):
        return False
    if "/" in "".join(separators[1:]):
        return False
    # 8 912 345 67 89 and 0 312 345 67 89
    is_apart = digits[0] == prefix != "1" and len(digits) > 3 and len(digits[1]) == 3
    is_spaced = not (is_zero or is_apart) and all(separator == " " for separator in separators)
    if is_spaced and (is_inner or not (_stands_alone(run) and _speaks_of_contact(run))):
        return False
    if _FORMULA_BEFORE.search(run.text, max(0, run.start - 2), run.start):
        return False
    if is_called_version(run.text, run.start):
        return False
    number = _parsed(run.raw, region)
    if number is None or not phonenumbers.is_valid_number(number):
        return False
    national = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    if _without_trunk(digits, prefix) == _without_trunk(re.findall(r"\d+", national), prefix):
        return len(set(separators[1:])) <= 1 or has_brackets or is_zero
    if prefix == "1":
        return False  # the North American plan has one grouping
    if has_brackets:
        return is_zero or digits[0] == prefix or "(" in national
    if not is_zero:
        return is_apart
    return len(digits) > 2 or (3 <= len(digits[0]) <= 6 <= len(digits[1]))


_APART = ("  ", "   ", " - ")
"""Columns of a table, a difference."""
_FORMULA_BEFORE = re.compile(r"[=+*^<>×÷#] ?\Z")
_FORMULA_BEHIND = re.compile(r" ?[=*^×÷]| ?[+<>] ?\d")
_QUAD = re.compile(r"(?:0|[1-9]\d{0,2})(?:\.\d{1,3}){3,}")


def _without_trunk(groups: list[str], prefix: str) -> list[str]:
    if prefix and groups[0].startswith(prefix) and (prefix != "1" or groups[0] == "1"):
        groups = [groups[0][len(prefix) :], *groups[1:]]
    return [group for group in groups if group]


_CONTACT = re.compile(
    r"contact|e-?mail|@|www\.|address|street|suite|avenue|\boffice|phone|\bfax|\btel\b|\bcall|\breach|\bring\b|\binc\b|\bllc\b|\[(?:phone|address)\]",
    re.I,
)


def _speaks_of_contact(run: _Run) -> bool:
    """Tell whether spaced digits stand on a line of their own or among what one leaves to be reached; else they may be figures."""
    text, start, end = run.text, _opening(run), run.end
    if (start == 0 or text[start - 1] == "\n") and (end == len(text) or text[end] == "\n"):
        return True
    return _CONTACT.search(text, max(0, start - 80), end + 60) is not None


def _stands_alone(run: _Run) -> bool:
    """Tell whether spaced digits are followed by the end of something, not by what they count."""
    behind = run.text[run.end : run.end + 12]
    sign = behind.lstrip(" ")[:1]
    if sign.isalpha() and not (sign.isupper() and sign != sign.lower()):
        return _GOES_ON.match(behind) is not None
    return sign not in "€£$¥%°" or not sign
