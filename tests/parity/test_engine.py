"""The engine against the plain way: the whole sequence through the model for every token.

Sizes are tiny and in float32; logits of the two ways differ by rounding only, near 1e-6.
"""

import pytest
import torch

from llmpipe.inference.engine import Engine
from llmpipe.inference.kv_cache import SlotCache
from llmpipe.inference.sampling import Sampling, choose_tokens
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer

SHAPES = {
    "gpt2": ModelConfig(
        family="gpt2", d_model=32, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=16, d_ff=64,
        vocab_size=100, max_seq_len=64, tied_embeddings=True,
    ),
    "llama": ModelConfig(
        family="llama", d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64,
        vocab_size=100, max_seq_len=64,
    ),
    "qwen3": ModelConfig(
        family="qwen3", d_model=32, n_layers=2, n_heads=4, n_kv_heads=1, head_dim=8, d_ff=64,
        vocab_size=100, max_seq_len=64, pad_vocab_to=64,
    ),
}  # fmt: skip

PROMPTS = [[5, 6, 7], list(range(40)), [9], [1, 2] * 10, [50], list(range(60, 99)), [3] * 17]


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(1)
    model = Transformer(SHAPES[request.param]).eval()
    for weights in model.parameters():  # far from uniform predictions
        weights.data *= 2 if weights.dim() > 1 else 1
    return model


@torch.no_grad()
def naive(model: Transformer, prompt: list[int], sampling: Sampling) -> list[int]:
    generator = torch.Generator().manual_seed(sampling.seed)
    ids = list(prompt)
    while len(ids) < min(len(prompt) + sampling.max_tokens, model.config.max_seq_len):
        logits = model(torch.tensor([ids]))[:, -1]
        ids += choose_tokens(logits, [sampling], [generator], [ids])
    return ids[len(prompt) :]


SETTINGS = {
    "greedy": Sampling(temperature=0.0, max_tokens=20),
    "sampled": Sampling(temperature=0.9, top_k=30, top_p=0.95, seed=4, max_tokens=20),
    "penalized": Sampling(
        temperature=1.0, min_p=0.02, repetition_penalty=1.3, seed=5, max_tokens=20
    ),
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_batched_equals_single_equals_naive(model: Transformer, settings: str) -> None:
    sampling = SETTINGS[settings]
    expected = [naive(model, prompt, sampling) for prompt in PROMPTS]
    single = [Engine(model, max_batch=1).generate([prompt], sampling)[0].ids for prompt in PROMPTS]
    assert single == expected
    for max_batch in (3, 7):
        batched = Engine(model, max_batch=max_batch).generate(PROMPTS, sampling)
        assert [answer.ids for answer in batched] == expected


def test_cached_logits_equal_the_full_forward(model: Transformer) -> None:
    """Ragged rows in slots that are no neighbours, in two passes, one of them padded."""
    rows = [[7, 8, 9, 10, 11], [1, 2, 3], list(range(30, 39))]
    slots, cut = [4, 0, 2], [2, 1, 6]
    cache = SlotCache(model, n_slots=5, max_len=16)
    with torch.no_grad():
        for begins, ends in (([0, 0, 0], cut), (cut, [len(row) for row in rows])):
            n_new = [end - begin for begin, end in zip(begins, ends, strict=True)]
            ids = torch.zeros(3, max(n_new), dtype=torch.long)
            for i, row in enumerate(rows):
                ids[i, : n_new[i]] = torch.tensor(row[begins[i] : ends[i]])
            view = cache.rows(slots, begins, n_new)
            logits = model(ids, positions=view.positions, mask=view.mask, cache=view)
            for i, row in enumerate(rows):
                full = model(torch.tensor([row[: ends[i]]]))[0, begins[i] :]
                # float32 sums in another order: 1e-4 is far below any gap between tokens.
                assert torch.allclose(logits[i, : n_new[i]], full, atol=1e-4)
