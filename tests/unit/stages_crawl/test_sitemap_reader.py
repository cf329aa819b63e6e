from __future__ import annotations

import gzip
import io
import sys
import time
import tracemalloc

import pytest

from llmpipe.stages.crawl.sitemap_reader import MAX_MAP_BYTES, SitemapReader

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = "http://www.sitemaps.org/schemas/sitemap/0.9"
THREE = ["http://h/p0", "http://h/p1?a=1&b=2", "http://h/p2"]
URLS = "".join(f"<url><loc>{url.replace('&', '&amp;')}</loc></url>" for url in THREE)
PLAIN = f'{HEAD}<urlset xmlns="{NAMESPACE}">{URLS}</urlset>'
ITEMS = URLS.replace("url>", "item>").replace("loc>", "link>")


def read(content: bytes, encoding: str = "") -> list[str]:
    found = list(SitemapReader(io.BytesIO(content), encoding))
    assert not any(is_map for is_map, _ in found)
    return [address.strip() for _, address in found]


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        "\n\n  " + PLAIN,
        PLAIN.encode("utf-16"),
        PLAIN.replace("UTF-8", "UTF-16").encode("utf-16"),
        PLAIN.replace("UTF-8", "UTF-16").encode("utf-16-be"),
        PLAIN.encode("utf-16-le"),
        f"<urlset>{URLS}</urlset>",
        f'<s:urlset xmlns:s="{NAMESPACE}">{URLS.replace("url>", "s:url>").replace("<loc", "<s:loc").replace("</loc", "</s:loc")}</s:urlset>',
        f"<s:urlset>{URLS.replace('<', '<s:').replace('<s:/', '</s:')}</s:urlset>",  # a prefix that nothing declares
        PLAIN.replace("&amp;", "&"),
        PLAIN.replace("<loc>", "<loc>\n<![CDATA[ ").replace("</loc>", " ]]>\n</loc>").replace("&amp;", "&"),
        PLAIN.replace("</loc>", "</loc><image:image xmlns:image='i'><image:loc>http://h/i.png</image:loc></image:image>"),
        PLAIN.replace("<loc>", "<!-- http://h/no --><loc>").replace("</loc>", "</loc><lastmod>2024</lastmod>"),
        PLAIN.replace("http://h/", "&h;").replace(HEAD, HEAD + '<!DOCTYPE urlset [<!ENTITY h "http://h/">]>'),
        PLAIN.removesuffix("</urlset>"),
        f'{HEAD}<rss version="2.0"><channel><title>f</title><link>http://h/</link>{ITEMS}</channel></rss>',
        f"<rss><channel>{ITEMS.replace('link>', 'guid>')}</channel></rss>",
        f'<rdf:RDF xmlns:rdf="r" xmlns="http://purl.org/rss/1.0/"><channel><link>http://h/</link></channel>{ITEMS}</rdf:RDF>',
        '<feed xmlns="http://www.w3.org/2005/Atom"><link href="http://h/"/><link rel="self" href="http://h/f"/>'
        + "".join(f'<entry><link rel="self" href="http://h/x"/><link href="{url.replace("&", "&amp;")}"/><id>urn:1</id></entry>' for url in THREE)
        + "</feed>",
        "\n".join(THREE),
        "\ufeff" + "\r\n".join(THREE) + "\r\n\r\n",
        "\r".join(THREE).encode("utf-16"),
    ],
)  # fmt: skip
def test_a_map_is_read_in_every_form(content: str | bytes) -> None:
    octets = content if isinstance(content, bytes) else content.encode()
    packed = gzip.compress(octets)
    assert read(octets) == THREE
    assert read(packed) == THREE
    assert read(packed, "gzip") == THREE  # said in the header, and done once
    assert (
        read(gzip.compress(packed), "gzip") == THREE
    )  # the file is one, and the server packs it again


def test_an_index_names_further_maps() -> None:
    index = PLAIN.replace("url>", "sitemap>")
    assert list(SitemapReader(io.BytesIO(index.encode()), "")) == [(True, url) for url in THREE]


def test_latin_1_is_read_as_it_says() -> None:
    xml = '<?xml version="1.0" encoding="iso-8859-1"?><urlset><url><loc>http://h/é</loc></url></urlset>'
    assert read(xml.encode("latin-1")) == ["http://h/é"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!doctype html><html><head><link rel=x href='/y'></head><body><a href='/z'>z</a></body></html>",
        b"<urlset/>",
        b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><urlset>&f;</urlset>',
    ],
)
def test_what_is_no_map_has_no_addresses(content: bytes) -> None:
    assert read(content) == []


def test_entities_cannot_multiply() -> None:
    laughs = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 99 if i else "x" * 99}">' for i in range(9))
    tracemalloc.start()
    read(f"<!DOCTYPE x [{laughs}]><urlset><url><loc>&e8;</loc></url></urlset>".encode())
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.slow
def test_fifty_megabytes_are_read_in_little_memory_and_no_more() -> None:
    entry = f"<url><loc>http://h/{'x' * 950}</loc></url>\n".encode()
    n = MAX_MAP_BYTES // len(entry)
    found, damage, peak = measured(entry, n - 1)
    assert (len(found), damage) == (n, None)
    assert found[-1] == "http://h/last"
    assert peak < 5_000_000
    found, damage, _ = measured(entry, n + 1000)
    assert len(found) == n  # each needs as many bytes, and the one after them is cut
    assert damage == "only its first 52428800 bytes were read"


@pytest.mark.parametrize("filler", ["<x/>", "<a>", "<", "&", "]", "<![CDATA[", "x", "\n", "<loc>"])
def test_a_hostile_map_takes_little_memory_and_time(filler: str) -> None:
    started = time.perf_counter()
    _, _, peak = measured(filler.encode(), 400_000 // len(filler))
    assert peak < 8_000_000
    assert time.perf_counter() - started < 10


def measured(filler: bytes, n: int) -> tuple[list[str], str | None, int]:
    """Read a packed map of many equal pieces: the addresses, what ended it, the most memory held beside them."""
    end = b"<url><loc>http://h/last</loc></url>"
    packed = io.BytesIO(gzip.compress(b"<urlset>" + filler * n + end, 1))
    found = []
    tracemalloc.start()
    reader = SitemapReader(packed, "")
    for _, address in reader:
        found.append(sys.intern(address))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, reader.damage, peak


def test_a_damaged_map_is_read_up_to_the_damage() -> None:
    urls = "".join(f"<url><loc>http://h/{i * 7919 % 10007}</loc></url>" for i in range(9000))
    packed = gzip.compress(f"<urlset>{urls}</urlset>".encode())
    reader = SitemapReader(io.BytesIO(packed[: len(packed) // 2]), "")
    found = [address for _, address in reader]
    assert 2000 < len(found) < 7000
    assert found == [f"http://h/{i * 7919 % 10007}" for i in range(len(found))]
    assert reader.damage is not None and "damaged or cut after" in reader.damage


@pytest.mark.parametrize(
    "end", ["", "</loc", "</loc>", "</loc></url>", "</loc></url><url><loc>http"]
)
def test_half_an_address_is_none(end: str) -> None:
    file = io.BytesIO(f"<urlset><url><loc>http://h/1</loc></url><url><loc>http://h/2{end}".encode())
    reader = SitemapReader(file, "", is_cut=True)
    expected = ["http://h/1", "http://h/2"][: 2 if "</url>" in end else 1]
    assert [address for _, address in reader] == expected
    assert reader.damage == "only its first 52428800 bytes were read"
    text = SitemapReader(io.BytesIO(b"http://h/1\nhttp://h/2"), "", is_cut=True)
    assert list(text) == [(False, "http://h/1")]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_map_that_was_not_compressed_is_read(coding: str) -> None:
    assert read(PLAIN.encode(), coding) == THREE


@pytest.mark.parametrize("coding", ["deflate", "br", "zstd"])
def test_a_map_of_garbage_is_no_map(coding: str) -> None:
    reader = SitemapReader(io.BytesIO(b"\x01garbage" * 99), coding)
    assert list(reader) == []
    assert reader.damage == "its compressed body is damaged or cut after 0 bytes"
