"""The base class of the data stage's steps. A new step is a file beside this one and a line in `table.py`.

A step's file also holds its settings, which are read whenever a recipe is, even for `--help`. So what takes long to import (numpy,
parsers, models) is imported inside the functions that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, Literal, TypeVar, get_args

from annotated_types import Ge, Le

from llmpipe.stages.data.document import Document, Drop

if TYPE_CHECKING:
    from typing import Self

    from llmpipe.stages.data.config import DataConfig

Settings = TypeVar("Settings")
Fraction = Annotated[float, Ge(0), Le(1)]


class Step(Generic[Settings]):
    """One step, made once per worker from its settings and called with every document: `class C4(Step[C4Config])`."""

    name: ClassVar[str]
    """What recipes call it, in `steps` and as the table of its settings."""
    summary: ClassVar[str]
    """What it does, in a few words, for plans."""
    scope: ClassVar[Literal["document", "corpus", "texts"]] = "document"
    """A `corpus` step notes keys per document; what it drops is decided when all have been seen. A `texts` step
    looks at the finished texts of all documents that are left."""
    needs_text: ClassVar[bool] = True
    """Whether it must stand behind `extraction`."""
    also_reads: ClassVar[tuple[str, ...]] = ()
    """Other steps whose settings it looks at too."""

    def __init__(self, config: Settings) -> None:
        self._config = config

    def __call__(self, document: Document) -> Drop | None:
        """Change a document in place, or say why it is dropped; None keeps it."""
        raise NotImplementedError

    @classmethod
    def settings(cls) -> type:
        """Return the class of its settings: what stands in the brackets of its base, `Step[…]`."""
        base = next(base for base in cls.__orig_bases__ if get_args(base))  # type: ignore[attr-defined]
        found: type = get_args(base)[0]
        return found

    @classmethod
    def make(cls, config: DataConfig, prepared: Path) -> Self:
        """Make it from all settings, and the folder with what `prepare` wrote."""
        return cls(getattr(config, cls.name))

    @classmethod
    def files(cls, config: Settings) -> list[str]:
        """List the files that decide what it does; one of `llmpipe/resources` as `llmpipe:NAME` (see `core.stage.SHIPPED`)."""
        return []

    @classmethod
    def prepare(cls, config: Settings, prepared: Path) -> None:
        """Write what all workers share, once, in the parent process."""

    @classmethod
    def n_keys(cls, config: Settings) -> int:
        """Return how many 64-bit keys a corpus step notes per document."""
        return 1
