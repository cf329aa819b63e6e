"""Token shards to and from the files of other trainers.

    nanogpt    train.bin, val.bin: uint16 ids and nothing else (karpathy/nanoGPT data/*/prepare.py)
    llmc       train_000000.bin …: a header of 256 int32 (20240520, 1, number of tokens), then uint16
               ids (karpathy/llm.c dev/data/data_common.py; KellerJordan/modded-nanogpt reads it too)
    megatron   train.bin + train.idx: ids, and an index of documents (NVIDIA/Megatron-LM
               megatron/core/datasets/indexed_dataset.py)

The first two hold ids up to 65,535 alone, and asking for more is refused. nanoGPT puts the mark
between documents behind each, llm.c and we before each; seen as one stream of ids the only
difference is one mark at either end, and a document's ids stay what they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from llmpipe.core.artifact import atomic_file
from llmpipe.core.errors import InputError, UserError
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.shards import Shard, ShardWriter, Split, TokenShards, write_index

Form = Literal["nanogpt", "llmc", "megatron"]

_STEP_TOKENS = 1 << 22
_LLMC_MAGIC, _LLMC_VERSION, _LLMC_HEADER_INTS = 20240520, 1, 256
_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_CODES = {"<u2": 8, "<i4": 4}
_MAX_LLMC_TOKENS = 2**31 - 1  # the header holds the number in an int32


def export_shards(shards: TokenShards, split: Split, out: Path, form: Form) -> list[Path]:
    """Write the tokens of a split in another trainer's form; returns the files.

    Raises:
        UserError: if an id does not fit the form.
    """
    out.mkdir(parents=True, exist_ok=True)
    if form == "megatron":
        return _export_megatron(shards, split, out)
    if shards.dtype != "<u2":
        raise UserError(
            f"the form `{form}` holds ids up to 65,535, and this vocabulary has more tokens",
            "use the form `megatron`, or a vocabulary of at most 65,536",
        )
    if form == "nanogpt":
        path = out / f"{split}.bin"
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            _copy(shards, 0, shards.n_tokens, "<u2", file)
        return [path]
    return [_export_llmc(shards, *part, out / f"{split}_{i:06d}.bin") for i, part in _parts(shards)]


def _parts(shards: TokenShards) -> Iterator[tuple[int, tuple[int, int]]]:
    starts = range(0, max(1, shards.n_tokens), _MAX_LLMC_TOKENS)
    for i, start in enumerate(starts):
        yield i, (start, min(start + _MAX_LLMC_TOKENS, shards.n_tokens))


def _export_llmc(shards: TokenShards, start: int, stop: int, path: Path) -> Path:
    header = np.zeros(_LLMC_HEADER_INTS, dtype="<i4")
    header[:3] = _LLMC_MAGIC, _LLMC_VERSION, stop - start
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(header.tobytes())
        _copy(shards, start, stop, "<u2", file)
    return path


def _export_megatron(shards: TokenShards, split: Split, out: Path) -> list[Path]:
    dtype = "<u2" if shards.dtype == "<u2" else "<i4"
    starts = shards.doc_starts
    lengths = np.diff(starts)
    if len(lengths) and int(lengths.max()) >= 2**31:
        raise UserError("a document has 2^31 tokens or more, which `megatron` cannot hold")
    ids, index = out / f"{split}.bin", out / f"{split}.idx"
    with atomic_file(ids) as temporary, temporary.open("wb") as file:
        _copy(shards, 0, shards.n_tokens, dtype, file)
    n = len(lengths)
    with atomic_file(index) as temporary, temporary.open("wb") as file:
        file.write(_MEGATRON_MAGIC + struct.pack("<QBQQ", 1, _MEGATRON_CODES[dtype], n, n + 1))
        file.write(lengths.astype("<i4").tobytes())
        file.write((starts[:-1] * np.dtype(dtype).itemsize).astype("<i8").tobytes())
        file.write(np.arange(n + 1, dtype="<i8").tobytes())
    return [ids, index]


def _copy(shards: TokenShards, start: int, stop: int, dtype: str, file: BinaryIO) -> None:
    for at in range(start, stop, _STEP_TOKENS):
        file.write(shards.tokens(at, min(at + _STEP_TOKENS, stop)).astype(dtype).tobytes())


# -- From other forms ------------------------------------------------------------------------------


def import_tokens(
    paths: Sequence[Path], form: Form, tokenizer: Tokenizer, split: Split, out: Path
) -> Shard:
    """Make a shard, with its index, from another trainer's files of one split.

    Args:
        paths: for `megatron` the `.bin` files, with their `.idx` beside them.
        form: what they are.
        tokenizer: the one that the ids are of; the files do not say. It is saved beside the shard.
        split: what the tokens are for.
        out: folder of the shard.

    Raises:
        InputError: if a file is not of this form, or has an id that the tokenizer has not.
    """
    lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(len(tokenizer.ranks))])
    with ShardWriter(out, f"{split}-00000", tokenizer.vocab_size, tokenizer.bos_id) as writer:
        for path in paths:
            for document in _documents(path, form, tokenizer):
                ordinary = document[document < len(lengths)]
                writer.add(document.astype(np.uint32), int(lengths[ordinary].sum()))
        shard = writer.finish(split)
    tokenizer.save(out)
    facts = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id}
    write_index(out, [shard], tokenizer.digest, **facts)
    return shard


def _documents(path: Path, form: Form, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yield documents without the mark between them."""
    if form == "megatron":
        yield from _megatron_documents(path, tokenizer.bos_id)
        return
    ids = _read_llmc(path) if form == "llmc" else _map(path, "<u2", 0)
    yield from _between_marks(ids, tokenizer.bos_id)


def _between_marks(ids: np.ndarray, mark: int) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    for start in range(0, len(ids), _STEP_TOKENS):
        part = np.asarray(ids[start : start + _STEP_TOKENS])
        *whole, rest = np.split(part, np.flatnonzero(part == mark))
        for piece in whole:
            yield from _joined([*waiting, piece], mark)
            waiting = []
        waiting.append(rest)
    yield from _joined(waiting, mark)


def _joined(parts: Iterable[np.ndarray], mark: int) -> Iterator[np.ndarray]:
    document = np.concatenate([*parts, np.empty(0, dtype=np.uint32)])
    document = document[1:] if len(document) and document[0] == mark else document
    if len(document):
        yield document


def _read_llmc(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        data = file.read(4 * _LLMC_HEADER_INTS)
    header = np.frombuffer(data[: len(data) // 4 * 4], dtype="<i4")
    if len(header) < _LLMC_HEADER_INTS or header[:2].tolist() != [_LLMC_MAGIC, _LLMC_VERSION]:
        raise InputError(
            f"{path} is not of the form `llmc`: its header must begin {_LLMC_MAGIC}, {_LLMC_VERSION}"
        )
    ids = _map(path, "<u2", 4 * _LLMC_HEADER_INTS)
    if len(ids) != int(header[2]):
        raise InputError(f"{path} is damaged: {int(header[2]):,} tokens told, {len(ids):,} found")
    return ids


def _megatron_documents(path: Path, mark: int) -> Iterator[np.ndarray]:
    index = path.with_suffix(".idx").read_bytes()
    head = struct.Struct("<QBQQ")
    start = len(_MEGATRON_MAGIC)
    if not index.startswith(_MEGATRON_MAGIC) or len(index) < start + head.size:
        raise InputError(f"{path.with_suffix('.idx')} is not an index of the form `megatron`")
    _, code, n, n_documents = head.unpack_from(index, start)
    dtypes = {code: dtype for dtype, code in _MEGATRON_CODES.items()}
    if code not in dtypes:
        raise InputError(f"{path}: ids of Megatron's type {code} are not read, only 4 and 8")
    start += head.size
    if len(index) != start + n * 12 + n_documents * 8:
        raise InputError(f"{path.with_suffix('.idx')} is damaged: its size is not what it says")
    lengths = np.frombuffer(index, "<i4", n, start)
    bounds = np.frombuffer(index, "<i8", n_documents, start + n * 12)
    ends = np.append(0, np.cumsum(lengths, dtype=np.int64))
    ids = _map(path, dtypes[code], 0)
    if len(ids) != int(ends[-1]):
        raise InputError(f"{path} is damaged: {int(ends[-1]):,} tokens told, {len(ids):,} found")
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        document = np.asarray(ids[ends[first] : ends[last]])
        document = document[document != mark]
        if len(document):
            yield document


def _map(path: Path, dtype: str, offset: int) -> np.ndarray:
    try:
        n_bytes = path.stat().st_size - offset
        if n_bytes % np.dtype(dtype).itemsize:
            raise InputError(f"{path} is damaged: its size is no whole number of ids")
        if n_bytes <= 0:
            return np.empty(0, dtype=dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
