"""Everything that can be set in the data stage: one dataclass per step, each number with its origin.

The defaults are the FineWeb recipe (Penedo et al. 2024, arXiv:2406.17557) as huggingface/datatrove's
`examples/fineweb.py` runs it, English only. A recipe changes the order with `steps` and the thresholds
with one table per step, for example `[data.fineweb]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from llmpipe.core.config import Unkeyed, schema

Fraction = Annotated[float, Ge(0), Le(1)]

FINEWEB_STEPS = (
    "url_filter",
    "language_prefilter",
    "extraction",
    "language",
    "gopher_repetition",
    "gopher_quality",
    "c4",
    "fineweb",
    "url_dedup",
    "exact_dedup",
    "minhash",
    "pii",
)
"""All filters come before MinHash, as in datatrove's example; the paper's text has MinHash first."""


@schema
@dataclass(frozen=True)
class ReadConfig:
    """What of the inputs is a document, and how much of it is read."""

    http_status: tuple[int, ...] = (200,)
    """Responses with another status are dropped. Empty: keep all. Common Crawl's `warc/` holds only 200."""
    max_record_bytes: Annotated[int, Gt(0)] = 32_000_000
    """A larger record is set aside unread. Common Crawl cuts payloads at 1 to 5 MiB."""
    max_page_bytes: Annotated[int, Gt(0)] = 16_000_000
    """Bound on a page after undoing gzip, deflate or br, against decompression bombs."""
    check_digests: bool = True
    """Compare `WARC-Payload-Digest` (or the block's), and set aside records whose content differs."""
    text_field: str = "text"
    """Column or key of JSONL, Parquet and datasets that holds the text."""
    url_field: str = "url"
    """Column or key that holds the address, where there is one."""
    date_field: str = "date"
    """Column or key that holds the date, where there is one."""


@schema
@dataclass(frozen=True)
class LimitsConfig:
    """What one document may cost before its worker is ended and the document is set aside."""

    cpu_s: Annotated[float, Gt(0)] = 5.0
    """CPU seconds per document. No page of 1,471 measured took more than 1; bombs take minutes."""
    wall_s: Annotated[float, Gt(0)] = 120.0
    """Wall seconds per document; large, because a busy machine must not lose documents."""
    memory_mb: Annotated[int, Ge(64)] = 2_000
    """Address space a worker may take beyond what it has after loading its models."""


@schema
@dataclass(frozen=True)
class UrlFilterConfig:
    """Drop pages by their address."""

    categories_folder: str | None = None
    """A folder laid out like the UT1 lists: `<category>/domains` and `<category>/urls`, or
    `<category>_domains.txt.gz`. Source of the format: https://dsi.ut-capitole.fr/blacklists/"""
    categories: tuple[str, ...] = (
        "adult", "mixed_adult", "agressif", "dating", "gambling", "malware", "phishing", "warez",
    )  # fmt: skip
    """Which of the folder's categories are dropped."""
    use_seed_list: bool = True
    """Also use the short list that comes with llmpipe (`resources/urls/domains.txt`)."""


@schema
@dataclass(frozen=True)
class LanguagePrefilterConfig:
    """Drop pages whose raw visible text is clearly in another language, before costly extraction."""

    min_score: Fraction = 0.2
    """Lowest summed probability of the wanted languages. At 0.2 the kept set of 397 pages was the same
    as without this step, at 1.6 times the speed."""


@schema
@dataclass(frozen=True)
class ExtractionConfig:
    """HTML to text: by trafilatura, or by it only where a simple extractor cannot be trusted."""

    mode: Literal["precision", "fast", "all_text"] = "precision"
    """`precision` as FineWeb (F1 .920 on trafilatura's set), `fast` a simple extractor where the page is plainly an article
    and trafilatura without its fallbacks elsewhere (F1 .910), `all_text` (resiliparse, F1 .70) for pages that are content
    from edge to edge. Measured in docs/results/data.md."""
    skip_elements: tuple[str, ...] = ()
    """CSS selectors whose elements are left out in mode `all_text`."""


@schema
@dataclass(frozen=True)
class LanguageConfig:
    """Keep documents in the wanted languages, by fastText's lid.176 (compressed)."""

    keep: tuple[str, ...] = ("en",)
    """ISO 639 codes as lid.176 gives them. Empty: keep every language that is certain enough."""
    min_score: Fraction = 0.65
    """Lowest probability of the best language. Source: FineWeb, section 3.3 (0.65)."""
    max_chars: Annotated[int, Gt(0)] = 2_000
    """Characters looked at. Against the full text: the same decision on 99.7 %, three times the speed."""


@schema
@dataclass(frozen=True)
class GopherRepetitionConfig:
    """Drop texts that repeat themselves. Source of all numbers: Rae et al. 2021, arXiv:2112.11446, table A1."""

    max_dup_paragraphs: Fraction = 0.30
    """Share of paragraphs that stood before."""
    max_dup_paragraph_chars: Fraction = 0.20
    """Share of characters in such paragraphs."""
    max_dup_lines: Fraction = 0.30
    """Share of lines that stood before."""
    max_dup_line_chars: Fraction = 0.20
    """Share of characters in such lines."""
    max_top_2_gram: Fraction = 0.20
    """Share of characters in the most frequent pair of words; likewise the next two."""
    max_top_3_gram: Fraction = 0.18
    """See `max_top_2_gram`."""
    max_top_4_gram: Fraction = 0.16
    """See `max_top_2_gram`."""
    max_dup_5_gram: Fraction = 0.15
    """Share of characters in runs of 5 words that stood before; likewise the next five."""
    max_dup_6_gram: Fraction = 0.14
    """See `max_dup_5_gram`."""
    max_dup_7_gram: Fraction = 0.13
    """See `max_dup_5_gram`."""
    max_dup_8_gram: Fraction = 0.12
    """See `max_dup_5_gram`."""
    max_dup_9_gram: Fraction = 0.11
    """See `max_dup_5_gram`."""
    max_dup_10_gram: Fraction = 0.10
    """See `max_dup_5_gram`."""


@schema
@dataclass(frozen=True)
class GopherQualityConfig:
    """Drop texts that do not look like prose. Source: arXiv:2112.11446, section A1.1, if nothing else is named."""

    min_words: Annotated[int, Ge(0)] = 50
    """Fewest words, punctuation not counted."""
    max_words: Annotated[int, Gt(0)] = 100_000
    """Most words."""
    min_mean_word_length: Annotated[float, Ge(0)] = 3.0
    """Lowest mean length of words, in characters."""
    max_mean_word_length: Annotated[float, Gt(0)] = 10.0
    """Highest mean length."""
    max_hashes_per_word: Annotated[float, Ge(0)] = 0.1
    """Most `#` per word."""
    max_ellipses_per_word: Annotated[float, Ge(0)] = 0.1
    """Most `...` or `…` per word."""
    max_bullet_lines: Fraction = 0.9
    """Share of lines that begin with a bullet or a hyphen."""
    max_ellipsis_lines: Fraction = 0.3
    """Share of lines that end with an ellipsis."""
    min_alpha_words: Fraction = 0.8
    """Share of words with a letter; as in datatrove, punctuation counts as words here, which is
    stricter than the paper."""
    min_stop_words: Annotated[int, Ge(0)] = 2
    """Fewest different ones of: the, be, to, of, and, that, have, with."""


@schema
@dataclass(frozen=True)
class C4Config:
    """C4's rules: clean lines, then drop pages.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.2, and datatrove `c4_filters.py`; FineWeb
    leaves the terminal-punctuation rule out.
    """

    require_terminal_punctuation: bool = False
    """Remove lines that do not end in . ? ! " or '. Alone it costs 30 % of tokens (FineWeb, section 3.5)."""
    min_words_per_line: Annotated[int, Ge(0)] = 3
    """Shorter lines are removed."""
    max_word_length: Annotated[int, Gt(0)] = 1_000
    """Lines with a longer word are removed."""
    remove_citations: bool = True
    """Remove [1], [edit] and [citation needed]."""
    remove_javascript_lines: bool = True
    """Remove lines that mention javascript."""
    remove_policy_lines: bool = True
    """Remove lines about cookies, privacy policy and terms of use."""
    drop_lorem_ipsum: bool = True
    """Drop pages with placeholder text."""
    drop_curly_bracket: bool = True
    """Drop pages with `{`, which is mostly code (2.8 % of tokens, FineWeb section 3.5)."""
    min_sentences: Annotated[int, Ge(0)] = 5
    """Fewest sentences in what is left."""


@schema
@dataclass(frozen=True)
class FineWebConfig:
    """FineWeb's own rules. Source: arXiv:2406.17557, section 3.6, and datatrove `fineweb_quality_filter.py`."""

    min_line_punctuation: Fraction = 0.12
    """Share of lines that end in punctuation (10.14 % of tokens removed)."""
    max_short_lines: Fraction = 0.67
    """Share of lines of at most `short_line_chars` (3.73 %)."""
    short_line_chars: Annotated[int, Gt(0)] = 30
    """What a short line is."""
    max_dup_line_chars: Fraction = 0.01
    """Share of characters in lines that stood before (12.47 %). The paper says 0.1, datatrove's code 0.01."""
    max_newlines_per_word: Annotated[float, Ge(0)] = 0.3
    """Most line breaks per word: lists. datatrove only."""


@schema
@dataclass(frozen=True)
class UrlDedupConfig:
    """Keep one document per address, the first in key order."""

    ignore_query: bool = False
    """Treat addresses that differ only after `?` as equal."""


@schema
@dataclass(frozen=True)
class ExactDedupConfig:
    """Keep one document per text, the first in key order; white space at both ends does not count."""


@schema
@dataclass(frozen=True)
class MinHashConfig:
    """Keep one document of every cluster of near-duplicates, the first in key order.

    A pair of Jaccard similarity s shares a band with probability 1 - (1 - s^rows)^bands: at 14 x 8
    half of the pairs at s = 0.72. Source: FineWeb, section 3.4.
    """

    bands: Annotated[int, Gt(0), Le(128)] = 14
    """Groups of hashes; one equal group makes two documents candidates."""
    rows: Annotated[int, Gt(0), Le(64)] = 8
    """Hashes per group."""
    ngram: Annotated[int, Gt(0), Le(32)] = 5
    """Words per shingle."""


@schema
@dataclass(frozen=True)
class PiiConfig:
    """Replace personal data by fixed placeholders.

    FineWeb replaces e-mail and public IP addresses; the other kinds are checked by their own rules (Luhn,
    mod 97, number plans), not by shape alone.
    """

    kinds: tuple[
        Literal["email", "ipv4", "ipv6", "phone", "card", "iban", "ssn", "address"], ...
    ] = ("email", "ipv4", "ipv6", "phone", "card", "iban", "ssn")  # fmt: skip
    """What is looked for. `address`, off by default, knows the spelling of English-speaking countries only."""
    phone_regions: tuple[str, ...] = ("US",)
    """Countries whose national spelling is understood anywhere. Numbers with +country, and those beside a word such as *phone* or
    *call*, are found in any spelling."""
    public_ip_only: bool = True
    """Leave private, loopback and documentation addresses alone, as FineWeb does."""


@schema
@dataclass(frozen=True)
class LineCleaningConfig:
    """Remove lines that are controls of a page, and drop pages made of them.

    Source: RefinedWeb, Penedo et al. 2023, arXiv:2306.01116, section G.2.
    """

    max_upper: Fraction = 0.5
    """Lines with a larger share of capitals among their letters are removed."""
    max_words: Annotated[int, Ge(0)] = 10
    """Only lines up to this length are looked at for the phrases of controls (sign-in, read more, items in cart)."""
    max_removed_words: Fraction = 0.05
    """A page that loses a larger share of its words is dropped."""


@schema
@dataclass(frozen=True)
class QualityConfig:
    """Keep what a fastText classifier likes, as in DCLM (Li et al. 2024, arXiv:2406.11794) and FineWeb-Edu."""

    model: str | None = None
    """File made by `llmpipe data train-classifier`."""
    label: str = "good"
    """The label whose probability is the score."""
    min_score: Fraction = 0.5
    """Lowest probability; DCLM keeps the best tenth, so look at the scores in the corpus first (`min_score = 0`)."""


@schema
@dataclass(frozen=True)
class DecontaminationConfig:
    """Drop documents that share a run of words with an evaluation set."""

    files: tuple[str, ...] = ()
    """JSONL files, plain or gz; every string in a line is text that a model may be asked."""
    ngram: Annotated[int, Ge(4), Le(64)] = 13
    """Words of a run. Source: Brown et al. 2020, arXiv:2005.14165, appendix C (13)."""
    min_words: Annotated[int, Ge(4)] = 8
    """A string shorter than `ngram` counts as a whole from this length; shorter ones are chance."""


@schema
@dataclass(frozen=True)
class SubstringsConfig:
    """Cut runs of words that stood before in the corpus, in this or an earlier document.

    Source: Lee et al. 2021, arXiv:2107.06499, section 4.1, and RefinedWeb, arXiv:2306.01116, section 3.3. Both count 50 tokens
    of a vocabulary; here a token is a word or a sign. They cut all copies, here the first one stays.
    """

    min_tokens: Annotated[int, Ge(8)] = 50
    """Fewest words and signs in a row that make a repeated run."""
    action: Literal["cut", "drop"] = "cut"
    """`cut` the run out of the text, or `drop` every document that has one."""
    min_words_left: Annotated[int, Ge(0)] = 50
    """A document of which fewer words are left is dropped. As in `gopher_quality`."""


@schema
@dataclass(frozen=True)
class DataConfig:
    """Settings of `llmpipe data`."""

    inputs: Annotated[tuple[str, ...], Unkeyed()] = ()
    """WARC, ARC, WET, HTML, Parquet or JSONL files, folders, globs, URLs, `hf:NAME`, or a list of Common Crawl:
    `cc:CC-MAIN-2024-22#0:10` is the first ten archives of that crawl. Empty: the crawl of this run."""
    steps: tuple[str, ...] = FINEWEB_STEPS
    """The steps in order; a step that is not named is not done."""
    keep_dropped: bool = False
    """Also write the dropped documents with their reasons, under `dropped/`."""
    part_mb: Annotated[int, Gt(0)] = 256
    """Size of the parts of the corpus, in MB of text before compression."""
    read: ReadConfig = field(default_factory=ReadConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    url_filter: UrlFilterConfig = field(default_factory=UrlFilterConfig)
    language_prefilter: LanguagePrefilterConfig = field(default_factory=LanguagePrefilterConfig)
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    gopher_repetition: GopherRepetitionConfig = field(default_factory=GopherRepetitionConfig)
    gopher_quality: GopherQualityConfig = field(default_factory=GopherQualityConfig)
    c4: C4Config = field(default_factory=C4Config)
    fineweb: FineWebConfig = field(default_factory=FineWebConfig)
    url_dedup: UrlDedupConfig = field(default_factory=UrlDedupConfig)
    exact_dedup: ExactDedupConfig = field(default_factory=ExactDedupConfig)
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    pii: PiiConfig = field(default_factory=PiiConfig)
    line_cleaning: LineCleaningConfig = field(default_factory=LineCleaningConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    substrings: SubstringsConfig = field(default_factory=SubstringsConfig)

    def __post_init__(self) -> None:
        """Put the inputs in one order: the corpus does not depend on it, so the key must not."""
        object.__setattr__(self, "inputs", tuple(sorted(set(self.inputs))))
