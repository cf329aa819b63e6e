"""The step that a few new tokens take, in the fastest form a machine has for it.

On a CPU it is C (`native.py`), on a GPU a recorded graph of kernels (`graph.py`). Long prompts, and machines that
have neither, go through the model itself; all three ways give the same logits up to rounding.

The graph records the model's own forward pass, so it cannot disagree with it. The C step is the model written a second
time, and whoever changes the first (another activation, another rotation) may forget it. So when an engine starts, a
few tokens go through both, and where the logits differ by more than rounding the engine says so and uses torch. They do
so twice: in a small twin in float32, where rounding hides nothing and no weight is zero, and in the model itself.
"""

# R rows  T tokens  V vocab_size

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from llmpipe.inference import native
from llmpipe.inference.graph import GraphDecoder
from llmpipe.inference.kv_cache import SlotCache
from llmpipe.model.config import ModelConfig
from llmpipe.model.transformer import Transformer


class Decoder(Protocol):
    """Advances sequences by one token each, or by a few.

    Attributes:
        most_tokens: that it takes in a step.
        takes_prompts: whether several of these may belong to one sequence.
    """

    most_tokens: int
    takes_prompts: bool

    def __call__(
        self,
        ids: Sequence[int],
        slots: Sequence[int],
        lengths: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """Append tokens to the sequences in some slots; return the logits after the wanted ones.

        Args:
            ids: the new tokens; those of one sequence in their order.
            slots: where the keys and values of each one's sequence lie.
            lengths: tokens that stand before each in its sequence.
            wanted: indices of the tokens after which logits are needed, ascending.
        """
        ...

    def refresh(self) -> None:
        """Look for the weights again, in case others have taken their place in the model."""
        ...


TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 0.15, torch.int8: 0.15}
"""How far the two may be apart (see `probe`), by the coarsest type among the weights.

Measured on ten shapes of 2 to 24 layers with several seeds, weights sized as in training. Rounding moves the logits by
at most 4e-6 in float32 and by 0.01 to 0.04 in the others (0.09 at worst, 24 layers of 36 numbers): torch rounds to 8 bits
after every operation, the step in C hardly ever. Squared ReLU in place of SiLU moves them by 0.45 or more, pairs of other
numbers in the rotation by 0.65, attention scores of half the size by 0.28, GELU in place of SiLU by 0.12. So in float32
anything that matters is seen; in 8 bits a change that is no larger than rounding is not, and is left to the twin.
"""

_PROBE = ((32, 3), (0, 2), (7, 1))
"""The rows of the probe: tokens that stand before, and new ones. A stretch of a prompt behind earlier tokens, the
beginning of another, and the single token of a row that decodes."""


def build_decoder(
    model: Transformer, cache: SlotCache, warn: Callable[[str], None]
) -> Decoder | None:
    """Return the decoder for a model on its device; None if there is none for it.

    Args:
        cache: its keys and values; empty as yet.
        warn: told why, where a decoder that knows all parts of the model computes something else.
    """
    if cache.keys.device.type == "cuda":
        return GraphDecoder(model, cache)
    if not native.supports(model, cache) or native.compiled() is None:
        return None
    for one, its_cache in (make_twin(model.config), (model, cache)):
        decoder = native.NativeDecoder(one, its_cache)
        difference = probe(one, its_cache, decoder)
        allowed = max(TOLERANCE.get(t.dtype, 0.0) for t in (*one.parameters(), *one.buffers()))
        if difference > allowed:
            warn(
                "decoding with torch, which is slower: the step in C gives other logits for this model "
                f"(off by {difference:.1%} of their spread, where rounding explains {allowed:.3%}); "
                "inference/decode.c has to follow what was changed in model/"
            )
            return None
    return decoder


def make_twin(config: ModelConfig) -> tuple[Transformer, SlotCache]:
    """Build a small float32 model of a family, and its cache: the same code, with weights that show what it does."""
    width = 2 * config.head_dim
    small = replace(
        config,
        d_model=width,
        n_layers=2,
        n_heads=2,
        n_kv_heads=2 if config.n_kv_heads == config.n_heads else 1,
        d_ff=width,
        vocab_size=64,
        max_seq_len=64,
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay what they were
        twin = Transformer(small).float().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, weights in twin.named_parameters():
        if weights.dim() == 2:
            # Small embeddings, so that the first norm divides by little and its eps counts.
            is_embedding = name in ("embed.weight", "position.weight")
            std = 0.02 if is_embedding else weights.shape[1] ** -0.5
            weights.normal_(std=std, generator=generator)
    return twin, SlotCache(twin, len(_PROBE), small.max_seq_len)


@torch.inference_mode()
def probe(model: Transformer, cache: SlotCache, decoder: Decoder) -> float:
    """Send a few tokens through a decoder and through the model; return how far the logits are apart.

    One pass through each, because a pass over the weights is what a step costs. The earlier tokens are made up: their
    keys and values are random numbers in the cache, which both find there. Keys are half as large again as usual, so
    that a few of them get most of the attention: in a mean over all, a wrong rotation or scale would hardly show.

    What no few tokens can show, such as a window of attention longer than the probe, is not found.

    Returns:
        The root mean square of the differences, as a share of the logits' standard deviation; infinite if only one
        side has numbers that are not finite.
    """
    n_slots, n_vocab = min(len(_PROBE), cache.keys.shape[1]), model.config.vocab_size
    slots = range(n_slots)
    n_new = [min(new, cache.max_len) for _, new in _PROBE[:n_slots]]
    held = [
        min(length, cache.max_len - new) for (length, _), new in zip(_PROBE, n_new, strict=False)
    ]
    generator = torch.Generator().manual_seed(0)
    for memory, size in ((cache.keys, 1.5), (cache.values, 1.0)):
        for slot in slots:
            earlier = memory[:, slot, :, : held[slot]]
            earlier.copy_(size * torch.randn(earlier.shape, generator=generator))
    ids = torch.randint(n_vocab, (n_slots, max(n_new)), generator=generator)  # R T

    rows = [(slot, i) for slot in slots for i in range(n_new[slot])]
    got = decoder(
        [int(ids[slot, i]) for slot, i in rows],
        [slot for slot, _ in rows],
        [held[slot] + i for slot, i in rows],
        range(len(rows)),
    )
    view = cache.rows(slots, held, n_new)
    logits = model(ids, positions=view.positions, mask=view.mask, cache=view)  # R T V
    expected = torch.stack([logits[slot, i] for slot, i in rows]).float()
    return _distance(got, expected)


def _distance(
    got: Float[Tensor, "tokens vocab_size"], expected: Float[Tensor, "tokens vocab_size"]
) -> float:
    if not torch.equal(got.isfinite(), expected.isfinite()):
        return float("inf")
    is_finite = expected.isfinite()
    away = (got - expected)[is_finite].square().mean().sqrt()
    return float(away / expected[is_finite].std().clamp(min=1e-12)) if is_finite.any() else 0.0
