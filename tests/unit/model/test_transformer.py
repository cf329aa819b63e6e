from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmpipe.model.config import ModelConfig, RopeScaling
from llmpipe.model.init import initialize
from llmpipe.model.rope import Rope, rope_frequencies, rotate
from llmpipe.model.transformer import Transformer

FAMILIES = {
    "gpt2": ModelConfig("gpt2", 32, 2, 4, 4, 8, 64, 61, 32, tied_embeddings=True),
    "llama": ModelConfig("llama", 32, 2, 4, 2, 8, 48, 61, 32),
    "qwen3": ModelConfig("qwen3", 32, 2, 4, 2, 16, 48, 61, 32, pad_vocab_to=32),
}


def make_model(config: ModelConfig, noise: float = 0.2) -> Transformer:
    """A model whose every weight matters: the zeros of a fresh one would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    model = Transformer(config)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return model


class ListCache:
    """The simplest cache: keys and values of each layer, concatenated."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(
        self, i_layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if i_layer in self.layers:
            old_k, old_v = self.layers[i_layer]
            k, v = torch.cat((old_k, k), dim=2), torch.cat((old_v, v), dim=2)
        self.layers[i_layer] = k, v
        return k, v


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_forward_equals_full_forward(family: str) -> None:
    model = make_model(FAMILIES[family])
    ids = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(2))
    cache, pieces = ListCache(), []
    with torch.no_grad():
        full = model(ids)
        for start, stop in ((0, 5), (5, 6), (6, 7), (7, 12)):
            positions = torch.arange(start, stop)[None]
            mask = torch.arange(stop)[None, :] <= torch.arange(start, stop)[:, None]
            mask = mask.expand(2, 1, -1, -1)
            pieces.append(model(ids[:, start:stop], positions=positions, mask=mask, cache=cache))
    # Other kernels add in another order; float32 has 7 digits and logits are about 10.
    torch.testing.assert_close(torch.cat(pieces, dim=1), full, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_sees_a_later_one(family: str) -> None:
    model = make_model(FAMILIES[family])
    ids = torch.randint(61, (1, 10), generator=torch.Generator().manual_seed(3))
    changed = ids.clone()
    changed[0, 6] = (ids[0, 6] + 1) % 61
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("family", FAMILIES)
def test_new_model_predicts_every_id_about_equally(family: str) -> None:
    config = FAMILIES[family]
    model = Transformer(config)
    initialize(model, torch.Generator().manual_seed(1))
    ids = torch.randint(61, (4, 32), generator=torch.Generator().manual_seed(4))
    targets = torch.randint(61, (4, 32), generator=torch.Generator().manual_seed(5))
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    # A tied head starts by favoring the token it reads, so it is allowed to be a little worse.
    uniform = torch.tensor(61.0).log()
    assert uniform - 0.05 < loss < uniform + (0.25 if config.tied_embeddings else 0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_initialization_depends_on_the_generator_alone(family: str) -> None:
    models = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        model = Transformer(FAMILIES[family])
        initialize(model, torch.Generator().manual_seed(7))
        models.append(model)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_padding_rows_get_no_logits() -> None:
    model = make_model(FAMILIES["qwen3"])
    assert model.embed.weight.shape[0] == 64
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 61)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    rope = Rope(FAMILIES["llama"])
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator).unbind(0)
    rotated = [
        (
            rotate(q, rope(torch.tensor([[i]]), q.dtype)),
            rotate(k, rope(torch.tensor([[j]]), q.dtype)),
        )
        for i, j in ((9, 4), (25, 20))
    ]
    torch.testing.assert_close(rotated[0][0].norm(), q.norm())
    products = [(a * b).sum() for a, b in rotated]
    torch.testing.assert_close(products[0], products[1], atol=1e-5, rtol=1e-5)


def test_rope_scaling_stretches_long_wavelengths_only() -> None:
    plain = rope_frequencies(64, 500_000.0, None)
    scaled = rope_frequencies(64, 500_000.0, RopeScaling(factor=8.0))
    wavelengths = 2 * torch.pi / plain
    short, long = wavelengths < 8192 / 4, wavelengths > 8192
    torch.testing.assert_close(scaled[short], plain[short])
    torch.testing.assert_close(scaled[long], plain[long] / 8)


def test_frequencies_stay_exact_when_the_model_is_bfloat16() -> None:
    model = Transformer(FAMILIES["llama"]).to(torch.bfloat16)
    assert model.rope is not None
    cos, _ = model.rope(torch.tensor([[1000, 1003]]), torch.float32)
    assert not torch.equal(cos[0, 0, 0], cos[0, 0, 1])
