"""Shards to other trainers' files, read here as those trainers read them, and back."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from llmpipe.core.errors import InputError, UserError
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.convert import Form, export_shards, import_tokens
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.shards import ShardWriter, TokenShards, open_shards, write_index
from llmpipe.tokenizer.special import place_special

TOKENIZER = Tokenizer.from_ranks(
    {bytes([byte]): byte for byte in range(256)}, PATTERNS["qwen2"], place_special(256)
)
TEXTS = ["hello", "a longer text", "naïve"]
STREAM = [i for text in TEXTS for i in [TOKENIZER.bos_id, *text.encode()]]


def make_shards(folder: Path) -> TokenShards:
    """Two shards, so that the export has to cross from one to the other."""
    written = []
    for i, texts in enumerate((TEXTS[:1], TEXTS[1:])):
        with ShardWriter(folder, f"train-{i:05d}", 288, TOKENIZER.bos_id) as writer:
            for text in texts:
                writer.add(TOKENIZER.encode_array(text), len(text.encode()))
            written.append(writer.finish("train"))
    write_index(folder, written, TOKENIZER.digest, vocab_size=288)
    return open_shards(folder, "train")


def test_nanogpts_file_is_the_ids_as_uint16(tmp_path: Path) -> None:
    [path] = export_shards(make_shards(tmp_path / "a"), "train", tmp_path / "b", "nanogpt")
    assert np.memmap(path, dtype=np.uint16, mode="r").tolist() == STREAM


def test_llmcs_file_has_its_header(tmp_path: Path) -> None:
    """As `_load_data_shard` of modded-nanogpt reads it."""
    [path] = export_shards(make_shards(tmp_path / "a"), "train", tmp_path / "b", "llmc")
    header = np.frombuffer(path.read_bytes()[: 256 * 4], dtype=np.int32)
    assert header[:3].tolist() == [20240520, 1, len(STREAM)]
    assert np.frombuffer(path.read_bytes()[256 * 4 :], dtype=np.uint16).tolist() == STREAM


def test_megatrons_index_finds_each_document(tmp_path: Path) -> None:
    """As `_IndexReader` of Megatron reads it, field by field."""
    data, index = export_shards(make_shards(tmp_path / "a"), "train", tmp_path / "b", "megatron")
    with index.open("rb") as file:
        assert file.read(9) == b"MMIDIDX\x00\x00"
        assert struct.unpack("<Q", file.read(8)) == (1,)
        assert struct.unpack("<B", file.read(1)) == (8,)  # uint16
        n, n_documents = struct.unpack("<QQ", file.read(16))
        lengths = np.frombuffer(file.read(4 * n), dtype=np.int32)
        pointers = np.frombuffer(file.read(8 * n), dtype=np.int64)
        documents = np.frombuffer(file.read(8 * n_documents), dtype=np.int64)
        assert file.read() == b""
    assert documents.tolist() == [0, 1, 2, 3]
    ids = data.read_bytes()
    for text, length, pointer in zip(TEXTS, lengths, pointers, strict=True):
        found = np.frombuffer(ids, dtype=np.uint16, count=length, offset=pointer)
        assert found.tolist() == [TOKENIZER.bos_id, *text.encode()]


@pytest.mark.parametrize("form", ["nanogpt", "llmc", "megatron"])
def test_what_was_exported_comes_back(tmp_path: Path, form: Form) -> None:
    shards = make_shards(tmp_path / "a")
    path = export_shards(shards, "train", tmp_path / "b", form)[0]
    import_tokens([path], form, TOKENIZER, "train", tmp_path / "c")
    again = open_shards(tmp_path / "c", "train")
    assert again.tokens(0, again.n_tokens).tolist() == STREAM
    assert again.doc_starts.tolist() == shards.doc_starts.tolist()
    assert (again.text_bytes, again.digest) == (shards.text_bytes, shards.digest)


def test_marks_behind_documents_as_nanogpt_writes_them_are_understood(tmp_path: Path) -> None:
    stream = [i for text in TEXTS for i in [*text.encode(), TOKENIZER.bos_id]]
    np.array(stream, dtype=np.uint16).tofile(tmp_path / "train.bin")
    import_tokens([tmp_path / "train.bin"], "nanogpt", TOKENIZER, "train", tmp_path / "c")
    again = open_shards(tmp_path / "c", "train")
    assert again.tokens(0, again.n_tokens).tolist() == STREAM


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train-00000", 100_000, 99_999) as writer:
        writer.add(np.array([70_000], dtype=np.uint32), 1)
        shard = writer.finish("train")
    write_index(tmp_path, [shard], "digest", vocab_size=100_000)
    shards = open_shards(tmp_path, "train")
    for form in ("nanogpt", "llmc"):
        with pytest.raises(UserError, match="holds ids up to 65,535"):
            export_shards(shards, "train", tmp_path / "b", form)
    data, _ = export_shards(shards, "train", tmp_path / "b", "megatron")
    assert np.fromfile(data, dtype=np.int32).tolist() == [99_999, 70_000]


def test_damaged_and_foreign_files_are_errors(tmp_path: Path) -> None:
    [path] = export_shards(make_shards(tmp_path / "a"), "train", tmp_path / "b", "llmc")
    whole = path.read_bytes()
    for damaged, message in ((whole[:-2], "is damaged"), (b"\0" * 2000, "header must begin")):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            import_tokens([path], "llmc", TOKENIZER, "train", tmp_path / "c")
    (tmp_path / "x.bin").write_bytes(np.array([5000], dtype=np.uint16).tobytes())
    with pytest.raises(InputError, match="5000 does not fit a vocabulary of 288"):
        import_tokens([tmp_path / "x.bin"], "nanogpt", TOKENIZER, "train", tmp_path / "c")
