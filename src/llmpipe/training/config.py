"""Settings of the optimizers. Loads without torch, so that settings can be checked before it does."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Le, Lt

from llmpipe.core.config import schema
from llmpipe.core.registry import Registry


class OptimConfig(Protocol):
    """What the settings of every optimizer have."""

    builder: ClassVar[str]
    """Where the function stands that makes the optimizer, `module:function`: of the model, these settings and the ranks."""

    @property
    def kind(self) -> str:
        """What recipes call it."""
        ...

    @property
    def lr(self) -> float:
        """Peak learning rate, which logs and plans show."""
        ...


OPTIMIZERS: Registry[type] = Registry(
    {
        "muon": "llmpipe.training.config:Muon",
        "adamw": "llmpipe.training.config:AdamW",
    }
)
"""Kind of an optimizer -> its settings."""


@schema
class AdamW:
    """AdamW on everything; only matrices and embeddings decay.

    Source of the defaults: Brown et al. 2020, appendix B.
    """

    builder: ClassVar[str] = "llmpipe.training.optim:build_adamw"
    kind: Literal["adamw"] = "adamw"
    lr: Annotated[float, Gt(0)] = 6e-4
    """Peak learning rate."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Memory of the gradient's mean."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    """Memory of the gradient's square."""
    eps: Annotated[float, Gt(0)] = 1e-8
    """Added to the root of the square."""
    weight_decay: Annotated[float, Ge(0)] = 0.1
    """Share of a matrix that is taken away per step and unit of learning rate."""
    max_norm: Annotated[float, Gt(0)] | None = 1.0
    """Gradients are scaled down to this norm; None leaves them."""


@schema
class Muon:
    """Muon on the blocks' matrices, AdamW on embeddings, head, norms and biases.

    Sources: Jordan 2024, kellerjordan.github.io/posts/muon (update, lr, momentum);
    karpathy/nanochat `nanochat/gpt.py`, `setup_optimizer` (AdamW's rates and betas).
    """

    builder: ClassVar[str] = "llmpipe.training.optim:MuonOptimizer"
    kind: Literal["muon"] = "muon"
    lr: Annotated[float, Gt(0)] = 0.02
    """Peak learning rate of the blocks' matrices."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.95
    """Memory of the gradient."""
    n_newton_schulz: Annotated[int, Ge(1), Le(5)] = 5
    """Steps towards the orthogonal matrix."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Share of a block's matrix that is taken away per step and unit of learning rate."""
    embedding_lr: Annotated[float, Gt(0)] = 0.2
    """Peak learning rate of an untied embedding, and of learned positions."""
    head_lr: Annotated[float, Gt(0)] = 0.004
    """Peak learning rate of the head, and of an embedding tied to it."""
    vector_lr: Annotated[float, Gt(0)] = 0.004
    """Peak learning rate of norms and biases."""
    width_lr_scale: Annotated[float, Gt(0)] | None = None
    """`embedding_lr` and `head_lr` are multiplied by this, which `depth` takes from the width; without
    `depth`, 1."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.8
    """AdamW: decay of the running mean of gradients."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    """AdamW: decay of the running mean of their squares."""
    eps: Annotated[float, Gt(0)] = 1e-10
    """AdamW: added to the root of the square."""
    max_norm: Annotated[float, Gt(0)] | None = None
    """AdamW's gradients are scaled down to this norm; Muon's have a fixed size anyway."""
