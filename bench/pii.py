"""Personal data: what is found and what is left, beside plain patterns and by an independent detector.

    make bench BENCH=pii

Texts: presidio-research's `synth_dataset_v2` (1,500 made-up texts with labelled spans) from the shared test data. What a tool replaced is
read off its output, so all are measured alike.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import header

from llmpipe.stages.data.document import Document, Text
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


def main(results: Path) -> None:
    """Measure and write the page."""
    texts = load_texts()
    kinds = ("email", "ipv4", "ipv6", "phone", "card", "iban", "ssn", "address")
    tools: dict[str, Callable[[str], str]] = {
        "plain patterns": replace_plain,
        "llmpipe, default": replacer(PiiConfig()),
        "llmpipe, everything": replacer(
            PiiConfig(kinds=kinds, phone_regions=COUNTRIES, public_ip_only=False)  # type: ignore[arg-type]
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
    lines += ["", *EXPLAINED, "", "## What is left", "", *left_over(texts)]
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


def load_texts() -> list[dict[str, Any]]:
    """Read the texts with their labels."""
    path = TEST_DATA / "pii" / "presidio-research" / "synth_dataset_v2.json.gz"
    return list(json.loads(gzip.decompress(path.read_bytes())))


def replacer(config: PiiConfig) -> Callable[[str], str]:
    """Return the step as a function of texts."""
    step = Pii(config)

    def replace(text: str) -> str:
        document = Document("", "", content=Text(text))
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
