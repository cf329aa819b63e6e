#!/usr/bin/env bash
# protego, Scrapy's parser of robots.txt, permits what RFC 9309 forbids, for files that crawlers meet.
#
# Good guess: the parser that the largest Python crawler uses applies the standard's rules for groups and names, so a
# `Disallow` that is meant for everybody, or for this crawler, binds it.
# What happens: a byte-order mark (which RFC 9309, section 2.3, has parsers skip) makes the first group nobody's; a group of
# `llm` is taken for `llmpipe`, because names match by prefix (section 2.2.1: the whole product token); the group of
# `llmpipe/1.0` binds nobody; and a line between two names, such as `Crawl-delay`, ends a group (section 2.2.4: other
# records do not).
# Whom it hurts: whoever crawls for a corpus and promises to obey robots.txt, and the sites that believe it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q protego==0.7.0 2>/dev/null
cat > "$dir/show.py" <<'PYTHON'
import sys
from importlib.metadata import version

from protego import Protego

print("protego", version("protego"), "\n")
CASES = {
    "byte-order mark": "\ufeffUser-agent: *\nDisallow: /private\n",
    "name matched by prefix": "User-agent: llm\nAllow: /\n\nUser-agent: *\nDisallow: /private\n",
    "name with a version": "User-agent: llmpipe/1.0\nDisallow: /private\n",
    "Crawl-delay between names": "User-agent: llmpipe\nCrawl-delay: 1\nUser-agent: other\nDisallow: /private\n",
}
CONTROL = "User-agent: llmpipe\nDisallow: /private\n"


def may(text: str) -> bool:
    return Protego.parse(text).can_fetch("http://example.org/private", "llmpipe")


found = {name: may(text) for name, text in CASES.items()}
for name, allowed in found.items():
    print(f"{name:<28} /private may be fetched: {allowed}   (RFC 9309: False)")
print(f"{'control':<28} /private may be fetched: {may(CONTROL)}")
sys.exit(0 if all(found.values()) and not may(CONTROL) else "the behavior has changed")
PYTHON
"$dir/venv/bin/python" "$dir/show.py"
