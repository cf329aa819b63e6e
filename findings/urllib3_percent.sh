#!/usr/bin/env bash
# One stray percent sign in a path makes urllib3 encode all the good escapes of that path a second time.
#
# Good guess: a URL's valid escapes (`%20`) are left as they are, and at most a `%` that begins none becomes `%25`; so do browsers,
# which leave even that one alone (WHATWG URL, path state).
# What happens: `parse_url("http://h/100%/a%20b")` gives `/100%25/a%2520b`. The request then asks for another page than the
# link, and a 404 is what the crawler notes.
# Whom it hurts: crawlers and downloaders of data sets that follow links as they stand: a discount in a shop's path, or
# a file name with a percent sign, is enough. The page is missing from the corpus without a trace of why.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q urllib3==2.8.0 2>/dev/null
cat > "$dir/show.py" <<'PYTHON'
import http.server
import sys
import threading
from importlib.metadata import version

import urllib3

print("urllib3", version("urllib3"))
asked: list[str] = []


class Note(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Note)
server.timeout = 10
serving = threading.Thread(target=lambda: [server.handle_request() for _ in range(2)], daemon=True)
serving.start()
pool = urllib3.PoolManager(timeout=5, retries=False)
for path in ("/a%20b", "/100%/a%20b"):
    pool.request("GET", f"http://127.0.0.1:{server.server_port}{path}")
serving.join(20)
print(f"link /a%20b       asked for {asked[0]}")
print(f"link /100%/a%20b  asked for {asked[1]}")
sys.exit(0 if asked == ["/a%20b", "/100%25/a%2520b"] else "the behavior has changed")
PYTHON
"$dir/venv/bin/python" "$dir/show.py"
