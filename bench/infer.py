"""Our engine beside transformers' `generate`: same weights, same prompts, greedy, in one process, in turn.

The yardstick of a single request is how fast this machine can read the weights at all: every token needs all of
them once. That rate is measured by multiplying a vector with matrices of the model's size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import measure

FOLDER = Path(__file__).parent
BATCHES = (1, 8, 32)


def main(results: Path) -> None:
    run = measure.run([measure.our_python(), FOLDER / "_infer_compare.py", *map(str, BATCHES)])
    found = json.loads(run.stdout.splitlines()[-1])
    results.mkdir(parents=True, exist_ok=True)
    path = results / "infer.md"
    path.write_text(page(found))
    print(f"wrote {path}", file=sys.stderr)


def page(found: dict) -> str:
    rate = found["weight_bytes_per_s"]
    rows = []
    for of in found["batches"]:
        rows.append(
            [
                of["batch"],
                f"{of['ours_ms']:.1f}",
                f"{of['theirs_ms']:.1f}",
                f"{of['ratio']:.2f}",
                f"{of['batch'] * 1000 / of['ours_ms']:.0f}",
                f"{of['ours_first_ms']:.0f}",
            ]
        )
    one = found["batches"][0]
    share = found["weight_bytes"] / (one["ours_ms"] / 1000) / rate
    int8_ms = found["int8_ms"]
    return (
        measure.header("Inference", "infer")
        + f"A random Qwen3-shaped model of {found['parameters'] / 1e6:.0f}M parameters in float32, prompts of "
        f"{found['n_prompt']} tokens, {found['n_new']} new ones, one thread, transformers "
        f"{found['transformers']}, torch {found['torch']}. Milliseconds of CPU per step (a step gives one token to "
        "each sequence), prompt excluded; the ratio is the median over alternating pairs.\n\n"
        + measure.table(
            ["batch", "ours, ms", "transformers, ms", "ratio", "ours, tokens/s", "first token, ms"],
            rows,
        )
        + f"\nBoth write the same tokens in all runs: {'yes' if found['is_equal'] else 'no'}.\n\n"
        f"A step at batch 1 reads {found['weight_bytes'] / 1e6:.0f} MB of matrices. This core multiplies "
        f"matrices of that size with a vector at {rate / 1e9:.1f} GB/s, of which the engine reaches "
        f"{share:.0%}. With int8 weights and bfloat16 activations a step takes {int8_ms:.1f} ms, "
        f"{one['ours_ms'] / int8_ms:.2f} times as fast as float32.\n\n"
        "Not yet measured: GPUs, vLLM, compiled decoding. llama.cpp is faster than any of these on a CPU; "
        "`llmpipe export --to gguf` is the way there.\n"
    )
