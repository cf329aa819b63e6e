"""`llmpipe bench infer`: how fast a model writes here, beside the other engines that are installed.

All get the same prompts and write greedily. Each batch is run for one token and then for all; the difference is
what decoding takes, and the first run the time to first tokens. A step reads every weight once, for one
sequence or for 64, and does little with it: decoding waits for memory. So the speed of memory is measured
as well, and the share of it that is used; and more sequences at once cost little.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llmpipe.apps.load import load, pick_device
from llmpipe.core.console import Console, format_bytes
from llmpipe.core.errors import UserError
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling

BATCHES = (1, 8, 64, 256)
N_REPEATS = 3
_STREAM_BYTES = 256_000_000
"""Read to measure the speed of memory: several times what the caches of a processor hold."""

Generate = Callable[[list[list[int]], int], Any]
"""Write a number of tokens after each prompt."""


@dataclass(frozen=True)
class Speed:
    """How fast one program is with one number of sequences.

    Attributes:
        first_token_s: from the prompts to the first token of all of them.
        tokens_per_s: of all sequences together, after the first token.
        bandwidth_frac: share of the measured speed of memory that reading the weights takes.
        memory_bytes: most memory of the process so far on a CPU, of this run on a GPU.
    """

    program: str
    batch: int
    first_token_s: float
    tokens_per_s: float
    bandwidth_frac: float
    memory_bytes: int


def run_bench_infer(
    folder: Path,
    *,
    batches: Sequence[int] = BATCHES,
    n_prompt: int = 32,
    n_new: int = 32,
    int8: bool = False,
    peers: bool = True,
    device: str = "auto",
    console: Console,
) -> None:
    """Measure and print a table, or with `--json` a document.

    Args:
        folder: of the model.
        batches: numbers of sequences to try.
        n_prompt: tokens of each prompt.
        n_new: tokens to write after each.
        int8: turn our matrices into 8 bits.
        peers: also run transformers, llama.cpp and vLLM where they are installed.

    Raises:
        UserError: if prompt and answer do not fit into the model's context.
    """
    device = pick_device(device)
    n_ctx = n_prompt + n_new + 1
    loaded = load(folder, device, max(batches), max_len=n_ctx, int8=int8, warn=console.warn)
    engine = loaded.engine
    if n_ctx > engine.max_len or n_new < 2:
        raise UserError(
            f"{n_prompt} and {n_new} tokens do not fit into a context of {engine.max_len}",
            hint="2 new tokens at least; choose with `--prompt-tokens` and `--new-tokens`",
        )
    # Arbitrary ordinary tokens: what prompts say has no influence on speed.
    rng, ordinary = random.Random(0), sorted(loaded.tokenizer.ranks.values())
    bench = _Bench(
        prompts=[[rng.choice(ordinary) for _ in range(n_prompt)] for _ in range(max(batches))],
        n_new=n_new,
        weight_bytes=_weight_bytes(engine),
        memory_bytes_per_s=memory_rate(device),
        device=device,
        console=console,
    )
    speeds = [bench.measure("llmpipe", size, _ours(engine)) for size in batches]
    if peers:
        for name, sizes, opened in _peers(folder, device, batches, n_ctx):
            try:
                with opened as generate:
                    speeds += [bench.measure(name, size, generate) for size in sizes]
            except Exception as error:  # of a program that is not ours; ours has been measured
                reason = str(error).strip() or type(error).__name__
                console.warn(f"{name} failed: {reason.splitlines()[0]}")
    if console.json_output:
        console.document(
            {
                "model": str(folder),
                "device": device,
                "n_threads": torch.get_num_threads(),
                "prompt_tokens": n_prompt,
                "new_tokens": n_new,
                "weight_bytes": bench.weight_bytes,
                "memory_bytes_per_s": bench.memory_bytes_per_s,
                "speeds": [asdict(speed) for speed in speeds],
            }
        )
        return
    _table(bench, speeds)


def parse_batches(text: str) -> tuple[int, ...]:
    """Read `1,8,64`; a UserError for anything but numbers from 1 up."""
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise UserError(f"`{text}` are no numbers of sequences", hint="for example `--batch 1,8`")
    return tuple(map(int, words))


@dataclass(frozen=True)
class _Bench:
    """What all measurements have in common."""

    prompts: list[list[int]]
    n_new: int
    weight_bytes: int
    memory_bytes_per_s: float
    device: str
    console: Console

    def measure(self, program: str, batch: int, generate: Generate) -> Speed:
        """Time one program with one number of sequences."""
        self.console.info(f"{program}, batch {batch}")
        prompts = self.prompts[:batch]
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        generate(prompts, 2)  # what happens only once happens here
        times: dict[int, list[float]] = {1: [], self.n_new: []}
        for _ in range(N_REPEATS):
            for n_new, taken in times.items():
                started = time.perf_counter()
                generate(prompts, n_new)
                taken.append(time.perf_counter() - started)
        first_s, whole_s = map(statistics.median, times.values())
        step_s = max(whole_s - first_s, 1e-9) / (self.n_new - 1)
        return Speed(
            program,
            batch,
            first_token_s=round(first_s, 5),
            tokens_per_s=round(batch / step_s, 2),
            bandwidth_frac=round(self.weight_bytes / step_s / self.memory_bytes_per_s, 4),
            memory_bytes=_memory_bytes(self.device),
        )


def _table(bench: _Bench, speeds: Sequence[Speed]) -> None:
    console = bench.console
    console.out(
        f"weights {format_bytes(bench.weight_bytes)}, memory is read at "
        f"{format_bytes(bench.memory_bytes_per_s)}/s, {bench.device}, "
        f"{torch.get_num_threads()} threads\n"
    )
    console.out(
        f"{'program':<14}{'batch':>6}{'first token':>14}{'tokens/s':>12}{'of memory speed':>18}{'peak so far':>14}"
    )
    for speed in speeds:
        console.out(
            f"{speed.program:<14}{speed.batch:>6}{1000 * speed.first_token_s:>11,.0f} ms"
            f"{speed.tokens_per_s:>12,.1f}{speed.bandwidth_frac:>18.0%}{format_bytes(speed.memory_bytes):>14}"
        )


# ----------------------------------------------------------------------------------------------
# What is measured against


def memory_rate(device: str) -> float:
    """Return how many bytes per second this device reads, by all threads that torch uses."""
    numbers = torch.ones(_STREAM_BYTES // 4, device=device)
    is_cuda = device == "cuda"
    wait: Callable[[], Any] = torch.cuda.synchronize if is_cuda else lambda: None
    times = []
    for _ in range(6):
        wait()
        started = time.perf_counter()
        numbers.clone() if is_cuda else numbers.sum()  # a clone reads and writes
        wait()
        times.append(time.perf_counter() - started)
    return _STREAM_BYTES * (2 if is_cuda else 1) / min(times)


def _weight_bytes(engine: Engine) -> int:
    """Return the bytes of all matrices that a step multiplies with."""
    modules = (engine.model.blocks, engine.model.head)
    return sum(
        part.nbytes for module in modules for part in (*module.parameters(), *module.buffers())
    )


def _memory_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, but on macOS bytes


# ----------------------------------------------------------------------------------------------
# The programs


def _ours(engine: Engine) -> Generate:
    def generate(prompts: list[list[int]], n_new: int) -> None:
        engine.refresh()  # no prefix of the run before
        engine.generate(prompts, Sampling(temperature=0.0, max_tokens=n_new))

    return generate


def _peers(
    folder: Path, device: str, batches: Sequence[int], n_ctx: int
) -> Iterator[tuple[str, Sequence[int], Any]]:
    """Yield the programs that are installed: name, batches they can do, and how to open them."""
    if importlib.util.find_spec("transformers"):
        yield "transformers", batches, _transformers(folder, device)
    # Its Python package writes one sequence at a time.
    if importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("gguf") and 1 in batches:
        yield "llama.cpp", (1,), _llama_cpp(folder, device, n_ctx)
    if importlib.util.find_spec("vllm") and device == "cuda":
        yield "vLLM", batches, _vllm(folder, max(batches), n_ctx)


@contextmanager
def _transformers(folder: Path, device: str) -> Iterator[Generate]:
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = (
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval().to(device)
    )

    @torch.inference_mode()
    def generate(prompts: list[list[int]], n_new: int) -> None:
        ids = torch.tensor(prompts, device=device)
        mask = torch.ones_like(ids)
        limits = {"max_new_tokens": n_new, "min_new_tokens": n_new}
        model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **limits)

    yield generate


@contextmanager
def _llama_cpp(folder: Path, device: str, n_ctx: int) -> Iterator[Generate]:
    from llmpipe.export.export import export_model
    from llmpipe.export.gguf_file import FILE

    llama_cpp: Any = importlib.import_module("llama_cpp")
    with tempfile.TemporaryDirectory() as temporary:
        exported = export_model(folder, "gguf", Path(temporary) / "gguf")
        llama = llama_cpp.Llama(
            str(exported.folder / FILE),
            n_ctx=n_ctx,
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),
            n_gpu_layers=-1 if device == "cuda" else 0,
            verbose=False,
        )

        def generate(prompts: list[list[int]], n_new: int) -> None:
            llama.reset()
            for _, _ in zip(range(n_new), llama.generate(prompts[0], temp=0.0), strict=False):
                pass

        try:
            yield generate
        finally:
            llama.close()


@contextmanager
def _vllm(folder: Path, max_batch: int, n_ctx: int) -> Iterator[Generate]:
    vllm: Any = importlib.import_module("vllm")
    engine = vllm.LLM(str(folder), max_num_seqs=max_batch, max_model_len=n_ctx)

    def generate(prompts: list[list[int]], n_new: int) -> None:
        sampling = vllm.SamplingParams(temperature=0.0, max_tokens=n_new, ignore_eos=True)
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        engine.generate(inputs, sampling, use_tqdm=False)

    yield generate
