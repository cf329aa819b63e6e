from __future__ import annotations

import pytest

from llmpipe.core.errors import UserError
from llmpipe.model.config import PRESETS, ModelConfig, default_d_ff, n_parameters
from llmpipe.model.transformer import Transformer


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("llama-1b", 1_235_814_400),
        ("llama-8b", 8_030_261_248),
        ("llama-405b", 405_853_388_800),
        ("qwen3-0.6b", 596_049_920),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, published: int) -> None:
    assert n_parameters(PRESETS[name]) == published


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("gpt2", 32, 2, 4, 4, 8, 64, 61, 32, tied_embeddings=True),
        ModelConfig("llama", 32, 2, 4, 2, 16, 48, 61, 32),
        ModelConfig("qwen3", 32, 2, 4, 1, 16, 48, 61, 32, tied_embeddings=True),
    ],
)
def test_formula_counts_what_the_model_has(config: ModelConfig) -> None:
    model = Transformer(config)
    assert sum(p.numel() for p in model.parameters()) == n_parameters(config)


def test_swiglu_width_has_the_weights_of_a_plain_one() -> None:
    # 3 matrices of 2048 x 768 are 2 of 3072 x 768
    assert default_d_ff("qwen3", 768) == 2048
    assert default_d_ff("gpt2", 768) == 3072
    assert default_d_ff("qwen3", 128) == 384  # 341.3, up to a multiple of 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 6, "n_kv_heads": 4}, r"n_heads \(6\) must be divisible by n_kv_heads \(4\)"),
        ({"head_dim": 63}, r"head_dim \(63\) must be even"),
        ({"family": "gpt2"}, "tied_embeddings = true"),
        ({"family": "gpt2", "n_kv_heads": 6}, "as many KV heads"),
        ({"family": "gpt2", "head_dim": 32}, r"\(12 \* 32\) to be d_model \(768\)"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**change)  # type: ignore[arg-type]
