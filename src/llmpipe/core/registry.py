"""Tables of things by name, each written in one line and imported only when somebody asks for it.

Commands are listed, recipes checked and plans shown from the names alone; what stands behind one name may need torch
or a parser of HTML, which nobody wants to wait for who does not use it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def load(place: str) -> Any:
    """Import what stands at `module:attribute`."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, T], Generic[T]):
    """Name -> object, from name -> `module:attribute`; names keep their order."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = dict(places)

    def __getitem__(self, name: str) -> T:
        found: T = load(self.places[name])
        return found

    def __contains__(self, name: object) -> bool:  # Mapping's own would import it
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
