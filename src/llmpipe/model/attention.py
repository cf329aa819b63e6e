"""Causal self-attention with grouped-query heads, and what it asks of a KV cache.

This is the only place in the model where tokens see each other; everything else works on one position
at a time. Each token asks a question (its query), every earlier token and the token itself offers a label
(its key), and the better the two match, the more of that token's content (its value) is taken:

    weights = softmax(q · k / sqrt(D))      over the keys at or before the query's position
    output  = sum of weights * v

Several heads do this side by side, each with its own small q, k and v, so a token can look at several
places for several reasons at once. The dot product of two random vectors of D numbers grows like sqrt(D);
without the division the softmax would put nearly all its weight on one key, and pass back no gradient.

With grouped-query attention several query heads share one key and value head (H / G of them). That
changes the quality little, and makes the KV cache, which limits how many chats fit in memory, H / G
times smaller. Source: Ainslie et al. 2023, arXiv:2305.13245.
"""

# B batch  T time  H heads  G key-value heads  S keys  D head_dim

from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmpipe.model.config import ModelConfig
from llmpipe.model.norm import RMSNorm
from llmpipe.model.rope import Rotation, rotate


@runtime_checkable
class KVCache(Protocol):
    """Keys and values of earlier tokens; the implementation is `llmpipe.inference.kv_cache`."""

    def append(
        self,
        i_layer: int,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads keys head_dim"],
        Float[Tensor, "batch kv_heads keys head_dim"],
    ]:
        """Store one layer's new keys and values, and return all of that layer's."""
        ...


class Documents(NamedTuple):
    """Documents one behind the other in the rows of a batch, in place of a mask.

    A token attends to earlier ones of its own document. The kernel that reads this computes nothing
    for other pairs, and runs on CUDA in 16 bits only.
    """

    starts: Int[Tensor, " documents_and_one"]
    """First token of each in the rows laid end to end, and the number of all tokens; int32."""
    longest: int
    """Tokens of the longest one, or a bound on them."""


class Attention(nn.Module):
    """Each token gathers from the tokens it may attend to."""

    def __init__(self, config: ModelConfig, i_layer: int) -> None:
        super().__init__()
        self.i_layer = i_layer
        self.head_dim = config.head_dim
        self.is_grouped = config.n_kv_heads < config.n_heads
        query_width = config.n_heads * config.head_dim
        key_width = config.n_kv_heads * config.head_dim
        bias = config.has_bias
        self.q = nn.Linear(config.d_model, query_width, bias=bias)
        self.k = nn.Linear(config.d_model, key_width, bias=bias)
        self.v = nn.Linear(config.d_model, key_width, bias=bias)
        self.o = nn.Linear(query_width, config.d_model, bias=bias)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.has_qk_norm:
            self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        rotation: Rotation | None,
        mask: Bool[Tensor, "#batch 1 time keys"] | Documents | None,
        cache: KVCache | None,
    ) -> Float[Tensor, "batch time d_model"]:
        """Mix the positions of `x`; see `Transformer.forward` for `mask` and `cache`."""
        # Each projection gives all its heads in one row of numbers; cut that into heads of D.
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.q_norm(self.q(x).view(heads)).transpose(1, 2)  # B H T D
        k = self.k_norm(self.k(x).view(heads)).transpose(1, 2)  # B G T D
        v = self.v(x).view(heads).transpose(1, 2)  # B G T D
        # Values are not rotated: a position decides who is looked at, not what is found there.
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        # Generating, only the new tokens are in x; the cache has the keys and values of all before them.
        # They never change, because a token never sees what comes after it.
        if cache is not None:
            k, v = cache.append(self.i_layer, k, v)  # B G S D
        if isinstance(mask, Documents):
            y = attend_within_documents(q, k, v, mask)
        else:
            # Divides by sqrt(D), hides the future, takes the softmax and the weighted sum in one kernel
            # that never writes the T x S table of weights to memory (FlashAttention, where there is one).
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.is_grouped
            )
        # Heads side by side again; `o` mixes what they found.
        out: Tensor = self.o(y.transpose(1, 2).flatten(2))  # B T d_model
        return out


def attend_within_documents(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads time head_dim"],
    v: Float[Tensor, "batch kv_heads time head_dim"],
    documents: Documents,
) -> Float[Tensor, "batch heads time head_dim"]:
    """Mix each document's tokens, causally, without looking at any other pair."""
    from torch.nn.attention.varlen import varlen_attn  # takes seconds: it brings the compiler

    n_batch, n_heads, n_time = q.shape[:3]
    n_shared = n_heads // k.shape[1]

    def flat(x: Tensor) -> Tensor:
        x = x.repeat_interleave(n_shared, dim=1) if x.shape[1] < n_heads else x
        return x.transpose(1, 2).flatten(0, 1).to(v.dtype)  # (B T) H D; autocast does not do it

    starts, longest = documents
    y = varlen_attn(
        flat(q), flat(k), flat(v), starts, starts, longest, longest, window_size=(-1, 0)
    )
    return y.view(n_batch, n_time, n_heads, -1).transpose(1, 2)  # type: ignore[union-attr]
