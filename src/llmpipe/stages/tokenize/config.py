"""Settings of the tokenize stage."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MultipleOf

from llmpipe.core.config import schema

MIN_VOCAB = 384
"""256 bytes, 32 special tokens and some merges, as a multiple of 128."""


@schema
class CorpusPart:
    """A part of the corpus, and how much of it to use."""

    name: str
    """What it is called in the manifest and in the report."""

    inputs: tuple[str, ...] = ()
    """Files, as in `tokenize.inputs`; none means the corpus artifact."""

    epochs: Annotated[float, Gt(0), Le(100)] = 1.0
    """How often its training documents stand in the shards. 0.5 takes half of them, by hash, 2.5 all
    of them twice and half of them a third time. Validation documents stand there once."""

    train_share: Annotated[float, Ge(0), Le(1)] | None = None
    """Its share of `train_bytes`; all of it if it has less. None is its share of the shards' text."""


@schema
class TokenizeConfig:
    """What the vocabulary looks like, and how text is cut into shards."""

    vocab_size: Annotated[int, Ge(MIN_VOCAB), MultipleOf(128)] = 32_768
    """Tokens in all: 256 bytes, the merges, 32 special tokens. A multiple of 128, so that the
    model's output matrix has a shape GPUs like. Default: karpathy/nanochat's 2^15."""

    pattern: Literal["qwen2", "gpt2", "cl100k", "o200k", "llama3"] = "qwen2"
    """How text is cut into pieces before merging. `qwen2` makes every digit a token: a third more
    tokens than `cl100k` in number-heavy text, as many elsewhere, and sums a small model can learn."""

    train_bytes: Annotated[int, Gt(0)] = 100_000_000
    """Bytes of text to learn merges from, drawn evenly over the corpus by the hash of a document's
    text; validation documents are left out. All of a smaller corpus is used, and each source gives
    its share (see `sources`). A few hundred more bytes may come, since whole documents are taken."""

    max_pieces: Annotated[int, Gt(0)] = 5_000_000
    """Different pieces of text (words, mostly) to learn merges from, of which 5 million take just
    under 2 GB; 100 MB of text in many languages have 0.7 million. Up to this limit the merges are
    exact. Above it the rarest pieces are left out, all of one frequency together, and the manifest
    says how many."""

    tokenizer: str | None = None
    """Take this vocabulary and train none: `gpt2`, `r50k_base`, `cl100k_base` or `o200k_base` where
    its file lies in `tokenizers/` or in tiktoken's cache, a `.tiktoken` file of such a name, a folder
    with `tokenizer.json`, or one with GPT-2's `encoder.json` and `vocab.bpe`. The special tokens are
    added; `vocab_size` and `pattern` are its own."""

    inputs: tuple[str, ...] = ()
    """Files to read in place of a corpus artifact: `.jsonl` or `.ndjson`, plain or packed with gzip, zstd
    or LZ4, and `.parquet`; folders, globs and fsspec URLs too."""

    sources: tuple[CorpusPart, ...] = ()
    """A mixture, in place of `inputs`: where each part of the corpus is, and how much of it to use."""

    compare: tuple[str, ...] = ()
    """Vocabularies to measure beside this one on the validation documents, in the form of
    `tokenizer`; the report shows bytes per token of each by language, domain and source."""

    text_column: str = "text"
    """The column or key that holds the text."""

    id_column: str | None = "id"
    """The column or key that names a document in the list of those set aside, if there is one."""

    val_frac: Annotated[float, Ge(0), Lt(1)] = 0.01
    """Share of documents kept for validation, by the hash of their text, so that copies of a text
    fall on one side. At least one document, where the corpus has two."""

    split_chars: Annotated[int, Gt(0)] | None = None
    """Cut documents into pieces of at most about this many characters, at the end of a paragraph,
    before the split. For a few huge documents (books), where whole ones would make a lumpy
    validation set."""

    max_document_bytes: Annotated[int, Gt(0)] = 32 * 2**20
    """Longer documents are set aside and listed in `set_aside.jsonl`, as are rows that cannot be used;
    bounds memory."""

    shard_tokens: Annotated[int, Ge(1024)] = 100_000_000
    """A shard ends with the document that reaches this. 100M tokens are 200 MB at 2 bytes.
    Source: karpathy/build-nanogpt fineweb.py."""

    unit_bytes: Annotated[int, Gt(0)] = 64 * 2**20
    """Input bytes that make one unit of work, where a file can be cut (Parquet at row groups,
    plain JSONL at lines). A unit is what is done again after a crash."""
