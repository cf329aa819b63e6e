"""Learning a vocabulary and writing token shards, beside rustbpe, Hugging Face, datatrove and nanoGPT.

The part is not called `tokenize`: a module of that name in this folder would stand before Python's own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
from _tokenize_data import DATA, write_mix

from llmpipe.tokenizer.vocabularies import load_vocabulary

FOLDER = Path(__file__).parent
OURS, PEER = FOLDER / "_tokenize_ours.py", FOLDER / "_tokenize_peer.py"
CL100K = DATA / "tokenizers/cl100k_base.tiktoken"
Commands = dict[str, list[str | Path]]
N_RUNS = 3
TRAIN_BYTES, SHARD_BYTES, ENCODE_BYTES = 60_000_000, 125_000_000, 100_000_000


def main(results: Path, n_runs: int = N_RUNS, n_warm_up: int = 1) -> None:
    with tempfile.TemporaryDirectory(prefix="llmpipe-bench-") as name:
        work = Path(name)
        text = measure.header("Tokenizer: learning and encoding", "tokenizer")
        text += f"Counted runs of each: {n_runs}, after {n_warm_up} that did not count. "
        text += "Text: novels, Python's documents and sources, sentences of 75 languages.\n\n"
        text += _training(work, n_runs, n_warm_up) + _shards(work, n_runs, n_warm_up)
        text += _encoding(work)
    (results / "tokenize.md").write_text(text, encoding="utf-8")


def _training(work: Path, n_runs: int, n_warm_up: int) -> str:
    data = work / "train.jsonl"
    n_bytes = write_mix([data], TRAIN_BYTES)
    out = {name: work / f"{name}.hex" for name in ("llmpipe", "rustbpe", "huggingface")}
    rustbpe = measure.peer_python("tokenize-rustbpe", ["rustbpe"])
    huggingface = measure.peer_python("tokenize-tokenizers", ["tokenizers"])
    commands: Commands = {
        "llmpipe": [measure.our_python(), OURS, "train", data, out["llmpipe"]],
        "rustbpe": [rustbpe, PEER, "train_rustbpe", data, out["rustbpe"]],
        "huggingface": [huggingface, PEER, "train_huggingface", data, out["huggingface"]],
    }
    runs = _alternate(commands, n_runs, n_warm_up, lambda name: None)
    learned = {name: path.read_text().split() for name, path in out.items()}
    same = learned["llmpipe"] == learned["rustbpe"]
    rows = [
        [
            name,
            f"{measure.median_cpu(r):.1f}",
            f"{measure.peak_mb(r):.0f}",
            f"{measure.ratio(runs['llmpipe'], r):.2f}",
        ]
        for name, r in runs.items()
    ]
    return (
        f"## Learning 32,480 merges from {n_bytes / 1e6:.0f} MB\n\n"
        + measure.table(["", "CPU s", "peak MB", "llmpipe's CPU / this"], rows)
        + f"\nllmpipe's merges are rustbpe's, all in their order: {'yes' if same else 'NO'}.\n\n"
    )


def _shards(work: Path, n_runs: int, n_warm_up: int) -> str:
    data = work / "texts"
    data.mkdir()
    n_bytes = write_mix([data / "a.jsonl", data / "b.jsonl"], SHARD_BYTES)
    load_vocabulary(CL100K).save(work / "cl100k")
    out = {name: work / f"shards-{name}" for name in ("llmpipe", "nanogpt", "datatrove")}
    nanogpt = measure.peer_python("tokenize-nanogpt", ["tiktoken", "datasets", "numpy", "tqdm"])
    datatrove = measure.peer_python(
        "tokenize-datatrove", ["datatrove[io,processing]", "tokenizers", "orjson"]
    )
    hf_file = work / "cl100k/tokenizer.json"
    commands: Commands = {
        "llmpipe": [measure.our_python(), OURS, "shards", data, CL100K, out["llmpipe"]],
        "nanogpt": [nanogpt, PEER, "shards_nanogpt", data, CL100K, out["nanogpt"]],
        "datatrove": [datatrove, PEER, "shards_datatrove", data, hf_file, out["datatrove"]],
    }
    runs = _alternate(commands, n_runs, n_warm_up, lambda name: _make_empty(out[name]))
    digests = {name: _digest(_ids(name, path)) for name, path in out.items()}
    same = len(set(digests.values())) == 1
    rows = [
        [
            name,
            f"{n_bytes / 1e6 / measure.median_cpu(r):.1f}",
            f"{measure.peak_mb(r):.0f}",
            f"{1 / measure.ratio(runs['llmpipe'], r):.1f}",
        ]
        for name, r in runs.items()
    ]
    micro = json.loads(measure.run([measure.our_python(), OURS, "windows", out["llmpipe"]]).stdout)
    return (
        f"## {n_bytes / 1e6:.0f} MB of JSON lines to cl100k shards, 2 processes\n\n"
        + measure.table(["", "MB per CPU s", "peak MB", "llmpipe is so many times as fast"], rows)
        + f"\nThe ids are the same in all three files: {'yes' if same else 'NO'}. llmpipe also "
        "counts tokens and writes checksums, which the others do not. "
        "nanoGPT's way is that of its `prepare.py`, with uint32 ids.\n\n"
        f"Reading random windows of 2,049 tokens: {micro['memmap']:.2f} µs from a plain memmap, "
        f"{micro['llmpipe']:.2f} µs through `TokenShards.tokens`.\n\n"
    )


def _alternate(
    commands: Commands, n_runs: int, n_warm_up: int, prepare: Callable[[str], None]
) -> dict[str, list[measure.Run]]:
    """Run the commands in turn; like `measure.interleave`, with something to do before each."""
    runs: dict[str, list[measure.Run]] = {name: [] for name in commands}
    for i in range(n_warm_up + n_runs):
        for name, command in commands.items():
            prepare(name)
            run = measure.run(command)
            print(f"   {name} {i + 1}/{n_warm_up + n_runs}: {run.cpu_s:.1f} s", file=sys.stderr)
            runs[name] += [run] if i >= n_warm_up else []
    return runs


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _ids(name: str, folder: Path) -> np.ndarray:
    if name == "llmpipe":
        paths = sorted(folder.glob("train-*.tok.npy"))
        ids = np.concatenate([np.load(path) for path in paths])
    elif name == "nanogpt":
        ids = np.fromfile(folder / "train.bin", dtype=np.uint32)
    else:
        paths = sorted((folder / "merged").glob("*.ds"))
        ids = np.concatenate([np.fromfile(path, dtype=np.uint32) for path in paths])
    return ids[ids < 100_256]  # without the mark between documents, which is ours, or theirs


def _digest(ids: np.ndarray) -> str:
    return hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest()


def _encoding(work: Path) -> str:
    data = work / "encode.jsonl"
    n_bytes = write_mix([data], ENCODE_BYTES)
    run = measure.run([measure.our_python(), OURS, "encode", data, CL100K])
    found = json.loads(run.stdout)
    rows = [[name, f"{speed:.1f}"] for name, speed in found["speeds"].items()]
    return (
        f"## Encoding {n_bytes / 1e6:.0f} MB in memory with cl100k, one thread\n\n"
        + measure.table(["", "MB per CPU s"], rows)
        + f"\nDocuments whose ids differ: {found['different']} of {found['documents']:,}.\n"
    )
