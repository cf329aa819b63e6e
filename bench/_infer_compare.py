"""One process that times both engines in turn; prints one JSON line."""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from llmpipe.apps.bench_infer import memory_rate
from llmpipe.inference import native
from llmpipe.inference.engine import Engine
from llmpipe.inference.int8 import quantize_int8
from llmpipe.inference.sampling import Sampling
from llmpipe.model.config import ModelConfig, n_matmul_parameters, n_parameters
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_model

SHAPE = ModelConfig(
    d_model=768,
    n_layers=12,
    n_heads=12,
    n_kv_heads=4,
    head_dim=64,
    d_ff=2048,
    vocab_size=32768,
    max_seq_len=1024,
)
N_PROMPT, N_NEW, N_PAIRS = 16, 13, 3


def main() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    found: dict = {
        "compile_s": compile_seconds(),
        "parameters": n_parameters(SHAPE),
        "matrix_weights": n_matmul_parameters(SHAPE),
        "memory_bytes_per_s": 0.0,
        "weight_bytes_per_s": 0.0,
        "product_flops": product_flops(),
        "peak_flops": peak_flops(),
        "rows": [],
    }
    for dtype in ("float32", "bfloat16"):
        model = Transformer(SHAPE).eval().to(getattr(torch, dtype))
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, Path(folder))
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        small = quantize_int8(copy.deepcopy(model)) if dtype == "float32" else None
        for batch in map(int, sys.argv[1:]):
            # The best of several moments: others use this memory as well.
            found["memory_bytes_per_s"] = max(found["memory_bytes_per_s"], memory_rate("cpu"))
            if dtype == "float32":
                found["weight_bytes_per_s"] = max(found["weight_bytes_per_s"], weight_rate(model))
            found["rows"].append({"dtype": dtype, **compare(model, theirs, small, batch)})
            print(found["rows"][-1], file=sys.stderr)
    found |= {
        "n_prompt": N_PROMPT,
        "n_new": N_NEW,
        "n_pairs": N_PAIRS,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(found))


def compare(
    model: Transformer,
    theirs: transformers.PreTrainedModel,
    small_model: Transformer | None,
    batch: int,
) -> dict:
    """Time ours, theirs, ours without C, and ours with int8 weights, in turn."""
    prompts = torch.randint(SHAPE.vocab_size, (batch, N_PROMPT)).tolist()
    sizes = {"max_batch": batch, "max_len": N_PROMPT + N_NEW + 1}
    engines = {"ours": Engine(model, **sizes), "eager": Engine(model, **sizes, is_compiled=False)}
    if small_model is not None:
        engines["int8"] = Engine(small_model, **sizes)
    times: dict[str, list[time_steps]] = {name: [] for name in (*engines, "theirs")}
    for _ in range(N_PAIRS + 1):
        for name, engine in engines.items():
            times[name].append(time_steps(lambda n, e=engine: ours_ids(e, prompts, n)))
        times["theirs"].append(time_steps(lambda n: theirs_ids(theirs, prompts, n)))
    pairs = list(zip(times["ours"], times["theirs"], strict=True))
    for runs in times.values():
        del runs[0]  # it warms up
    row = {f"{name}_ms": statistics.median(r.step_ms for r in runs) for name, runs in times.items()}
    row |= {
        "batch": batch,
        "ratio": statistics.median(b.step_ms / a.step_ms for a, b in pairs[1:]),
        "first_ms": statistics.median(r.first_ms for r in times["ours"]),
        "theirs_first_ms": statistics.median(r.first_ms for r in times["theirs"]),
        "n_equal": sum(x == y for a, b in pairs for x, y in zip(a.ids, b.ids, strict=True)),
        "n_compared": batch * len(pairs),
    }
    if small_model is not None:
        row["int8_ratio"] = statistics.median(
            a.step_ms / b.step_ms for a, b in zip(times["ours"], times["int8"], strict=True)
        )
    return row


def compile_seconds() -> float:
    """CPU seconds that the compiler takes to make the step."""
    before = os.times()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        assert native.compiled() is not None, "decoding in C needs a C compiler"
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


@torch.inference_mode()
def product_flops() -> float:
    """Floating-point operations per second of CPU of torch's product of large float32 matrices."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    rates = []
    for _ in range(8):
        started = time.process_time()
        a @ b
        rates.append(2 * 1024**3 / (time.process_time() - started))
    return max(rates)


def peak_flops() -> float:
    """Those that the core can do at all, without reading anything."""
    source = Path(__file__).with_name("_infer_peak.c")
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/peak"
        command = ["cc", "-O3", "-march=native", "-std=gnu11", str(source), "-o", program]
        subprocess.run(command, check=True)
        answer = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return float(answer.split()[0])


class time_steps:
    """Time `generate(1)` and `generate(N_NEW)`: the difference is the steps, without the prompt."""

    def __init__(self, generate: Callable[[int], list[list[int]]]) -> None:
        started = time.process_time()
        generate(1)
        middle = time.process_time()
        self.ids = generate(N_NEW)
        ended = time.process_time()
        self.first_ms = 1000 * (middle - started)
        self.step_ms = 1000 * ((ended - middle) - (middle - started)) / (N_NEW - 1)


def ours_ids(engine: Engine, prompts: list[list[int]], n: int) -> list[list[int]]:
    engine.refresh()  # no prefix from the run before
    return [a.ids for a in engine.generate(prompts, Sampling(temperature=0.0, max_tokens=n))]


@torch.inference_mode()
def theirs_ids(
    model: transformers.PreTrainedModel, prompts: list[list[int]], n: int
) -> list[list[int]]:
    ids = torch.tensor(prompts)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        pad_token_id=0,
    )
    return out[:, N_PROMPT:].tolist()


@torch.inference_mode()
def weight_rate(model: Transformer) -> float:
    """Bytes per second of CPU at which this process multiplies all matrices with a vector."""
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = [torch.randn(linear.in_features) for linear in linears]
    n_bytes = sum(4 * linear.weight.numel() for linear in linears)
    rates = []
    for _ in range(6):
        started = time.process_time()
        for linear, x in zip(linears, inputs, strict=True):
            torch.mv(linear.weight, x)
        rates.append(n_bytes / (time.process_time() - started))
    return max(rates[1:])


if __name__ == "__main__":
    main()
