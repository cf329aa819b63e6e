"""Settings of the `sft` stage."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from llmpipe.core.config import OneOf, Unkeyed, schema
from llmpipe.training.config import OPTIMIZERS, Muon, OptimConfig
from llmpipe.training.schedule import Cosine, Trapezoid


@schema
class Identity:
    """What the assistant says about itself; its size and date come from the run."""

    name: str = "Pebble"
    """What it calls itself."""
    maker: str = "the llmpipe project"
    """Who made it, as it stands in "I was made by …"."""
    corpus: str = "the pages of its crawl"
    """What it has read, as it stands in "I have only read …"."""


@schema
class Mixture:
    """Weights of the sources that we make ourselves; 0 leaves one out."""

    arithmetic: Annotated[float, Ge(0)] = 4.0
    """Calculations handed to the Python tool."""
    identity: Annotated[float, Ge(0)] = 2.0
    """Questions about the assistant itself."""
    documents: Annotated[float, Ge(0)] = 1.0
    """Questions about the documentation in the corpus."""
    smalltalk: Annotated[float, Ge(0)] = 0.5
    """Greetings, thanks and farewells."""
    refusals: Annotated[float, Ge(0)] = 1.0
    """What it should not do, and what it cannot know."""
    multiplication: Annotated[float, Ge(0)] = 0.0
    """Products of three-digit numbers, handed to the Python tool."""
    letters: Annotated[float, Ge(0)] = 0.0
    """How often a letter is in a word, counted with Python."""
    characters: Annotated[float, Ge(0)] = 0.0
    """Every third character of a word, words spelled and reversed, with Python."""
    dates: Annotated[float, Ge(0)] = 0.0
    """Days of the week, and days between dates, with Python."""
    lookups: Annotated[float, Ge(0)] = 0.0
    """Questions about the corpus, answered from a search in it, with the source."""
    personas: Annotated[float, Ge(0)] = 0.0
    """Questions about itself that the system message answers, under many names."""
    probed: Annotated[float, Ge(0)] = 0.0
    """Questions about the documentation that an earlier assistant was asked several times: with
    their answers where it knew them, else with "I do not know". See `probing`."""


@schema
class FileSource:
    """Conversations of others."""

    path: str
    """A JSON lines, JSON or Parquet file (plain, .gz, .zst), a folder of them or of `datasets`, or
    `hf:OWNER/NAME` where there is a network. Rows in the shape of messages, ShareGPT, Alpaca,
    prompt-completion or preference, each for itself."""
    split: str = "train"
    """Which part of a data set that has parts."""
    license: str | None = None
    """As its publisher states it; goes into the manifest and the model card."""
    weight: Annotated[float, Gt(0)] = 1.0
    """Weight in the mixture, beside those of `mixture`."""
    max_epochs: Annotated[float, Gt(0)] = 4.0
    """How often a conversation may come. Source: repeating text up to 4 times is nearly as good as
    new text, Muennighoff et al. 2023, arXiv:2305.16264."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do about rows that cannot be used: stop and name them, or count them and set them
    aside in `set_aside.jsonl`."""


@schema
class DecontaminationSettings:
    """Leave out conversations of others that evaluation sets hold.

    Questions of the built-in tasks are always left out.
    """

    files: tuple[str, ...] = ()
    """JSONL files of evaluation sets, plain or gz; every string in a line is text that a model may
    be asked."""
    ngram: Annotated[int, Ge(4), Le(64)] = 13
    """Words of a run that must not be shared. Source: Brown et al. 2020, arXiv:2005.14165,
    appendix C."""
    min_words: Annotated[int, Ge(4)] = 8
    """A string shorter than `ngram` counts as a whole from this length; shorter ones are chance."""


@schema
class Probing:
    """Find out what an assistant knows by asking it, for `mixture.probed`.

    Source: Dubey et al. 2024, arXiv:2407.21783 (Llama 3), section 4.3.6.
    """

    samples: Annotated[int, Gt(0)] = 5
    """How often each question is asked, at temperature 1."""
    min_right: Annotated[int, Gt(0)] = 4
    """From this many right answers on it is known."""
    max_questions: Annotated[int, Gt(0)] = 400
    """Questions to ask, at most."""


@schema
class SFTConfig:
    """How a base model becomes an assistant."""

    identity: Identity = field(default_factory=Identity)
    """Who it is."""
    mixture: Mixture = field(default_factory=Mixture)
    """How much of what it is trained on, of the conversations we make ourselves."""
    sources: tuple[FileSource, ...] = ()
    """Conversations of others."""
    decontamination: DecontaminationSettings = field(default_factory=DecontaminationSettings)
    """What conversations of others must not hold."""
    probing: Probing = field(default_factory=Probing)
    """How to find out what is known, where `mixture.probed` is not 0."""
    conversations: Annotated[int, Gt(0)] = 10_000
    """Questions with their answers to draw from all sources together; together with the batch this
    decides the number of steps."""
    max_names: Annotated[int, Gt(3)] | None = None
    """Modules and functions of the documentation to ask about, the most mentioned ones; None is all."""
    max_repeats: Annotated[float, Gt(0)] = 20.0
    """How often one of our own conversations may come."""
    joined_frac: Annotated[float, Ge(0), Le(1)] = 0.4
    """Share of our own questions that stand in conversations of 2 to 5 turns."""
    use_tools: bool = True
    """Whether products of three digits are calculated with Python; false gives the answers at once,
    to see what a model can learn without."""
    tools_told_frac: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of our own conversations with a system message that lists the tools; in half of them
    the tool that is wanted is not listed, and the answer does without."""
    system: str | None = None
    """System message of conversations that have none, filled like answers ({name}, {maker}, …). It
    is a part of the model's chat template."""
    max_seq_len: Annotated[int, Gt(15)] | None = None
    """Tokens per row; None is the model's own limit."""
    over_long: Literal["cut", "drop"] = "cut"
    """What to do with conversations that are longer than a row."""
    global_batch_tokens: Annotated[int, Gt(0)] = 4096
    """Tokens per update, padding included, over all processes."""
    micro_batch_size: Annotated[int, Gt(0)] = 16
    """Rows per process and forward pass, at most."""
    optim: Annotated[OptimConfig, OneOf(OPTIMIZERS)] = field(default_factory=Muon)
    """What updates the weights; the rates of pretraining, because everything here is new to the
    base model and the run is short."""
    schedule: Annotated[Trapezoid | Cosine, OneOf()] = field(default_factory=Trapezoid)
    """How the learning rate changes over the run."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of matrix products; auto is bfloat16 where the device has it."""
    validate_every: Annotated[int, Gt(0)] = 50
    """Steps between looks at the loss on held-out conversations."""
    sample_every: Annotated[int, Gt(0)] = 50
    """Steps between sample answers."""
    save_every: Annotated[int, Gt(0), Unkeyed()] = 50
    """Steps between checkpoints. Where they fall changes nothing in the result."""
    questions: tuple[str, ...] = ("Who are you?", "What is 37 + 45?", "What does os.path.join do?")
    """What the sample answers are about."""
