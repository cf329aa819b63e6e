"""The data stage on the shared real pages: beside trafilatura's own XPath, datatrove's filters, and chardet's labels."""

from __future__ import annotations

import codecs
import importlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench"
PEER = BENCH / ".envs" / "datatrove" / "bin" / "python"


@pytest.fixture
def gold(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("_data_pages")
    monkeypatch.setattr(module, "TEST_DATA", test_data)
    return module


SLOW_TWIN = """
import json, sys
import trafilatura
for line in sys.stdin:
    html = json.loads(line)
    for precision in (False, True):
        text = trafilatura.extract(
            html, fast=not precision, favor_precision=precision, include_comments=False, deduplicate=False
        )
        print(json.dumps(text))
"""


@pytest.mark.slow
def test_fast_xpath_changes_no_text(gold: Any) -> None:
    """The untouched trafilatura runs in a process of its own."""
    import json

    import trafilatura

    from llmpipe.stages.data.sources.charset import decode_page
    from llmpipe.stages.data.steps.fast_xpath import accelerate

    accelerate()
    pages = [
        decode_page(page.html)
        for page in itertools.islice(gold.pages(("scrapinghub-aeb",)), 0, 181, 6)
    ]
    lines = "".join(json.dumps(page) + "\n" for page in pages)
    twin = subprocess.run(
        [sys.executable, "-c", SLOW_TWIN], input=lines, capture_output=True, text=True, check=True
    )
    expected = [json.loads(line) for line in twin.stdout.splitlines()]
    found = [
        trafilatura.extract(
            page,
            fast=not precision,
            favor_precision=precision,
            include_comments=False,
            deduplicate=False,
        )
        for page in pages
        for precision in (False, True)
    ]
    assert found == expected
    assert sum(text is not None for text in found) > 40


def test_most_of_trafilaturas_expressions_are_understood() -> None:
    from trafilatura import xpaths

    from llmpipe.stages.data.steps.fast_xpath import FastXPath, accelerate

    accelerate()
    for name in ("OVERALL_DISCARD_XPATH", "TEASER_DISCARD_XPATH", "REMOVE_COMMENTS_XPATH"):
        assert all(isinstance(one, FastXPath) for one in getattr(xpaths, name)), name


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".//*[self::div or self::p][@class='x' or contains(@id, 'nav')]", "acd"),
        (".//*[re:test(@id|@class, '^s')]", "be"),
        (".//div[not(@id)]|.//p[starts-with(@class, 's')]", "ab"),
        (".//*[contains(translate(@class, 'X', 'x'), 'x') and @id]", "d"),
        (".//*[@class='x'][.//b]", "a"),
        ("(.//*[@class])[last()]", None),
    ],
)
def test_fast_xpath_finds_what_xpath_finds(path: str, expected: str | None) -> None:
    from lxml import etree, html

    from llmpipe.stages.data.steps.fast_xpath import FastXPath, NotUnderstood

    tree = html.fromstring(
        "<body><div class='x' name='a'><b>t</b></div><p class='s x' name='b'>t</p><p id='nav' name='c'></p>"
        "<div id='q' class='x' name='d'></div><span class='x' id='sub' name='f'></span>"
        "<i id='sub' class='y' name='e'></i></body>"
    )
    original = etree.XPath(path, namespaces={"re": "http://exslt.org/regular-expressions"})
    if expected is None:
        with pytest.raises(NotUnderstood):
            FastXPath(original)
        return
    found = [element.get("name") for element in FastXPath(original)(tree)]
    assert found == [element.get("name") for element in original(tree)]
    assert "".join(sorted(set(found) & set(expected))) == expected


@pytest.mark.slow
def test_legacy_encodings_are_decoded_as_their_label_says(gold: Any, test_data: Path) -> None:
    """chardet's pages lie in folders named by encoding, some with a language behind it."""
    from llmpipe.stages.data.sources.charset import decode_page

    n = n_right = 0
    for name, data in gold.files("chardet-encodings"):
        label = name.split("/")[-2].lower()
        n += 1
        try:
            codecs.lookup(label)
        except LookupError:
            label = label.rpartition("-")[0]
        try:
            wanted = data.decode(label, "replace").replace("\0", "").removeprefix("\ufeff")
        except LookupError:
            continue  # EUC-TW, which Python cannot decode either
        found = decode_page(data)
        n_wrong = sum(a != b for a, b in zip(wanted, found, strict=False))
        n_right += n_wrong + abs(len(wanted) - len(found)) <= len(wanted) / 1000
    assert n == 319
    assert n_right / n >= 0.95


@pytest.mark.slow
@pytest.mark.skipif(
    not PEER.exists(), reason="needs datatrove's environment: make bench BENCH=data"
)
def test_filters_decide_as_datatrove_does(gold: Any) -> None:
    from _data_parity import compare  # type: ignore[import-not-found]

    from llmpipe.stages.data.document import Document
    from llmpipe.stages.data.sources.charset import decode_page
    from llmpipe.stages.data.steps.extraction import Extraction, ExtractionConfig

    step = Extraction(ExtractionConfig(mode="fast"))
    texts = []
    for page in itertools.islice(gold.pages(("scrapinghub-aeb",)), 0, 181, 3):
        document = Document(page.url, "", html=decode_page(page.html))
        step(document)
        if document.text:
            texts.append({"id": page.url, "text": document.text})
    assert len(texts) > 50
    assert not any(compare(PEER, texts, "--our-splitter").values())
