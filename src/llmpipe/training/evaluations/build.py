"""From settings to evaluations, before any work starts, so that a mistake does not show at step 1,000."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmpipe.core.errors import LlmpipeError, UserError, did_you_mean
from llmpipe.training.evaluations.base import Evaluation
from llmpipe.training.evaluations.bits_per_byte import BitsPerByteEvaluation
from llmpipe.training.evaluations.config import (
    BitsPerByte,
    Custom,
    EvaluationSettings,
    MultipleChoice,
)
from llmpipe.training.evaluations.multiple_choice import MultipleChoiceEvaluation


@dataclass(frozen=True)
class Scheduled:
    """An evaluation, and when it is called."""

    label: str
    every: int
    at_start: bool
    call: Evaluation

    def is_due(self, done: int, n_steps: int) -> bool:
        """Tell whether it is called after `done` of `n_steps` steps."""
        if done == 0:
            return self.at_start
        return done % self.every == 0 or done == n_steps


def build_evaluations(
    evaluations: Sequence[EvaluationSettings], folders: Sequence[Path] = ()
) -> list[Scheduled]:
    """Read what the evaluations need, and find the functions of the user's own.

    Args:
        evaluations: Settings.
        folders: Where modules are looked for, before those that are installed.

    Raises:
        InputError: if a file cannot be read or holds something else.
        UserError: if a module or function is not there, or cannot be called with its settings.
    """
    built = []
    for settings in evaluations:
        call = BUILDERS[type(settings)](settings, folders)
        built.append(Scheduled(settings.label, settings.every, settings.at_start, call))
    return built


def find_custom(settings: Custom, folders: Sequence[Path]) -> Evaluation:
    """Import a user's function, or make an object of a user's class.

    Raises:
        UserError: saying what is not there, or does not fit.
    """
    module_name, _, name = settings.function.partition(":")
    found: Any = _import(module_name, folders)
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in vars(found) if not n.startswith("_")]
            raise UserError(
                f"evaluation `{settings.label}`: `{module_name}` has no `{name}`",
                did_you_mean(part, names),
            )
        found = getattr(found, part)
    if inspect.isclass(found):
        _check_call(found, settings, (), settings.settings)
        found = _make(found, settings)
        _check_call(found, settings, (None,), {})
        return found  # type: ignore[no-any-return]
    _check_call(found, settings, (None,), settings.settings)
    return partial(found, **settings.settings)


def _make(cls: Any, settings: Custom) -> Any:
    try:
        return cls(**settings.settings)
    except LlmpipeError:
        raise
    except Exception as error:
        raise UserError(
            f"evaluation `{settings.label}`: `{settings.function}` could not be made: "
            f"{type(error).__name__}: {error}"
        ) from error


def _import(name: str, folders: Sequence[Path]) -> Any:
    """Import a module; one that lies in `folders` goes before an installed one of that name."""
    places = [str(folder.resolve()) for folder in folders]
    before = list(sys.path)
    sys.path[:0] = places
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"`{name}` needs a module that is not there: {error}") from error
        looked = ", ".join(dict.fromkeys(places)) or "the working folder"
        raise UserError(
            f"there is no module `{name}`, neither installed nor in {looked}",
            hint=f"put `{name.replace('.', '/')}.py` beside the recipe",
        ) from None
    except Exception as error:
        raise UserError(f"importing `{name}` failed: {type(error).__name__}: {error}") from error
    finally:
        # What it imports later is found too, but never takes the place of what is installed.
        sys.path[:] = [*before, *(place for place in places if place not in before)]


def _check_call(
    found: Any, settings: Custom, given: tuple[Any, ...], named: dict[str, Any]
) -> None:
    if not callable(found):
        raise UserError(f"evaluation `{settings.label}`: `{settings.function}` cannot be called")
    try:
        signature = inspect.signature(found)
    except ValueError:  # some built-in functions do not tell
        return
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        raise UserError(
            f"evaluation `{settings.label}`: `{settings.function}{signature}` does not fit its "
            f"settings: {error}",
            hint="it is called with an EvaluationContext, and `settings` by name",
        ) from None


BUILDERS: dict[type, Callable[[Any, Sequence[Path]], Evaluation]] = {
    MultipleChoice: lambda settings, folders: MultipleChoiceEvaluation(settings),
    BitsPerByte: lambda settings, folders: BitsPerByteEvaluation(settings),
    Custom: find_custom,
}
"""Settings -> how they become an evaluation."""
