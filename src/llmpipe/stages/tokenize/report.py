"""The tokenize stage's card: numbers to sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from llmpipe.core.artifact import Artifact
from llmpipe.core.report import Bars, Block, Code, Prose, Section, Table
from llmpipe.stages.tokenize.stats import COUNTS_FILE
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import pattern_name
from llmpipe.tokenizer.shards import Split, open_shards

_EXAMPLE_TOKENS = 120
_N_FREQUENT = 20
_NUMBERS = ("7", "42", "2026", "3.14159", "12+34=46")


def report(artifact: Artifact) -> list[Section]:
    """Return the sections: sizes, lengths, tokens, and text as the model sees it."""
    tokenizer = Tokenizer.load(artifact.path)
    counts = np.load(artifact.path / COUNTS_FILE)
    return [
        Section("Tokens", [_sizes(artifact, tokenizer)]),
        *_card(artifact),
        Section("Length of tokens", _lengths(artifact, tokenizer, counts)),
        Section("Longest and most frequent tokens", [_notable(artifact, tokenizer, counts)]),
        Section("What the model sees", _examples(artifact, tokenizer)),
    ]


def _sizes(artifact: Artifact, tokenizer: Tokenizer) -> Table:
    stats = artifact.stats
    learned: list[list[str | int | float]] = []
    if "learned_from_bytes" in stats:
        learned.append(["learned from", f"{stats['learned_from_bytes']:,} bytes"])
    if stats.get("pruned_pieces"):
        label = f"pieces left out, each in the text fewer than {stats['pruned_below']:,} times"
        number = f"{stats['pruned_pieces']:,}, {stats['pruned_occurrences']:,} places"
        learned.append([label, number])
    rows: list[list[str | int | float]] = [
        ["vocabulary", f"{stats['vocab_size']:,}"],
        ["of these special", f"{len(tokenizer.special):,}"],
        ["split pattern", pattern_name(tokenizer.pattern) or "its own"],
        ["documents", f"{stats['train_documents']:,} train, {stats['val_documents']:,} val"],
        ["tokens", f"{stats['train_tokens']:,} train, {stats['val_tokens']:,} val"],
        ["text", f"{stats['text_bytes']:,} bytes"],
        ["bytes per token", f"{stats['bytes_per_token']:.2f}"],
        ["merges that occur nowhere in training text", f"{stats['unused_tokens']:,}"],
        *learned,
        ["documents set aside as too long", f"{stats['documents_set_aside']:,}"],
        ["lone surrogates replaced", f"{stats['lone_surrogates_replaced']:,}"],
        ["digest", str(stats["tokenizer"])[:16]],
    ]
    return Table(["", ""], rows)


def _card(artifact: Artifact) -> list[Section]:
    """Return bytes per token by group, of this vocabulary and those it is compared with."""
    groups = artifact.stats.get("card") or {}
    if not groups:
        return []
    vocabularies = [key for key in next(iter(groups.values())) if key != "bytes"]
    rows: list[list[str | int | float]] = [
        [
            group.rstrip("/").replace("/", " "),
            row["bytes"],
            *(round(_bytes_per_token(row, name), 2) for name in vocabularies),
        ]
        for group, row in groups.items()
    ]
    blocks: list[Block] = [
        Prose("On the validation documents. More bytes per token mean shorter sequences."),
        Table(["text", "bytes", *vocabularies], rows),
    ]
    for kind in ("source", "language", "domain"):
        found = [(g.split("/", 1)[1], row) for g, row in groups.items() if g.startswith(f"{kind}/")]
        if len(found) > 1:
            for name in vocabularies:
                bars = [(label, _bytes_per_token(row, name)) for label, row in found]
                blocks.append(Bars(f"Bytes per token by {kind}: {name}", bars))
    return [Section("Bytes per token", blocks)]


def _bytes_per_token(row: Mapping[str, int], vocabulary: str) -> float:
    return row["bytes"] / max(1, row[vocabulary])


def _lengths(artifact: Artifact, tokenizer: Tokenizer, counts: np.ndarray) -> list[Block]:
    """Return two histograms over bytes per token: of the vocabulary, and of the training text."""
    vocabulary = {int(n): count for n, count in artifact.stats["token_lengths"].items()}
    lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(len(tokenizer.ranks))])
    used = np.bincount(lengths, weights=counts[: len(lengths)].astype(float))
    share = {n: 100 * float(weight) / max(1.0, float(used.sum())) for n, weight in enumerate(used)}
    return [
        Bars("Tokens of the vocabulary by length in bytes", _up_to(vocabulary), "tokens"),
        Bars("Share of the training text's tokens by length in bytes", _up_to(share), "%"),
    ]


def _up_to(values: dict[int, float], last: int = 16) -> list[tuple[str, float]]:
    """Return a row for each length up to `last`, and one for all longer."""
    rows = [(str(n), float(values.get(n, 0))) for n in range(1, last + 1)]
    rest = sum(value for n, value in values.items() if n > last)
    return [*rows, (f"over {last}", float(rest))]


def _notable(artifact: Artifact, tokenizer: Tokenizer, counts: np.ndarray) -> Table:
    frequent = np.argsort(-counts.astype(np.int64), kind="stable")[:_N_FREQUENT]
    longest = artifact.stats["longest_tokens"][:_N_FREQUENT]
    rows: list[list[str | int | float]] = [
        [_visible(text), _visible(tokenizer.decode([int(i)])), int(counts[i])]
        for text, i in zip(longest, frequent, strict=True)
    ]
    return Table(["longest", "most frequent", "times"], rows)


def _examples(artifact: Artifact, tokenizer: Tokenizer) -> list[Block]:
    split: Split = "val" if artifact.stats["val_tokens"] else "train"
    shards = open_shards(artifact.path, split, verify=False)
    ids = shards.tokens(0, min(_EXAMPLE_TOKENS, shards.n_tokens)).tolist()
    numbers = "\n".join(
        f"{text:<10} {_cut(tokenizer, tokenizer.encode(text))}" for text in _NUMBERS
    )
    return [
        Prose(
            "The beginning of a document: a bar stands between tokens, `·` for a space and `⏎` "
            "for a line break. Below it the ids themselves, which is all that the model gets."
        ),
        Code(_cut(tokenizer, ids), f"{len(ids)} tokens ({split})"),
        Code(" ".join(map(str, ids)), "the same as ids"),
        Code(numbers, "how numbers are split"),
    ]


def _cut(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    return "|".join(_visible(tokenizer.decode([i])) for i in ids)


def _visible(text: str) -> str:
    """Show spaces and line breaks; other characters that print nothing as their escape."""
    shown = {" ": "·", "\n": "⏎", "\t": "→"}
    return "".join(
        shown.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode())
        for c in text
    )
