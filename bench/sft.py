"""SFT beside pretraining at the same shape, how full its rows are, and what its examples reach.

    python bench/sft.py

Speed is tokens per CPU second, padding included, of whole updates; runs alternate, and the ratio is the median over
rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np

DATA = measure.ROOT.parent / "shared" / "data"
STEPS = {"demo": 12, "small": 3}
KINDS = ("pretrain", "sft")
LENGTHS = (512, 1024, 2048, 4096)
N_ROUNDS = 3


def main(results: Path) -> None:
    text = measure.header("Supervised fine-tuning", "sft")
    samples = real_samples()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "lengths.npz"
        lengths = [len(sample.ids) for sample in samples]
        np.savez(data, lengths=lengths, mask=np.concatenate([sample.mask for sample in samples]))
        text += speed_section(data)
    text += packing_section(samples)
    results.mkdir(parents=True, exist_ok=True)
    path = results / "sft.md"
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    # The examples are measured by their own tests, and their section is written by hand from those.
    examples = kept[kept.index("## Examples") :] if "## Examples" in kept else ""
    path.write_text(text + examples, encoding="utf-8")


def real_samples() -> list[Any]:
    """Render the conversations of the test data with GPT-2's vocabulary."""
    from llmpipe.assistant.render import render_for_training
    from llmpipe.stages.sft.packing import make_sample
    from llmpipe.stages.sft.sources import read_conversations
    from llmpipe.tokenizer.vocabularies import load_vocabulary, with_chat_tokens

    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is missing: it holds the conversations")
    tokenizer = with_chat_tokens(load_vocabulary(DATA / "tokenizers" / "r50k_base.tiktoken"))
    samples = []
    for path in sorted((DATA / "conversations").glob("*/*.gz")):
        for conversation in read_conversations(path, path.name)[0]:
            for rendered in render_for_training(conversation.messages, tokenizer):
                samples.append(make_sample(rendered, path.name))
    return samples


def speed_section(data: Path) -> str:
    rows = []
    for shape, n_steps in STEPS.items():
        rounds = [
            {kind: run(kind, shape, n_steps, data) for kind in KINDS} for _ in range(N_ROUNDS)
        ]
        ratio = statistics.median(
            r["sft"]["tok_per_cpu_s"] / r["pretrain"]["tok_per_cpu_s"] for r in rounds
        )
        speeds = [statistics.median(r[kind]["tok_per_cpu_s"] for r in rounds) for kind in KINDS]
        trained = rounds[0]["sft"]["trained_frac"]
        rows.append(
            [shape, *(f"{speed:,.0f}" for speed in speeds), f"{ratio:.2f}", f"{trained:.0%}"]
        )
    head = (
        "## Speed\n\nOne thread, float32, Muon, no compilation. `demo` is the demo's model (4 layers of 128, rows of 256 "
        "tokens, 4,096 ids, updates of 4,096 tokens), `small` has 6 layers of 256, rows of 1,024 tokens, 8,192 ids and "
        "updates of 8,192 tokens. SFT's rows are real conversations, packed, each attending to itself alone; "
        "pretraining's are causal throughout.\n\n"
    )
    titles = [
        "shape",
        "pretrain, tokens per CPU s",
        "sft, tokens per CPU s",
        "sft / pretrain",
        "trained of sft's",
    ]
    return head + measure.table(titles, rows) + "\nOn a GPU: not yet measured.\n\n"


def run(kind: str, shape: str, n_steps: int, data: Path) -> dict[str, Any]:
    """Run one entry once and return its result line."""
    script = Path(__file__).parent / "_sft_ours.py"
    command = [sys.executable, str(script), "--kind", kind, "--shape", shape]
    command += ["--data", str(data), "--steps", str(n_steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{kind} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    print(f"   {shape} {kind}: {result['tok_per_cpu_s']:,.0f}", file=sys.stderr, flush=True)
    return result


def packing_section(samples: list[Any]) -> str:
    from llmpipe.stages.sft.packing import fit_length, pack

    rows = []
    for n_time in LENGTHS:
        fitted = [f for sample in samples if (f := fit_length(sample, n_time, "cut")) is not None]
        lengths = [len(sample.ids) for sample in fitted]
        packed = pack(lengths, n_time)
        n_cut = sum(len(sample.ids) > n_time for sample in samples)
        filled = sum(lengths) / (len(packed) * n_time)
        rows.append(
            [n_time, f"{len(packed):,}", f"{filled:.2%}", n_cut, len(samples) - len(fitted)]
        )
    head = (
        f"## Packing\n\nAll {len(samples):,} conversations of the test data (Alpaca, GPTeacher, self-instruct, SGD, tool "
        "calls), with GPT-2's vocabulary, best fit. Conversations longer than a row are cut; those without an "
        "answer left are dropped.\n\n"
    )
    return head + measure.table(["row, tokens", "rows", "filled", "cut", "dropped"], rows) + "\n"


if __name__ == "__main__":
    main(measure.ROOT / "docs" / "results")
