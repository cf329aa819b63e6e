"""The crawl stage against a small web site on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.server
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastwarc.warc
import pytest
import zstandard
from warcio.archiveiterator import ArchiveIterator

from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, Stopped, UserError
from llmpipe.core.report import to_html, to_markdown
from llmpipe.core.stage import Inputs, Request, plan_stage, run_stage
from llmpipe.stages.crawl.config import CrawlConfig, Server
from llmpipe.stages.crawl.loop import crawl
from llmpipe.stages.crawl.stage import SPEC, plan

Answer = tuple[int, dict[str, str], bytes]
HTML = {"Content-Type": "text/html; charset=utf-8"}
NO_INPUTS = Inputs({})


def page(*links: str, text: str = "", **headers: str) -> Answer:
    anchors = "".join(f'<a href="{link}">{link}</a>\n' for link in links)
    return 200, {**HTML, **headers}, f"<html><body>{text}{anchors}</body></html>".encode()


def redirect(to: str) -> Answer:
    return 302, {"Location": to}, b""


class Site:
    """Answers from a table and notes each request; what is not in the table is 404."""

    def __init__(self, answers: dict[str, Answer | Callable[[], Answer]]) -> None:
        self.answers = answers
        self.requests: list[tuple[float, str]] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.requests.append((time.monotonic(), self.path))
                answer = site.answers.get(self.path, (404, HTML, b"<p>nothing here</p>"))
                status, headers, body = answer() if callable(answer) else answer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A crawler that hangs up on a large or slow page is no error of the server."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def paths(self) -> list[str]:
        return [path for _, path in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    sites = []

    def start(answers: dict[str, Answer | Callable[[], Answer]]) -> Site:
        sites.append(Site(answers))
        return sites[-1]

    yield start
    for site in sites:
        site.close()


def config(site: Site, **settings: Any) -> CrawlConfig:
    quick = {"seeds": (f"{site.url}/",), "delay_s": 0.0, "backoff_s": 0.01}
    return CrawlConfig(**{**quick, **settings})


def outcomes(site: Site, out: Path) -> dict[str, str]:
    """Return path -> outcome from urls.jsonl, which names each address once."""
    rows = [json.loads(line) for line in (out / "urls.jsonl").read_text().splitlines()]
    found = {row["url"].removeprefix(site.url): row["outcome"] for row in rows}
    assert len(found) == len(rows)
    return found


def read_with_warcio(out: Path) -> list[tuple[str, str, bytes]]:
    """Return (type, address, raw block) of all records, digests of blocks and payloads verified."""
    records = []
    for path in sorted((out / "warc").iterdir()):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                record.raw_stream.read()
        with path.open("rb") as file:
            for record in ArchiveIterator(file, no_record_parse=True):
                url = record.rec_headers.get_header("WARC-Target-URI") or ""
                records.append((record.rec_type, url, record.raw_stream.read()))
    return records


def read_with_fastwarc(out: Path) -> list[tuple[str, str, bytes]]:
    """The same by another reader."""
    records = []
    for path in sorted((out / "warc").iterdir()):
        with path.open("rb") as file:
            for record in fastwarc.warc.ArchiveIterator(file, parse_http=True):
                if record.is_http and record.record_type != fastwarc.warc.WarcRecordType.revisit:
                    assert record.verify_payload_digest()
        with path.open("rb") as file:
            for record in fastwarc.warc.ArchiveIterator(file, parse_http=False):
                assert record.verify_block_digest()
                url = record.headers.get("WARC-Target-URI", "")
                records.append((record.headers["WARC-Type"], url, record.reader.read()))
    return records


def pages_of(site: Site, out: Path) -> list[tuple[str, bytes]]:
    """Return (path, body) of all responses in the WARC files, in order."""
    blocks = [(url, block) for kind, url, block in read_with_warcio(out) if kind == "response"]
    return [(url.removeprefix(site.url), block.partition(b"\r\n\r\n")[2]) for url, block in blocks]


# ---------------------------------------------------------------------------------------- outcomes


def test_every_address_ends_in_its_outcome(serve: Any, make_context: Any, tmp_path: Path) -> None:
    def flaky() -> Answer:
        return (500, HTML, b"") if site.paths.count("/flaky") == 1 else page(text="at last")

    def slow() -> Answer:
        time.sleep(0.7)
        return page()

    links = [
        "a", "a#again", "private/x", "moved", "loop1", "hop1", "missing", "flaky", "broken", "big",
        "bomb", "slow", "zip", "image", "http://other.example/", "leave", "mailto:x@example.com",
    ]  # fmt: skip
    site = serve(
        {
            "/robots.txt": (200, {}, b"User-agent: *\nDisallow: /private\n"),
            "/": page(*links),
            "/a": page("deep", "/"),
            "/moved": redirect("/new"),
            "/new": page("from-new"),
            "/from-new": page("too-deep", text="not what /deep says"),
            "/deep": page("too-deep"),
            "/loop1": redirect("/loop2"),
            "/loop2": redirect("/loop1"),
            "/hop1": redirect("/hop2"),
            "/hop2": redirect("/hop3"),
            "/hop3": redirect("/hop4"),
            "/leave": redirect("http://elsewhere.example/"),
            "/flaky": flaky,
            "/broken": (503, HTML, b"down"),
            "/big": page(text="x" * 30_000),
            "/bomb": (200, {**HTML, "Content-Encoding": "gzip"}, gzip.compress(bytes(10**6))),
            "/slow": slow,
            "/zip": (
                200,
                {**HTML, "Content-Encoding": "gzip"},
                gzip.compress(b'<a href="/unzipped">'),
            ),
            "/unzipped": page(),
            "/image": (200, {"Content-Type": "image/png"}, b"\x89PNG"),
        }
    )
    settings = {"max_depth": 2, "max_redirects": 2, "timeout_s": 0.4, "max_page_bytes": 20_000}
    stats = SPEC.run(config(site, **settings), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert outcomes(site, tmp_path) == {
        "/": "fetched",
        "/a": "fetched",
        "/private/x": "robots_disallowed",
        "/moved": "redirect",
        "/new": "fetched",
        "/from-new": "fetched",
        "/deep": "fetched",
        "/loop1": "redirect",
        "/loop2": "redirect_loop",
        "/hop1": "redirect",
        "/hop2": "redirect",
        "/hop3": "redirect_limit",
        "/leave": "redirect",
        "/missing": "http_404",
        "/flaky": "fetched",
        "/broken": "http_503",
        "/big": "too_large",
        "/bomb": "too_large",
        "/slow": "timeout",
        "/zip": "fetched",
        "/unzipped": "fetched",
        "/image": "wrong_type",
        "http://other.example/": "out_of_scope",
        "http://elsewhere.example/": "out_of_scope",
    }
    assert stats["outcomes"] == {
        "fetched": 8,
        "redirect": 5,
        "out_of_scope": 2,
        "too_large": 2,
        "http_404": 1,
        "http_503": 1,
        "redirect_limit": 1,
        "redirect_loop": 1,
        "robots_disallowed": 1,
        "timeout": 1,
        "wrong_type": 1,
    }
    assert (stats["pages"], stats["urls"]) == (8, 24)
    asked = site.paths
    # Twice for 500 then 200; three times for the 503 that stays; everything else once at most.
    assert {p: asked.count(p) for p in asked if asked.count(p) > 1} == {"/flaky": 2, "/broken": 3}
    assert not {"/private/x", "/too-deep", "/hop4"} & set(asked)

    stored = [path for path, _ in pages_of(site, tmp_path)]
    assert sorted(stored) == sorted(
        ["/", "/a", "/moved", "/new", "/from-new", "/deep", "/loop1", "/loop2", "/hop1", "/hop2",
         "/hop3", "/leave", "/missing", "/flaky", "/broken", "/zip", "/unzipped"]
    )  # fmt: skip


def test_two_readers_find_the_same_verified_records(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    packed = gzip.compress(b"<p>packed</p>")
    site = serve(
        {
            "/": page("a", "zip"),
            "/a": page(text="text of a"),
            "/zip": (200, {**HTML, "Content-Encoding": "gzip"}, packed),
        }
    )
    SPEC.run(config(site, max_warc_bytes=1500), NO_INPUTS, tmp_path, make_context(tmp_path))
    records = read_with_warcio(tmp_path)
    assert read_with_fastwarc(tmp_path) == records
    assert {kind for kind, _, _ in records} == {"warcinfo", "request", "response"}
    assert len(list((tmp_path / "warc").iterdir())) == 2
    bodies = dict(pages_of(site, tmp_path))
    assert bodies["/a"] == site.answers["/a"][2]
    assert bodies["/zip"] == packed
    requests = [(url, block) for kind, url, block in records if kind == "request"]
    assert [url.removeprefix(site.url) for url, _ in requests] == ["/", "/a", "/zip"]
    assert requests[1][1].startswith(b"GET /a HTTP/1.1\r\nHost: 127.0.0.1")


# ------------------------------------------------------------------------------------------ limits


def test_order_is_breadth_first(serve: Any, make_context: Any, tmp_path: Path) -> None:
    site = serve(
        {
            "/": page("b", "a"),
            "/b": page("b1", "a1"),
            "/a": page("a1", "a2"),
            "/b1": page(),
            "/a1": page(),
            "/a2": page(),
        }
    )
    SPEC.run(config(site, max_depth=2), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert site.paths == ["/robots.txt", "/", "/b", "/a", "/b1", "/a1", "/a2"]


def test_page_limit_leaves_the_rest_counted(serve: Any, make_context: Any, tmp_path: Path) -> None:
    site = serve({"/": page("a", "b", "c"), "/a": page(), "/b": page(), "/c": page()})
    stats = SPEC.run(config(site, max_pages=2), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert stats["outcomes"] == {"fetched": 2, "page_limit": 2}
    assert outcomes(site, tmp_path)["/c"] == "page_limit"


def test_time_limit_leaves_the_rest_counted(serve: Any, make_context: Any, tmp_path: Path) -> None:
    def slow() -> Answer:
        time.sleep(0.3)
        return page("a", "b")

    site = serve({"/": slow, "/a": page(), "/b": page()})
    stats = SPEC.run(config(site, max_seconds=0.25), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert stats["outcomes"] == {"time_limit": 2, "fetched": 1}


def test_prefix_scope_stays_in_the_folder(serve: Any, make_context: Any, tmp_path: Path) -> None:
    site = serve({"/docs/": page("a", "/blog/"), "/docs/a": page(), "/blog/": page()})
    settings = config(site, seeds=(f"{site.url}/docs/",), scope="prefix")
    SPEC.run(settings, NO_INPUTS, tmp_path, make_context(tmp_path))
    found = outcomes(site, tmp_path)
    assert found == {"/docs/": "fetched", "/docs/a": "fetched", "/blog/": "out_of_scope"}


# ---------------------------------------------------------------------------------------- manners


def gaps(site: Site) -> list[float]:
    times = [when for when, _ in site.requests]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_requests_keep_their_distance(serve: Any, make_context: Any, tmp_path: Path) -> None:
    site = serve({"/": page("a", "b"), "/a": page(), "/b": page()})
    SPEC.run(config(site, delay_s=0.1), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert len(gaps(site)) == 3
    assert min(gaps(site)) >= 0.09


def test_crawl_delay_of_the_host_is_honored(serve: Any, make_context: Any, tmp_path: Path) -> None:
    rules = (200, {}, b"User-agent: llmpipe\nCrawl-delay: 0.2\n")
    site = serve({"/robots.txt": rules, "/": page("a"), "/a": page()})
    SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert len(gaps(site)) == 2
    assert min(gaps(site)) >= 0.18


def test_who_asks_is_said(serve: Any, make_context: Any, tmp_path: Path) -> None:
    site = serve({"/": page()})
    agent = "tester/1 (+http://x.example)"
    SPEC.run(config(site, user_agent=agent), NO_INPUTS, tmp_path, make_context(tmp_path))
    kinds = {kind: block for kind, _, block in read_with_warcio(tmp_path)}
    assert f"User-Agent: {agent}\r\n".encode() in kinds["request"]
    assert f"http-header-user-agent: {agent}\r\n".encode() in kinds["warcinfo"]


# ----------------------------------------------------------------------------------------- resuming


def chain_site(serve: Any, n: int, pause_s: float = 0.0) -> Site:
    """A site whose index links to n pages, which link to each other."""
    names = [f"p{i}" for i in range(n)]

    def answer(i: int) -> Callable[[], Answer]:
        def give() -> Answer:
            time.sleep(pause_s)
            return page(*names, text=f"page {i} ")

        return give

    answers: dict[str, Any] = {f"/p{i}": answer(i) for i in range(n)}
    return serve({"/": page(*names), **answers})


def test_stopped_crawl_goes_on_where_it_was(serve: Any, make_context: Any, tmp_path: Path) -> None:
    site = chain_site(serve, 8)
    context = make_context(tmp_path)
    answer_3 = site.answers["/p3"]

    def stop_then_answer() -> Answer:
        context.stop.request()
        return answer_3()

    site.answers["/p3"] = stop_then_answer
    with pytest.raises(Stopped):
        SPEC.run(config(site), NO_INPUTS, tmp_path, context)
    assert site.paths[-1] == "/p3"
    stats = SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))
    expected = ["/", *(f"/p{i}" for i in range(8))]
    assert [path for path in site.paths if path != "/robots.txt"] == expected
    assert [path for path, _ in pages_of(site, tmp_path)] == expected
    assert stats["pages"] == 9


def test_finished_crawl_asks_nothing_more(serve: Any, make_context: Any, tmp_path: Path) -> None:
    site = chain_site(serve, 2)
    first = SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))
    n_requests = len(site.requests)
    assert SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path)) == first
    assert len(site.requests) == n_requests


CRAWL_IN_A_PROCESS = """
import sys
from pathlib import Path
from llmpipe.core.console import Console
from llmpipe.core.metrics import Metrics
from llmpipe.core.stage import Context, Inputs
from llmpipe.core.stop import StopFlag
from llmpipe.stages.crawl.config import CrawlConfig, Server
from llmpipe.stages.crawl.stage import SPEC

out = Path(sys.argv[2])
ctx = Context("t", 1, Console(quiet=True), Metrics(out / "metrics.jsonl"), StopFlag(), 1, "cpu")
SPEC.run(CrawlConfig(seeds=(sys.argv[1],), delay_s=0.0), Inputs({}), out, ctx)
"""


@pytest.mark.slow
def test_killed_crawl_equals_one_that_was_left_alone(serve: Any, tmp_path: Path) -> None:
    n = 30
    site = chain_site(serve, n, pause_s=0.01)
    command = [sys.executable, "-c", CRAWL_IN_A_PROCESS, f"{site.url}/", str(tmp_path)]
    for n_requests in (5, 14, 27):
        with subprocess.Popen(command) as process:
            while len(site.requests) < n_requests and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True, timeout=60)
    expected = [("/", site.answers["/"][2])]
    expected += [(f"/p{i}", site.answers[f"/p{i}"]()[2]) for i in range(n)]
    assert pages_of(site, tmp_path) == expected
    assert read_with_fastwarc(tmp_path) == read_with_warcio(tmp_path)
    # Only the page that was under way at a kill may have been asked for twice.
    asked = [path for path in site.paths if path != "/robots.txt"]
    assert len(asked) <= n + 1 + 3


# ------------------------------------------------------------------------------------- as a stage


def test_nothing_to_crawl_is_an_error_with_a_hint(make_context: Any, tmp_path: Path) -> None:
    for call in (
        lambda: SPEC.run(CrawlConfig(), NO_INPUTS, tmp_path, make_context(tmp_path)),
        lambda: plan(CrawlConfig(), NO_INPUTS),
    ):
        with pytest.raises(UserError, match=r"nothing to crawl") as caught:
            call()
        assert "llmpipe crawl tiny" in str(caught.value.hint)


def test_seed_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seeds: `example.org` is no http or https address"):
        CrawlConfig(seeds=("http://a.example/", "example.org"))


@pytest.mark.parametrize("agent", [" ", "a\nb", "ä"])
def test_user_agent_has_to_fit_in_a_header(agent: str) -> None:
    with pytest.raises(ValueError, match="user_agent: must be a line of printable ASCII"):
        CrawlConfig(user_agent=agent)


def test_unreachable_seed_is_counted_beside_others(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    gone = serve({})
    gone_url = gone.url
    site = serve({"/": page()})
    settings = config(site, seeds=(f"{gone_url}/x", f"{site.url}/"), retries=0)
    gone.close()
    stats = SPEC.run(settings, NO_INPUTS, tmp_path, make_context(tmp_path))
    assert stats["outcomes"] == {"fetched": 1, "unreachable": 1}


def test_crawl_of_nothing_says_what_was_tried_and_tries_again(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    site = serve({"/": redirect("http://www.site.example/")})
    with pytest.raises(InputError) as caught:
        SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert caught.value.message.splitlines() == [
        "no page could be fetched; tried:",
        f"    {site.url}/: led elsewhere to http://www.site.example/",
        "    http://www.site.example/: outside the crawl",
    ]
    site.answers["/"] = page()
    assert SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))["pages"] == 1


def test_artifact_and_report(serve: Any, tmp_path: Path) -> None:
    site = serve({"/": page("a", "no|pe"), "/a": page(text="x" * 1000)})
    request = Request(SPEC, config(site, sitemaps=True), tmp_path / "crawl")
    artifact = run_stage(plan_stage(request), Console(quiet=True))
    files = {"urls.jsonl", "sitemaps.jsonl", "warc/crawl-00000.warc.gz"}
    assert set(artifact.manifest["files"]) == files
    assert plan_stage(request).status == "up to date"
    assert SPEC.headline(artifact.stats).startswith("2 pages, 1.")
    sections = SPEC.report(artifact)
    markdown = to_markdown("t", sections)
    assert "| fetched | stored as a page | 2 |" in markdown
    assert "| http_404 | answered with status 404 | 1 |" in markdown
    assert "| maps | answered with status 404 | 1 |" in markdown
    assert f"from `{site.url}/`; links were followed 1 deep" in markdown
    assert "Size of the pages by depth" in to_html("t", sections)


def test_pydoc_is_crawled_under_its_own_name(make_context: Any, tmp_path: Path) -> None:
    command = ("python", "-m", "llmpipe.demo.pydoc_server")
    server = Server("pydoc.localhost", command)
    idle = Server("other.localhost", ("false",))  # no seed is on it, so it is not started
    settings = CrawlConfig(("http://pydoc.localhost/",), (server, idle), max_pages=6)
    stats = SPEC.run(settings, NO_INPUTS, tmp_path, make_context(tmp_path))
    # The index of Python 3.11 has 311 links; other versions have more or fewer modules.
    assert stats["outcomes"]["fetched"] == 6
    assert 200 < stats["outcomes"]["page_limit"] < 500
    assert [row["pages"] for row in stats["depths"]] == [1, 5]
    kinds = ("response", "revisit")
    urls = [url for kind, url, _ in read_with_fastwarc(tmp_path) if kind in kinds]
    assert urls[:2] == ["http://pydoc.localhost/", "http://pydoc.localhost/index.html"]
    assert len(urls) == 6


# ---------------------------------------------------------------- maps, canonical addresses, revisits


def test_addresses_in_site_maps_are_visited(serve: Any, make_context: Any, tmp_path: Path) -> None:
    def sitemap(*entries: str, kind: str = "url") -> bytes:
        inside = "".join(f"<{kind}><loc>{site.url}{entry}</loc></{kind}>" for entry in entries)
        return f'<?xml version="1.0"?><x xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{inside}</x>'.encode()

    xml = {"Content-Type": "application/xml"}
    answers: dict[str, Any] = {"/": page("/linked", text="0")}
    answers |= {path: page(text=path) for path in ("/linked", "/one", "/two", "/three")}
    site = serve(answers)
    answers["/robots.txt"] = (200, {}, f"Sitemap: {site.url}/maps.xml\nUser-agent: *\nDisallow: /two".encode())  # fmt: skip
    answers["/maps.xml"] = (200, xml, sitemap("/a.xml", "/b.xml.gz", "/gone.xml", kind="sitemap"))
    answers["/a.xml"] = (200, xml, sitemap("/one", "/two"))
    answers["/b.xml.gz"] = (200, xml, gzip.compress(sitemap("/three", "/a.xml"), mtime=0))

    out = tmp_path / "with"
    run = SPEC.run
    run(config(site, sitemaps=True), NO_INPUTS, out, make_context(out))
    found = outcomes(site, out)
    assert found["/one"] == found["/three"] == found["/linked"] == "fetched"
    assert found["/two"] == "robots_disallowed"
    assert found["/a.xml"] == "wrong_type"  # stood among the pages of a map
    rows = map(json.loads, (out / "urls.jsonl").read_text().splitlines())
    assert {row["url"]: row["from"] for row in rows}[f"{site.url}/one"] == f"{site.url}/a.xml"

    out = tmp_path / "without"
    run(config(site), NO_INPUTS, out, make_context(out))
    assert outcomes(site, out) == {"/": "fetched", "/linked": "fetched"}


def test_a_site_without_a_map_is_crawled_by_its_links(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    site = serve({"/": page("/a"), "/a": page(text="a")})
    SPEC.run(config(site, sitemaps=True), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert outcomes(site, tmp_path) == {"/": "fetched", "/a": "fetched"}
    assert "/sitemap.xml" in site.paths


def test_a_page_of_many_addresses_is_stored_once_if_asked(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    def variant(text: str, own: str = "/a") -> Answer:
        head = f'<head><link rel="canonical" href="{own}"></head>'
        return 200, HTML, f"<html>{head}<body>{text}</body></html>".encode()

    site = serve(
        {
            "/": page("/a?x=1", "/a?x=2", "/a", "/b"),
            "/a?x=1": variant("one"),
            "/a?x=2": variant("two"),
            "/a": variant("three"),
            "/b": variant("far", own="http://other.example/b"),
        }
    )
    run = SPEC.run
    out = tmp_path / "once"
    run(config(site, canonical_urls=True), NO_INPUTS, out, make_context(out))
    assert outcomes(site, out) == {
        "/": "fetched", "/a?x=1": "fetched", "/a?x=2": "alias", "/a": "alias", "/b": "fetched",
    }  # fmt: skip
    assert site.paths.count("/a") == 0  # nothing new is there
    assert [path for path, _ in pages_of(site, out)] == ["/", "/a?x=1", "/b"]
    out = tmp_path / "all"
    run(config(site), NO_INPUTS, out, make_context(out))
    assert set(outcomes(site, out).values()) == {"fetched"}


def test_a_body_that_comes_again_is_a_revisit_record(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    same = page(text="the same")
    site = serve({"/": page("/a", "/b", "/c"), "/a": same, "/b": same, "/c": page(text="c")})
    SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert set(outcomes(site, tmp_path).values()) == {"fetched"}
    kinds = [(k, u.removeprefix(site.url)) for k, u, _ in read_with_fastwarc(tmp_path)]
    assert [k for k in kinds if k[0] in ("response", "revisit")] == [
        ("response", "/"), ("response", "/a"), ("revisit", "/b"), ("response", "/c"),
    ]  # fmt: skip
    (path,) = (tmp_path / "warc").iterdir()
    with path.open("rb") as file:
        heads = {
            record.rec_headers.get_header("WARC-Target-URI"): record.rec_headers
            for record in ArchiveIterator(file)
            if record.rec_type in ("response", "revisit")
        }
    first, again = heads[f"{site.url}/a"], heads[f"{site.url}/b"]
    assert again.get_header("WARC-Refers-To-Target-URI") == f"{site.url}/a"
    assert again.get_header("WARC-Refers-To-Date") == first.get_header("WARC-Date")
    digest = first.get_header("WARC-Payload-Digest")
    assert again.get_header("WARC-Payload-Digest") == digest
    assert again.get_header("WARC-Profile").endswith("/revisit/identical-payload-digest")


# --------------------------------------------------------------- a table of cases, and what was fetched
#
# `SITE` in a body or a header stands for the site's own address. Every case starts at `/`.


def robots(text: str | bytes, status: int = 200, **headers: str) -> Answer:
    return status, headers, text.encode() if isinstance(text, str) else text


def html(body: str | bytes, kind: str = "text/html; charset=utf-8", **headers: str) -> Answer:
    octets = body.encode() if isinstance(body, str) else body
    return 200, {"Content-Type": kind, **headers}, octets


def xml(body: str | bytes, **headers: str) -> Answer:
    return html(body, "application/xml", **headers)


def urlset(*urls: str, head: str = "", kind: str = "url") -> str:
    inside = "".join(f"<{kind}><loc>{url}</loc></{kind}>" for url in urls)
    return f'{head}<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{inside}</urlset>'


def leads_to(location: str, status: int = 302) -> Answer:
    return status, {"Location": location}, b""


TWO = {"/": page("no/x", "yes"), "/no/x": page(), "/yes": page()}
OBEYED = ["/robots.txt", "/", "/yes"]
ALL = ["/robots.txt", "/", "/no/x", "/yes"]
NOTHING = ["/robots.txt"]
NO = "User-agent: *\nDisallow: /no/\n"
FAR = b"# " + b"x" * 600_000 + b"\n" + NO.encode()

ROBOTS = {
    "a byte order mark": (robots("\ufeff" + NO), OBEYED),
    "UTF-16": (robots(NO.encode("utf-16")), OBEYED),
    "UTF-16 without a mark": (robots(NO.encode("utf-16-le")), OBEYED),
    "CR alone": (robots(NO.replace("\n", "\r")), OBEYED),
    "NUL bytes": (robots("\0" + NO), OBEYED),
    "served as a page": (robots(NO, **{"Content-Type": "text/html"}), OBEYED),
    "gzip": (robots(gzip.compress(NO.encode()), Content_Encoding="gzip"), OBEYED),
    "zstd, not asked for": (robots(zstandard.compress(NO.encode()), Content_Encoding="zstd"), OBEYED),
    "no coding at all": (robots(NO, Content_Encoding="utf-8"), OBEYED),
    "a coding that cannot be undone": (robots(b"\x1f\x9d\x90", Content_Encoding="compress"), NOTHING),
    "damaged gzip": (robots(gzip.compress(NO.encode())[:-20], Content_Encoding="gzip"), NOTHING),
    "six megabytes": (robots(NO + "# x\n" * 1_500_000), OBEYED),
    "beyond the parsed 500 KiB": (robots(FAR), ALL),
    "a bomb": (robots(gzip.compress(NO.encode() + bytes(50_000_000)), Content_Encoding="gzip"), OBEYED),
    "401": (robots(NO, 401), ALL),
    "403": (robots(NO, 403), ALL),
    "404": (robots(NO, 404), ALL),
    "410": (robots(NO, 410), ALL),
    "204": (robots("", 204), ALL),
    "429": (robots("", 429), NOTHING),
    "500": (robots("", 500), NOTHING),
    "503": (robots(NO, 503), NOTHING),
    "for a name that ours begins with": (robots("User-agent: llm\nDisallow: /\n\n" + NO), OBEYED),
    "for our name and a version": (robots("User-agent: llmpipe/1.0\nDisallow: /no\n\nUser-agent: *\nDisallow: /"), OBEYED),
    "for our name in capitals": (robots("USER-AGENT: LLMPIPE\nDisallow: /no"), OBEYED),
    "two groups for us": (robots("User-agent: llmpipe\nDisallow: /x\n\nUser-agent: *\nDisallow: /\n\nUser-agent: llmpipe\nDisallow: /no/\n"), OBEYED),
    "a delay between two agents": (robots("User-agent: llmpipe\nCrawl-delay: 0\nUser-agent: other\nDisallow: /no/\n"), OBEYED),
    "an unknown line in a group": (robots("User-agent: *\nNoindex: /yes\n\nDisallow: /no/\n"), OBEYED),
    "the longest rule": (robots("User-agent: *\nDisallow: /\nAllow: /$\nAllow: /y*s$\n"), OBEYED),
    "a tie": (robots("User-agent: *\nDisallow: /no/\nDisallow: /yes\nAllow: /yes\n"), OBEYED),
    "percent-encoding": (robots("User-agent: *\nDisallow: /%6e%6F/%78\n"), OBEYED),
    "no leading slash": (robots("User-agent: *\nDisallow: no/\n"), OBEYED),
}  # fmt: skip


@pytest.mark.parametrize("name", ROBOTS)
def test_robots_txt(name: str, serve: Any, make_context: Any, tmp_path: Path) -> None:
    answer, expected = ROBOTS[name]
    assert fetched({**TWO, "/robots.txt": answer}, serve, make_context, tmp_path) == expected


@pytest.mark.parametrize(("n_redirects", "is_obeyed"), [(1, True), (5, True), (6, False)])
def test_robots_txt_is_looked_for_where_it_leads(
    n_redirects: int, is_obeyed: bool, serve: Any, make_context: Any, tmp_path: Path
) -> None:
    """RFC 9309, section 2.3.1.2: at least five redirects, to other hosts as well."""
    other = serve({f"/{i}": leads_to(f"/{i + 1}") for i in range(1, n_redirects)})
    other.answers[f"/{n_redirects}"] = robots(NO)
    site = {**TWO, "/robots.txt": leads_to(f"{other.url}/1", 301)}
    found = fetched(site, serve, make_context, tmp_path)
    assert found == (OBEYED if is_obeyed else ALL)
    assert other.paths == [f"/{i}" for i in range(1, min(n_redirects, 5) + 1)]


def test_robots_txt_is_read_again_after_a_day(
    serve: Any, make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmpipe.stages.crawl.crawler.MAX_AGE_S", -1.0)
    found = fetched({**TWO, "/robots.txt": robots(NO)}, serve, make_context, tmp_path)
    assert found == ["/robots.txt", "/", "/robots.txt", "/robots.txt", "/yes"]


@pytest.mark.parametrize("way", ["robots.txt", "map", "index"])
def test_a_public_site_leads_nobody_into_the_private_network(
    way: str, serve: Any, make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the seed is public; what it leads to is on loopback, and gets not one request."""
    monkeypatch.setattr(
        "llmpipe.stages.crawl.address_guard._addresses", lambda host: ["93.184.216.34"]
    )
    inside = serve({"/secret": xml(urlset("/x"))})
    secret = f"{inside.url}/secret"
    site = serve(
        {
            "robots.txt": {"/robots.txt": leads_to(secret)},
            "map": {"/robots.txt": robots(f"Sitemap: {secret}")},
            "index": {"/sitemap.xml": xml(urlset(secret, kind="sitemap"))},
        }[way]
        | {"/": page("a"), "/a": page()}
    )
    seed = "http://public.example/"
    host, _, port = site.url.removeprefix("http://").partition(":")
    settings = CrawlConfig(seeds=(seed,), delay_s=0, sitemaps=True, retries=0)
    connect_to = {"public.example": (host, int(port))}
    crawled = crawl(settings, [seed], tmp_path, make_context(tmp_path), connect_to)
    assert inside.paths == []
    if way == "robots.txt":
        assert [visit.outcome for visit in crawled.visits] == ["robots_unavailable"]
        assert crawled.visits[0].detail == "robots.txt: leads to 127.0.0.1"
    else:
        # Its robots.txt is what would be asked for first.
        assert crawled.sitemaps.visits[-1].outcome == "robots_unavailable"
        assert [visit.outcome for visit in crawled.visits] == ["fetched", "fetched"]


REDIRECTS = {
    "raw UTF-8": ("/größe".encode().decode("latin-1"), "/gr%C3%B6%C3%9Fe"),
    "raw UTF-8 with the byte of a line end": ("/Å\u2028".encode().decode("latin-1"), "/%C3%85%E2%80%A8"),
    "raw latin-1": ("/größe", "/gr%F6%DFe"),
    "escaped already": ("/gr%C3%B6%C3%9Fe", "/gr%C3%B6%C3%9Fe"),
    "relative": ("../a/./b", "/a/b"),
    "only a query": ("?x=1", "/d/?x=1"),
    "with a fragment": ("/a#top", "/a"),
    "absolute": ("SITE/a?b=c#d", "/a?b=c"),
    "without a scheme": ("//HOST/a", "/a"),
    "blanks": ("  /a b ", "/a%20b"),
    "a lone percent sign": ("/100%/%20", "/100%25/%20"),
    "backslashes": ("\\a\\b", "/a/b"),
}  # fmt: skip


@pytest.mark.parametrize("name", REDIRECTS)
def test_redirects(name: str, serve: Any, make_context: Any, tmp_path: Path) -> None:
    location, expected = REDIRECTS[name]
    site = {"/": page("d/"), "/d/": leads_to(location), expected: page()}
    asked = fetched(site, serve, make_context, tmp_path)
    assert asked == ["/robots.txt", "/", "/d/", expected]


@pytest.mark.parametrize("status", [301, 303, 307, 308])
def test_every_redirect_is_followed(
    status: int, serve: Any, make_context: Any, tmp_path: Path
) -> None:
    site = {"/": leads_to("/a", status), "/a": page()}
    assert fetched(site, serve, make_context, tmp_path) == ["/robots.txt", "/", "/a"]


PAGES: dict[str, tuple[dict[str, Answer], list[str]]] = {
    "meta refresh": ({"/": html('<meta http-equiv="Refresh" content="0; URL=\'/s\'">'), "/s": page("b")}, ["/s", "/b"]),
    "Refresh header": ({"/": html("", Refresh="3;url=/s"), "/s": page("b")}, ["/s", "/b"]),
    "refresh of itself": ({"/": html('<meta http-equiv="refresh" content="60"><a href=a>')}, ["/a"]),
    "frames": ({"/": html("<frameset><frame src=nav><frame src=main></frameset>"), "/nav": page("c"), "/main": page()}, ["/nav", "/main", "/c"]),
    "iframe": ({"/": html("<a href=a>a</a><iframe src=i></iframe>"), "/i": page("b")}, ["/i", "/a", "/b"]),
    "area": ({"/": html('<map><area href="a"><area href="/b"></map>')}, ["/a", "/b"]),
    "base": ({"/": html('<base target=x><base href="/d/x"><base href="/no/"><a href=a>')}, ["/d/a"]),
    "base in parent": ({"/": html('<base href="../d/"><a href=a><iframe src=i>')}, ["/d/i", "/d/a"]),
    "deep": ({"/": html("<div>" * 5000 + "<a href=a>a</a>")}, ["/a"]),
    "entities": ({"/": html('<a href="/s?a=1&amp;copy=2"></a><a href="/s?x=1&reg=2"></a>')}, ["/s?a=1&copy=2", "/s?x=1&reg=2"]),
    "odd links": ({"/": html('<a href=" /a b "></a><a href="/c\n"></a><a href="\\d"></a><a href="?p"></a><a href="HTTP://HOST/e"></a><a href="x:y"></a><a href="/100%/%41">')},
                  ["/a%20b", "/c", "/d", "/?p", "/e", "/100%25/%41"]),
    "windows-1251": ({"/": html('<a href="/река?q=река">'.encode("cp1251"), "text/html; charset=windows-1251")}, ["/%D1%80%D0%B5%D0%BA%D0%B0?q=%F0%E5%EA%E0"]),
    "Shift_JIS in the page": ({"/": html('<meta charset="Shift_JIS"><a href="/日?q=日本①">'.encode("cp932"), "text/html")}, ["/%E6%97%A5?q=%93%FA%96%7B%87%40"]),
    "GB2312 that is GBK": ({"/": html('<a href="?q=朱镕">'.encode("gbk"), "text/html; charset=gb2312")}, ["/?q=%D6%EC%E9F"]),
    "what an encoding lacks": ({"/": html('<a href="?q=&#26085;">'.encode("latin-1"), "text/html; charset=iso-8859-1")}, ["/?q=%26%2326085%3B"]),
    "UTF-16": ({"/": html('<a href="/é?q=é">'.encode("utf-16"), "text/html")}, ["/%C3%A9?q=%C3%A9"]),
    "UTF-16 that is none": ({"/": html('<a href="/é?q=é">', "text/html; charset=utf-16")}, ["/%C3%A9?q=%C3%A9"]),
    "an unknown charset": ({"/": html('<a href="/é?q=é">', "text/html; charset=no-such")}, ["/%C3%A9?q=%C3%A9"]),
    "comma in the type": ({"/": page("a"), "/a": html("<a href=b>", "text/html, charset=utf-8")}, ["/a"]),
    "blank in the type": ({"/": html("<a href=a>", "TEXT/HTML charset=utf-8")}, ["/a"]),
    "doubled type": ({"/": html("<a href=a>", "text/html; charset=utf-8, text/html")}, ["/a"]),
    "br": ({"/": html(bytes.fromhex("1b0900f8a57cc24a1261a2a09a0a"), Content_Encoding="br")}, ["/a"]),
    "zstd": ({"/": html(zstandard.compress(b"<a href=a>"), Content_Encoding="zstd")}, ["/a"]),
    "gzip twice": ({"/": html(gzip.compress(gzip.compress(b"<a href=a>")), Content_Encoding="gzip, gzip")}, ["/a"]),
    "gzip that is none": ({"/": html("<a href=a>", Content_Encoding="gzip")}, ["/a"]),
    **{f"coding {none}": ({"/": html("<a href=a>", Content_Encoding=none)}, ["/a"])
       for none in ("iso-8859-1", "binary", "aws-chunked", "none", "UTF-8", "text/html")},
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_pages_lead_on(name: str, serve: Any, make_context: Any, tmp_path: Path) -> None:
    site, expected = PAGES[name]
    assert fetched(site, serve, make_context, tmp_path) == ["/robots.txt", "/", *expected]


def test_pages_that_cannot_be_read_are_counted(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    packed = gzip.compress(page("x", text="y" * 9000)[2])
    site = serve(
        {
            "/": page("compress", "broken", "cut"),
            "/compress": html(b"\x1f\x9d\x90", Content_Encoding="compress"),
            "/broken": html(b"\x1b\xff\xff\xff", Content_Encoding="br"),
            "/cut": html(packed[:-20], Content_Encoding="gzip"),
        }
    )
    SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "urls.jsonl").read_text().splitlines()]
    assert [(row["outcome"], row["detail"].split(" after")[0]) for row in rows] == [
        ("fetched", ""),
        ("bad_encoding", "Content-Encoding: compress"),
        ("bad_encoding", "damaged from the start, Content-Encoding: br"),
        ("fetched", "its compressed body is damaged"),
    ]


def test_frames_are_as_deep_as_their_page_and_end(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    frames = {f"/{i}": html(f"<iframe src={i + 1}></iframe><a href=a{i}>") for i in range(9)}
    site = {"/": html("<iframe src=0></iframe>"), **frames}
    found = fetched(site, serve, make_context, tmp_path, max_depth=0, max_redirects=3)
    assert found == ["/robots.txt", "/", "/0", "/1", "/2"]
    last = json.loads((tmp_path / "urls.jsonl").read_text().splitlines()[-1])
    assert last["detail"] == "not followed from here: 1 frames or refreshes, after 3 in a row"


def test_a_crawl_that_goes_on_knows_the_frames(
    serve: Any, make_context: Any, tmp_path: Path
) -> None:
    context = make_context(tmp_path)

    def stop_then_answer() -> Answer:
        context.stop.request()
        return html("<frameset><frame src=a><frame src=b></frameset>")

    site = serve({"/": stop_then_answer, "/a": page("c"), "/b": page(), "/c": page()})
    with pytest.raises(Stopped):
        SPEC.run(config(site), NO_INPUTS, tmp_path, context)
    SPEC.run(config(site), NO_INPUTS, tmp_path, make_context(tmp_path))
    assert site.paths == ["/robots.txt", "/", "/robots.txt", "/a", "/b", "/c"]


P = ("SITE/p0", "SITE/p1")
ITEMS = "".join(f"<item><link>{url}</link></item>" for url in P)
IN_ROBOTS = {"/robots.txt": robots("Sitemap: SITE/m\n")}
FOUND = ["/", "/p0", "/p1"]
UTF_8 = '<?xml version="1.0" encoding="UTF-8"?>\n'

MAPS: dict[str, tuple[dict[str, Answer], list[str]]] = {
    "plain": ({"/sitemap.xml": xml(urlset(*P))}, ["/sitemap.xml", *FOUND]),
    "a byte order mark": ({"/sitemap.xml": xml("\ufeff" + urlset(*P, head=UTF_8))}, ["/sitemap.xml", *FOUND]),
    "UTF-16": ({"/sitemap.xml": xml(urlset("p0", "p1", head=UTF_8).encode("utf-16"))}, ["/sitemap.xml", *FOUND]),
    "redirects": ({"/sitemap.xml": leads_to("/w#x", 301), "/w": leads_to("SITE/v"), "/v": xml(urlset("p0", "p1"))}, ["/sitemap.xml", "/w", "/v", *FOUND]),
    "a redirect that robots.txt forbids": ({"/robots.txt": robots("User-agent: *\nDisallow: /w"), "/sitemap.xml": leads_to("/w"), "/w": xml(urlset(*P))}, ["/sitemap.xml", "/"]),
    "a redirect to itself": ({"/sitemap.xml": leads_to("/sitemap.xml")}, ["/sitemap.xml"] * 6 + ["/"]),
    "gzip": ({"/sitemap.xml": xml(gzip.compress(urlset("p0", "p1").encode()))}, ["/sitemap.xml", *FOUND]),
    "gzip in gzip": ({"/sitemap.xml": xml(gzip.compress(gzip.compress(urlset("p0", "p1").encode())), Content_Encoding="gzip")}, ["/sitemap.xml", *FOUND]),
    "7 MB": ({"/sitemap.xml": xml(urlset(*P).replace("</loc>", "</loc><x>" + "y" * 7_000_000 + "</x>"))}, ["/sitemap.xml", *FOUND]),
    "RSS": ({**IN_ROBOTS, "/m": xml(f"<rss><channel><link>SITE/</link>{ITEMS}</channel></rss>")}, ["/m", *FOUND]),
    "Atom": ({**IN_ROBOTS, "/m": xml('<feed xmlns="http://www.w3.org/2005/Atom"><entry><link href="/p0"/></entry><entry><link href="SITE/p1"/></entry></feed>')}, ["/m", *FOUND]),
    "text": ({**IN_ROBOTS, "/m": html("\ufeff" + "\r\n".join(P), "text/plain")}, ["/m", *FOUND]),
    "no namespace": ({**IN_ROBOTS, "/m": xml(urlset(*P).replace("xmlns", "x"))}, ["/m", *FOUND]),
    "entities": ({"/sitemap.xml": xml(urlset("SITE/?a=1&amp;b=2", "SITE/?a=1&c=2"))}, ["/sitemap.xml", "/", "/?a=1&b=2", "/?a=1&c=2"]),
    "an index of an index": ({"/sitemap.xml": xml(urlset("/i", kind="sitemap")), "/i": xml(urlset("SITE/m", "SITE/i", kind="sitemap")), "/m": xml(urlset(*P))}, ["/sitemap.xml", "/i", "/m", *FOUND]),
    "a byte order mark in robots.txt": ({"/robots.txt": robots("\ufeffSitemap: m"), "/m": xml(urlset(*P))}, ["/m", *FOUND]),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_sitemaps(name: str, serve: Any, make_context: Any, tmp_path: Path) -> None:
    site, expected = MAPS[name]
    found = fetched({"/": page(), **site}, serve, make_context, tmp_path, sitemaps=True)
    assert found == ["/robots.txt", *expected]


def test_what_is_ignored_of_maps_is_counted_and_said(
    serve: Any, make_context: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("gone", "html", "no", "packed", "odd", "ftp://x/y", "cut")
    packed = gzip.compress(urlset(*(f"/{i * 7919 % 10007}" for i in range(9000))).encode())
    site = serve(
        {
            "/": page(),
            "/robots.txt": robots("".join(f"Sitemap: {n}\n" for n in names) + "User-agent: *\nDisallow: /no\nDisallow: /1\n"),
            "/html": page("x"),
            "/packed": xml(b"\x1f\x9d", Content_Encoding="compress"),
            "/odd": xml(urlset("/p", "mailto:x@y", "", "http://elsewhere.example/")),
            "/cut": xml(packed[:300]),
        }
    )  # fmt: skip
    context = dataclasses.replace(make_context(tmp_path), console=Console())
    stats = SPEC.run(config(site, sitemaps=True, max_pages=3), NO_INPUTS, tmp_path, context)
    rows = [json.loads(line) for line in (tmp_path / "sitemaps.jsonl").read_text().splitlines()]
    assert [(row["url"].removeprefix(site.url), row["outcome"]) for row in rows] == [
        ("/gone", "http_404"), ("/html", "no_map"), ("/no", "robots_disallowed"), ("/packed", "bad_encoding"), ("/odd", "read"), ("ftp://x/y", "no_address"), ("/cut", "read"),
    ]  # fmt: skip
    assert rows[4]["passed_over"] == {"no_address": 2}
    assert "damaged or cut after" in rows[6]["detail"]
    assert stats["sitemaps"]["maps"] == {
        "read": 2, "bad_encoding": 1, "http_404": 1, "no_address": 1, "no_map": 1, "robots_disallowed": 1,
    }  # fmt: skip
    assert stats["sitemaps"]["passed_over"] == {"no_address": 2}
    assert stats["outcomes"]["out_of_scope"] == 1
    said = capsys.readouterr().err
    for name, reason in zip(
        names[:5],
        ("answered with status 404", "no addresses in it", "forbidden by robots.txt",
         "compressed in an unknown way; Content-Encoding: compress", "passed over: 2 no_address"),
        strict=True,
    ):  # fmt: skip
        assert f"map {site.url}/{name}: {reason}" in said
    assert "and 2 maps more" in said


def test_an_index_is_read_as_far_as_it_may_be(
    serve: Any, make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmpipe.stages.crawl.sitemaps.MAX_MAPS", 3)
    monkeypatch.setattr("llmpipe.stages.crawl.sitemaps.MAX_ADDRESSES", 4)
    site = {
        "/": page(),
        "/sitemap.xml": xml(urlset(*(f"/m{i}" for i in range(9)), kind="sitemap")),
        **{f"/m{i}": xml(urlset(*(f"/m{i}/{j}" for j in range(6)))) for i in range(9)},
    }
    found = fetched(site, serve, make_context, tmp_path, sitemaps=True)
    assert found[:5] == ["/robots.txt", "/sitemap.xml", "/m0", "/m1", "/"]
    assert found[5:] == [f"/m{i}/{j}" for i in range(2) for j in range(4)]
    rows = [json.loads(line) for line in (tmp_path / "sitemaps.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["read", "read", "read", "map_limit"]
    assert [row["passed_over"] for row in rows] == [{"address_limit": 6}, *[{"address_limit": 2}] * 2, {}]  # fmt: skip


def fetched(
    answers: dict[str, Answer], serve: Any, make_context: Any, out: Path, **settings: Any
) -> list[str]:
    """Crawl a site, and return what it was asked for, in order."""
    site = serve({})
    host = site.url.removeprefix("http://")

    def placed(text: Any) -> Any:
        here, there = ("SITE", "HOST"), (site.url, host)
        for mark, value in zip(here, there, strict=True):
            text = text.replace(*((mark, value) if isinstance(text, str) else (mark.encode(), value.encode())))  # fmt: skip
        return text

    for path, (status, headers, body) in answers.items():
        site.answers[path] = status, {k: placed(v) for k, v in headers.items()}, placed(body)
    chosen = {"retries": 0, **settings}
    with contextlib.suppress(InputError):  # where nothing may be fetched
        SPEC.run(config(site, **chosen), NO_INPUTS, out, make_context(out))
    return site.paths
