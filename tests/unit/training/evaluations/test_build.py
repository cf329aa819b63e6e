from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.errors import InputError, UserError
from llmpipe.training.evaluations.build import Scheduled, build_evaluations
from llmpipe.training.evaluations.config import (
    BitsPerByte,
    Custom,
    MultipleChoice,
    check_labels,
    describe,
    files_of,
)
from llmpipe.training.evaluations.multiple_choice import MultipleChoiceEvaluation

MODULE = """
    import json

    NOT_CALLABLE = 3
    _hidden = 4

    def letters(context, letter="e"):
        return {"n": float(context.count(letter))}

    class Words:
        def __init__(self, path=None, fails=False):
            self.path = path
            if fails:
                raise ValueError("no such words")

        def __call__(self, context):
            return {"n": float(len(context.split()))}

    class NotCallable:
        pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a module; what is imported from it is forgotten after the test."""
    known, places = set(sys.modules), list(sys.path)
    (tmp_path / "my_evals.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "needy.py").write_text("import not_there_at_all")
    yield tmp_path
    sys.path[:] = places
    for name in set(sys.modules) - known:
        del sys.modules[name]


def build(folder: Path, function: str, **settings: Any) -> Scheduled:
    (built,) = build_evaluations([Custom(function=function, settings=settings)], [folder])
    return built


def test_function_and_class_of_a_module_beside_the_recipe_are_called(folder: Path) -> None:
    context: Any = "one three three"  # they are called with whatever the hook gives
    assert build(folder, "my_evals:letters").call(context) == {"n": 5.0}
    assert build(folder, "my_evals:letters", letter="t").call(context) == {"n": 2.0}
    words = build(folder, "my_evals:Words", path="x")
    assert words.call(context) == {"n": 3.0}
    assert words.label == "Words"
    assert sys.path[-1] == str(folder)  # what it imports later is found, after what is installed


def test_module_beside_the_recipe_goes_before_an_installed_one(folder: Path) -> None:
    (folder / "tabnanny.py").write_text("def check(context): return {'ours': 1.0}")
    context: Any = None
    sys.modules.pop("tabnanny", None)
    assert build(folder, "tabnanny:check").call(context) == {"ours": 1.0}


@pytest.mark.parametrize(
    "function, settings, message, hint",
    [
        (
            "my_eval:letters",
            {},
            r"there is no module `my_eval`, neither installed nor in ",
            "beside",
        ),
        ("my_evals.more:x", {}, r"there is no module `my_evals\.more`", "my_evals/more.py"),
        ("my_evals:leters", {}, r"`my_evals` has no `leters`", "did you mean `letters`?"),
        ("my_evals:NOT_CALLABLE", {}, r"`my_evals:NOT_CALLABLE` cannot be called", None),
        ("my_evals:NotCallable", {}, r"`my_evals:NotCallable` cannot be called", None),
        ("my_evals:letters", {"leter": "e"}, r"does not fit its settings: .*'leter'", "by name"),
        ("my_evals:Words", {"fails": True}, r"could not be made: ValueError: no such words", None),
        ("broken:f", {}, r"importing `broken` failed: ZeroDivisionError", None),
        ("needy:f", {}, r"`needy` needs a module that is not there: .*not_there_at_all", None),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_said_before_work_starts(
    folder: Path, function: str, settings: dict[str, Any], message: str, hint: str | None
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(folder, function, **settings)
    assert (hint is None) == (caught.value.hint is None)
    assert hint is None or hint in str(caught.value.hint)
    assert sys.path[0] != str(folder)


def test_missing_file_is_said_before_work_starts() -> None:
    for settings in (MultipleChoice(files=("no.jsonl",)), BitsPerByte(files=("no.jsonl",))):
        with pytest.raises(InputError, match=r"there is no file or folder `no\.jsonl`"):
            build_evaluations([settings])


def test_patterns_stand_for_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"query": "q", "choices": ["x", "y"], "gold": 0}\n')
    deep = MultipleChoice(files=(f"{tmp_path}/**/*.jsonl",), name="all")
    flat = MultipleChoice(files=(f"{tmp_path}/deep/c.jsonl", f"{tmp_path}/*.jsonl"))
    assert files_of([deep]) == [f"{tmp_path}/{name}.jsonl" for name in ("a", "b", "deep/c")]
    assert files_of([flat]) == [f"{tmp_path}/{name}.jsonl" for name in ("deep/c", "a", "b")]
    assert len(MultipleChoiceEvaluation(deep).prompts) == 3
    with pytest.raises(InputError, match=r"no file fits `.*\.csv`"):
        files_of([BitsPerByte(files=(f"{tmp_path}/*.csv",), name="x")])
    with pytest.raises(UserError, match=r"is called `\*`"):
        MultipleChoice(files=(f"{tmp_path}/*.csv",))


def test_evaluations_are_due_at_multiples_and_after_the_last_step() -> None:
    def due(at_start: bool) -> list[int]:
        evaluation = Scheduled("x", 4, at_start, lambda context: {})
        return [done for done in range(11) if evaluation.is_due(done, n_steps=10)]

    assert due(at_start=False) == [4, 8, 10]
    assert due(at_start=True) == [0, 4, 8, 10]


def test_names_are_those_of_files_and_functions_unless_given() -> None:
    arc = MultipleChoice(files=("sets/arc_easy.jsonl.gz",), every=500)
    own = Custom(function="my.module:Letters.count", at_start=True)
    assert [one.label for one in (arc, own, BitsPerByte(files=("a.txt",), name="b"))] == [
        "arc_easy",
        "Letters.count",
        "b",
    ]
    assert describe([arc, own]) == (
        "arc_easy every 500 steps, Letters.count every 1,000 steps and at the start"
    )
    with pytest.raises(UserError, match="two evaluations are called `arc_easy`"):
        check_labels([arc, own, arc])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"function": "my_evals"}, "expected `module:function`"),
        ({"function": "my-evals:f"}, "expected `module:function`"),
        ({"function": "m:f", "name": "a/b"}, "is called `a/b`, expected letters"),
        ({"function": "m:f", "name": "a b"}, "is called `a b`, expected letters"),
    ],
)
def test_names_that_cannot_be_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Custom(**settings)
