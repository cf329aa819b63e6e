"""One word for one thing: docs/glossary.md, and class names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "llmpipe").rglob("*.py"))


def test_no_class_name_stands_for_two_things() -> None:
    names = Counter(
        name
        for path in SOURCES
        for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(encoding="utf-8"), re.M)
    )
    assert {name: n for name, n in names.items() if n > 1} == {}


def test_files_that_the_glossary_names_are_there() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.(?:py|c))`", text)
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / "src" / "llmpipe" / name).is_file()] == []
