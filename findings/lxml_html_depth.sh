#!/usr/bin/env bash
# A page nested more than 255 elements deep loses its end in lxml, without an error, and so in trafilatura.
#
# Good guess: lxml's HTML parser repairs whatever it is given, as browsers do; where it cannot, it raises.
# What happens: libxml2 stops at 256 open elements. lxml.html returns the tree built so far, raises nothing, and only
# `parser.error_log` knows. `huge_tree=True` moves the bound to 2048. A page reaches such depth without looking deep: one
# tag that its template opens for every item and never closes. One of 2,807 saved web pages that were tried did, a
# recipe: four fifths of its text were gone. A browser, and parsers without the bound, show all of it.
# Whom it hurts: everyone whose corpus comes from lxml: trafilatura (FineWeb's and most others' extractor) cuts the text at
# the same place, and nothing marks the document as cut. BeautifulSoup, also on lxml, and resiliparse read it all.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q lxml==6.1.3 lxml-html-clean==0.4.6 trafilatura==2.3.1 beautifulsoup4==4.15.0 resiliparse==2.0.1 2>/dev/null
cat > "$dir/show.py" <<'PYTHON'
import sys
from importlib.metadata import version

import lxml.etree
import lxml.html
import trafilatura
from bs4 import BeautifulSoup
from resiliparse.extract.html2text import extract_plain_text

for name in ("lxml", "trafilatura", "beautifulsoup4", "resiliparse"):
    print(f"{name} {version(name)}")
print("libxml2", ".".join(map(str, lxml.etree.LIBXML_VERSION)))

N = 400
SENTENCE = "On day {} the keeper of the lighthouse wrote down how many ships had passed, and what the weather was like."


def page(closing: str) -> str:
    items = "".join(f"<blockquote><p>{SENTENCE.format(i)}</p>{closing}" for i in range(N))
    return f"<html><body><article>{items}</article></body></html>"


def days(text: str | None) -> int:
    return (text or "").count("the keeper of the lighthouse")


def read(html: str) -> dict[str, int]:
    huge = lxml.html.HTMLParser(huge_tree=True)
    return {
        "lxml.html": days(lxml.html.fromstring(html).text_content()),
        "lxml.html, huge_tree=True": days(lxml.html.fromstring(html, parser=huge).text_content()),
        "trafilatura.extract": days(trafilatura.extract(html)),
        "BeautifulSoup(…, 'lxml')": days(BeautifulSoup(html, "lxml").get_text()),
        "BeautifulSoup(…, 'html.parser')": days(BeautifulSoup(html, "html.parser").get_text()),
        "resiliparse": days(extract_plain_text(html)),
    }


closed, unclosed = read(page("</blockquote>")), read(page(""))
print(f"\n{N} sentences, each in a <blockquote>       closed   never closed")
for name in closed:
    print(f"  {name:<40}{closed[name]:>6}{unclosed[name]:>15}")

parser = lxml.html.HTMLParser()
lxml.html.fromstring(page(""), parser=parser)
print("\nparser.error_log:", parser.error_log[-1].message if len(parser.error_log) else "(empty)")

whole = {name: N for name in closed}
cut = {"lxml.html", "trafilatura.extract"}
as_found = closed == whole and all(
    (n < 260) if name in cut else (n == N) for name, n in unclosed.items()
)
sys.exit(0 if as_found else "the behavior has changed")
PYTHON
"$dir/venv/bin/python" "$dir/show.py"
