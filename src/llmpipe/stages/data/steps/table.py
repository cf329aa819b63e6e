"""The table of steps, and what concerns all steps of a recipe: their order, their files, their preparation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmpipe.core.errors import UserError, did_you_mean
from llmpipe.core.registry import Registry
from llmpipe.stages.data.steps.base import Step

if TYPE_CHECKING:
    from llmpipe.stages.data.config import DataConfig

T = TypeVar("T")
_HERE = "llmpipe.stages.data.steps"

STEPS: Registry[type[Step[Any]]] = Registry(
    {
        "url_filter": f"{_HERE}.url_filter:UrlFilter",
        "language_prefilter": f"{_HERE}.language:LanguagePrefilter",
        "extraction": f"{_HERE}.extraction:Extraction",
        "language": f"{_HERE}.language:Language",
        "gopher_repetition": f"{_HERE}.gopher_repetition:GopherRepetition",
        "gopher_quality": f"{_HERE}.gopher_quality:GopherQuality",
        "c4": f"{_HERE}.c4:C4",
        "fineweb": f"{_HERE}.fineweb:FineWeb",
        "url_dedup": f"{_HERE}.dedup_keys:UrlKey",
        "exact_dedup": f"{_HERE}.dedup_keys:TextKey",
        "minhash": f"{_HERE}.dedup_keys:MinHashKeys",
        "pii": f"{_HERE}.pii:Pii",
        "line_cleaning": f"{_HERE}.line_cleaning:LineCleaning",
        "quality": f"{_HERE}.quality:Quality",
        "decontamination": f"{_HERE}.decontamination:DecontaminationFilter",
        "substrings": f"{_HERE}.substrings:Substrings",
    }
)


def with_step_settings(cls: type[T]) -> type[T]:
    """Give a class of settings, before it becomes a dataclass, a field for every step of the table."""
    for name, step in STEPS.items():
        cls.__annotations__[name] = step.settings()
        setattr(cls, name, dataclasses.field(default_factory=step.settings()))
    return cls


def check_steps(names: tuple[str, ...]) -> None:
    """Check the order of a recipe.

    Raises:
        UserError: an unknown or repeated step, one that needs text before extraction, or finished texts before the end.
    """
    for i, name in enumerate(names):
        if name not in STEPS:
            hint = did_you_mean(name, STEPS) or f"known steps: {', '.join(STEPS)}"
            raise UserError(f"data.steps: there is no step `{name}`", hint)
        if name in names[:i]:
            raise UserError(f"data.steps: `{name}` stands there twice")
        if STEPS[name].needs_text and "extraction" in names[i + 1 :]:
            raise UserError(f"data.steps: `{name}` needs text, and stands before `extraction`")
        if STEPS[name].scope == "texts" and i + 1 < len(names):
            behind = ", ".join(f"`{other}`" for other in names[i + 1 :])
            raise UserError(
                f"data.steps: `{name}` compares finished texts, and stands before {behind}",
                f"make `{name}` the last step",
            )


def prepare_steps(config: DataConfig, prepared: Path) -> None:
    """Write what the workers' steps share into the folder `prepared`."""
    for name in config.steps:
        STEPS[name].prepare(getattr(config, name), prepared)


def files_of_steps(config: DataConfig) -> list[str]:
    """List the files that decide what the steps do: block lists (ours too), evaluation sets, a classifier."""
    return [file for name in config.steps for file in STEPS[name].files(getattr(config, name))]
