"""Eight-bit weights: how far they may be off, and that the engine runs on them."""

import copy

import torch
from torch import nn

from llmpipe.inference.engine import Engine
from llmpipe.inference.int8 import Int8Linear, quantize_int8
from llmpipe.inference.sampling import Sampling
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer


def test_stored_weights_are_within_half_a_step() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    quantized = Int8Linear(linear)
    scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    stored = quantized.get_buffer("weight").float() * scale
    assert ((stored - linear.weight).abs() <= 0.5001 * scale).all()


def test_kernel_and_plain_way_agree() -> None:
    torch.manual_seed(0)
    quantized = Int8Linear(nn.Linear(64, 32).to(torch.bfloat16))
    x = torch.randn(3, 5, 64, dtype=torch.bfloat16)
    fast = quantized(x)
    quantized._has_kernel = False
    # bfloat16 has 8 bits: sums of 64 products differ by about 1/128 of their size
    assert torch.allclose(fast.float(), quantized(x).float(), atol=0.05)


def test_widths_that_the_kernel_cannot_read_take_the_plain_way() -> None:
    """torch's kernel reads past the rows of such matrices: garbage, or a crash of the process."""
    torch.manual_seed(0)
    for n_in in (36, 50, 33):
        linear = nn.Linear(n_in, 40, bias=False)
        x = torch.randn(9, n_in, dtype=torch.bfloat16)
        got, expected = Int8Linear(linear)(x).float(), linear(x.float())
        assert (got - expected).std() < 0.03 * expected.std()  # 8 bits of weights, 8 of the rest


def test_engine_generates_much_the_same_with_int8() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=128, vocab_size=96,
        max_seq_len=64, tied_embeddings=True,
    )  # fmt: skip
    model = Transformer(config).eval()
    small = quantize_int8(copy.deepcopy(model))
    assert isinstance(small.blocks[0].attn.q, Int8Linear)  # type: ignore[union-attr]
    with torch.no_grad():
        ids = torch.randint(96, (2, 30))
        expected = model(ids).log_softmax(-1)
        difference = (expected - small(ids).float().log_softmax(-1)).abs()
    # Eight bits, through a dozen matrices: a few percent of the spread of the log-probabilities.
    assert difference.mean() < 0.03 * expected.std()
    answers = Engine(small, max_batch=3).generate([[1, 2], [3], [4] * 9], Sampling(max_tokens=8))
    assert [len(answer.ids) for answer in answers] == [8, 8, 8]
