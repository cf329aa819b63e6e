"""One process that times both engines in turn; prints one JSON line."""

from __future__ import annotations

import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from llmpipe.inference.engine import Engine
from llmpipe.inference.int8 import quantize_int8
from llmpipe.inference.packed import pack
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
N_PROMPT, N_NEW, N_PAIRS = 16, 9, 2


def main() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = Transformer(SHAPE).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    small_model = quantize_int8(copy.deepcopy(model))
    rate = weight_rate(model)
    batches, is_equal = [], True
    for batch in map(int, sys.argv[1:]):
        prompts = torch.randint(SHAPE.vocab_size, (batch, N_PROMPT)).tolist()
        packed = copy.deepcopy(model)
        pack(packed, batch)  # as `llmpipe sample`, `chat` and `serve` do
        engine = Engine(packed, max_batch=batch, max_len=N_PROMPT + N_NEW + 1)
        ours_ms, theirs_ms, first_ms = [], [], []
        for i in range(N_PAIRS + 1):  # the first pair warms up
            ours = time_steps(lambda n, e=engine, p=prompts: ours_ids(e, p, n))
            other = time_steps(lambda n, p=prompts: theirs_ids(theirs, p, n))
            is_equal &= ours.ids == other.ids
            if i:
                ours_ms.append(ours.step_ms)
                theirs_ms.append(other.step_ms)
                first_ms.append(ours.first_ms)
        ratios = [b / a for a, b in zip(ours_ms, theirs_ms, strict=True)]
        batches.append(
            {
                "batch": batch,
                "ours_ms": statistics.median(ours_ms),
                "theirs_ms": statistics.median(theirs_ms),
                "ratio": statistics.median(ratios),
                "ours_first_ms": statistics.median(first_ms),
            }
        )
        print(batches[-1], file=sys.stderr)
    small = Engine(small_model, max_batch=1, max_len=N_PROMPT + N_NEW + 1)
    prompt = [list(range(N_PROMPT))]
    int8 = [time_steps(lambda n: ours_ids(small, prompt, n)).step_ms for _ in range(N_PAIRS + 1)]
    found = {
        "parameters": n_parameters(SHAPE),
        "weight_bytes": 4 * n_matmul_parameters(SHAPE),
        "weight_bytes_per_s": rate,
        "batches": batches,
        "is_equal": bool(is_equal),
        "int8_ms": statistics.median(int8[1:]),
        "n_prompt": N_PROMPT,
        "n_new": N_NEW,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(found))


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
