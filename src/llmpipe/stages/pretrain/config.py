"""Settings of the `pretrain` stage."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen

from llmpipe.core.config import OneOf, Unkeyed, schema
from llmpipe.core.errors import UserError
from llmpipe.model.config import PRESETS, Family, ModelConfig, default_d_ff
from llmpipe.training.config import OPTIMIZERS, Muon, OptimConfig
from llmpipe.training.evaluations.config import EvaluationSettings, check_labels
from llmpipe.training.schedule import Cosine, Trapezoid

PresetName = Literal[
    "gpt2",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "llama-1b",
    "llama-8b",
    "llama-405b",
    "qwen3-0.6b",
]


WIDTH_PER_BLOCK = 64
"""`d_model` of a model made by `depth`, per block. Source: karpathy/nanochat, `--aspect-ratio`."""


@schema
class ModelSettings:
    """The shape of the model. What is not set follows from the preset, or from `d_model`.

    The number of token ids is not here: it is that of the tokens the model is trained on.
    """

    preset: PresetName | None = None
    """Start from the shape of a published model; the other settings change it."""
    family: Family | None = None
    """Parts the model is built of; without a preset, qwen3."""
    d_model: Annotated[int, Gt(0)] | None = None
    """Width of the residual stream; without a preset, 384."""
    n_layers: Annotated[int, Gt(0)] | None = None
    """Number of blocks; without a preset, 6."""
    n_heads: Annotated[int, Gt(0)] | None = None
    """Query heads per block; without a preset, d_model / head_dim."""
    n_kv_heads: Annotated[int, Gt(0)] | None = None
    """Key and value heads per block; without a preset, n_heads."""
    head_dim: Annotated[int, Gt(0)] | None = None
    """Width of one head; without a preset, 64."""
    d_ff: Annotated[int, Gt(0)] | None = None
    """Width of the feed-forward part; without a preset, 4 (gpt2) or 8/3 times `d_model`."""
    max_seq_len: Annotated[int, Gt(1)] | None = None
    """Longest text, in tokens; without a preset, 1024."""
    rope_theta: Annotated[float, Gt(0)] | None = None
    """Base of the rotary wavelengths; without a preset, 10,000."""
    tied_embeddings: bool | None = None
    """Use the embedding as the head too; without a preset, only gpt2 does."""
    pad_vocab_to: Annotated[int, Gt(0)] = 1
    """Round the head's rows up to a multiple of this in memory; ours are multiples of 128 already."""

    def resolve(self, vocab_size: int, depth: int | None = None) -> ModelConfig:
        """Work out the whole shape.

        Args:
            vocab_size: Number of token ids.
            depth: With it, width and number of blocks follow from it where they are not set.

        Raises:
            UserError: if settings contradict each other.
        """
        asked: dict[str, Any] = {
            name: value
            for name in ModelSettings.__dataclass_fields__
            if name != "preset" and (value := getattr(self, name)) is not None
        }
        asked["vocab_size"] = vocab_size
        if self.preset is not None:
            if depth is not None:
                raise UserError(
                    f"`depth` and `model.preset` both decide the shape: {depth} and {self.preset}",
                    hint="leave one of them out",
                )
            preset = PRESETS[self.preset]
            if self.family not in (None, preset.family):
                raise UserError(
                    f"preset {self.preset} is of family {preset.family}, not {self.family}"
                )
            return replace(preset, **asked)
        family = self.family or "qwen3"
        head_dim = self.head_dim or 64
        d_model = self.d_model or (384 if depth is None else WIDTH_PER_BLOCK * depth)
        n_heads = self.n_heads or max(1, d_model // head_dim)
        derived = {
            "family": family,
            "d_model": d_model,
            "n_layers": depth or 6,
            "n_heads": n_heads,
            "n_kv_heads": n_heads,
            "head_dim": head_dim,
            "d_ff": default_d_ff(family, d_model),
            "tied_embeddings": family == "gpt2",
            # Source: GPT-2's and Qwen3's config.json
            "norm_eps": 1e-5 if family == "gpt2" else 1e-6,
        }
        return ModelConfig(**(derived | asked))


@schema
class Corpus:
    """One part of a mixture."""

    name: str
    """Name of the input, given as `--from NAME=PATH`; without that, of the folder under the run's."""
    weight: Annotated[float, Gt(0)] = 1.0
    """Rows of it, in proportion to the other parts' weights."""


GpuName = Literal[
    "B200", "H200", "H100", "H100 PCIe", "A100", "L40S", "L4", "RTX 4090", "RTX 3090", "T4"
]


@schema
class EstimateConfig:
    """What time and cost are worked out for. Only `--dry-run` and the first lines of a run say them."""

    gpu: Annotated[GpuName, Unkeyed()] = "H100"
    """Kind of GPU."""
    n_gpus: Annotated[int, Gt(0), Unkeyed()] = 8
    """How many of them."""
    usd_per_gpu_hour: Annotated[float, Gt(0), Unkeyed()] = 3.0
    """What one costs for an hour. Source of 3.0, for an H100: karpathy/nanochat README.md, 2026."""


@schema
class PretrainConfig:
    """How a model learns to continue text."""

    depth: Annotated[int, Gt(0)] | None = None
    """One dial for everything: blocks, from which width, heads, batch, learning rates and tokens
    follow where they are not set; `--dry-run` shows what. See docs/guides/pretraining.md."""
    start: Literal["random", "model", "checkpoint"] = "random"
    """First weights: random ones, or with `model` those of the input `model`, such as `llmpipe import`
    makes: `--from model=PATH`, else `imported` beside the run's other folders. Its shape is its own.
    With `checkpoint` a run that was made with `keep_level` goes on from before its cooldown:
    `--from checkpoint=PATH`, else `base` beside what is written (`--out`)."""
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: Annotated[OptimConfig, OneOf(OPTIMIZERS)] = field(default_factory=Muon)
    schedule: Annotated[Trapezoid | Cosine, OneOf()] = field(default_factory=Trapezoid)

    mixture: tuple[Corpus, ...] = ()
    """Token artifacts to train on, all made with one tokenizer; none: the run's own, `tokens`."""
    row_tokens: Annotated[int, Gt(1)] | None = None
    """Length of the rows trained on; without it, the model's `max_seq_len`."""
    epochs: Annotated[float, Gt(0)] = 1.0
    """How often to go over the training tokens, all parts of a mixture together."""
    max_tokens: Annotated[int, Gt(0)] | None = None
    """Stop after this many tokens, if that is sooner; without it, `depth` gives a number."""
    global_batch_tokens: Annotated[int, Gt(0)] | None = None
    """Tokens per update, over all micro-batches and processes; without `depth`, 65,536."""
    lr_scale: Annotated[float, Gt(0)] | None = None
    """All learning rates are multiplied by this; without `depth`, 1."""
    micro_batch_size: Annotated[int, Gt(0)] = 8
    """Rows that one process puts through the model at once; as many as memory holds."""
    document_mask: bool = False
    """Let tokens attend only within their own document, where a row holds several."""

    z_loss: Annotated[float, Ge(0)] = 0.0
    """Weight of the squared logarithm of each softmax's sum, against drifting logits. 1e-4 in PaLM,
    section 5; 0 leaves it out. The loss that is shown is without it."""

    eval_every: Annotated[int, Gt(0)] = 250
    """Steps between measurements of validation bits per byte; the last step is always measured."""
    eval_tokens: Annotated[int, Gt(0)] = 1_000_000
    """Validation tokens per measurement, at most."""
    evaluations: tuple[Annotated[EvaluationSettings, OneOf()], ...] = ()
    """What else is measured along the way: questions, texts, functions of your own. Their numbers go
    to metrics.jsonl, the manifest and the report; see docs/guides/evaluations.md."""
    sample_every: Annotated[int, Gt(0)] | None = 20
    """Steps between samples from the model. Source: Karpathy's "Deep Dive into LLMs" (2025), which
    watches GPT-2 write every 20 steps. None: no samples."""
    sample_prompts: Annotated[tuple[str, ...], MinLen(1)] = ("",)
    """Texts to continue; the empty one starts a new document."""
    sample_tokens: Annotated[int, Gt(0)] = 48
    """Tokens of each sample."""
    sample_temperature: Annotated[float, Ge(0)] = 0.8
    """0 takes the likeliest token every time; 1 samples as the model says."""

    checkpoint_every_s: Annotated[float, Gt(0), Unkeyed()] = 300.0
    """Seconds between checkpoints. Where they fall changes nothing in the result, so this may change
    when a run is resumed."""
    keep_checkpoints: Annotated[int, Gt(0), Unkeyed()] = 2
    """Checkpoints kept while training; they are deleted when the model is done."""
    new_data: bool = False
    """With `start = "checkpoint"`: train on other tokens from there on, such as better ones for the
    cooldown, from their first row. Without it tokens and seed must be those of the earlier run."""
    keep_level: bool = False
    """Keep all that the step before the cooldown left, under `level/`: a longer run, or one with another
    cooldown, can go on from there (`start`). A checkpoint more in the artifact."""
    max_skipped_in_a_row: Annotated[int, Gt(0), Unkeyed()] = 20
    """Give up after this many updates in a row whose loss or gradient was not usable."""
    dtype: Literal["auto", "float32", "bfloat16", "float8"] = "auto"
    """Number type of matrix products; auto is bfloat16 where a GPU or a CPU (AVX512-BF16) has
    instructions for it, float32 elsewhere. `float8` is for the blocks' products on Hopper GPUs and
    later; the rest is bfloat16 then. Weights and their updates are float32 always."""
    parallel: Literal["replicate", "fsdp"] = "replicate"
    """What each process holds: the whole model, or with `fsdp` some rows of every weight, for models
    that do not fit. One process has nothing to share, so both are the same there."""
    exact: bool = False
    """Sum gradients in an order that does not depend on the number of processes, so that 1, 2, 4, ...
    end with the same bits, also when a run resumes on another number. A CPU process then uses one
    thread. Needs a power of two of processes."""
    peer_timeout_s: Annotated[float, Gt(0), Unkeyed()] = 600.0
    """Seconds that a process waits for another before it takes it for lost and leaves."""
    recompute: Annotated[bool, Unkeyed()] = False
    """Keep only the input of each block and work out the rest again in the backward pass: less
    memory, about a third more time. The result has the same bits."""
    export_every: Annotated[int, Gt(0)] | None = None
    """Steps between copies of the model under `steps/`, each a Hugging Face folder; None: no copies."""
    profile: Annotated[bool, Unkeyed()] = False
    """Write a trace of three steps to `logs/trace.json`, for chrome://tracing or Perfetto."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile each block with torch.compile; auto does on GPUs, where it pays for its minute."""
    estimate: EstimateConfig = field(default_factory=EstimateConfig)

    def __post_init__(self) -> None:
        """Refuse evaluations that cannot be told apart."""
        check_labels(self.evaluations)
