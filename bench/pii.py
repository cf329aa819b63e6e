"""Personal data: what is found and what is left, beside plain patterns and by an independent detector.

    make bench BENCH=pii

Three sets: presidio-research's `synth_dataset_v2` (1,500 made-up texts with labelled spans) from the shared test data; 20,000 harmless
look-alikes (`_pii_harmless.py`); numbers as people write them in the twenty largest countries (`_pii_personal.py`). What a tool replaced
is read off its output, so all are measured alike.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import _pii_harmless
import _pii_personal
from measure import header

from llmpipe.stages.data.document import Document, SplitText
from llmpipe.stages.data.steps.pii import Pii, PiiConfig

TEST_DATA = Path(os.environ.get("LLMPIPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
LABELS = {
    "email": "EMAIL_ADDRESS", "ip": "IP_ADDRESS", "card": "CREDIT_CARD", "iban": "IBAN_CODE", "ssn": "US_SSN",
    "phone": "PHONE_NUMBER", "address": "STREET_ADDRESS",
}  # fmt: skip
NAMES = {
    "email": "e-mail", "ip": "IP address", "card": "card", "iban": "IBAN", "ssn": "US social security",
    "phone": "telephone", "address": "street address",
}  # fmt: skip
PLAIN = {
    # Shapes as they stand in tutorials and in scripts that clean corpora, in the order in which they are replaced.
    "email": r"[\w.+-]+@[\w-]+\.[\w.-]+",
    "iban": r"\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b",
    "card": r"\b(?:\d[ -]*?){13,16}\b",
    "ssn": r"\b\d{3}-\d{2}-\d{4}\b",
    "ip": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "phone": r"(?:\+?\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}",
    "address": r"\d+ (?:[A-Z]\w+ )+(?:Street|St|Avenue|Ave|Road|Rd|Drive|Dr|Lane|Ln|Boulevard|Blvd)\b",
}
COUNTRIES = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "CH", "AT", "DK", "SE", "NO", "FI", "PT", "PL", "CZ", "HU", "SI",
    "GR", "AU", "NZ", "BR",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """One replaced stretch of a text."""

    kind: str
    start: int
    end: int


KINDS: tuple[Literal["email", "ipv4", "ipv6", "phone", "card", "iban", "ssn", "address"], ...] = (
    "email", "ipv4", "ipv6", "phone", "card", "iban", "ssn", "address",
)  # fmt: skip
SEED = 20_261_201
"""Of the generated sets on the page; the step was built with other seeds in view."""
N_PHONES, N_OTHERS = 400, 2_000
Replace = Callable[[str], str]


def main(results: Path) -> None:
    """Measure and write the page."""
    texts = load_texts()
    tools: dict[str, Replace] = {
        "plain patterns": replace_plain,
        "llmpipe, default": replacer(PiiConfig()),
        "llmpipe, everything": replacer(
            PiiConfig(kinds=KINDS, phone_regions=COUNTRIES, public_ip_only=False)
        ),
    }
    lines = [
        f"presidio-research's `synth_dataset_v2`: {len(texts):,} made-up texts with labelled stretches.",
        "",
        "*Found*: every sign of a labelled stretch is gone from the output. *False*: replaced, but nothing of the kinds below is "
        "labelled there. *Plain patterns* are shapes without any check.",
        "",
        f"| kind | labelled | {' | '.join(f'{name}: found | false' for name in tools)} |",
        "|" + "---|" * (2 + 2 * len(tools)),
    ]
    scores = {name: score(replace, texts) for name, replace in tools.items()}
    for kind, label in NAMES.items():
        cells = [cell for name in tools for cell in scores[name].cells(kind)]
        lines.append(
            f"| {label} | {scores['plain patterns'].n_labelled[kind]} | {' | '.join(cells)} |"
        )
    lines += ["", *EXPLAINED, "", *harmless(), "", *personal()]
    lines += ["", "## What is left", "", *left_over(texts)]
    (results / "pii.md").write_text(
        header("Personal data", "pii") + "\n".join(lines) + "\n", encoding="utf-8"
    )


EXPLAINED = [
    "`everything` adds street addresses, private IP addresses and the national spellings of 23 countries "
    "(`data.pii.kinds`, `public_ip_only`, `phone_regions`). The words beside which a telephone number counts were chosen with this "
    "set in view, so its share for telephones is not an independent measurement. Street addresses are recognized in the "
    "spelling of English-speaking countries; most of the set's are of other countries. `pyap`, a library for such addresses, "
    "found 6 of them.",
]


def harmless() -> list[str]:
    """Count by kind how many look-alikes are touched."""
    tools = {
        "plain patterns": replace_plain,
        "llmpipe, default": replacer(PiiConfig()),
        "llmpipe, 23 countries": replacer(PiiConfig(phone_regions=COUNTRIES)),
    }
    n_texts, touched = Counter[str](), {name: Counter[str]() for name in tools}
    for kind, _, text in _pii_harmless.texts(seed=SEED):
        n_texts[kind] += 1
        for name, replace in tools.items():
            touched[name][kind] += replace(text) != text
    lines = [
        "## Harmless look-alikes",
        "",
        f"{n_texts.total():,} generated texts in {len(_pii_harmless.LANGUAGES)} languages ({', '.join(_pii_harmless.LANGUAGES)}): one value with its usual words, "
        "between two sentences of which half speak of telephones, cards, mail or servers. Check digits are right. The table counts the texts that are changed at all. "
        "The step was built with other draws of the same generator in view, so the words around are known to it, the values are not.",
        "",
        f"| kind | texts | {' | '.join(tools)} |",
        "|" + "---|" * (2 + len(tools)),
    ]
    for kind, n in n_texts.items():
        lines.append(f"| {kind} | {n} | {' | '.join(str(touched[name][kind]) for name in tools)} |")
    totals = " | ".join(f"**{touched[name].total():,}**" for name in tools)
    return [*lines, f"| **all** | **{n_texts.total():,}** | {totals} |"]


def personal() -> list[str]:
    """Measure what share of generated personal data goes whole."""
    lines = [
        "## As people write it",
        "",
        f"{N_PHONES} random numbers for each of the twenty most populous countries and each way, in spellings listed by hand from the "
        "published numbering plans. *Abroad*: `+`, `00` or brackets and the country code, no word beside it. *Beside a word*: as inside "
        "the country, behind a word such as *phone* in its languages, in part in its own digits. *At home*: as inside the country, "
        "with separators and no word, `phone_regions` being that country. Found is a number of which no digit is left.",
        "",
        "| country | abroad: plain patterns | llmpipe | beside a word: plain patterns | llmpipe | at home: plain patterns | llmpipe |",
        "|---|---|---|---|---|---|---|",
    ]
    sums = [0.0] * 6
    for country in _pii_personal.COUNTRIES:
        shares = []
        for way in ("abroad", "beside a word", "at home"):
            regions = (country.code,) if way == "at home" else ("US",)
            for replace in (replace_plain, replacer(PiiConfig(phone_regions=regions))):
                pairs = _pii_personal.phones(way, country, N_PHONES, SEED)
                shares.append(share_found(replace, pairs))
        sums = [a + b for a, b in zip(sums, shares, strict=True)]
        lines.append(
            f"| {country.code} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |"
        )
    mean = " | ".join(f"**{100 * total / len(_pii_personal.COUNTRIES):.1f} %**" for total in sums)
    lines += [
        f"| **mean** | {mean} |",
        "",
        "At home a number of spaced digits that begins with no trunk prefix is left alone unless the text is about contact, for figures look the same; "
        "and numbers that the plan of `phonenumbers` no longer has (Lagos with seven digits, Dhaka with eight) count only beside a word or behind a plus.",
        "",
        f"The other kinds, {N_OTHERS:,} each in {len(_pii_harmless.LANGUAGES)} languages: e-mail in the letters of the language too (RFC 6531), cards of nine issuers, IBAN of {len(_pii_personal.IBANS)} countries.",
        "",
        "| kind | plain patterns | llmpipe, default |",
        "|---|---|---|",
    ]
    for kind in _pii_personal.KINDS:
        cells = [
            share_found(replace, _pii_personal.others(kind, N_OTHERS, SEED))
            for replace in (replace_plain, replacer(PiiConfig()))
        ]
        lines.append(f"| {kind} | {' | '.join(f'{100 * share:.1f} %' for share in cells)} |")
    return lines


def share_found(replace: Replace, pairs: Iterable[tuple[str, str]]) -> float:
    """Return the share of texts of whose value no letter and digit is left."""
    n = n_found = 0
    for text, value in pairs:
        start = text.index(value)
        found = list(read_off(text, replace(text)))
        signs = [i for i in range(start, start + len(value)) if text[i].isalnum()]
        n_found += all(any(f.start <= i < f.end for f in found) for i in signs)
        n += 1
    return n_found / n


def load_texts() -> list[dict[str, Any]]:
    """Read the texts with their labels."""
    path = TEST_DATA / "pii" / "presidio-research" / "synth_dataset_v2.json.gz"
    return list(json.loads(gzip.decompress(path.read_bytes())))


def replacer(config: PiiConfig) -> Callable[[str], str]:
    """Return the step as a function of texts."""
    step = Pii(config)

    def replace(text: str) -> str:
        document = Document("", "", content=SplitText(text))
        step(document)
        return document.text

    return replace


def replace_plain(text: str) -> str:
    """Replace plain shapes."""
    for kind, pattern in PLAIN.items():
        text = re.sub(pattern, f"[{kind}]", text)
    return text


def read_off(text: str, output: str) -> Iterator[Found]:
    """Find what stands in the text where the output has a placeholder."""
    parts = re.split(r"\[(email|ip|card|iban|ssn|phone|address)\]", output)
    pattern = "(.+?)".join(re.escape(part) for part in parts[::2])
    match = re.fullmatch(pattern, text, re.S)
    assert match is not None, output
    for i, kind in enumerate(parts[1::2], 1):
        yield Found(kind, *match.span(i))


@dataclass(frozen=True)
class Score:
    """Counts by kind."""

    n_labelled: Counter[str]
    n_found: Counter[str]
    n_replaced: Counter[str]
    n_false: Counter[str]

    def cells(self, kind: str) -> tuple[str, str]:
        """Return the two cells of a table."""
        found = f"{100 * self.n_found[kind] / self.n_labelled[kind]:.0f} %"
        if not self.n_replaced[kind]:
            return found, "–"
        return found, f"{self.n_false[kind]} of {self.n_replaced[kind]}"


def score(replace: Callable[[str], str], texts: list[dict[str, Any]]) -> Score:
    """Compare what a tool replaced with the labels."""
    result = Score(Counter(), Counter(), Counter(), Counter())
    kind_of = {label: kind for kind, label in LABELS.items()}
    for row in texts:
        text = row["full_text"]
        found = list(read_off(text, replace(text)))
        gone = [any(f.start <= i < f.end for f in found) for i in range(len(text))]
        labels = [
            (kind_of[s["entity_type"]], s["start_position"], s["end_position"])
            for s in row["spans"]
            if s["entity_type"] in kind_of
        ]
        for kind, start, end in labels:
            result.n_labelled[kind] += 1
            result.n_found[kind] += all(gone[i] for i in range(start, end) if text[i].isalnum())
        for f in found:
            result.n_replaced[f.kind] += 1
            result.n_false[f.kind] += not any(
                f.start < end and start < f.end for _, start, end in labels
            )
    return result


def left_over(texts: list[dict[str, Any]]) -> list[str]:
    """Look at the output of the default with our own detector and with an independent one."""
    replace = replacer(PiiConfig())
    outputs = [replace(row["full_text"]) for row in texts]
    own = sum(replace(output) != output for output in outputs)
    lines = [f"Our own detector, run again on the {len(outputs):,} outputs, changes {own}."]
    try:
        import scrubadub
    except ImportError:
        return [*lines, "", "The independent detector (`scrubadub`) is not installed here."]
    detectors = {
        "email": scrubadub.detectors.EmailDetector(),
        "card": scrubadub.detectors.CreditCardDetector(),
        "ssn": scrubadub.detectors.en_US.SocialSecurityNumberDetector(locale="en_US"),
        "phone": scrubadub.detectors.PhoneDetector(locale="en_US"),
    }
    before, after = Counter[str](), Counter[str]()
    for row, output in zip(texts, outputs, strict=True):
        for kind, detector in detectors.items():
            before[kind] += sum(1 for _ in detector.iter_filth(row["full_text"]))
            after[kind] += sum(1 for _ in detector.iter_filth(output))
    lines += ["", "`scrubadub`, on the texts and on our outputs:", ""]
    lines += ["| kind | in the texts | in our outputs |", "|---|---|---|"]
    lines += [f"| {NAMES[kind]} | {before[kind]} | {after[kind]} |" for kind in detectors]
    left = [
        repr(filth.text)
        for output in outputs
        for detector in detectors.values()
        for filth in detector.iter_filth(output)
    ]
    return [*lines, "", f"What it still finds: {', '.join(left) or 'nothing'}."]
