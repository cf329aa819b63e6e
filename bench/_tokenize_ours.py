"""One measured run of llmpipe: python _tokenize_ours.py WHAT ARGUMENT…; see `_tokenize_peer.py`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from _tokenize_peer import N_MERGES, texts, write_tokens

from llmpipe.core.console import Console
from llmpipe.core.metrics import Metrics
from llmpipe.core.stage import Context, Inputs
from llmpipe.core.stop import StopFlag
from llmpipe.stages.tokenize.config import TokenizeConfig
from llmpipe.stages.tokenize.stage import SPEC
from llmpipe.stages.tokenize.train_bpe import train_on_texts
from llmpipe.tokenizer.encoders import ReferenceEncoder
from llmpipe.tokenizer.shards import open_shards
from llmpipe.tokenizer.special import N_SPECIAL
from llmpipe.tokenizer.vocabularies import load_vocabulary


def train(path: str, out: str) -> None:
    tokenizer = train_on_texts(texts(path), 256 + N_MERGES + N_SPECIAL, "qwen2")
    ranks = sorted(tokenizer.ranks, key=lambda token: tokenizer.ranks[token])
    write_tokens(out, ranks[256:])


def shards(folder: str, vocabulary: str, out: str) -> None:
    config = TokenizeConfig(tokenizer=vocabulary, inputs=(folder,), val_frac=0.0, unit_bytes=2**24)
    target = Path(out)
    metrics = Metrics(target / "metrics.jsonl")
    context = Context("bench", 1, Console(quiet=True), metrics, StopFlag(), 2, "cpu")
    SPEC.run(config, Inputs({}), target, context)


def encode(path: str, vocabulary: str) -> None:
    """Print the MB of text per CPU second that tiktoken and our encoder take, and whether ids differ."""
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
