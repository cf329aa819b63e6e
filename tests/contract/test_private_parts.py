"""What is used of other packages beyond what they promise: names that a new version may take away.

If a test here fails, a package has changed where we reach into it. Compare with its source, mend the module that the
test names, then change the numbers here and the upper bound in pyproject.toml and constraints.txt together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PINNED = {"trafilatura": "2.4", "gigatoken": "0.11"}
"""First versions that nobody has looked at."""

PATCHED = {
    "AUTHOR_DISCARD_XPATHS": 1,
    "AUTHOR_XPATHS": 0,
    "BASIC_CLEAN_XPATH": 1,
    "BODY_XPATH": 4,
    "CATEGORIES_XPATHS": 0,
    "COMMENTS_DISCARD_XPATH": 3,
    "COMMENTS_XPATH": 4,
    "DISCARD_IMAGE_ELEMENTS": 1,
    "OVERALL_DISCARD_XPATH": 2,
    "PRECISION_DISCARD_XPATH": 2,
    "RAW_TREE_PRUNE_XPATH": 2,
    "REMOVE_COMMENTS_AND_LISTS_XPATH": 1,
    "REMOVE_COMMENTS_XPATH": 1,
    "TAGS_XPATHS": 0,
    "TEASER_DISCARD_XPATH": 1,
    "TITLE_XPATHS": 0,
}
"""Lists of trafilatura that `accelerate` finds, and how many of their expressions it replaces in version 2.3."""

LOOK = """
import importlib, json
from lxml import etree
from llmpipe.stages.data.steps.fast_xpath import accelerate
baseline, extractor, utils, xpaths = (
    importlib.import_module("trafilatura." + name)
    for name in ("baseline", "main_extractor", "utils", "xpaths")
)
lookup_before = isinstance(utils.HTML_PARSER, etree.HTMLParser)
found = {}
for name in accelerate():
    one = vars(baseline).get(name) or vars(xpaths)[name]
    group = one if isinstance(one, list) else [one]
    found[name] = sum(not isinstance(expression, etree.XPath) for expression in group)
print(json.dumps({"found": found, "parser": lookup_before, "body": extractor.BODY_XPATH is xpaths.BODY_XPATH}))
"""


@pytest.mark.parametrize("package", PINNED)
def test_versions_stay_below_those_that_nobody_has_looked_at(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    bounds = next(line for line in project["project"]["dependencies"] if line.startswith(package))
    assert bounds.endswith(f",<{PINNED[package]}"), f"pyproject.toml: {bounds}"

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")[:2]]

    assert numbers(version(package)) < numbers(PINNED[package]), f"{package} is too new here"


def test_trafilatura_holds_what_fast_xpath_replaces() -> None:
    """In a process of its own: in this one the lists may be replaced already."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=120
    )
    seen = json.loads(done.stdout)
    advice = (
        f"trafilatura {version('trafilatura')} has other expressions than 2.3: look at trafilatura/xpaths.py, see "
        "that src/llmpipe/stages/data/steps/fast_xpath.py still reads them, then update PATCHED in this file"
    )
    assert seen["found"] == PATCHED, advice
    assert seen["body"], f"{advice}; main_extractor.BODY_XPATH is no longer the list of xpaths.py"
    assert seen["parser"], f"{advice}; utils.HTML_PARSER is no longer a parser of lxml"


def test_gigatokens_private_module_has_what_the_encoder_calls() -> None:
    from gigatoken.gigatoken_rs import BPETokenizer

    from llmpipe.tokenizer.encoders import _GIGATOKEN_SPLITTERS, FastEncoder
    from llmpipe.tokenizer.merges import write_ranks
    from llmpipe.tokenizer.patterns import PATTERNS

    advice = (
        f"gigatoken {version('gigatoken')} is not 0.10: adapt `FastEncoder` in src/llmpipe/tokenizer/encoders.py "
        "to its module gigatoken_rs"
    )
    missing = {"from_tiktoken", "encode", "merges"} - set(dir(BPETokenizer))
    assert not missing, f"{advice}; BPETokenizer has no {sorted(missing)}"
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
    for name in _GIGATOKEN_SPLITTERS:
        encoder = FastEncoder(write_ranks(ranks), PATTERNS[name])
        # "abc" is ab, then c; a line end is a piece of its own
        assert encoder.encode("abc\nab").tolist() == [257, 10, 256], f"{advice}; splitter of {name}"
        assert encoder.merges() == [(b"a", b"b"), (b"ab", b"c")], advice
