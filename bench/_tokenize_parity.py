"""Ids of the same text by four programs: python _tokenize_parity.py TEXTS.jsonl CL100K WORK

Prints how many texts and hostile strings differ from tiktoken's ids, for cl100k and for a vocabulary that
is learned from the texts here.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import tiktoken
from _tokenize_ours import learn
from _tokenize_peer import texts

from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_generation_config, save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import IM_END, N_SPECIAL
from llmpipe.tokenizer.vocabularies import load_vocabulary

N_HOSTILE = 100_000
PARTS = [
    "'",
    "'s",
    "'LL",
    "'ſ",
    "’s",
    "'re",
    "a",
    "Z",
    "é",
    "e\u0301",
    "ß",
    "ǅ",
    "ﬁ",
    "你好",
    "の",
    "م",
    "ש",
    "1",
    "12",
    "1234567",
    "٣",
    "Ⅷ",
    "½",
    "!",
    "...",
    "//",
    "/",
    "_",
    "-",
    "camelCase",
    "HTTPServer",
    "\u200b",
    "\ufeff",
    "\x00",
    "👩‍👩‍👧‍👦",
    "🇫🇷",
    "\U0001f600",
    "\U0010ffff",
    "\u212a",
    "\u0130",
    "<|bos|>",
    "<|im_end|>",
    "<|endoftext|>",
    "x=1;",
    "def",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\n\n\n",
    " \n",
    "\xa0",
    "\u2028",
    "\u3000",
    "\x1c",
    "\x85",
]
UNICODE_16 = re.compile("[\U00013460-\U000143fa]")
"""Egyptian hieroglyphs, 4,000 letters that came with Unicode 16; llama.cpp takes them for signs."""
Encode = Callable[[str], list[int]]


def main(path: str, cl100k: str, work: str) -> None:
    documents = list(texts(path))
    strings = hostile(N_HOSTILE)
    theirs = load_vocabulary(Path(cl100k))
    ours = learn(documents[: len(documents) // 10], 32_768 - 256 - N_SPECIAL)
    print(
        json.dumps(
            {
                "bytes": sum(len(text.encode()) for text in documents),
                "documents": len(documents),
                "strings": len(strings),
                "cl100k": _compare(theirs, documents, strings, Path(work) / "cl100k", llama=False),
                "ours": _compare(ours, documents, strings, Path(work) / "ours", llama=True),
            }
        )
    )


def hostile(n: int) -> list[str]:
    """Strings of parts on which splitters differ, and of any characters."""
    rng = random.Random(4)
    return ["".join(_part(rng) for _ in range(rng.randint(1, 12))) for _ in range(n)]


def _part(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(PARTS) * rng.choice((1, 1, 1, 1, 2, 5, 60))
    codes = (rng.randrange(rng.choice((0x80, 0x800, 0x3000, 0x10000, 0x110000))) for _ in range(4))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def _compare(
    tokenizer: Tokenizer, documents: list[str], strings: list[str], work: Path, llama: bool
) -> dict[str, list[int]]:
    """Return for each program how many documents and how many strings have other ids than tiktoken's."""
    reference = tiktoken.Encoding(
        "x", pat_str=tokenizer.pattern, mergeable_ranks=tokenizer.ranks, special_tokens={}
    ).encode_ordinary
    programs: dict[str, Encode] = {
        "llmpipe": tokenizer.encode,
        "tokenizers": _hugging_face(tokenizer, work),
    }
    if llama:
        programs["llama.cpp"] = _llama_cpp(tokenizer, work)
    n_different = {name: [0, 0, 0] for name in programs}
    known = [text for text in strings if not UNICODE_16.search(text)]
    for i, group in enumerate((documents, strings, known)):
        for text in group:
            expected = reference(text)
            for name, encode in programs.items():
                n_different[name][i] += encode(text) != expected
    n_changed = sum(tokenizer.decode(tokenizer.encode(text)) != text for text in strings)
    return n_different | {"round trip": [0, n_changed, 0]}


def _hugging_face(tokenizer: Tokenizer, work: Path) -> Encode:
    import tokenizers

    tokenizer.save(work)
    opened = tokenizers.Tokenizer.from_file(str(work / "tokenizer.json"))
    opened.encode_special_tokens = True
    return lambda text: list(opened.encode(text, add_special_tokens=False).ids)


def _llama_cpp(tokenizer: Tokenizer, work: Path) -> Encode:
    """Open the vocabulary in llama.cpp, as a model of the smallest size that it accepts."""
    import llama_cpp

    from llmpipe.export.gguf_file import write_gguf
    from llmpipe.export.hugging_face import read_source

    config = ModelConfig(
        family="qwen3", d_model=32, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=32, d_ff=32,
        vocab_size=tokenizer.vocab_size, max_seq_len=64,
    )  # fmt: skip
    save_model(Transformer(config), work)
    tokenizer.save(work)
    save_generation_config(work, tokenizer.bos_id, [tokenizer.special[IM_END]], tokenizer.pad_id)
    write_gguf(read_source(work), work / "model.gguf", "float32", "parity")
    opened = llama_cpp.Llama(str(work / "model.gguf"), vocab_only=True, verbose=False)
    return lambda text: list(opened.tokenize(text.encode(), add_bos=False, special=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
