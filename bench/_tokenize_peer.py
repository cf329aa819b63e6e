"""One measured run of a peer, in its own environment: python _tokenize_peer.py WHAT ARGUMENT…

train_*: TEXTS.jsonl OUT — learn 32,480 merges with the `qwen2` split, write each token in hex, in order.
shards_*: FOLDER VOCABULARY OUT — turn the JSON lines in FOLDER into token files with two processes.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

N_MERGES = 32_480
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
END_OF_TEXT = 100_257


def texts(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def write_tokens(out: str, tokens: list[bytes]) -> None:
    Path(out).write_text("".join(token.hex() + "\n" for token in tokens))


def train_rustbpe(path: str, out: str) -> None:
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(texts(path), vocab_size=256 + N_MERGES, pattern=QWEN2)
    ranks = sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])
    write_tokens(out, [bytes(token) for token, _ in ranks[256:]])


def train_huggingface(path: str, out: str) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + N_MERGES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(path), trainer)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    write_tokens(out, [token.encode() for token, _ in vocabulary[256:]])


def shards_nanogpt(folder: str, vocabulary: str, out: str) -> None:
    """The way of nanoGPT's data/openwebtext/prepare.py: tokenize with `map`, then fill a memmap.

    Its ids are uint16; cl100k's need uint32.
    """
    import numpy as np
    import tiktoken
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    lines = Path(vocabulary).read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    encoding = tiktoken.Encoding("cl100k", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
    files = sorted(str(path) for path in Path(folder).glob("*.jsonl"))
    dataset = load_dataset("json", data_files=files, split="train", cache_dir=f"{out}/cache")

    def process(example: dict[str, str]) -> dict[str, object]:
        ids = [*encoding.encode_ordinary(example["text"]), END_OF_TEXT]
        return {"ids": ids, "len": len(ids)}

    tokenized = dataset.map(process, remove_columns=["text"], num_proc=2)
    total = int(np.sum(tokenized["len"], dtype=np.uint64))
    array = np.memmap(f"{out}/train.bin", dtype=np.uint32, mode="w+", shape=(total,))
    n_batches = min(1024, len(tokenized))
    at = 0
    for i in range(n_batches):
        batch = tokenized.shard(num_shards=n_batches, index=i, contiguous=True)
        ids = np.concatenate(batch.with_format("numpy")["ids"][:])
        array[at : at + len(ids)] = ids
        at += len(ids)
    array.flush()


def shards_datatrove(folder: str, vocabulary: str, out: str) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger

    tokenize = DocumentTokenizer(
        f"{out}/parts", vocabulary, eos_token="<|endoftext|>", shuffle_documents=False
    )
    merge = DocumentTokenizerMerger(f"{out}/parts", f"{out}/merged", "train", shuffle=False)
    reader = JsonlReader(folder, glob_pattern="*.jsonl")
    # Forked workers are children that end before it does, so their CPU time is counted.
    LocalPipelineExecutor(
        [reader, tokenize], tasks=2, workers=2, logging_dir=f"{out}/log", start_method="fork"
    ).run()
    LocalPipelineExecutor([merge], tasks=1, logging_dir=f"{out}/log2").run()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
