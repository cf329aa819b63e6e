"""Recipe file + `--set` -> frozen dataclasses, with every problem reported at once as `file:line: key`.

A recipe is one TOML file for the whole pipeline: `name`, `seed`, `[expect]` and one table per stage. Which tables
exist and which dataclass describes each is passed in, so this file knows no stage.

Settings are plain frozen dataclasses marked with `schema`; pydantic validates them here and is imported only when a
recipe is read. It runs in strict JSON mode, because its lax mode takes `"3"` and `true` for numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, dataclass_transform

from llmpipe.core.errors import UserError, did_you_mean
from llmpipe.core.registry import Registry

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
KeyPath = tuple[str | int, ...]
TOP_LEVEL_KEYS = ("name", "seed", "expect")


@dataclass_transform(frozen_default=True)
def schema(cls: type[T]) -> type[T]:
    """Make a class settings, a frozen dataclass: unknown keys are errors, field docstrings are its documentation."""
    cls.__pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # type: ignore[attr-defined]
    # One that needs other arguments of `dataclass` brings them.
    return cls if "__dataclass_fields__" in vars(cls) else dataclass(frozen=True)(cls)


class OneOf:
    """Marks a choice of schemas that are told apart by their `kind`.

    They are those of a union, `Annotated[Trapezoid | Cosine, OneOf()]`, or of a table, `Annotated[OptimConfig, OneOf(OPTIMIZERS)]`.
    """

    def __init__(self, table: Registry[type] | None = None) -> None:
        self.table = table

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Discriminator

        if self.table is None:
            return Discriminator("kind").__get_pydantic_core_schema__(source, handler)
        union = Union[tuple(self.table.values())]  # type: ignore[valid-type]  # noqa: UP007
        return handler.generate_schema(Annotated[union, Discriminator("kind")])


class Unkeyed:
    """Marks a setting that changes nothing in the artifact: `Annotated[float, Unkeyed()]`.

    It is left out of the key, so that it may change when a run is resumed, and makes nothing again.
    """


@dataclass(frozen=True)
class Recipe:
    """A recipe as resolved from its file and the overrides."""

    name: str
    seed: int
    path: str
    sections: Mapping[str, Any]
    """Section name -> its settings, one for every known section (defaults where the file has none)."""
    present: frozenset[str]
    """The sections that stand in the file or in an override."""
    overrides: tuple[str, ...] = ()
    expect: Mapping[str, float] = field(default_factory=dict)
    """Flattened `[expect]`: `eval.accuracy_min` -> 0.9."""


class _Mistakes:
    """All that is wrong with a recipe, so that one look is enough to mend it."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self.origins = {key: f"{path}:{line}" for key, line in index_lines(text).items()}
        """Where keys stand: a line of the file, or an override."""
        self.lines: list[str] = []

    def add(self, keys: KeyPath, text: str, hint: str | None = None) -> None:
        """Note what is wrong with a key; its place is that of the nearest enclosing key that has one."""
        places = (self.origins.get(keys[:n]) for n in range(len(keys), 0, -1))
        where = next(filter(None, places), self._path)
        self.add_line(f"{where}: {'.'.join(map(str, keys))}: {text}", hint)

    def add_line(self, line: str, hint: str | None = None) -> None:
        self.lines.append(line + (f"\n    hint: {hint}" if hint else ""))


# ------------------------------------------------------------------------------------------
# Loading


def load_recipe(path: Path, schemas: Mapping[str, type], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `key.path=value` overrides and validate everything.

    Args:
        schemas: section name -> the dataclass of its settings.
        overrides: `--set` arguments; a value is TOML, or plain text where it does not parse as TOML.

    Raises:
        UserError: with all problems of the file and the overrides, one per line.
    """
    text = _read_text(path)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: this is not valid TOML: {error}") from None
    mistakes = _Mistakes(path, text)
    for override in overrides:
        _apply_override(tree, override, mistakes)

    known = [*TOP_LEVEL_KEYS, *schemas]
    for key in tree:
        if key not in known:
            hint = did_you_mean(key, known) or f"known keys: {', '.join(known)}"
            mistakes.add((key,), "unknown key", hint)
    name = tree.get("name", path.stem)
    if not isinstance(name, str) or not name or "/" in name:
        mistakes.add(("name",), "must be a plain name")
    seed = tree.get("seed", 1)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        mistakes.add(("seed",), "must be an integer of 0 or more")
    expect = _flatten_expect(tree.get("expect", {}), mistakes)
    sections = {}
    for section, cls in schemas.items():
        table = tree.get(section, {})
        sections[section] = config = _validate(section, cls, table, mistakes)
        for setting, reason in unused(config).items():
            if setting in table:
                hint = f"delete `{section}.{setting}`, or have it used"
                mistakes.add((section, setting), f"decides nothing: {reason}", hint)
    if lines := mistakes.lines:
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise UserError("\n".join([f"{count} in the recipe", *lines]))
    present = frozenset(key for key in tree if key in schemas)
    return Recipe(name, seed, str(path), sections, present, tuple(overrides), expect)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = did_you_mean(str(path), sorted(map(str, path.parent.glob("*.toml"))))
        known = "`llmpipe recipes` lists the recipes that come with llmpipe"
        raise UserError(f"there is no recipe `{path}`", hint or known) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe `{path}` cannot be read: {error}") from None


def _apply_override(tree: dict[str, Any], override: str, mistakes: _Mistakes) -> None:
    key, equals, raw = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    where = f"--set {override}"
    if not equals or not all(keys):
        hint = "e.g. --set pretrain.steps=100"
        mistakes.add_line(f"{where}: expected `section.key=value`", hint)
        return
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    node = tree
    for part in keys[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            line = f"{where}: {'.'.join(keys)}: `{part}` is a value and has no keys"
            mistakes.add_line(line)
            return
        node = child
    node[keys[-1]] = value
    mistakes.origins[keys] = where
    for n in range(1, len(keys)):
        mistakes.origins.setdefault(keys[:n], where)


def _flatten_expect(table: Any, mistakes: _Mistakes) -> dict[str, float]:
    flat: dict[str, float] = {}

    def walk(node: Any, keys: tuple[str, ...]) -> None:
        name = ".".join(keys)
        if isinstance(node, dict):
            for key, child in node.items():
                walk(child, (*keys, key))
        elif isinstance(node, bool) or not isinstance(node, int | float):
            mistakes.add(("expect", *keys), f"must be a number, got {json.dumps(node)}")
        elif not name.endswith(("_min", "_max")) or "." not in name:
            hint = "e.g. pretrain.val_bpb_max = 1.8"
            mistakes.add(("expect", *keys), "must be `stage.number_min` or `_max`", hint)
        else:
            flat[name] = float(node)

    walk(table, ())
    return flat


# ------------------------------------------------------------------------------------------
# Validation


def _validate(section: str, cls: type, tree: Any, mistakes: _Mistakes) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(tree, dict):
        mistakes.add((section,), "must be a table")
        return None
    tree = _with_kinds(cls, tree)
    try:
        return TypeAdapter(cls).validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            keys = _real_keys(detail["loc"], tree, detail["type"])
            mistakes.add((section, *keys), *_explain(cls, tree, keys, detail))
    except UserError as error:  # raised by a dataclass that checks how its fields fit together
        mistakes.add((section,), error.message, error.hint)
    return None


def _with_kinds(cls: type, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Give tables that name no `kind` the default's: `optim.lr = 0.01` alone changes the default's rate."""
    filled = dict(tree)
    for setting in dataclasses.fields(cls):
        table, make = filled.get(setting.name), setting.default_factory
        default = setting.default if make is dataclasses.MISSING else make()
        if not isinstance(table, dict) or not dataclasses.is_dataclass(default):
            continue
        if hasattr(default, "kind"):
            table = {"kind": default.kind, **table}
        if table.get("kind") == getattr(default, "kind", None):
            table = _with_kinds(type(default), table)
        filled[setting.name] = table
    return filled


def _explain(
    cls: type, tree: dict[str, Any], keys: KeyPath, detail: ErrorDetails
) -> tuple[str, str | None]:
    """Say in our words what pydantic found at `keys`, and what to write instead where that can be guessed."""
    kind, hint = detail["type"], None
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        text = "unknown key"
        siblings = _known_keys(cls, keys[:-1], tree)
        hint = did_you_mean(str(keys[-1]), siblings) or f"known keys: {', '.join(siblings)}"
    elif kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        text = "required key is missing"
    elif kind == "union_tag_not_found":
        text = "required key `kind` is missing"
    elif kind == "union_tag_invalid":
        tags = detail["ctx"]["expected_tags"].replace("'", "").split(", ")
        tag = detail["ctx"]["tag"]
        text = f"there is no kind `{tag}`; there are {', '.join(tags)}"
        hint = did_you_mean(tag, tags)
    elif kind == "value_error":
        text = str(detail.get("ctx", {}).get("error", detail["msg"]))
    else:
        message = detail["msg"]
        text = f"{message[0].lower()}{message[1:]}, got {json.dumps(detail['input'], default=str)}"
    return text, hint


def _real_keys(loc: tuple[int | str, ...], tree: Any, kind: str) -> tuple[str | int, ...]:
    """Keep of a pydantic location what stands in the file: union members' names are left out."""
    keys: list[str | int] = []
    node = tree
    for i, part in enumerate(loc):
        in_table = isinstance(node, dict) and part in node
        in_array = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_table or in_array:
            keys.append(part)
            node = node[part]
        elif i == len(loc) - 1 and kind.startswith("missing"):
            keys.append(part)
    return tuple(keys)


def _known_keys(cls: type, keys: Sequence[str | int], tree: Any) -> list[str]:
    """The keys a file may use at `keys` below a section described by `cls`."""
    node: Any = cls
    for key in keys:
        if isinstance(key, int):  # an element of an array, which `schema_types` has looked into
            tree = tree[key] if isinstance(tree, list) and key < len(tree) else None
            continue
        members = [
            m for m in schema_types(node) if any(f.name == key for f in dataclasses.fields(m))
        ]
        tree = tree.get(key) if isinstance(tree, dict) else None
        if not members:
            return []
        node = field_types(members[0])[key]
    candidates = schema_types(node)
    kind = tree.get("kind") if isinstance(tree, dict) else None
    chosen = [c for c in candidates if getattr(c, "kind", None) == kind] or candidates
    return [f.name for c in chosen for f in dataclasses.fields(c)]


def field_types(cls: type) -> dict[str, Any]:
    """Field name -> its type with annotations resolved."""
    return typing.get_type_hints(cls, include_extras=True)


def schema_types(annotation: Any) -> list[type]:
    """The dataclasses inside an annotation such as `Annotated[A | B, ...]`, `A | None` or `tuple[A, ...]`."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    if typing.get_origin(annotation) is Annotated:
        inner, *marks = typing.get_args(annotation)
        table = next((m.table for m in marks if isinstance(m, OneOf) and m.table is not None), None)
        return schema_types(inner) if table is None else list(table.values())
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple):
        return [cls for arg in typing.get_args(annotation) for cls in schema_types(arg)]
    return []


# ------------------------------------------------------------------------------------------
# Where a key stands in the file (tomllib gives no positions)


def index_lines(text: str) -> dict[KeyPath, int]:
    """Map every key path of a valid TOML text to its line number, from 1.

    Keys inside inline tables and arrays are not listed; their place is that of the key that holds them.
    """
    lines = text.splitlines()
    index: dict[KeyPath, int] = {}
    array_sizes: dict[KeyPath, int] = {}
    table: KeyPath = ()
    i = 0
    while i < len(lines):
        line = lines[i].strip()
        start = i
        i += 1
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            is_array = line.startswith("[[")
            table = _resolve_arrays(_split_key(line.strip("[")), array_sizes, last_too=not is_array)
            if is_array:
                n = array_sizes.get(table, 0)
                array_sizes[table] = n + 1
                index.setdefault(table, start + 1)
                table = (*table, n)
            _set_with_parents(index, table, start + 1)
            continue
        key = _split_key(line)
        rest = line
        # A value may go on over several lines: take lines until the assignment parses.
        while not _parses(rest) and i < len(lines):
            rest += "\n" + lines[i]
            i += 1
        _set_with_parents(index, (*table, *key), start + 1)
    return index


def _set_with_parents(index: dict[KeyPath, int], keys: KeyPath, line: int) -> None:
    for n in range(1, len(keys) + 1):
        index.setdefault(keys[:n], line)


def _parses(assignment: str) -> bool:
    try:
        tomllib.loads(assignment)
    except tomllib.TOMLDecodeError:
        return False
    return True


_KEY = r"""(?:"[^"]*"|'[^']*'|[\w-]+)"""


def _split_key(line: str) -> tuple[str, ...]:
    """Read the dotted, possibly quoted key at the start of a line."""
    dotted = re.match(rf"\s*{_KEY}(?:\s*\.\s*{_KEY})*", line)
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted[0])) if dotted else ()


def _resolve_arrays(keys: Sequence[str], sizes: Mapping[KeyPath, int], last_too: bool) -> KeyPath:
    """Insert the index of the current element after each key that names an array of tables."""
    path: KeyPath = ()
    for i, key in enumerate(keys):
        path = (*path, key)
        if path in sizes and (i < len(keys) - 1 or last_too):
            path = (*path, sizes[path] - 1)
    return path


# ------------------------------------------------------------------------------------------
# Resolved settings


def resolved(config: Any) -> dict[str, Any]:
    """Return settings as JSON values, defaults included, in field order."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return tree


def load_settings(cls: type[T], values: Mapping[str, Any]) -> T:
    """Return settings from what `resolved` or `keyed` made of them; what is left out has its default."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls).validate_json(json.dumps(_with_kinds(cls, values)), strict=True)


def unused(config: Any) -> Mapping[str, str]:
    """Return the settings that decide nothing as the others stand, with the reason of each.

    Which these are is told by a method `unused` of the settings, where they have one.
    """
    reasons: Mapping[str, str] = config.unused() if hasattr(config, "unused") else {}
    return reasons


def keyed(config: Any) -> dict[str, Any]:
    """Return what `resolved` does, without the settings that are `unused` or marked `Unkeyed`: what decides the result."""
    tree = resolved(config)
    for name in unused(config):
        del tree[name]
    for name, annotation in field_types(type(config)).items():
        if name not in tree:
            continue
        value = getattr(config, name)
        if any(isinstance(mark, Unkeyed) for mark in typing.get_args(annotation)[1:]):
            del tree[name]
        elif dataclasses.is_dataclass(value):
            tree[name] = keyed(value)
    return tree


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form, as hex: equal settings give equal digests, in whatever order they stand."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def diff_from_defaults(config: Any) -> list[str]:
    """List what differs from the defaults, as `key: default -> value`; of alternatives, from the chosen one's."""
    return diff_values(_defaults_like(config), resolved(config))


def _defaults_like(config: Any) -> dict[str, Any]:
    """Return the defaults of settings, as JSON values, with the alternatives that these settings have."""
    default = type(config)()
    tree = resolved(default)
    for setting in dataclasses.fields(config):
        value, usual = getattr(config, setting.name), getattr(default, setting.name)
        if dataclasses.is_dataclass(value):
            tree[setting.name] = _defaults_like(value)
            if type(value) is not type(usual):
                tree[setting.name]["kind"] = getattr(usual, "kind", None)
    return tree


def diff_values(old: Any, new: Any, prefix: str = "") -> list[str]:
    """List what differs between two JSON trees as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in [*old, *(k for k in new if k not in old)]:
            name = f"{prefix}.{key}" if prefix else str(key)
            if key not in new:
                lines.append(f"{name}: {json.dumps(old[key])} -> (none)")
            elif key not in old:
                lines.append(f"{name}: (none) -> {json.dumps(new[key])}")
            else:
                lines += diff_values(old[key], new[key], name)
        return lines
    return [] if old == new else [f"{prefix}: {json.dumps(old)} -> {json.dumps(new)}"]


def diff_identities(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List what differs between two of a stage's identities (see `Context.identity`), with the keys that people write."""
    config = diff_values(old.get("config"), new.get("config"), new["stage"])
    before, after = ({k: v for k, v in one.items() if k != "config"} for one in (old, new))
    return config + diff_values(before, after)
