"""Language, pre-filter and extraction."""

from __future__ import annotations

import pytest

from llmpipe.stages.data.document import Document, Drop, SplitText
from llmpipe.stages.data.steps.extraction import Extraction, ExtractionConfig, clean_text
from llmpipe.stages.data.steps.language import (
    Language,
    LanguageConfig,
    LanguagePrefilter,
    LanguagePrefilterConfig,
)

ENGLISH = (
    "The council decided on Monday that the old bridge will be repaired before the winter comes."
)
GERMAN = "Der Stadtrat hat am Montag beschlossen, dass die alte Brücke noch vor dem Winter repariert wird."


def text(content: str) -> Document:
    return Document(url="", date="", content=SplitText(content))


def html(content: str) -> Document:
    return Document(url="", date="", html=content)


def article(content: str) -> str:
    return f"<html><body><nav>Home</nav><article><p>{content}</p><p>{content}</p></article></body></html>"


def test_language_is_noted_and_kept() -> None:
    document = text(ENGLISH)
    assert Language(LanguageConfig())(document) is None
    assert document.lang == "en"
    assert document.lang_score > 0.9


def test_other_language_is_dropped() -> None:
    assert Language(LanguageConfig())(text(GERMAN)) == Drop("other_language", "de", "en")


def test_uncertain_language_is_dropped() -> None:
    drop = Language(LanguageConfig(keep=()))(text("ok 12 qrst"))
    assert drop is not None
    assert (drop.reason, drop.threshold) == ("uncertain", 0.65)


def test_text_without_words_is_dropped() -> None:
    assert Language(LanguageConfig())(text(" \n ")) == Drop("no_text")


def test_several_languages_can_be_kept() -> None:
    assert Language(LanguageConfig(keep=("en", "de")))(text(GERMAN)) is None


def test_only_the_beginning_counts() -> None:
    long = ENGLISH * 30 + GERMAN * 500
    assert Language(LanguageConfig())(text(long)) is None
    assert Language(LanguageConfig(max_chars=10**6))(text(long)) is not None


def prefilter(keep: tuple[str, ...]) -> LanguagePrefilter:
    return LanguagePrefilter(LanguagePrefilterConfig(), LanguageConfig(keep=keep))


def test_prefilter() -> None:
    assert prefilter(("en",))(html(article(ENGLISH))) is None
    assert prefilter(("en",))(html(article(GERMAN))) == Drop("other_language", "de", 0.2)
    assert prefilter(("en",))(html("<html><script>x</script></html>")) == Drop("no_text")
    assert prefilter(())(html(article(GERMAN))) is None
    assert prefilter(("en",))(text(GERMAN)) is None  # only pages are looked at before extraction


@pytest.mark.parametrize("mode", ["fast", "precision", "all_text"])
def test_extraction(mode: str) -> None:
    document = html(article(ENGLISH * 3).replace("<p>", "<script>var x;</script><p>"))
    assert Extraction(ExtractionConfig(mode=mode))(document) is None  # type: ignore[arg-type]
    assert ENGLISH in document.text
    assert "var x" not in document.text
    assert ("Home" in document.text) == (mode == "all_text")


def test_page_without_text_is_dropped() -> None:
    assert Extraction(ExtractionConfig())(html("<html><body></body></html>")) == Drop("no_text")


def test_extraction_keeps_no_state_between_documents() -> None:
    step = Extraction(ExtractionConfig())
    texts = []
    for _ in range(5):
        document = html(article(ENGLISH * 3))
        step(document)
        texts.append(document.text)
    assert len(set(texts)) == 1


def test_skipped_elements() -> None:
    step = Extraction(ExtractionConfig(mode="all_text", skip_elements=("td.extra",)))
    document = html("<table><tr><td>kept</td><td class='extra'>left out</td></tr></table>")
    step(document)
    assert document.text.strip() == "kept"


def test_indentation_is_kept() -> None:
    document = html("<p>def f():<br>&nbsp;&nbsp;&nbsp;&nbsp;return&nbsp;1</p>")
    Extraction(ExtractionConfig(mode="all_text"))(document)
    assert document.text == "def f():\n    return 1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\0\x08\x1b[0mb", "a[0mb"),
        ("line  \n\n\n\n\nnext\t", "line\n\nnext"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("a\u00a0b\ufeffc\u200bd", "a bcd"),
        ("  indented", "  indented"),
        ("\n\n", ""),
    ],
)
def test_clean_text(before: str, after: str) -> None:
    assert clean_text(before) == after


@pytest.mark.parametrize("mode", ["precision", "fast"])
@pytest.mark.parametrize("depth", [200, 300, 3_000])
def test_the_end_of_a_page_that_is_nested_deeply_is_not_lost(mode: str, depth: int) -> None:
    """A template that opens a tag for each item and closes none: lxml stops at 256 open elements, without an error."""
    sentence = "<blockquote><p>On day {} the keeper of the lighthouse wrote down how many ships had passed.</p>"
    document = html("<html><body><article>" + "".join(map(sentence.format, range(depth))))
    assert Extraction(ExtractionConfig(mode=mode))(document) is None  # type: ignore[arg-type]
    assert document.text.count("keeper of the lighthouse") == depth
    assert f"On day {depth - 1} " in document.text


def test_what_stands_behind_a_very_long_text_is_not_lost() -> None:
    """lxml gives nothing at all for a page with a text of over 10 MB."""
    long = "The keeper counts the ships that pass. " * 280_000
    document = html(f"<html><body><p>{long}</p><p>Here the long day ends.</p></body></html>")
    assert Extraction(ExtractionConfig())(document) is None
    assert document.text.endswith("Here the long day ends.")
