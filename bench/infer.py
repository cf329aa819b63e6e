"""Our engine beside transformers' `generate`: same weights, same prompts, greedy, in one process, in turn.

The yardstick of a single request is how fast this machine can read the weights at all, since every token needs all
of them once; of many requests, how fast it can multiply. Both are measured in the same process.
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
    rows = {(row["dtype"], row["batch"]): row for row in found["rows"]}
    one, many = rows["float32", 1], rows["float32", BATCHES[-1]]
    half = rows["bfloat16", BATCHES[-1]]
    weight_bytes = 4 * found["matrix_weights"]
    rate = weight_bytes / (one["ours_ms"] / 1000)
    flops = 2 * found["matrix_weights"] * BATCHES[-1]
    product_ms = 1000 * flops / found["product_flops"]
    least_ms = 1000 * flops / found["peak_flops"]
    equal = {
        dtype: f"{sum(rows[dtype, b]['n_equal'] for b in BATCHES)} of "
        f"{sum(rows[dtype, b]['n_compared'] for b in BATCHES)}"
        for dtype in ("float32", "bfloat16")
    }
    return (
        measure.header("Inference", "infer")
        + f"A random Qwen3-shaped model of {found['parameters'] / 1e6:.0f}M parameters, prompts of "
        f"{found['n_prompt']} tokens, {found['n_new']} new ones, one process, one thread, transformers "
        f"{found['transformers']}, torch {found['torch']}. Milliseconds of CPU per step (a step gives one token to "
        f"each sequence), prompt excluded; medians of {found['n_pairs']} alternating runs, the ratio the median over "
        "pairs. `torch` is our engine without the step in C, as on a machine without a C compiler.\n\n"
        + _speeds(found)
        + f"\nAnswers that are the same, token by token: {equal['float32']} in float32; {equal['bfloat16']} in "
        "bfloat16, where transformers rounds every number to 8 bits and ours only those that enter a matrix.\n\n"
        f"Both read the same files: a float32 model is computed in float32, a bfloat16 model from bfloat16 weights.\n\n"
        "## Bounds\n\n"
        f"- Batch 1 reads {weight_bytes / 1e6:.0f} MB of matrices per step, ours at {rate / 1e9:.1f} GB/s. This core "
        f"sums an array at {found['memory_bytes_per_s'] / 1e9:.1f} GB/s, so that is "
        f"{rate / found['memory_bytes_per_s']:.0%} of the speed of memory; torch multiplies matrices of that size with "
        f"a vector at {found['weight_bytes_per_s'] / 1e9:.1f} GB/s ({rate / found['weight_bytes_per_s']:.0%}).\n"
        f"- Batch {BATCHES[-1]} multiplies: {flops / 1e9:.2f} GFLOP per step. This core can do "
        f"{found['peak_flops'] / 1e9:.0f} GFLOP/s in float32 without reading anything, so no float32 engine takes less "
        f"than {least_ms:.0f} ms ({many['theirs_ms'] / least_ms:.2f} times as fast as transformers); at the "
        f"{found['product_flops'] / 1e9:.0f} GFLOP/s of torch's product of large matrices it is {product_ms:.0f} ms "
        f"({many['theirs_ms'] / product_ms:.2f} times). Ours takes {many['ours_ms']:.0f} ms. bfloat16 weights, which "
        f"this processor multiplies twice as fast, take {half['ours_ms']:.0f} ms, "
        f"{many['theirs_ms'] / half['ours_ms']:.2f} times as fast as transformers with float32 weights.\n"
        f"- int8 weights, against float32: {', '.join(_int8(row) for row in rows.values() if 'int8_ms' in row)} times as fast.\n"
        f"- The step in C is compiled once per machine, in {found['compile_s']:.1f} s of CPU here, and kept in "
        "`~/.cache/llmpipe`.\n\n"
        "Not yet measured: GPUs (the CUDA graph of the step is tested kernel by kernel on a CPU only), vLLM. "
        "`llmpipe bench infer MODEL` measures a model of your own, also beside llama.cpp and vLLM where they are "
        "installed.\n"
    )


def _speeds(found: dict) -> str:
    headers = ["weights", "batch", "ours, ms", "torch, ms", "transformers, ms", "ratio"]
    headers += ["ours, tokens/s", "first token, ms", "transformers, ms"]
    return measure.table(
        headers,
        [
            [
                row["dtype"],
                row["batch"],
                f"{row['ours_ms']:.1f}",
                f"{row['eager_ms']:.1f}",
                f"{row['theirs_ms']:.1f}",
                f"**{row['ratio']:.2f}**",
                f"{row['batch'] * 1000 / row['ours_ms']:.0f}",
                f"{row['first_ms']:.0f}",
                f"{row['theirs_first_ms']:.0f}",
            ]
            for row in found["rows"]
        ],
    )


def _int8(row: dict) -> str:
    return f"batch {row['batch']} takes {row['int8_ms']:.1f} ms, {row['int8_ratio']:.2f}"
