"""One measured run of llmpipe: python _tokenize_ours.py WHAT ARGUMENT…; see `_tokenize_peer.py`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _tokenize_peer import N_MERGES, texts, write_tokens

if TYPE_CHECKING:
    from llmpipe.tokenizer.bpe import Tokenizer

LETTERS_PER_ERROR = 1000
"""So that 5 GB have as many different words as 5 GB of the web, not as few as what is repeated."""

# Worker processes import this module too, so it imports no more than the command line does; what a
# measurement needs is imported there.


def learn(documents: Iterable[str], n_merges: int) -> Tokenizer:
    from llmpipe.stages.tokenize.train_bpe import learn_vocabulary
    from llmpipe.tokenizer.patterns import PATTERNS
    from llmpipe.tokenizer.piece_counts import PieceCounter
    from llmpipe.tokenizer.special import N_SPECIAL

    counter = PieceCounter(PATTERNS["qwen2"])
    counter.add(documents)
    size = 256 + n_merges + N_SPECIAL
    return learn_vocabulary(counter.finish(), size, "qwen2", counter.text_bytes)


def train(path: str, out: str) -> None:
    tokenizer = learn(texts(path), N_MERGES)
    ranks = sorted(tokenizer.ranks, key=lambda token: tokenizer.ranks[token])
    write_tokens(out, ranks[256:])


def count_large(path: str, folder: str, n_bytes: str) -> None:
    """Count the pieces of `n_bytes` of text, the texts again and again with letters changed."""
    from llmpipe.tokenizer.patterns import PATTERNS
    from llmpipe.tokenizer.piece_counts import PieceCounter, save_counts

    documents, rng = list(texts(path)), np.random.default_rng(1)
    i_file, left = 0, int(n_bytes)
    while left > 0:
        counter = PieceCounter(PATTERNS["qwen2"])
        counter.add(_misspelled(text, rng) for text in documents)
        save_counts(counter.finish(), Path(folder) / f"{i_file:05d}.arrow")
        i_file, left = i_file + 1, left - counter.text_bytes


def _misspelled(text: str, rng: np.random.Generator) -> str:
    """Replace one character in `LETTERS_PER_ERROR`, where it is a small letter, by another one."""
    data = np.frombuffer(text.encode(), dtype=np.uint8).copy()
    at = rng.integers(0, len(data), len(data) // LETTERS_PER_ERROR)
    at = at[(data[at] >= ord("a")) & (data[at] <= ord("z"))]
    data[at] = rng.integers(ord("a"), ord("z") + 1, len(at))
    return data.tobytes().decode()


def learn_large(folder: str, max_pieces: str, out: str) -> None:
    """Learn merges from the counts in `folder`; print how many pieces there were and were left out."""
    from llmpipe.tokenizer.learner import learn_merges
    from llmpipe.tokenizer.piece_counts import add_files

    counts, pruned = add_files(sorted(Path(folder).glob("*.arrow")), int(max_pieces))
    n_kept = len(counts)
    write_tokens(out, learn_merges(counts, N_MERGES))
    print(json.dumps({"kept": n_kept, "pruned": pruned.pieces, "below": pruned.below}))


def max_pieces() -> None:
    from llmpipe.stages.tokenize.config import TokenizeConfig

    print(TokenizeConfig().max_pieces)


def shards(folder: str, vocabulary: str, out: str) -> None:
    from llmpipe.core.console import Console
    from llmpipe.core.metrics import Metrics
    from llmpipe.core.stage import Context, Inputs
    from llmpipe.core.stop import StopFlag
    from llmpipe.stages.tokenize.config import TokenizeConfig
    from llmpipe.stages.tokenize.stage import SPEC

    config = TokenizeConfig(tokenizer=vocabulary, inputs=(folder,), val_frac=0.0)
    target = Path(out)
    metrics = Metrics(target / "metrics.jsonl")
    context = Context("bench", 1, Console(quiet=True), metrics, StopFlag(), 2, "cpu")
    SPEC.run(config, Inputs({}), target, context)


def encode(path: str, vocabulary: str) -> None:
    """Print the MB of text per CPU second that tiktoken and our encoder take, and whether ids differ."""
    from llmpipe.tokenizer.encoders import ReferenceEncoder
    from llmpipe.tokenizer.vocabularies import load_vocabulary

    tokenizer = load_vocabulary(Path(vocabulary))
    reference = ReferenceEncoder(tokenizer.ranks, tokenizer.pattern)
    documents = list(texts(path))
    n_bytes = sum(len(text.encode()) for text in documents)
    tokenizer.encode("warm")
    reference.encode("warm")
    n_different = 0
    seconds = {"tiktoken": 0.0, "llmpipe": 0.0}
    for text in documents:
        started = time.process_time()
        ours = tokenizer.encode_array(text)
        between = time.process_time()
        theirs = reference.encode(text)
        seconds["llmpipe"] += between - started
        seconds["tiktoken"] += time.process_time() - between
        n_different += not np.array_equal(ours, theirs)
    speeds = {name: n_bytes / 1e6 / s for name, s in seconds.items()}
    print(json.dumps({"speeds": speeds, "documents": len(documents), "different": n_different}))


def windows(folder: str) -> None:
    """Print the microseconds that a random window of 2,049 tokens takes, plain and through us."""
    from llmpipe.tokenizer.shards import open_shards

    opened = open_shards(Path(folder), "train", verify=False)
    path = sorted(Path(folder).glob("train-*.tok.npy"))[0]
    plain = np.load(path, mmap_mode="r")
    n = len(plain) - 2049
    starts = np.random.default_rng(1).integers(0, n, 20_000).tolist()
    best = {"memmap": float("inf"), "llmpipe": float("inf")}
    for _ in range(7):
        started = time.process_time()
        for start in starts:
            np.array(plain[start : start + 2049])
        between = time.process_time()
        for start in starts:
            opened.tokens(start, start + 2049)
        ended = time.process_time()
        best["memmap"] = min(best["memmap"], (between - started) / len(starts) * 1e6)
        best["llmpipe"] = min(best["llmpipe"], (ended - between) / len(starts) * 1e6)
    print(json.dumps(best))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
