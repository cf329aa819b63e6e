"""Ids of the same text in tiktoken, `tokenizers`, llama.cpp and here."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import measure
from _tokenize_data import DATA, write_mix

SCRIPT = Path(__file__).parent / "_tokenize_parity.py"
CL100K = DATA / "tokenizers/cl100k_base.tiktoken"
N_BYTES = 100_000_000


def main(results: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="llmpipe-bench-") as name:
        text = measure.header("Tokenizer: the same ids in every program", "tokenizer_exact")
        text += _parity(Path(name))
    (results / "tokenize-exact.md").write_text(text, encoding="utf-8")


def _parity(work: Path) -> str:
    data = work / "parity.jsonl"
    write_mix([data], N_BYTES)
    found = json.loads(measure.run([measure.our_python(), SCRIPT, data, CL100K, work]).stdout)
    rows = [
        [vocabulary, program, *map("{:,}".format, different)]
        for vocabulary in ("cl100k", "ours")
        for program, different in found[vocabulary].items()
        if program != "round trip"
    ]
    n_changed = sum(found[vocabulary]["round trip"][1] for vocabulary in ("cl100k", "ours"))
    return (
        f"{found['bytes'] / 1e6:.0f} MB of novels, program texts and "
        f"sentences of 75 languages in {found['documents']:,} documents, and {found['strings']:,} hostile "
        "strings; how many have other ids than tiktoken gives. `ours` is a vocabulary of 32,768 tokens "
        "with the `qwen2` split, learned from a tenth of the text. The new "
        "hieroglyphs are U+13460 to U+143FA, letters since Unicode 16, which llama.cpp takes for signs.\n\n"
        + measure.table(
            ["vocabulary", "program", "documents", "strings", "strings without new hieroglyphs"],
            rows,
        )
        + f"\nHostile strings that do not come back from their ids: {n_changed:,}.\n"
    )
