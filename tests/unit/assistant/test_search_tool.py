"""The search tool: which passages come back, how they are cited, and where requests may go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmpipe.assistant.tools import open_tools
from llmpipe.assistant.tools.search import CorpusBackend, HttpBackend, SearchTool, cite
from llmpipe.assistant.tools.search_index import (
    PASSAGE_CHARS,
    Passage,
    open_index,
    passages,
    title_of,
    words,
)
from llmpipe.core.artifact import SCHEMA
from llmpipe.core.errors import InputError, UserError

PAGES = {
    "http://a.example/tides": "Tides\n\nThe moon pulls at the sea, so there are two tides a day.",
    "http://a.example/moon": "The Moon\n\nThe moon is 384,400 km away from the earth.",
    "http://a.example/kelp": "Kelp\n\nKelp grows half a metre a day.\n\n" + "It is an alga. " * 60,
    "http://b.example/osaka": "大阪\n\n大阪は日本の都市です。",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "corpus"
    folder.mkdir(parents=True)
    columns = {"url": list(PAGES), "text": list(PAGES.values())}
    pq.write_table(pa.table(columns), folder / "part-00000.parquet")
    manifest = {"schema": SCHEMA, "kind": "corpus", "id": "f00d"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


# -- passages ----------------------------------------------------------------------------------------


def test_passages_hold_all_the_text_in_bounded_pieces() -> None:
    text = "First.\n\n" + "A sentence of some words. " * 50 + "\n\n\nLast\nline\n" + "x" * 1000
    pieces = list(passages(text))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= PASSAGE_CHARS for piece in pieces)
    assert sum(piece.endswith(".") for piece in pieces[:3]) == 3  # cut between sentences
    assert list(passages(" \n\n ")) == []


def test_words_are_compared_without_case_and_marks() -> None:
    assert words("Os.path.join(A_b, 'é') 3D") == ["os", "path", "join", "a", "b", "é", "3d"]
    assert words("大阪は7月") == ["大", "阪", "は", "7", "月"]


def test_title_is_the_start_of_the_first_line() -> None:
    assert title_of("\n  Tides \nmore") == "Tides"
    assert title_of("w" * 80) == "w" * 59 + "…"
    assert title_of("") == ""


# -- the index ---------------------------------------------------------------------------------------


def test_rare_words_decide(corpus: Path) -> None:
    index = open_index(corpus)
    assert [p.title for p in index.find("how far away is the moon", 1)] == ["The Moon"]
    assert [p.title for p in index.find("two tides", 5)] == ["Tides"]
    assert index.find("日本", 1)[0].url == "http://b.example/osaka"
    assert len(index.find("kelp alga", 9)) > 1
    assert index.find("volcano", 3) == [] and index.find("?!", 3) == []


def test_index_is_made_once_and_keyed_by_the_corpus(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index(corpus)
    [folder] = (corpus.parent / ".search").iterdir()
    assert folder.name.startswith("f00d-")
    assert sorted(path.name for path in corpus.iterdir()) == ["manifest.json", "part-00000.parquet"]
    with monkeypatch.context() as patch:
        patch.setattr("llmpipe.assistant.tools.search_index._make_index", None)
        assert open_index(corpus.parent).find("kelp", 1)  # by the run's name, and not made again
    (corpus / "manifest.json").write_text(
        json.dumps({"schema": SCHEMA, "kind": "corpus", "id": "cafe"})
    )
    open_index(corpus)
    assert len(list((corpus.parent / ".search").iterdir())) == 2


def test_a_flipped_bit_in_the_corpus_is_an_error_and_no_other_passage(corpus: Path) -> None:
    part = corpus / "part-00000.parquet"
    text = "the llama eats grass"
    table = pa.table({"url": ["u"] * 3, "text": ["a", text, "z"]})
    pq.write_table(table, part, compression="none", use_dictionary=False, write_page_checksum=True)
    part.write_bytes(part.read_bytes().replace(b"llama", b"llamb"))
    with pytest.raises(InputError, match=r"part-00000\.parquet` cannot be read: .*CRC"):
        open_index(corpus)


def test_failed_index_leaves_nothing_behind(corpus: Path) -> None:
    pq.write_table(pa.table({"url": ["u"], "text": [" "]}), corpus / "part-00000.parquet")
    with pytest.raises(InputError, match="holds no text"):
        open_index(corpus)
    assert list((corpus.parent / ".search").iterdir()) == []


def test_folder_that_is_no_corpus_is_told_when_the_tool_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished corpus"), open_tools(["search"], tmp_path):
        pass
    with pytest.raises(UserError, match="nothing to look through"), open_tools(["search"]):
        pass


# -- what the assistant reads ------------------------------------------------------------------------


def test_results_are_numbered_with_their_sources(corpus: Path) -> None:
    with open_tools(["search"], corpus) as tools:
        answer = tools["search"].run(" how far is\nthe MOON? ")
        assert answer.startswith(
            "[1] The Moon (http://a.example/moon)\nThe Moon\nThe moon is 384,400 km away"
        )
        assert "\n[2] Tides (http://a.example/tides)\n" in answer
        assert tools["search"].run("volcano") == tools["search"].run("") == "no results"


def test_citation_keeps_within_its_budget_and_the_first_result_first() -> None:
    found = [Passage(f"T{i}", "http://x/" + "u" * 50, f"{i}" * 400) for i in range(5)]
    for budget in (50, 120, 400, 900, 3000):
        text = cite(found, budget)
        assert text.startswith("[1] T0 (http://x/")
        assert len(text) <= max(budget, len("[1] T0 ()") + 61 + 2)
    assert cite(found, 3000).count("\n[") == 4
    assert cite(found, 900).count("…") == 1


# -- a service of the user's choice ------------------------------------------------------------------


class Service(BaseHTTPRequestHandler):
    reply: tuple[int, bytes] = (200, b"")
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        code, body = self.reply
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[tuple[type[Service], str]]:
    handler = type("Own", (Service,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}/search?lang=en"
        server.shutdown()
        thread.join()


def test_service_is_asked_and_cited(service: tuple[type[Service], str]) -> None:
    handler, url = service
    results = [{"title": "A", "url": "http://a/", "content": "one\n two"}, {"url": "http://b/"}]
    handler.reply = (200, json.dumps({"results": results}).encode())
    with open_tools(["search"], search_url=url) as tools:
        assert tools["search"].run("a&b c") == "[1] A (http://a/)\none two\n[2]  (http://b/)\n"
    assert handler.asked == ["/search?lang=en&q=a%26b+c&format=json"]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((302, b""), "answers 302"),
        ((500, b""), "answers 500"),
        ((200, b"<html>"), "something else"),
        ((200, b'{"results": [3]}'), "something else"),
        ((200, b" " * (1 << 20) + b"{}"), "sent too much"),
    ],
)
def test_bad_answer_of_a_service_is_an_error_and_not_followed(
    service: tuple[type[Service], str], reply: tuple[int, bytes], told: str
) -> None:
    handler, url = service
    handler.reply = reply
    answer = SearchTool(HttpBackend(url)).run("x")
    assert answer.startswith("error: the search service") and told in answer
    assert len(handler.asked) == 1


def test_service_that_is_not_there_is_an_error() -> None:
    assert SearchTool(HttpBackend("http://127.0.0.1:9/")).run("x") == (
        "error: the search service cannot be reached"
    )


def test_only_hosts_that_were_allowed_are_asked() -> None:
    HttpBackend("http://search.example/", hosts=["search.example"])
    with pytest.raises(UserError, match=r"on search\.example, which was not allowed") as error:
        HttpBackend("http://search.example/")
    assert error.value.hint and "--search-host search.example" in error.value.hint
    for url in ("file:///etc/passwd", "search.example", "http://"):
        with pytest.raises(UserError, match="not the URL"):
            HttpBackend(url)


def test_search_may_be_called_from_several_threads(corpus: Path) -> None:
    tool = SearchTool(CorpusBackend(corpus))
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(tool.run("kelp"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and len(set(answers)) == 1 and answers[0].startswith("[1] Kelp")
