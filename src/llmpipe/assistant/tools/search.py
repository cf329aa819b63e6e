"""The `search` tool: passages that fit a query, each with a number and its source.

    [1] io (http://pydoc.localhost/io.html)
    The io module provides Python's main facilities for dealing with various types of I/O. …
    [2] …

What a model knows from training is a vague recollection; what stands in its context it can quote. So the
passages go into the context, as the tool's output. They come from a corpus on disk (`search_index.py`),
or from an HTTP service of the user's choice that answers as SearXNG does.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmpipe.assistant.tools import search_index
from llmpipe.assistant.tools.search_index import Passage, SearchIndex
from llmpipe.core.errors import LlmpipeError, UserError

N_RESULTS = 3
MAX_RESULT_CHARS = 900
"""Of all results together: about 250 tokens."""

MAX_QUERY_CHARS = 500
HTTP_TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 1 << 20
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class SearchTool:
    """Answers queries with passages and their sources; may be called from several threads."""

    def __init__(self, backend: CorpusBackend | HttpBackend) -> None:
        self._backend = backend

    def run(self, text: str) -> str:
        """Return the best passages for a query, numbered, with their sources."""
        query = " ".join(text.split())[:MAX_QUERY_CHARS]
        try:
            found = self._backend.find(query, N_RESULTS) if query else []
        except LlmpipeError as error:
            return f"error: {error.message}"
        return cite(found) if found else "no results"


def cite(found: Sequence[Passage], max_chars: int = MAX_RESULT_CHARS) -> str:
    """Return passages as numbered text with sources; the last ones are cut or left out if need be."""
    entries: list[str] = []
    left = max_chars
    for number, passage in enumerate(found, start=1):
        source = f"[{number}] {passage.title} ({passage.url})"
        room = left - len(source) - 1
        if entries and room < max_chars // 9:
            break
        text = passage.text if len(passage.text) <= room else f"{passage.text[: max(room - 1, 0)]}…"
        entries.append(f"{source}\n{text}")
        left -= len(entries[-1]) + 1
    return "\n".join(entries)


class CorpusBackend:
    """Searches a corpus artifact; its index is opened, or made, at the first query.

    Raises:
        InputError: if `corpus` is none.
    """

    def __init__(self, corpus: Path) -> None:
        self._corpus = search_index.find_corpus(corpus).path
        self._index: SearchIndex | None = None
        self._lock = threading.Lock()

    def find(self, query: str, n: int) -> list[Passage]:
        """Return up to `n` passages, the best one first."""
        with self._lock:
            if self._index is None:
                self._index = search_index.open_index(self._corpus)
            return self._index.find(query, n)


class HttpBackend:
    """Asks a search service: GET with the query as `q`, JSON with `results` of title, url, content.

    Only hosts that were named are spoken to. Redirects are not followed and proxies not used: both
    would lead elsewhere.

    Args:
        url: such as `http://127.0.0.1:8888/search`; a query that it already has is kept.
        hosts: names of hosts that may be asked besides loopback.

    Raises:
        UserError: if the URL is not of such a host.
    """

    def __init__(self, url: str, hosts: Sequence[str] = ()) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"`{url}` is not the URL of a search service")
        if parts.hostname not in (*LOOPBACK, *hosts):
            raise UserError(
                f"the search service is on {parts.hostname}, which was not allowed",
                hint=f"what is searched for will be sent there; if that is meant: `--search-host {parts.hostname}`",
            )
        self._url = parts
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)

    def find(self, query: str, n: int) -> list[Passage]:
        """Return up to `n` results.

        Raises:
            UserError: if the service cannot be reached, or answers something else.
        """
        fields = [*urllib.parse.parse_qsl(self._url.query), ("q", query), ("format", "json")]
        url = self._url._replace(query=urllib.parse.urlencode(fields)).geturl()
        try:
            with self._opener.open(url, timeout=HTTP_TIMEOUT_S) as response:
                body = response.read(MAX_RESPONSE_BYTES + 1)
            if len(body) > MAX_RESPONSE_BYTES:
                raise UserError("the search service sent too much")
            results = json.loads(body)["results"]
            return [_passage(result) for result in results[:n]]
        except urllib.error.HTTPError as error:
            raise UserError(f"the search service answers {error.code}") from error
        except OSError as error:
            raise UserError("the search service cannot be reached") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError("the search service answers something else than results") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """Follow none: the answer then is the redirect itself, an error."""


def _passage(result: dict[str, Any]) -> Passage:
    text = " ".join(str(result.get("content") or "").split())
    return Passage(search_index.title_of(str(result.get("title") or "")), str(result["url"]), text)
