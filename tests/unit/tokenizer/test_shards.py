"""Token shards: what is written, how it opens, what is found when it is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmpipe.core.artifact import hash_file
from llmpipe.core.errors import InputError
from llmpipe.tokenizer.shards import (
    HEADER_BYTES,
    Shard,
    ShardWriter,
    Split,
    open_shards,
    token_dtype,
    write_index,
)

DOCUMENTS = [[1, 2, 3], [], [4] * 10, [65_535], [7, 8]]


def write(folder: Path, name: str, documents: list[list[int]], vocab_size: int = 65_536) -> Shard:
    split: Split = "val" if name.startswith("val") else "train"
    with ShardWriter(folder, name, vocab_size, bos_id=0) as writer:
        for ids in documents:
            writer.add(np.array(ids, dtype=np.uint32), n_text_bytes=2 * len(ids))
        return writer.finish(split)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = [
        write(tmp_path, "train-00000", DOCUMENTS[:2]),
        write(tmp_path, "train-00001", DOCUMENTS[2:]),
        write(tmp_path, "val-00000", [[5]]),
    ]
    write_index(tmp_path, shards, "d1", vocab_size=65_536, bos_id=0)
    return tmp_path


EXPECTED = [i for ids in DOCUMENTS for i in (0, *ids)]


def test_numpy_opens_a_shard_in_one_line(folder: Path) -> None:
    tok = np.load(folder / "train-00000.tok.npy", mmap_mode="r")
    assert tok.dtype == np.dtype("<u2")
    assert tok.tolist() == [0, 1, 2, 3, 0]
    plain = np.memmap(folder / "train-00000.tok.npy", dtype="<u2", mode="r", offset=HEADER_BYTES)
    assert plain.tolist() == tok.tolist()
    assert np.load(folder / "train-00000.doc.npy").tolist() == [0, 4, 5]


def test_tokens_are_numbered_through_over_shards(folder: Path) -> None:
    shards = open_shards(folder, "train")
    assert (shards.n_tokens, shards.n_documents) == (len(EXPECTED), 5)
    assert shards.text_bytes == 2 * sum(map(len, DOCUMENTS))
    assert shards.digest == "d1"
    assert shards.tokens(0, shards.n_tokens).tolist() == EXPECTED
    for start in range(len(EXPECTED) + 1):
        for stop in range(start, len(EXPECTED) + 1):
            assert shards.tokens(start, stop).tolist() == EXPECTED[start:stop]


def test_document_starts_hold_a_bos_each(folder: Path) -> None:
    shards = open_shards(folder, "train")
    assert shards.doc_starts.tolist() == [0, 4, 5, 16, 18, 21]
    assert all(EXPECTED[start] == 0 for start in shards.doc_starts[:-1])


def test_windows_are_copies_that_may_be_written_to(folder: Path) -> None:
    shards = open_shards(folder, "train")
    shards.tokens(0, 3)[0] = 9
    assert shards.tokens(0, 3).tolist() == [0, 1, 2]


def test_a_window_outside_is_refused(folder: Path) -> None:
    shards = open_shards(folder, "val")
    with pytest.raises(IndexError, match="tokens 1 to 3 were asked for, there are 2"):
        shards.tokens(1, 3)


def test_a_split_without_shards_is_empty(tmp_path: Path) -> None:
    write_index(tmp_path, [], "d1", vocab_size=512, bos_id=0)
    shards = open_shards(tmp_path, "val")
    assert shards.tokens(0, 0).tolist() == []
    assert shards.doc_starts.tolist() == [0]


def test_ids_that_do_not_fit_are_refused_and_not_wrapped(tmp_path: Path) -> None:
    assert token_dtype(65_536) == "<u2"
    assert token_dtype(65_537) == "<u4"
    with pytest.raises(InputError, match="65536 does not fit a vocabulary of 65536"):
        write(tmp_path, "train-00000", [[65_536]])


def test_large_vocabularies_are_stored_in_four_bytes(tmp_path: Path) -> None:
    shard = write(tmp_path, "train-00000", [[100_000]], vocab_size=100_352)
    write_index(tmp_path, [shard], "d1", vocab_size=100_352, bos_id=0)
    assert open_shards(tmp_path, "train").tokens(0, 2).tolist() == [0, 100_000]


@pytest.mark.parametrize("suffix", ["tok", "doc"])
def test_a_flipped_bit_is_found(folder: Path, suffix: str) -> None:
    path = folder / f"train-00001.{suffix}.npy"
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + 1] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"train-00001\.{suffix}\.npy is damaged"):
        open_shards(folder, "train")
    assert open_shards(folder, "val").n_tokens == 2


def test_a_cut_shard_is_found_without_checksums(folder: Path) -> None:
    path = folder / "train-00000.tok.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"damaged: 4,106 bytes expected, 4,104 found"):
        open_shards(folder, "train", verify=False)


def test_a_shard_without_its_header_is_not_taken_for_a_whole_one(folder: Path) -> None:
    path = folder / "train-00000.tok.npy"
    path.write_bytes(b"\0" * HEADER_BYTES + path.read_bytes()[HEADER_BYTES:])
    with pytest.raises(InputError, match="its header is not the expected one"):
        open_shards(folder, "train", verify=False)


def test_a_missing_shard_or_index_is_named(folder: Path) -> None:
    (folder / "train-00000.tok.npy").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        open_shards(folder, "train")
    (folder / "shards.json").unlink()
    with pytest.raises(InputError, match="holds no token shards"):
        open_shards(folder, "train")


def test_another_format_is_refused(folder: Path) -> None:
    index = json.loads((folder / "shards.json").read_text())
    (folder / "shards.json").write_text(json.dumps(index | {"format": "llmpipe.tokens/9"}))
    with pytest.raises(InputError, match=r"`llmpipe\.tokens/9` came"):
        open_shards(folder, "train")


def test_a_writer_that_outlives_its_run_spoils_nothing(tmp_path: Path) -> None:
    """Two writers of one shard, as of a killed run's worker and of the next run's."""
    script = (
        "import sys, numpy as np, pathlib\n"
        "from llmpipe.tokenizer.shards import ShardWriter\n"
        "with ShardWriter(pathlib.Path(sys.argv[1]), 'train-00000', 100, 0):\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with ShardWriter(tmp_path, "train-00000", 100, bos_id=0) as writer:
        writer.add(np.arange(5, dtype=np.uint32), 5)
        shard = writer.finish("train")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert hash_file(tmp_path / "train-00000.tok.npy") == shard.tok_sha256
        other.kill()
    assert hash_file(tmp_path / "train-00000.tok.npy") == shard.tok_sha256
    assert hash_file(tmp_path / "train-00000.doc.npy") == shard.doc_sha256
