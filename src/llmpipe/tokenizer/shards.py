"""Token shards: the files between tokenization and training.

    train-00000.tok.npy   ids of documents one after the other, BOS in front of each; <u2 or <u4
    train-00000.doc.npy   where each document starts, and the end; <u8
    val-00000.…           the same for validation
    shards.json           what the shards hold, their checksums, and whose ids these are

Plain `.npy`, so `np.load(path, mmap_mode="r")` opens one in numpy, and Rust, Julia and JAX read it
too. The header is padded to one page of 4,096 bytes: the ids begin on a page, and
`np.memmap(path, dtype, offset=4096)` works as well.

Two things go wrong silently elsewhere and cannot here: numpy wraps an id over 65,535 when it is
stored as uint16 (every batch is checked), and a model meets the ids of another vocabulary
(`shards.json` carries the tokenizer's digest).
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from llmpipe.core.artifact import fsync_file, fsync_folder, hash_file, write_atomic
from llmpipe.core.errors import InputError

FORMAT = "llmpipe.tokens/1"
INDEX = "shards.json"
HEADER_BYTES = 4096
"""One memory page on x86 and most ARM systems."""
_MAGIC = b"\x93NUMPY\x01\x00"
_BUFFER_TOKENS = 1 << 18

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Shard:
    """What `shards.json` says of one shard."""

    name: str
    split: Split
    tokens: int
    documents: int
    text_bytes: int
    """UTF-8 bytes of the text, to turn nats per token into bits per byte. BOS counts nothing."""
    tok_sha256: str
    doc_sha256: str


def token_dtype(vocab_size: int) -> str:
    """Return the smallest of `<u2` and `<u4` that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def npy_header(dtype: str, length: int) -> bytes:
    """Return the header of a one-dimensional `.npy` file, padded to `HEADER_BYTES`.

    Source: NumPy Enhancement Proposal 1, format version 1.0.
    """
    fields = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({length},), }}"
    n_padded = HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + n_padded.to_bytes(2, "little") + fields.ljust(n_padded - 1).encode() + b"\n"


class ShardWriter:
    """Writes one shard, document by document, in bounded memory.

    Use as a context manager, then call `finish`. Both files get their names when they are whole, so a
    worker that outlives a killed run for a moment cannot spoil what the next one writes.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int, bos_id: int) -> None:
        self.folder, self.name = folder, name
        self.tokens = self.documents = self.text_bytes = 0
        self._vocab_size = vocab_size
        self._dtype = token_dtype(vocab_size)
        self._bos = np.array([bos_id], dtype=np.uint32)
        self._buffer: list[np.ndarray] = []
        self._n_buffered = 0
        self._starts: list[int] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary = folder / f".tmp-{name}.tok.npy-{os.getpid()}"
        self._file: BinaryIO = self._temporary.open("wb")
        self._file.write(b"\0" * HEADER_BYTES)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)  # of a shard that was not finished

    def add(self, ids: np.ndarray, n_text_bytes: int) -> None:
        """Append one document; BOS is put in front of it here."""
        self._starts.append(self.tokens)
        self._buffer += [self._bos, ids]
        self._n_buffered += len(ids) + 1
        self.tokens += len(ids) + 1
        self.documents += 1
        self.text_bytes += n_text_bytes
        if self._n_buffered >= _BUFFER_TOKENS:
            self._flush()

    def finish(self, split: Split) -> Shard:
        """Write what is left, the header and the document index; make both files durable."""
        self._flush()
        self._file.seek(0)
        self._file.write(npy_header(self._dtype, self.tokens))
        self._file.close()
        tok = self.folder / f"{self.name}.tok.npy"
        doc = self.folder / f"{self.name}.doc.npy"
        starts = np.array([*self._starts, self.tokens], dtype="<u8")
        index = npy_header("<u8", len(starts)) + starts.tobytes()
        fsync_file(self._temporary)
        digests = hash_file(self._temporary), hashlib.sha256(index).hexdigest()
        write_atomic(doc, index)
        self._temporary.replace(tok)
        fsync_folder(self.folder)
        return Shard(self.name, split, self.tokens, self.documents, self.text_bytes, *digests)

    def _flush(self) -> None:
        if not self._buffer:
            return
        ids = np.concatenate(self._buffer)
        if int(ids.max()) >= self._vocab_size:
            raise InputError(
                f"token id {int(ids.max())} does not fit a vocabulary of {self._vocab_size}"
            )
        self._file.write(ids.astype(self._dtype).tobytes())
        self._buffer, self._n_buffered = [], 0


def write_index(folder: Path, shards: Sequence[Shard], digest: str, **facts: Any) -> None:
    """Write `shards.json`, after all shards.

    Args:
        folder: of the shards.
        shards: in the order in which their tokens are numbered.
        digest: of the tokenizer.
        facts: more keys for the file; `vocab_size` is needed.
    """
    content = {
        "format": FORMAT,
        "tokenizer": digest,
        "dtype": token_dtype(facts["vocab_size"]),
        **facts,
        "shards": [asdict(shard) for shard in shards],
    }
    write_atomic(folder / INDEX, json.dumps(content, indent=1) + "\n")


def read_index(folder: Path) -> dict[str, Any]:
    """Read `shards.json`.

    Raises:
        InputError: if it is missing, broken, or of another format.
    """
    path = folder / INDEX
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} holds no token shards (`{INDEX}` is missing)", "run `llmpipe tokenize`"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: format `{FORMAT}` is read here, `{found}` came")
    return dict(content)


def open_shards(folder: Path, split: Split, verify: bool = True) -> TokenShards:
    """Open the shards of one split.

    With `verify` all checksums are compared, at about 2 GB/s. Sizes are always checked.

    Raises:
        InputError: if shards are missing, of the wrong size, or damaged.
    """
    index = read_index(folder)
    try:
        shards = [Shard(**shard) for shard in index["shards"] if shard["split"] == split]
        tokens = TokenShards(folder, shards, str(index["dtype"]), str(index["tokenizer"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / INDEX}: {type(error).__name__}: {error}") from error
    if verify:
        for file in tokens.files():
            file.verify()
    return tokens


class TokenShards:
    """The tokens of one split, numbered through over all shards. Memory-mapped, read-only.

    `n_tokens` counts each document's BOS, `text_bytes` does not. `digest` is the tokenizer's.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str, digest: str) -> None:
        self.digest = digest
        self.n_tokens = sum(shard.tokens for shard in shards)
        self.n_documents = sum(shard.documents for shard in shards)
        self.text_bytes = sum(shard.text_bytes for shard in shards)
        self._folder = folder
        self._shards = list(shards)
        # `asarray` gives a plain array over the same mapping: slicing it costs a seventh.
        self._arrays = [
            np.asarray(_map(folder / f"{shard.name}.tok.npy", dtype, shard.tokens))
            for shard in shards
        ]
        self._starts = list(accumulate((shard.tokens for shard in shards), initial=0))
        self.dtype = dtype

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Return a copy of tokens `start` to `stop - 1`; a window may cross shards."""
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"tokens {start} to {stop} were asked for, there are {self.n_tokens}")
        i = bisect_right(self._starts, start) - 1
        if i < len(self._arrays) and stop <= self._starts[i + 1]:
            return self._arrays[i][start - self._starts[i] : stop - self._starts[i]].copy()
        parts = []
        while start < stop:
            end = min(stop, self._starts[i + 1])
            parts.append(self._arrays[i][start - self._starts[i] : end - self._starts[i]])
            start, i = end, i + 1
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)

    @cached_property
    def doc_starts(self) -> np.ndarray:
        """Where each document starts, and after them the end: `n_documents + 1` numbers."""
        parts = []
        for shard, offset in zip(self._shards, self._starts, strict=False):
            path = self._folder / f"{shard.name}.doc.npy"
            starts = _map(path, "<u8", shard.documents + 1)[:-1].astype(np.int64)
            parts.append(starts + offset)
        return np.concatenate([*parts, [self.n_tokens]])

    def files(self) -> list[SummedFile]:
        """List every file with the checksum it is to have."""
        return [
            SummedFile(self._folder / f"{shard.name}.{suffix}.npy", expected)
            for shard in self._shards
            for suffix, expected in (("tok", shard.tok_sha256), ("doc", shard.doc_sha256))
        ]


@dataclass(frozen=True)
class SummedFile:
    """A file of a shard, and the checksum that it is to have."""

    path: Path
    sha256: str

    def verify(self) -> None:
        """Compare the two, at about 2 GB/s; raise InputError if they differ."""
        if hash_file(self.path) != self.sha256:
            raise InputError(
                f"{self.path} is damaged: its checksum is not the one in `{INDEX}`",
                "run `llmpipe tokenize` again, or copy the file again",
            )


def _map(path: Path, dtype: str, length: int) -> np.ndarray:
    """Map the array in `path`, after checking that size and header are what they must be."""
    expected = HEADER_BYTES + length * np.dtype(dtype).itemsize
    try:
        size = path.stat().st_size
        if size != expected:
            raise InputError(f"{path} is damaged: {expected:,} bytes expected, {size:,} found")
        with path.open("rb") as file:
            if file.read(HEADER_BYTES) != npy_header(dtype, length):
                raise InputError(f"{path} is damaged: its header is not the expected one")
        if length == 0:
            return np.empty(0, dtype=dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(length,))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
