"""Finding, listing and copying recipes."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import llmpipe
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError, did_you_mean


def recipe_folders() -> list[Path]:
    """Where recipes are looked for by name: the working folder's configs/, then those that come with llmpipe."""
    package = Path(llmpipe.__file__).parent
    folders = [Path("configs"), package.parents[1] / "configs", package / "configs"]
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.is_dir():
            seen.setdefault(folder.resolve(), folder)
    return list(seen.values())


def known_recipes() -> dict[str, Path]:
    """Recipe name -> file; a recipe in the working folder hides one of the same name."""
    recipes: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in sorted(folder.glob("*.toml")):
            recipes.setdefault(path.stem, path)
    return recipes


def looks_like_recipe(argument: str) -> bool:
    """Whether a plain argument means a recipe: a `.toml` path or a known recipe's name."""
    return argument.endswith(".toml") or argument in known_recipes()


def find_recipe(argument: str) -> Path:
    """Return the file of a recipe given by path or by name.

    Raises:
        UserError: if there is none, naming the closest.
    """
    if argument.endswith(".toml"):
        return Path(argument)
    recipes = known_recipes()
    if argument not in recipes:
        known = (
            f"known recipes: {', '.join(recipes)}" if recipes else "give the path of a .toml file"
        )
        hint = did_you_mean(argument, recipes) or known
        raise UserError(f"there is no recipe `{argument}`", hint)
    return recipes[argument]


def list_recipes(console: Console) -> None:
    """Show name, summary and path of every recipe."""
    rows = []
    for name, path in known_recipes().items():
        summary = path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ").strip()
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError:
            tree = {}
        stages = [key for key, value in tree.items() if isinstance(value, dict) and key != "expect"]
        rows.append({"name": name, "summary": summary, "path": str(path), "stages": stages})
    lines = (
        f"{row['name']:<10}{row['summary']}\n{'':<10}{row['path']}: {' → '.join(row['stages'])}"
        for row in rows
    )
    console.result(rows, lines)


def copy_recipe(name: str, target: Path, console: Console) -> None:
    """Copy a recipe to a new file, never over one that exists."""
    source = find_recipe(name)
    if target.exists():
        raise UserError(f"`{target}` exists", "choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    console.info(f"wrote {target}; run it with: llmpipe run {target}")


def recipe_schema(schemas: dict[str, type]) -> dict[str, Any]:
    """The JSON schema of a recipe, for editors (`#:schema` on the first line of the file)."""
    from pydantic import TypeAdapter

    properties: dict[str, Any] = {
        "name": {"type": "string"},
        "seed": {"type": "integer", "minimum": 0},
        "expect": {"type": "object"},
    }
    definitions: dict[str, Any] = {}
    for section, cls in schemas.items():
        schema = TypeAdapter(cls).json_schema(ref_template="#/$defs/{model}")
        definitions |= schema.pop("$defs", {})
        properties[section] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmpipe recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }
