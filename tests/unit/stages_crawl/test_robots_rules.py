"""robots.txt against the examples of RFC 9309 and the test suite of Google's parser (google/robotstxt, robots_test.cc)."""

from __future__ import annotations

import time

import pytest

from llmpipe.stages.crawl.robots_rules import parse_robots

FOO = "user-agent: FooBot\n"


def forbidden(text: str | bytes, paths: list[str], product: str = "foobot") -> list[str]:
    rules = parse_robots(text if isinstance(text, bytes) else text.encode(), product)
    return [path for path in paths if not rules.allows(path)]


# ------------------------------------------------------------------------------------ google/robotstxt

GROUPS = """allow: /foo/bar/

user-agent: FooBot
disallow: /
allow: /x/
user-agent: BarBot
disallow: /
allow: /y/


allow: /w/
user-agent: BazBot

user-agent: FooBot
allow: /z/
disallow: /
"""


@pytest.mark.parametrize(
    ("product", "allowed"),
    [("FooBot", {"/x/b", "/z/d"}), ("BarBot", {"/y/c", "/w/a"}), ("BazBot", {"/z/d"})],
)
def test_groups_end_at_the_next_agent_and_are_merged(product: str, allowed: set[str]) -> None:
    paths = ["/w/a", "/x/b", "/y/c", "/z/d", "/foo/bar/"]
    assert set(forbidden(GROUPS, paths, product)) == set(paths) - allowed


@pytest.mark.parametrize(
    "line",
    [
        "Sitemap: https://foo.bar/sitemap",
        "Invalid-Unknown-Line: unknown",
        "Crawl-delay: 10",
        "Host: x",
    ],
)
@pytest.mark.parametrize("product", ["foobot", "barbot"])
def test_other_lines_do_not_end_a_group(line: str, product: str) -> None:
    text = f"User-agent: BarBot\n{line}\nUser-agent: *\nDisallow: /\n"
    assert forbidden(text, ["/"], product) == ["/"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user-agent: FooBot\ndisallow: /\n", ["/x/y"]),
        ("foo: FooBot\nbar: /\n", []),
        ("user-agent FooBot\ndisallow /\n", ["/x/y"]),
        ("USER-AGENT: FooBot\nDISALLOW: /\n", ["/x/y"]),
        ("User agent: FooBot\nDissalow : /\n", ["/x/y"]),
        ("User-Agent: FOO BAR\nDisallow: /\n", []),  # the name is `FOO`
        ("user-agent: *\nallow: /\nuser-agent: FooBot\ndisallow: /\n", ["/x/y"]),
        ("user-agent: *\ndisallow: /\nuser-agent: FooBot\nallow: /\n", []),
        ("user-agent: *\ndisallow: /\nuser-agent: FooBot\n", []),  # a group without rules is one
        ("user-agent: BarBot\ndisallow: /\n", []),
        ("disallow: /\n", []),
        ("", []),
        (FOO + "disallow: /X/\n", []),
        (FOO + "disallow: \nallow: \n", []),
        (FOO + "disallow: /\nallow: /\n", []),
        (FOO + "disallow:\n\nuser-agent: *\ndisallow: /\n", []),
        (FOO + "# disallow: /\nDisallow: /x#y\nAllow: /\n", ["/x/y"]),
    ],
)
def test_lines(text: str, expected: list[str]) -> None:
    assert forbidden(text, ["/x/y"]) == expected


@pytest.mark.parametrize(
    ("text", "path", "is_allowed"),
    [
        ("disallow: /x/page.html\nallow: /x/\n", "/x/page.html", False),
        ("allow: /x/page.html\ndisallow: /x/\n", "/x/page.html", True),
        ("allow: /x/page.html\ndisallow: /x/\n", "/x/", False),
        ("disallow: /x\nallow: /x/\n", "/x", False),
        ("disallow: /x\nallow: /x/\n", "/x/", True),
        ("disallow: /x/page.html\nallow: /x/page.html\n", "/x/page.html", True),
        ("allow: /page\ndisallow: /*.html\n", "/page.html", False),
        ("allow: /page\ndisallow: /*.html\n", "/page", True),
        ("allow: /x/page.\ndisallow: /*.html\n", "/x/page.html", True),
        ("allow: /x/page.\ndisallow: /*.html\n", "/x/y.html", False),
        ("allow: /page\ndisallow: /*.htm\n", "/page.htm", False),
        ("allow: /$\ndisallow: /\n", "/", True),
        ("allow: /$\ndisallow: /\n", "/page.html", False),
        # RFC 9309, section 5.2
        ("allow: /example/page/\ndisallow: /example/page/disallowed.gif\n", "/example/page/disallowed.gif", False),
    ],
)  # fmt: skip
def test_the_longest_rule_decides_and_the_milder_of_equals(
    text: str, path: str, is_allowed: bool
) -> None:
    assert (forbidden(FOO + text, [path]) == []) == is_allowed


PATHS = [
    "/bar", "/fish", "/fish.html", "/fish/salmon.html", "/fishheads", "/fish.html?id=anything", "/Fish.asp", "/catfish",
    "/?id=fish", "/fish/", "/fish/?salmon", "/filename.php", "/folder/filename.php", "/folder/filename.php?parameters",
    "//folder/any.php.file.html", "/filename.php/", "/index?f=filename.php/", "/php/", "/index?php", "/windows.PHP",
    "/filename.php5", "/fish.php", "/fishheads/catfish.php?parameters", "/Fish.PHP",
]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "regular_expression"),
    [
        ("/fish", r"/fish"), ("/fish*", r"/fish"), ("/fish/", r"/fish/"), ("/*.php", r"/.*\.php"), ("/*.php$", r"/.*\.php$"),
        ("/fish*.php", r"/fish.*\.php"), ("*", r""), ("/*", r"/"), ("*fish$", r".*fish$"), ("/**h*h", r"/.*h.*h"),
        ("/f*$", "/f.*$"), ("*.php*?", r".*\.php.*\?"), ("/fish$", "/fish$"), ("/$fish", r"/\$fish"), ("/fish*fish$", "/fish.*fish$"),
    ],
)  # fmt: skip
def test_wildcards_are_those_of_a_regular_expression(pattern: str, regular_expression: str) -> None:
    """The table of Google's documentation, and more; expected by `re`."""
    import re

    expected = [path for path in PATHS if re.match(regular_expression, path)]
    assert forbidden(FOO + f"disallow: {pattern}\n", PATHS) == expected


def test_a_pattern_of_many_wildcards_takes_no_time() -> None:
    rules = parse_robots((FOO + "disallow: /" + "*a" * 500 + "b$\n").encode(), "foobot")
    started = time.perf_counter()
    assert rules.allows("/" + "a" * 2000)
    assert time.perf_counter() - started < 1


# -------------------------------------------------------------------------------------------- spelling


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        # the table of RFC 9309, section 2.2.2
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar?baz=https%3A%2F%2Ffoo.bar", "/foo/bar?baz=https://foo.bar"),
        ("/foo/bar/ツ", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%e3%83%84"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        ("/foo/bar/baz", "/foo/bar/%62%61%7A"),
        # section 2.2.3
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html"),
        ("/path/foo-%24", "/path/foo-$"),
        ("/path/foo-$x", "/path/foo-$x"),
        # others
        ("/~joe/", "/%7ejoe/index.html"),
        ("/%7Ejoe/", "/~joe/index.html"),
        ("/a%3cd.html", "/a%3Cd.html"),
        ("/100%/", "/100%25/x"),
        ("/a b/", "/a%20b/"),
        ("/[x]", "/%5Bx%5D"),
        ("/a:b", "/a%3Ab"),
        ("/*http://", "/go?to=http://x/"),
        # not of the RFC, but plain enough
        ("private/", "/private/x"),
        ("https://foo.bar/private/", "/private/x"),
    ],
)
def test_two_spellings_of_one_path_are_equal(rule: str, path: str) -> None:
    assert forbidden(FOO + f"disallow: {rule}\n", [path]) == [path]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/a%2Fb", "/a/b"),  # an encoded slash is another path
        ("/a/b", "/a%2Fb"),
        ("/a?b", "/a%3Fb"),
        ("/path/file-%2A.html", "/path/file-x.html"),
        ("/foo-%24", "/foo-"),
        ("/%E9", "/%C3%A9"),
    ],
)
def test_two_paths_stay_two(rule: str, path: str) -> None:
    assert forbidden(FOO + f"disallow: {rule}\n", [path]) == []


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfUser-agent: foobot\r\nDisallow: /p",
        b"\xef\xbbUser-agent: foobot\nDisallow: /p",
        b"\xefUser-agent: foobot\nDisallow: /p",
        b"\xef\xbb\xbf\xef\xbb\xbfUser-agent: foobot\nDisallow: /p",
        b"\n\xef\xbb\xbfUser-agent: foobot\n\xef\xbb\xbfDisallow: /p",
        b"User-agent: foobot\rDisallow: /p\r",
        b"User-agent: foobot\r\rDisallow: /p\r\n\n",
        b"\0\0User-agent: foobot\nDis\0allow: /\0p\n",
        "User-agent: foobot\nDisallow: /p\n".encode("utf-16"),
        "User-agent: foobot\nDisallow: /p\n".encode("utf-16-le"),
        "User-agent: foobot\nDisallow: /p\n".encode("utf-16-be"),
        "User-agent: foobot\nDisallow: /p\n".encode("utf-32"),
        b"\t User-agent :\tfoobot\t # it\n  Disallow:/p  #x\n",
        b"# r\xe9gles\nUser-agent: foobot\nDisallow: /p",
        b"<html>\nUser-agent: foobot\nDisallow: /p",
        "User-agent: foobot\nX: a\u2028Disallow:\nDisallow: /p".encode(),
        "User-agent: foobot\n# a\x85\x0b\x0c\x1cUser-agent: other\nDisallow: /p".encode(),
    ],
)
def test_rules_are_found_whatever_the_bytes_around_them(content: bytes) -> None:
    assert forbidden(content, ["/", "/p", "/q"]) == ["/p"]


def test_rules_in_another_encoding_forbid_the_bytes_they_are() -> None:
    content = "User-agent: foobot\nDisallow: /caf\xe9\n".encode("latin-1")
    assert forbidden(content, ["/caf%E9", "/caf%C3%A9"]) == ["/caf%E9"]
    content = "User-agent: foobot\nDisallow: /река\n".encode("utf-16")
    assert forbidden(content, ["/%D1%80%D0%B5%D0%BA%D0%B0"]) == ["/%D1%80%D0%B5%D0%BA%D0%B0"]


# ------------------------------------------------------------------------------------------ who is meant


@pytest.mark.parametrize(
    ("agent", "is_meant"),
    [
        ("llmpipe", True),
        ("LLMPipe", True),
        ("llmpipe/1.0", True),
        ("llmpipe / 1.0", True),
        ("llmpipe (+https://example.org/)", True),
        ("llmpipe*", True),
        ("llm", False),
        ("llmpip", False),
        ("llmpipe2", False),
        ("llmpipe-images", False),
        ("mozilla llmpipe", False),
        ("*llmpipe", False),
        ("", False),
    ],
)
def test_a_group_is_for_one_whole_name(agent: str, is_meant: bool) -> None:
    text = f"User-agent: {agent}\nDisallow: /mine\n\nUser-agent: *\nDisallow: /all\n"
    assert forbidden(text, ["/mine", "/all"], "llmpipe") == (["/mine"] if is_meant else ["/all"])


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("User-agent: *\nCrawl-delay: 1\n\nUser-agent: slow\nCrawl-delay: 60\n", 1.0),
        ("User-agent: llmpipe\nUser-agent: b\nCrawl-delay: 2.5\nDisallow: /\n", 2.5),
        ("User-agent: llmpipe\nDisallow: /\nCrawl-delay: .5 # s\n", 0.5),
        ("User-agent: llmpipe\nCrawl-delay: 2\nUser-agent: llmpipe\nCrawl-delay: 1\n", 2.0),
        ("User-agent: *\nCrawl-delay: 9\nUser-agent: llmpipe\nDisallow: /x\n", 0.0),
        ("User-agent: *\nCrawl-delay: soon\n", 0.0),
        ("Crawl-delay: 5\n", 0.0),
    ],
)
def test_a_delay_is_for_the_agents_right_above_it(text: str, delay: float) -> None:
    assert parse_robots(text.encode(), "llmpipe").crawl_delay_s == delay


def test_maps_are_named_anywhere() -> None:
    text = b"Sitemap: /a.xml\nUser-agent: x\nsite-map: https://b.example/b.xml#c\nDisallow: /\nSITEMAP /c.xml"
    rules = parse_robots(text, "llmpipe")
    assert rules.sitemaps == ("/a.xml", "https://b.example/b.xml", "/c.xml")


def test_robots_txt_itself_is_always_allowed() -> None:
    assert forbidden("User-agent: *\nDisallow: /", ["/robots.txt", "/robots.txt?x"]) == [
        "/robots.txt?x"
    ]
