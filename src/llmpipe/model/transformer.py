"""The model. Read this first: embedding, blocks, norm, head.

    ids -> embed (+ learned positions) -> [ x + attention(norm(x)), x + mlp(norm(x)) ] * n_layers
        -> norm -> head -> logits

A token enters as a vector of `d_model` numbers and keeps it all the way up: the residual stream. A block
reads a normalized copy of the stream and adds its result to it. So at the start of training the gradient
flows from the loss to every block along the additions, and depth does not stand in its way. Attention
moves information between positions; the feed-forward part works on each position alone, and holds two
thirds of a block's weights. The head compares the last vector of each position with a vector for each
token of the vocabulary: the larger the product (the logit), the likelier the token comes next.

Which norm, positions and feed-forward part a model has is decided once, when it is built
(`llmpipe/model/config.py` has the table); the forward pass below is the same for all.
"""

# B batch  T time

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmpipe.model.attention import Attention, Documents, KVCache
from llmpipe.model.config import ModelConfig
from llmpipe.model.mlp import build_mlp
from llmpipe.model.norm import build_norm
from llmpipe.model.rope import Rope, Rotation


class Block(nn.Module):
    """Attention, then feed-forward; each reads a normalized copy and adds to the stream."""

    def __init__(self, config: ModelConfig, i_layer: int) -> None:
        super().__init__()
        self.attn_norm = build_norm(config)
        self.attn = Attention(config, i_layer)
        self.mlp_norm = build_norm(config)
        self.mlp = build_mlp(config)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        rotation: Rotation | None,
        mask: Bool[Tensor, "#batch 1 time keys"] | Documents | None,
        cache: KVCache | None,
    ) -> Float[Tensor, "batch time d_model"]:
        """Add what attention and then the feed-forward part have to say."""
        x = x + self.attn(self.attn_norm(x), rotation, mask, cache)
        x = x + self.mlp(self.mlp_norm(x))
        return x


class Transformer(nn.Module):
    """A decoder-only language model.

    A new one holds arbitrary weights: fill it with `llmpipe.model.init.initialize`, or get one
    from `llmpipe.model.weights.load_model`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        rows, d_model = config.n_embedding_rows, config.d_model
        is_gpt2 = config.family == "gpt2"
        self.embed = nn.Embedding(rows, d_model)
        self.position = nn.Embedding(config.max_seq_len, d_model) if is_gpt2 else None
        self.rope = None if is_gpt2 else Rope(config)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = build_norm(config)
        self.head = nn.Linear(d_model, rows, bias=False)
        self.tie_head()
        self.is_recomputed = False
        """Keep only each block's input for the backward pass, and work out the rest again there."""

    def tie_head(self) -> None:
        """Make the head share the embedding's weights, if the settings say so."""
        if self.config.tied_embeddings:
            self.head.weight = self.embed.weight

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        positions: Int[Tensor, "#batch time"] | None = None,
        mask: Bool[Tensor, "#batch 1 time keys"] | Documents | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch time vocab_size"]:
        """Predict the next token at every position.

        Args:
            ids: Token ids.
            positions: Place of each token in its text; default 0, 1, 2, ...
            mask: True where a token (third axis) may attend to a key (fourth axis), or the
                documents within which to attend; default causal. Required with `cache`.
            cache: Holds the keys and values of earlier tokens; the new ones are added to it.

        Returns:
            Logits.
        """
        x = self.hidden(ids, positions=positions, mask=mask, cache=cache)
        logits: Tensor = self.head(x)
        return logits[..., : self.config.vocab_size]  # without the padding rows

    def hidden(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        positions: Int[Tensor, "#batch time"] | None = None,
        mask: Bool[Tensor, "#batch 1 time keys"] | Documents | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        """Give what the head reads; arguments as in `forward`.

        Training uses this and computes the loss without ever holding all logits.
        """
        assert cache is None or mask is not None, "a cache needs a mask"
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]  # 1 T
        x: Tensor = self.embed(ids)  # B T d_model
        if self.position is not None:
            x = x + self.position(positions)
        rotation = None if self.rope is None else self.rope(positions, x.dtype)
        for block in self.blocks:
            if self.is_recomputed and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, mask, cache, use_reentrant=False)
            else:
                x = block(x, rotation, mask, cache)
        x = self.norm(x)
        return x
