"""Settings of the evaluations during training. Loads without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen

from llmpipe.core.config import schema
from llmpipe.core.errors import UserError
from llmpipe.core.records.files import expand
from llmpipe.core.records.rows import READERS

EVERY = 1000
"""Steps between evaluations. Source: OLMo-core's in-loop evaluators, `eval_interval`."""


@schema
class AnyEvaluation:
    """What all evaluations have."""

    _: KW_ONLY
    files: tuple[str, ...] = ()
    """Files it reads: other contents are other inputs of the run."""
    name: str | None = None
    """What stands before its numbers; without it, the name of the first file, or of the function."""
    every: Annotated[int, Gt(0)] = EVERY
    """Steps between evaluations; the last step is always evaluated."""
    at_start: bool = False
    """Evaluate the first weights too, as step 0."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.label):
            raise UserError(
                f"an evaluation is called `{self.label}`, expected letters, digits and `_`, `-` or `.`",
                hint="give it a `name`",
            )

    @property
    def label(self) -> str:
        """What stands before its numbers."""
        return self.name or (Path(self.files[0]).name.split(".")[0] if self.files else "")


@schema
class MultipleChoice(AnyEvaluation):
    """Questions with given answers: right if the model finds the right answer the likeliest.

    Source: Brown et al. 2020 (GPT-3), section 2.4; EleutherAI/lm-evaluation-harness.
    """

    _: KW_ONLY
    kind: Literal["multiple_choice"] = "multiple_choice"
    files: Annotated[tuple[str, ...], MinLen(1)] = field()  # required, unlike that of the base
    """Files, or patterns: JSON lines, Parquet or CSV, packed or not, with rows as HellaSwag, ARC, MMLU, Winograd or the
    ICL sets of llm-foundry have them. Rows with an empty answer are left out."""
    examples: Annotated[int, Gt(0)] | None = None
    """Questions asked, drawn once from the files; without it, all."""
    shots: Annotated[int, Ge(0)] = 0
    """Other questions of the files that are shown before each, with their answers."""
    letters: bool = False
    """List the answers as A, B, C, ... and score the letter; otherwise the text of each answer is
    scored, with which small models do better than chance sooner."""
    delimiter: str | None = None
    """Between question and answer; without it, a line break and `Answer: ` where rows are questions (ARC,
    MMLU) or have letters, a blank where they are beginnings of texts."""


@schema
class BitsPerByte(AnyEvaluation):
    """How well the model predicts texts that it was not trained on, file by file."""

    _: KW_ONLY
    kind: Literal["bits_per_byte"] = "bits_per_byte"
    files: Annotated[tuple[str, ...], MinLen(1)] = field()  # required, unlike that of the base
    """Files, or patterns: JSON lines, Parquet or CSV with a `text` in each row, or plain text (.txt); packed or not."""
    max_tokens: Annotated[int, Gt(0)] = 100_000
    """Tokens read of each file, at most."""
    text_field: str = "text"
    """Column or key of the text."""


@schema
class Custom(AnyEvaluation):
    """A function of your own; see docs/guides/evaluations.md."""

    _: KW_ONLY
    kind: Literal["custom"] = "custom"
    function: str
    """`module:function`, or `package.module:Class`: beside the recipe, in the working folder, or
    installed."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Passed to the function by name."""

    def __post_init__(self) -> None:
        module, colon, function = self.function.partition(":")
        words = [*module.split("."), *function.split(".")]
        if not colon or not all(word.isidentifier() for word in words):
            raise UserError(f"`function` is `{self.function}`, expected `module:function`")
        super().__post_init__()

    @property
    def label(self) -> str:
        """What stands before its numbers."""
        return self.name or self.function.rpartition(":")[2]


EvaluationSettings = MultipleChoice | BitsPerByte | Custom


def check_labels(evaluations: Sequence[EvaluationSettings]) -> None:
    """Refuse two evaluations whose numbers would have the same names.

    Raises:
        UserError: naming them.
    """
    labels = [evaluation.label for evaluation in evaluations]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"two evaluations are called `{label}`", "give one another `name`")


def files_of(evaluations: Iterable[EvaluationSettings]) -> list[str]:
    """List the files that the evaluations read."""
    return [name for evaluation in evaluations for name in expand(evaluation.files, READERS)]


def describe(evaluations: Iterable[EvaluationSettings]) -> str:
    """Say what is evaluated and when."""
    return ", ".join(
        f"{one.label} every {one.every:,} steps{' and at the start' if one.at_start else ''}"
        for one in evaluations
    )
