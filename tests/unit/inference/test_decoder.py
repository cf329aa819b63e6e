"""The decoding step in C, and in the static form that a GPU records, against the model itself."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llmpipe.core.machine import cache_folder
from llmpipe.inference import native
from llmpipe.inference.decoder import TOLERANCE, Decoder, build_decoder, probe
from llmpipe.inference.engine import Engine
from llmpipe.inference.graph import GraphDecoder
from llmpipe.inference.int8 import quantize_int8
from llmpipe.inference.kv_cache import SlotCache
from llmpipe.inference.native import NativeDecoder
from llmpipe.inference.sampling import Sampling
from llmpipe.model.config import ModelConfig, RopeScaling
from llmpipe.model.init import initialize
from llmpipe.model.norm import RMSNorm
from llmpipe.model.rope import Rope
from llmpipe.model.transformer import Transformer

MAX_LEN = 48
GREEDY = Sampling(temperature=0.0, max_tokens=20)
needs_compiler = pytest.mark.skipif(native.compiled() is None, reason="no C compiler here")

SHAPES = {
    "gpt2": ModelConfig(
        family="gpt2", d_model=48, n_layers=2, n_heads=3, n_kv_heads=3, head_dim=16, d_ff=80,
        vocab_size=101, max_seq_len=64, tied_embeddings=True,
    ),
    "llama": ModelConfig(
        family="llama", d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=32, d_ff=96,
        vocab_size=100, max_seq_len=64, rope_scaling=RopeScaling(factor=8.0, original_max_seq_len=16),
    ),
    # No size is a multiple of a vector's 16 numbers, nor of a tile's 3 outputs.
    "qwen3": ModelConfig(
        family="qwen3", d_model=36, n_layers=2, n_heads=4, n_kv_heads=1, head_dim=10, d_ff=50,
        vocab_size=98, max_seq_len=64, pad_vocab_to=64,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(2)
    model = Transformer(SHAPES[request.param]).eval()
    for weights in model.parameters():  # biases and norms that matter
        weights.data += 0.2 * torch.randn_like(weights)
    return model


def cache_of(model: Transformer, n_slots: int = 9) -> SlotCache:
    return SlotCache(model, n_slots, MAX_LEN)


def native_decoder(model: Transformer, cache: SlotCache) -> Decoder:
    if native.compiled() is None:
        pytest.skip("no C compiler here")
    return NativeDecoder(model, cache)


def static_decoder(model: Transformer, cache: SlotCache) -> Decoder:
    return GraphDecoder(model, cache, is_recorded=False)


@torch.no_grad()
def largest_difference(make: object, model: Transformer, slots: list[int], steps: int = 4) -> float:
    """Decode a few steps in some slots, and compare log-probabilities with the full sequences'."""
    cache = cache_of(model)
    decoder = make(model, cache)  # type: ignore[operator]
    rows = [[(7 * i + j) % 90 for j in range(1 + 5 * i % 17)] for i in range(len(slots))]
    for slot, row in zip(slots, rows, strict=True):
        view = cache.rows([slot], [0], [len(row)])
        model(torch.tensor([row]), positions=view.positions, mask=view.mask, cache=view)
    largest = 0.0
    for step in range(steps):
        new = [(31 * i + step) % 97 for i in range(len(slots))]
        logits = decoder(new, slots, [len(row) for row in rows], range(len(rows)))
        for i, row in enumerate(rows):
            row.append(new[i])
            expected = model(torch.tensor([row]))[0, -1].float().log_softmax(-1)
            got = logits[i].float().log_softmax(-1)
            largest = max(largest, (got - expected).abs().max().item())
    return largest


@pytest.mark.parametrize("make", [native_decoder, static_decoder])
@pytest.mark.parametrize("slots", [[0], [3, 1], [8, 0, 5, 2, 7], list(range(9))])
def test_decoder_gives_the_models_log_probabilities(
    make: object, slots: list[int], model: Transformer
) -> None:
    # float32 sums in another order
    assert largest_difference(make, model, slots) < 1e-4


@torch.no_grad()
def test_bfloat16_step_is_nearer_to_exact_than_torchs(model: Transformer) -> None:
    """Both read the same rounded weights; ours keeps what is added up and passed on in float32."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    exact = copy.deepcopy(rounded).float()
    ids, n = [5, 6, 44, 81, 3], 5
    decoder = native_decoder(rounded, cache_of(rounded))
    got = decoder(ids, [0] * n, range(n), range(n)).log_softmax(-1)
    torchs = rounded(torch.tensor([ids]))[0].float().log_softmax(-1)
    expected = exact(torch.tensor([ids]))[0].log_softmax(-1)
    assert (got - expected).abs().mean() < (torchs - expected).abs().mean()
    assert (got - expected).abs().max() < 0.2  # 8 bits of precision, logits of about 10


def test_int8_step_is_that_of_the_rounded_weights(model: Transformer) -> None:
    small = quantize_int8(copy.deepcopy(model))
    unpacked = copy.deepcopy(small).float()
    for part in unpacked.modules():
        for name, child in list(part.named_children()):
            if isinstance(child, native.Int8Linear):
                weight = child.get_buffer("weight").float() * child.get_buffer("scale")[:, None]
                linear = torch.nn.Linear(weight.shape[1], weight.shape[0], child.bias is not None)
                linear.weight.data = weight
                if child.bias is not None:
                    linear.bias.data = child.bias.detach().float()
                setattr(part, name, linear)
    got = native_decoder(small, cache_of(small))([5, 6], [0, 1], [0, 0], [0, 1]).log_softmax(-1)
    cache = cache_of(unpacked)
    expected = native_decoder(unpacked, cache)([5, 6], [0, 1], [0, 0], [0, 1]).log_softmax(-1)
    assert torch.allclose(got, expected, atol=0.05)  # keys and values in bfloat16


@needs_compiler
def test_a_sequence_does_not_depend_on_the_others_in_its_batch(model: Transformer) -> None:
    """Bit by bit: sums are taken in one order, whatever the number of rows."""
    alone = NativeDecoder(model, cache_of(model, 1))([7], [0], [0], [0])
    for n in (2, 3, 8, 9, 17):
        together = NativeDecoder(model, cache_of(model, n))([7] * n, range(n), [0] * n, range(n))
        assert all(torch.equal(row, alone[0]) for row in together)


@needs_compiler
def test_several_threads_give_the_numbers_of_one(model: Transformer) -> None:
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = NativeDecoder(model, cache_of(model))([7, 8, 9], [0, 1, 2], [0] * 3, [0, 1, 2])
        torch.set_num_threads(3)
        three = NativeDecoder(model, cache_of(model))([7, 8, 9], [0, 1, 2], [0] * 3, [0, 1, 2])
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(one, three)


@needs_compiler
@torch.no_grad()
def test_prompts_and_single_tokens_go_through_one_step(model: Transformer) -> None:
    """Slot 2 holds three tokens already and gets four, slot 0 begins with five, slot 1 gets one."""
    cache = cache_of(model)
    decoder = NativeDecoder(model, cache)
    rows = {2: [9, 8, 7, 1, 2, 3, 4], 0: [11, 12, 13, 14, 15], 1: [21, 22]}
    held = {2: 3, 0: 0, 1: 1}
    for slot, n in held.items():
        for i in range(n):
            decoder([rows[slot][i]], [slot], [i], [0])
    tokens = [(id, s, i) for s, row in rows.items() for i, id in enumerate(row) if i >= held[s]]
    ids, slots, lengths = zip(*tokens, strict=True)
    logits = decoder(ids, slots, lengths, [3, 8, 9])
    for row, got in zip(rows.values(), logits, strict=True):
        expected = model(torch.tensor([row]))[0, -1].log_softmax(-1)
        assert torch.allclose(got.log_softmax(-1), expected, atol=1e-4)


@needs_compiler
def test_engine_uses_the_weights_of_a_model_in_training() -> None:
    """No copy: what an optimizer has done is seen at the next request, and training goes on."""
    torch.manual_seed(3)
    model = Transformer(SHAPES["qwen3"])
    engine = Engine(model.eval(), max_batch=2)
    assert isinstance(engine._decoder, NativeDecoder)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    ids = torch.randint(98, (2, 12))
    for _ in range(3):
        before = engine.generate([[1, 2, 3]], GREEDY)[0].ids
        logits = model.train()(ids)
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()  # fmt: skip
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        engine.refresh()
        after = engine.generate([[1, 2, 3]], GREEDY)[0].ids
        assert after == Engine(model, is_compiled=False).generate([[1, 2, 3]], GREEDY)[0].ids
        assert after != before


@needs_compiler
def test_weights_that_have_moved_are_found_again() -> None:
    torch.manual_seed(4)
    model, other = Transformer(SHAPES["llama"]).eval(), Transformer(SHAPES["llama"]).eval()
    engine = Engine(model)
    engine.generate([[1, 2]], GREEDY)
    for weights, new in zip(model.parameters(), other.parameters(), strict=True):
        weights.data = new.data.clone()
    engine.refresh()
    expected = Engine(other, is_compiled=False).generate([[1, 2]], GREEDY)
    assert engine.generate([[1, 2]], GREEDY) == expected


def test_models_with_unknown_parts_take_the_step_through_torch() -> None:
    model = Transformer(SHAPES["qwen3"]).eval()
    assert native.supports(model, cache_of(model))
    half = copy.deepcopy(model).half()
    assert build_decoder(half, cache_of(half), pytest.fail) is None

    class Adapted(torch.nn.Linear):
        """A layer that computes something else."""

    adapted = Adapted(36, 40, bias=False)
    model.blocks[0].attn.q = adapted  # type: ignore[union-attr,assignment]
    assert build_decoder(model, cache_of(model), pytest.fail) is None


def test_without_a_compiler_the_engine_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Transformer(SHAPES["qwen3"]).eval()
    expected = Engine(model).generate([[1, 2], [3] * 9], GREEDY)
    monkeypatch.setattr("llmpipe.inference.native.shutil.which", lambda name: None)
    monkeypatch.setattr("llmpipe.inference.native.compiled", native.compiled.__wrapped__)
    assert build_decoder(model, cache_of(model), pytest.fail) is None
    assert Engine(model).generate([[1, 2], [3] * 9], GREEDY) == expected


@needs_compiler
def test_library_is_made_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = native.compiled.__wrapped__()
    assert isinstance(first, ctypes.CDLL)
    made = [path.name for path in (tmp_path / "llmpipe").iterdir()]
    assert len(made) == 1 and made[0].startswith("decode-")
    monkeypatch.setattr("llmpipe.inference.native._compile", None)
    assert isinstance(native.compiled.__wrapped__(), ctypes.CDLL)


@needs_compiler
@pytest.mark.slow  # starts Python and the compiler
def test_engine_works_for_a_user_without_a_home(tmp_path: Path) -> None:
    """In a process of its own: what is made at import would otherwise be there already."""
    program = """
import pathlib

def home():
    raise RuntimeError("Could not determine home directory.")

pathlib.Path.home = home
import llmpipe.inference.engine
from llmpipe.inference import native
assert native.compiled() is not None
"""
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_libraries_are_kept_where_the_user_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for cache, expected in (
        (str(tmp_path / "own"), tmp_path / "own" / "llmpipe"),
        ("relative/path", tmp_path / ".cache" / "llmpipe"),  # to be ignored, says the standard
        ("", tmp_path / ".cache" / "llmpipe"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert cache_folder() == expected


# ----------------------------------------------------------------------------------------------
# A model whose mathematics was changed, while decode.c stayed as it is


def squared_relu(self: object, x: torch.Tensor) -> torch.Tensor:
    """As in nanochat's models, in place of the gate's SiLU."""
    return self.down(F.relu(self.gate(x)).square() * self.up(x))  # type: ignore[attr-defined]


def rotate_neighbours(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Pairs (x[2i], x[2i + 1]), as in the paper and in Meta's files."""
    cos, sin = (part[..., : x.shape[-1] // 2] for part in rotation)
    first, second = x[..., 0::2], x[..., 1::2]
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.stack(turned, dim=-1).flatten(-2)


def larger_eps(self: RMSNorm, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, self.normalized_shape, self.weight, 0.1)


def llamas_eps(self: RMSNorm, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, self.normalized_shape, self.weight, 1e-5)  # and not 1e-6


def half_scores(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: object) -> torch.Tensor:
    return attention_of_torch(q / 2, k, v, **how)  # type: ignore[arg-type]


attention_of_torch = F.scaled_dot_product_attention
CHANGES: dict[str, tuple[str, Callable[..., torch.Tensor]]] = {
    "activation": ("llmpipe.model.mlp.SwiGLU.forward", squared_relu),
    "rotation": ("llmpipe.model.attention.rotate", rotate_neighbours),
    "norm": ("llmpipe.model.norm.RMSNorm.forward", larger_eps),
    "small eps": ("llmpipe.model.norm.RMSNorm.forward", llamas_eps),
    "attention": ("torch.nn.functional.scaled_dot_product_attention", half_scores),
}
PROMPTS = [[1, 2, 3, 4], [5] * 9, [6, 7]]


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_changed_mathematics_is_noticed_and_computed_by_torch(
    change: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained_like("llama", dtype)
    as_it_was = [one.ids for one in Engine(model).generate(PROMPTS, GREEDY)]
    monkeypatch.setattr(*CHANGES[change])
    said: list[str] = []
    engine = Engine(model, warn=said.append)
    assert len(said) == 1 and said[0].startswith(
        "decoding with torch, which is slower: the step in C"
    )
    got = [one.ids for one in engine.generate(PROMPTS, GREEDY)]
    assert got == [one.ids for one in Engine(model, is_compiled=False).generate(PROMPTS, GREEDY)]
    assert got != as_it_was or change == "small eps"  # the others are changes that text shows
    with pytest.warns(UserWarning, match="the step in C gives other logits"):
        Engine(model, max_batch=1)  # heard by default too


@needs_compiler
def test_angles_come_from_the_model_and_need_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another base of the rotation is followed by the step in C, which is handed the angles."""
    model = trained_like("llama", torch.float32)
    as_it_was = [one.ids for one in Engine(model).generate(PROMPTS, GREEDY)]
    assert isinstance(model.rope, Rope)
    model.rope._frequencies = model.rope._frequencies * 7
    engine = Engine(model, warn=pytest.fail)
    assert isinstance(engine._decoder, NativeDecoder)
    got = [one.ids for one in engine.generate(PROMPTS, GREEDY)]
    assert got == [one.ids for one in Engine(model, is_compiled=False).generate(PROMPTS, GREEDY)]
    assert got != as_it_was


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("name", SHAPES)
def test_unchanged_models_raise_no_alarm(name: str, dtype: torch.dtype) -> None:
    """In deep models too, and wherever the probe is cut."""
    for seed in range(3):
        for n_layers, n_slots, max_len in ((2, 9, 48), (2, 1, 5), (2, 2, 1), (12, 3, 64)):
            model = trained_like(name, dtype, seed, n_layers)
            cache = SlotCache(model, n_slots, max_len)
            assert probe(model, cache, NativeDecoder(model, cache)) < TOLERANCE[dtype]
    assert build_decoder(model, cache, pytest.fail) is not None


@needs_compiler
def test_change_is_noticed_in_a_model_whose_weights_hide_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new model's output projections are zero; after the first update they are not."""
    model = Transformer(SHAPES["llama"]).eval()
    initialize(model, torch.Generator().manual_seed(1))
    monkeypatch.setattr(*CHANGES["activation"])
    cache = cache_of(model)
    assert probe(model, cache, NativeDecoder(model, cache)) < TOLERANCE[torch.float32]
    said: list[str] = []
    assert build_decoder(model, cache, said.append) is None
    assert len(said) == 1


@needs_compiler
def test_starting_an_engine_draws_no_random_numbers() -> None:
    model = trained_like("gpt2", torch.float32)
    before = torch.get_rng_state()
    Engine(model, warn=pytest.fail)
    assert torch.equal(torch.get_rng_state(), before)


def test_probe_tells_numbers_from_none() -> None:
    model = trained_like("qwen3", torch.float32)
    cache = cache_of(model)

    def broken(ids: list[int], slots: list[int], lengths: list[int], wanted: range) -> torch.Tensor:
        return torch.full((len(wanted), model.config.vocab_size), torch.nan)

    assert probe(model, cache, broken) == float("inf")  # type: ignore[arg-type]


def trained_like(name: str, dtype: torch.dtype, seed: int = 0, n_layers: int = 2) -> Transformer:
    """Every matrix keeps the size of its input, so every part of each block matters."""
    torch.manual_seed(seed)
    model = Transformer(dataclasses.replace(SHAPES[name], n_layers=n_layers)).eval()
    for weights in model.parameters():
        if weights.dim() == 2:
            weights.data.normal_(std=weights.shape[1] ** -0.5)
    return quantize_int8(model) if dtype == torch.int8 else model.to(dtype)
