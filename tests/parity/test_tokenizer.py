"""Our ids against tiktoken's and Hugging Face's, for published vocabularies and our own."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from llmpipe.core.errors import InputError
from llmpipe.stages.tokenize.train_bpe import learn_vocabulary
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.encoders import PROBE, UNICODE_17, FastEncoder, ReferenceEncoder
from llmpipe.tokenizer.hf import spell
from llmpipe.tokenizer.merges import merges_of, write_ranks
from llmpipe.tokenizer.patterns import PATTERNS, split_pattern
from llmpipe.tokenizer.piece_counts import PieceCounter
from llmpipe.tokenizer.vocabularies import load_vocabulary, with_chat_tokens

HOSTILE = [
    "'", "'s", "'LL", "'ſ", "’s", "a", "Z", "é", "e\u0301", "ß", "ǅ", "ﬁ", "你好", "の", "م", "ש",
    "1", "12", "1234567", "٣", "Ⅷ", "½", " ", "  ", "\t", "\n", "\r\n", "\n\n\n", " \n", "\xa0",
    "\u2028", "\u3000", "\u200b", "\ufeff", "\x00", "\x1c", "\x85", "!", "...", "//", "/", "_", "-",
    "👩‍👩‍👧‍👦", "🇫🇷", "\U0001f600", "\U0010ffff", "<|bos|>", "<|im_end|>", "<|endoftext|>", "camelCase",
    "HTTPServer", "def f(x):", "\u212a", "\u0130", "a" * 50, " " * 50, "=" * 30,
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=6), max_size=12).map("".join)


def sample_text() -> str:
    """Text to learn from that holds some of everything."""
    words = "the token of a text is not its word, and naïve Привет 你好 numbers 2026 do x = f(y)\n"
    return (words * 30 + " ".join(HOSTILE * 4) + PROBE) * 2


def learn(pattern: str) -> Tokenizer:
    counter = PieceCounter(split_pattern(pattern))
    counter.add([sample_text()])
    return learn_vocabulary(counter.finish(), 512, pattern, counter.text_bytes)


OURS = {name: learn(name) for name in ("qwen2", "gpt2", "o200k")}


def test_hello_world_in_cl100k_is_15339_1917(test_data: Path) -> None:
    """Source: the Tiktokenizer page, cl100k_base, as shown in Karpathy's talk."""
    tokenizer = load_vocabulary(test_data / "tokenizers/cl100k_base.tiktoken")
    assert tokenizer.encode("hello world") == [15339, 1917]
    assert tokenizer.decode([15339, 1917]) == "hello world"
    assert tokenizer.vocab_size == 100277
    # Joined they are "h" and "elloworld"; with two spaces or in another case other tokens again.
    assert tokenizer.encode("helloworld") == [71, 96392]
    assert tokenizer.encode("hello  world") == [15339, 220, 1917]
    assert tokenizer.encode("Hello World") == [9906, 4435]


def test_hello_world_in_gpt2_is_31373_995(test_data: Path) -> None:
    """Source: openai/tiktoken tests/test_encoding.py."""
    rank_file = load_vocabulary(test_data / "tokenizers/r50k_base.tiktoken")
    assert rank_file.encode("hello world") == [31373, 995]


@pytest.mark.slow
def test_gpt2s_own_files_its_rank_file_and_tokenizer_json_are_one_vocabulary(
    test_data: Path, tmp_path: Path
) -> None:
    rank_file = load_vocabulary(test_data / "tokenizers/r50k_base.tiktoken")
    own_files = load_vocabulary(test_data / "tokenizers")
    assert rank_file.digest == own_files.digest
    own_files.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    again = load_vocabulary(tmp_path)
    assert again.digest == own_files.digest


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base"])
def test_published_vocabularies_get_our_special_tokens_without_a_gap(
    test_data: Path, name: str
) -> None:
    plain = load_vocabulary(test_data / f"tokenizers/{name}.tiktoken")
    chat = with_chat_tokens(plain)
    assert chat.vocab_size % 128 == 0
    assert sorted(chat.special.values()) == list(range(len(plain.ranks), chat.vocab_size))
    assert chat.special["<|endoftext|>"] == plain.special["<|endoftext|>"]
    assert chat.encode("hello<|bos|>") == plain.encode("hello<|bos|>")


def test_an_unknown_or_broken_rank_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only gpt2, r50k_base, cl100k_base, o200k_base are known"):
        load_vocabulary(tmp_path / "mine.tiktoken")
    (tmp_path / "cl100k_base.tiktoken").write_text("aGU= 1\n???? 2\n")
    with pytest.raises(InputError, match=r"cl100k_base\.tiktoken:2: a token in base64"):
        load_vocabulary(tmp_path / "cl100k_base.tiktoken")
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_vocabulary(tmp_path)


@settings(deadline=None, max_examples=150)
@given(TEXTS)
@pytest.mark.parametrize("name", OURS)
def test_ids_equal_tiktokens_on_hostile_text(name: str, text: str) -> None:
    tokenizer = OURS[name]
    reference = REFERENCE[name]
    ids = tokenizer.encode(text)
    assert ids == reference.encode_ordinary(text)
    assert tokenizer.decode(ids) == text


REFERENCE = {
    name: tiktoken.Encoding(
        name, pat_str=tokenizer.pattern, mergeable_ranks=tokenizer.ranks, special_tokens={}
    )
    for name, tokenizer in OURS.items()
}


@settings(deadline=None, max_examples=150)
@given(text=TEXTS)
@pytest.mark.parametrize("name", OURS)
def test_ids_equal_hugging_faces_on_hostile_text(
    hf_tokenizers: dict[str, object], name: str, text: str
) -> None:
    theirs = hf_tokenizers[name].encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
    assert theirs.ids == OURS[name].encode(text)


@pytest.fixture(scope="module")
def hf_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    import tokenizers

    opened: dict[str, object] = {}
    for name, tokenizer in OURS.items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer.save(folder)
        opened[name] = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        opened[name].encode_special_tokens = True  # type: ignore[attr-defined]
    return opened


def test_hugging_face_sees_the_same_vocabulary_and_special_ids(
    hf_tokenizers: dict[str, object],
) -> None:
    ours, theirs = OURS["qwen2"], hf_tokenizers["qwen2"]
    assert theirs.get_vocab_size() == ours.vocab_size  # type: ignore[attr-defined]
    for token, i in ours.special.items():
        assert theirs.token_to_id(token) == i  # type: ignore[attr-defined]


def test_a_file_written_by_hugging_face_loads_with_the_same_ids(
    hf_tokenizers: dict[str, object], tmp_path: Path
) -> None:
    hf_tokenizers["qwen2"].save(str(tmp_path / "tokenizer.json"))  # type: ignore[attr-defined]
    assert Tokenizer.load(tmp_path).digest == OURS["qwen2"].digest


def test_a_file_in_llama_3s_form_has_hugging_faces_ids(tmp_path: Path) -> None:
    """Every way to make a token is listed there, and a token that no merge makes is in it.

    Source: transformers' TikTokenConverter, which wrote Llama 3's file.
    """
    import tokenizers

    ranks = dict(OURS["qwen2"].ranks)
    ranks[b" qzx"] = len(ranks)
    Tokenizer(ranks, PATTERNS["llama3"], {"<|begin_of_text|>": len(ranks)}).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["merges"] = [
        [spell(token[:i]), spell(token[i:])]
        for token in ranks
        for i in range(1, len(token))
        if token[:i] in ranks and token[i:] in ranks
    ]
    assert len(content["model"]["merges"]) > len(ranks) - 256
    path.write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").unlink()
    ours, theirs = Tokenizer.load(tmp_path), tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    for text in (" qzx qzxq", PROBE, sample_text(), *HOSTILE):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(" qzx") == [ranks[b" qzx"]]


@pytest.mark.slow
def test_transformers_opens_the_folder_with_template_and_special_tokens(tmp_path: Path) -> None:
    import transformers

    OURS["qwen2"].save(tmp_path, "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ours = OURS["qwen2"]
    assert theirs.encode("the token 42", add_special_tokens=False) == ours.encode("the token 42")
    assert (theirs.bos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.pad_id)
    assert theirs.eos_token == "<|im_end|>"
    ids = theirs.apply_chat_template([{"role": "user", "content": "the"}], return_dict=False)
    assert ids == [ours.special["<|im_start|>"], *ours.encode("the")]


@pytest.mark.parametrize(
    ("ours", "theirs"), [("gpt2", "r50k_pat_str"), ("cl100k", None), ("o200k", None)]
)
def test_patterns_split_as_openais_do(ours: str, theirs: str | None) -> None:
    """tiktoken writes its patterns with possessive quantifiers; the split must be the same."""
    source = getattr(openai_public, theirs) if theirs else _openai_pattern(ours)
    ranks = OURS["gpt2"].ranks
    a = tiktoken.Encoding("a", pat_str=PATTERNS[ours], mergeable_ranks=ranks, special_tokens={})
    b = tiktoken.Encoding("b", pat_str=source, mergeable_ranks=ranks, special_tokens={})
    ends = [
        part + end for part in ("a", "!", "! \n") for end in ("\n ", "\r\n \t", " \n\n  ", "  ")
    ]
    for text in (PROBE, sample_text(), "\n".join(HOSTILE), " \n ".join(HOSTILE), *ends):
        assert a.encode_ordinary(text) == b.encode_ordinary(text)


def _openai_pattern(name: str) -> str:
    """Take the pattern out of tiktoken's constructor, without the download it would start."""
    blank = {"load_tiktoken_bpe": lambda *args, **kwargs: {}}
    constructor = getattr(openai_public, f"{name}_base")
    made = type(constructor)(constructor.__code__, {**constructor.__globals__, **blank})
    return str(made()["pat_str"])


@pytest.mark.slow
def test_ids_equal_tiktokens_on_real_text_of_many_kinds(test_data: Path) -> None:
    """Novels, program texts and web pages, 3 MB of each, in cl100k and a split of our own."""
    import gzip
    import io

    import zstandard

    lines = (test_data / "tokenizers/cl100k_base.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (x.split() for x in lines)}
    texts = []
    for name in (
        "french_novels.jsonl.zst",
        "python_peps.jsonl.zst",
        "dolma_cc_en_head-0091.jsonl.gz",
    ):
        with (test_data / "text" / name).open("rb") as raw:
            stream = (
                gzip.GzipFile(fileobj=raw)
                if name.endswith("gz")
                else io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))  # type: ignore[type-var]
            )
            n_chars = 0
            for line in stream:
                texts.append(json.loads(line)["text"][: 3_000_000 - n_chars])
                n_chars += len(texts[-1])
                if n_chars >= 3_000_000:
                    break
    for pattern in ("cl100k", "qwen2"):
        fast = FastEncoder(write_ranks(ranks), PATTERNS[pattern])
        slow = ReferenceEncoder(ranks, PATTERNS[pattern])
        for text in texts:
            assert np.array_equal(fast.encode(text), slow.encode(text))


GPT2_SPLIT = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    # Source: openai-community/gpt2 tokenizer.json.
    "gpt2": {"pre_tokenizer": GPT2_SPLIT, "special": ["<|endoftext|>"], "string_merges": True},
    # Source: meta-llama/Meta-Llama-3-8B tokenizer.json; its split is that of llama/tokenizer.py.
    "llama3": {
        "split": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
        "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        "ignore_merges": True,
    },
    # Source: Qwen/Qwen2.5-0.5B tokenizer.json.
    "qwen2": {
        "split": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
        "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "normalizer": {"type": "NFC"},
    },
}


@pytest.mark.parametrize("family", SHAPES)
def test_files_of_the_families_shapes_have_hugging_faces_ids(family: str, tmp_path: Path) -> None:
    import tokenizers

    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(_in_the_shape_of(SHAPES[family])), encoding="utf-8")
    ours, theirs = load_vocabulary(tmp_path), tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    assert list(ours.special) == SHAPES[family]["special"]
    for text in (PROBE, sample_text(), "\n".join(HOSTILE), *HOSTILE):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def _in_the_shape_of(shape: dict[str, Any]) -> dict[str, Any]:
    """Make a `tokenizer.json` as the family's own is laid out, with a small vocabulary."""
    ranks, merges = OURS["gpt2"].ranks, OURS["gpt2"].merges
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [
        {"type": "Split", "pattern": {"Regex": shape.get("split")}, "behavior": "Isolated", "invert": False},
        byte_level | {"use_regex": False},
    ]  # fmt: skip
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spelled = [[spell(a), spell(b)] for a, b in merges]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(ranks) + i, "content": name, **flags, "special": True}
            for i, name in enumerate(shape["special"])
        ],
        "normalizer": shape.get("normalizer"),
        "pre_tokenizer": shape.get("pre_tokenizer") or {"type": "Sequence", "pretokenizers": steps},
        "post_processor": byte_level | {"use_regex": True},
        "decoder": byte_level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": shape.get("ignore_merges", False),
            "vocab": {spell(token): i for token, i in ranks.items()},
            "merges": [" ".join(m) for m in spelled] if shape.get("string_merges") else spelled,
        },
    }


def test_the_fast_encoder_finds_the_merges_that_python_finds() -> None:
    for tokenizer in OURS.values():
        assert tokenizer.merges == merges_of(tokenizer.ranks)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_engines_agree_on_characters_of_every_block(name: str) -> None:
    """One character in 50, all of those that are left to tiktoken, and those beside them."""
    codes = set(range(0x80, 0x40000, 50))
    codes |= {code for first, last in UNICODE_17 for code in range(first - 1, last + 2)}
    _assert_equal_around(sorted(codes), name)


@pytest.mark.slow
def test_the_engines_agree_on_every_character() -> None:
    """`o200k` tells most classes apart; beyond plane 3 there are tags and variation marks only."""
    _assert_equal_around([*range(0x80, 0x40000), *range(0xE0000, 0xE0200)], "o200k")


def _assert_equal_around(codes: list[int], name: str) -> None:
    """Encode each between letters, digits, signs and spaces, with tokens that cross its edges."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for neighbor in b"aA1 .\n'":
        for byte in range(0x80, 0xF5):
            pair = (byte, neighbor) if byte < 0xC0 else (neighbor, byte)
            ranks[bytes(pair)] = len(ranks)
    fast = FastEncoder(write_ranks(ranks), PATTERNS[name])
    slow = ReferenceEncoder(ranks, PATTERNS[name])
    chars = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    for i in range(0, len(chars), 64):
        text = "\n".join(f"a{c}a A{c}A 1{c}1 .{c}. {c}\n{c} '{c}'" for c in chars[i : i + 64])
        assert np.array_equal(fast.encode(text), slow.encode(text)), hex(ord(chars[i]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), [("qwen2", "qwen3"), ("gpt2", "gpt2")])
def test_llama_cpp_opens_our_vocabulary_with_equal_ids(
    name: str, family: Literal["qwen3", "gpt2"], tmp_path: Path
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    from llmpipe.export.gguf_file import write_gguf
    from llmpipe.export.hugging_face import read_source
    from llmpipe.model.config import ModelConfig
    from llmpipe.model.transformer import Transformer
    from llmpipe.model.weights import save_generation_config, save_model

    ours = OURS[name]
    config = ModelConfig(
        family=family, d_model=32, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=32, d_ff=32,
        vocab_size=ours.vocab_size, max_seq_len=64, tied_embeddings=True,
    )  # fmt: skip
    save_model(Transformer(config), tmp_path)
    ours.save(tmp_path)
    save_generation_config(tmp_path, ours.bos_id, [ours.special["<|im_end|>"]], ours.pad_id)
    write_gguf(read_source(tmp_path), tmp_path / "model.gguf", "float32", "test")
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    rng = random.Random(1)
    strings = ("".join(rng.choices(HOSTILE, k=rng.randint(1, 9))) for _ in range(3000))
    for text in (PROBE, sample_text(), *strings):
        ids = theirs.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == ours.encode(text), repr(text)


def test_the_rank_file_we_write_opens_in_tiktoken(tmp_path: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    ours = OURS["qwen2"]
    (tmp_path / "ours.tiktoken").write_bytes(write_ranks(ours.ranks))
    ranks = load_tiktoken_bpe(str(tmp_path / "ours.tiktoken"))
    assert ranks == ours.ranks
    theirs = tiktoken.Encoding(
        "ours", pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens=dict(ours.special)
    )
    assert theirs.encode_ordinary(sample_text()) == ours.encode(sample_text())
