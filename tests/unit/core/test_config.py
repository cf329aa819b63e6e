from __future__ import annotations

import tomllib
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.core.config import (
    OneOf,
    Unkeyed,
    diff_from_defaults,
    diff_values,
    digest,
    index_lines,
    keyed,
    load_recipe,
    load_settings,
    resolved,
    schema,
)
from llmpipe.core.errors import UserError


@schema
class Adam:
    lr: Annotated[float, Gt(0)] = 0.1
    kind: Literal["adam"] = "adam"


@schema
class Sgd:
    lr: Annotated[float, Gt(0)] = 0.2
    momentum: float = 0.9
    kind: Literal["sgd"] = "sgd"


@schema
class Train:
    depth: Annotated[int, Ge(1)] = 2
    share: Annotated[float, Ge(0), Le(1)] = 0.5
    names: tuple[str, ...] = ()
    limit: int | None = None
    optim: Annotated[Adam | Sgd, OneOf()] = field(default_factory=Adam)

    def __post_init__(self) -> None:
        if self.depth > 100:
            raise ValueError(f"depth ({self.depth}) must be at most 100")


SCHEMAS = {"train": Train}


def load(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return load_recipe(path, SCHEMAS, overrides)


def test_values_defaults_and_overrides_are_resolved(tmp_path):
    recipe = load(
        tmp_path,
        'name = "x"\n[train]\ndepth = 3\nnames = ["a"]\n',
        "train.optim={kind='sgd', lr=1.5}",
    )
    assert recipe.name == "x"
    assert recipe.sections["train"] == Train(depth=3, names=("a",), optim=Sgd(lr=1.5))
    assert recipe.present == {"train"}


def test_every_problem_is_reported_at_once_with_line_and_key(tmp_path):
    text = """seed = -1
[train]
depth = 4.5
shaer = 0.1
share = 2.0

[train.optim]
kind = "adam"
momentum = 0.5
[trian]
depth = 1
"""
    with pytest.raises(UserError) as error:
        load(tmp_path, text, "train.limit=many")
    message = error.value.message.replace(str(tmp_path), "")
    assert message.startswith("7 problems in the recipe")
    assert "/r.toml:3: train.depth: input should be a valid integer, got 4.5" in message
    assert "/r.toml:4: train.shaer: unknown key\n    hint: did you mean `share`?" in message
    assert "/r.toml:5: train.share: input should be less than or equal to 1, got 2.0" in message
    assert "/r.toml:9: train.optim.momentum: unknown key" in message
    assert "/r.toml:10: trian: unknown key\n    hint: did you mean `train`?" in message
    assert "/r.toml:1: seed: must be an integer of 0 or more" in message
    assert (
        '--set train.limit=many: train.limit: input should be a valid integer, got "many"'
        in message
    )


def test_table_without_a_kind_changes_the_default(tmp_path):
    assert load(tmp_path, "", "train.optim.lr=0.3").sections["train"].optim == Adam(lr=0.3)
    recipe = load(tmp_path, '[train.optim]\nkind = "sgd"\n', "train.optim.lr=0.3")
    assert recipe.sections["train"].optim == Sgd(lr=0.3)
    with pytest.raises(UserError, match=r"train\.optim\.momentum: unknown key"):
        load(tmp_path, "[train.optim]\nmomentum = 0.5\n")


def test_wrong_kind_and_failed_check_are_named(tmp_path):
    with pytest.raises(UserError) as error:
        load(tmp_path, '[train]\noptim = {kind = "adma"}\n')
    assert (
        "r.toml:2: train.optim" in error.value.message
        and "there are adam, sgd" in error.value.message
    )
    assert "did you mean `adam`?" in error.value.message
    with pytest.raises(UserError) as error:
        load(tmp_path, "[train]\ndepth = 101\n")
    assert "train: depth (101) must be at most 100" in error.value.message


@pytest.mark.parametrize("value", ['"3"', "true", "3.5"])
def test_no_value_is_converted_silently(tmp_path, value):
    with pytest.raises(UserError, match="depth: input should be a valid integer"):
        load(tmp_path, f"[train]\ndepth = {value}\n")


def test_missing_recipe_names_the_nearest(tmp_path):
    (tmp_path / "tiny.toml").write_text("")
    with pytest.raises(UserError) as error:
        load_recipe(tmp_path / "tniy.toml", SCHEMAS)
    assert error.value.hint is not None and "tiny.toml" in error.value.hint


def test_broken_toml_names_its_line(tmp_path):
    with pytest.raises(UserError, match=r"not valid TOML.*line 2"):
        load(tmp_path, "[train]\ndepth = = 3\n")


@pytest.mark.parametrize("override", ["train.depth", "=3", ".depth=3", "train..depth=1"])
def test_malformed_override_shows_the_form(tmp_path, override):
    with pytest.raises(UserError, match=r"expected `section\.key=value`"):
        load(tmp_path, "[train]\n", override)


def test_expectations_are_flattened_and_checked(tmp_path):
    recipe = load(tmp_path, "[expect]\ntrain.loss_max = 1.5\ntrain.steps_min = 3\n")
    assert recipe.expect == {"train.loss_max": 1.5, "train.steps_min": 3.0}
    with pytest.raises(
        UserError, match=r"expect\.train\.loss: must be `stage\.number_min` or `_max`"
    ):
        load(tmp_path, "[expect]\ntrain.loss = 1.5\n")


def test_lines_of_nested_tables_arrays_and_long_values():
    text = '''# comment
name = "x"

[a]
b.c = 1
"d e" = """
[not.a.table]
key = 2
"""
f = [
  1,
  2,  # two
]
[[g]]
h = 1
[[g]]
h = 2
[g.i]
j = 3
'''
    index = index_lines(text)
    assert index[("name",)] == 2
    assert index[("a",)] == 4
    assert index[("a", "b", "c")] == 5
    assert index[("a", "d e")] == 6
    assert index[("a", "f")] == 10
    assert index[("g", 0, "h")] == 15
    assert index[("g", 1, "h")] == 17
    assert index[("g", 1, "i", "j")] == 19
    assert ("not",) not in index


def leaves(tree, prefix=()):
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))


@given(
    st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers()))
)
def test_every_key_of_a_file_has_the_line_it_stands_on(tables):
    text = "".join(
        f"[{t}]\n" + "".join(f"{k} = {v}\n" for k, v in kv.items()) for t, kv in tables.items()
    )
    index = index_lines(text)
    lines = text.splitlines()
    for keys in leaves(tomllib.loads(text)):
        line = lines[index[keys] - 1]
        assert line.lstrip("[").startswith(keys[-1])


def test_digest_ignores_key_order_and_diff_names_changes():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    old, new = resolved(Train()), resolved(Train(depth=3, optim=Sgd()))
    lines = diff_values(old, new, "train")
    assert "train.depth: 2 -> 3" in lines
    assert 'train.optim.kind: "adam" -> "sgd"' in lines
    assert "train.optim.momentum: (none) -> 0.9" in lines


def test_alternatives_are_compared_with_defaults_of_their_own():
    assert diff_from_defaults(Train()) == []
    assert diff_from_defaults(Train(optim=Adam(lr=0.3))) == ["optim.lr: 0.1 -> 0.3"]
    assert diff_from_defaults(Train(depth=3, optim=Sgd(momentum=0.5))) == [
        "depth: 2 -> 3",
        "optim.momentum: 0.9 -> 0.5",
        'optim.kind: "adam" -> "sgd"',
    ]


@schema
class Prices:
    per_hour: Annotated[float, Gt(0), Unkeyed()] = 3.0
    counted: int = 1


@schema
class Course:
    price: Prices = field(default_factory=Prices)
    rarely: Annotated[int, Unkeyed()] = 4
    steps: Annotated[int, Gt(0)] = 5
    trains: tuple[Train, ...] = ()


def test_what_is_marked_is_not_in_the_key():
    dear = Course(price=Prices(per_hour=9.0), rarely=8)
    assert keyed(dear) == keyed(Course()) == {"price": {"counted": 1}, "steps": 5, "trains": []}
    assert resolved(dear)["price"] == {"per_hour": 9.0, "counted": 1}
    assert keyed(Course(steps=6)) != keyed(Course())


def test_settings_come_back_from_what_was_written_down():
    course = Course(steps=7, trains=(Train(depth=3, optim=Sgd(momentum=0.5)),))
    assert load_settings(Course, resolved(course)) == course
    assert load_settings(Course, keyed(replace(course, rarely=9))) == course


def test_unknown_key_in_an_element_of_a_list_has_a_hint(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('course.trains = [{}, {optim = {kind = "sgd", momentun = 0.5}}, {dept = 3}]')
    with pytest.raises(UserError) as error:
        load_recipe(path, {"course": Course})
    assert "course.trains.1.optim.momentun: unknown key" in error.value.message
    assert "did you mean `momentum`?" in error.value.message
    assert "course.trains.2.dept: unknown key" in error.value.message
    assert "did you mean `depth`?" in error.value.message
