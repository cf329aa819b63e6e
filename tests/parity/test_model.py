"""Our models against transformers', with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmpipe.model.config import ModelConfig, RopeScaling
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import load_model, save_model

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()

N_VOCAB, N_TIME = 101, 48
CASES = {
    "gpt2": ModelConfig(
        "gpt2", 64, 2, 4, 4, 16, 96, N_VOCAB, 64, norm_eps=1e-5, tied_embeddings=True
    ),
    "llama": ModelConfig("llama", 64, 2, 4, 4, 16, 96, N_VOCAB, 64, rope_theta=500_000.0),
    "llama, grouped and tied": ModelConfig(
        "llama", 64, 2, 4, 2, 16, 96, N_VOCAB, 64, tied_embeddings=True
    ),
    "llama, scaled rope": ModelConfig(
        # an original length of 32 puts all three bands of wavelengths inside 48 tokens
        *("llama", 64, 2, 4, 2, 16, 96, N_VOCAB, 64),
        rope_scaling=RopeScaling(factor=8.0, original_max_seq_len=32),
    ),
    "qwen3": ModelConfig("qwen3", 64, 2, 4, 2, 16, 96, N_VOCAB, 64, rope_theta=1_000_000.0),
    "qwen3, wide heads, padded": ModelConfig(
        "qwen3", 64, 2, 4, 2, 32, 96, N_VOCAB, 64, tied_embeddings=True, pad_vocab_to=64
    ),
}


def make_model(config: ModelConfig) -> Transformer:
    generator = torch.Generator().manual_seed(1)
    model = Transformer(config)
    initialize(model, generator)
    with torch.no_grad():  # no weight may be at a value that hides a mistake: biases 0, norms 1
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_equal_transformers(tmp_path: Path, case: str, attention: str) -> None:
    model = make_model(CASES[case])
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation=attention
    ).eval()
    ids = torch.randint(N_VOCAB, (2, N_TIME), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, ours = theirs(ids).logits, model(ids)
    assert expected.std() > 0.1
    # 1e-5 is what we promise; seen: 1e-6 on logits of about 2
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_transformers(tmp_path: Path, case: str) -> None:
    model = make_model(CASES[case])
    save_model(model, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").train()
    ids = torch.randint(N_VOCAB, (2, N_TIME), generator=torch.Generator().manual_seed(2))
    for part in (model(ids), theirs(ids).logits):
        torch.nn.functional.cross_entropy(
            part[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        ).backward()
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in m.parameters() if p.grad is not None])
        for m in (model, theirs)
    ]
    torch.testing.assert_close(norms[0], norms[1], atol=0, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_weights_survive_ours_theirs_ours(tmp_path: Path, case: str) -> None:
    model = make_model(CASES[case])
    save_model(model, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    back = dict(load_model(tmp_path / "theirs").named_parameters())
    for name, parameter in model.named_parameters():
        expected = parameter[:N_VOCAB] if name in ("embed.weight", "head.weight") else parameter
        assert torch.equal(back[name], expected), name


def test_greedy_text_equals_transformers(tmp_path: Path) -> None:
    model = make_model(CASES["qwen3"])
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt = torch.tensor([[5, 7, 11]])
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
    )
    ids = prompt
    with torch.no_grad():
        for _ in range(20):
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    assert ids.tolist() == expected.tolist()
