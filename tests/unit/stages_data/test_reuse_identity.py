"""Under which folder units are kept: another one exactly where something that decides them is another."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmpipe
from llmpipe.core.stage import SHIPPED, fingerprint_files
from llmpipe.stages.data import reuse
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.reuse import code_of, units_folder
from llmpipe.stages.data.stage import files_key
from llmpipe.stages.data.steps.table import STEPS, files_of_steps

HERE = "llmpipe.stages.data"


def folder(config: Any) -> str:
    return units_folder(config, [], 1, Path("store")).name


def test_settings_that_the_first_pass_does_not_look_at_cost_no_unit() -> None:
    config: Any = DataConfig(steps=("c4", "minhash", "substrings"))
    same = [
        replace(config, inputs=("other.jsonl",)),
        replace(config, keep_dropped=True),
        replace(config, part_mb=1),
        replace(config, steps=("c4", "minhash")),
        replace(config, substrings=replace(config.substrings, min_tokens=9)),
        replace(config, pii=replace(config.pii, kinds=("email",))),
    ]
    others = [
        replace(config, steps=("minhash", "c4", "substrings")),
        replace(config, c4=replace(config.c4, min_sentences=1)),
        replace(config, minhash=replace(config.minhash, bands=3)),
        replace(config, read=replace(config.read, text_field="body")),
        replace(config, limits=replace(config.limits, cpu_s=1.0)),
        replace(config, steps=("c4", "minhash", "pii")),
    ]
    assert {folder(other) for other in same} == {folder(config)}
    assert len({folder(config), *map(folder, others)}) == 1 + len(others)


def test_code_is_that_of_the_first_pass_and_of_the_steps_that_are_named() -> None:
    none, pii = code_of([])[0], code_of(["pii"])[0]
    files = "pii personal_data addresses check_digits internet labels phones"
    added = {f"{HERE}.steps.{name}" for name in files.split()}
    assert set(pii) - set(none) == added
    assert f"{HERE}.unit" in none and f"{HERE}.sources.records" in none
    assert f"{HERE}.steps.table" not in none, "or every new step would cost all units"
    assert "llmpipe.tasks.overlap" in code_of(["decontamination"])[0]
    assert f"{HERE}.steps.ngrams" in code_of(["fineweb"])[0]  # by way of gopher_repetition
    assert "phonenumbers" in code_of(["pii"])[1] and "phonenumbers" not in code_of(["c4"])[1]


@pytest.mark.parametrize("name", ["steps/c4.py", "splitting.py"])
def test_another_text_of_a_file_that_is_used_gives_another_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(steps=("c4",))
    before, other = folder(config), folder(DataConfig(steps=("fineweb",)))
    changed = tmp_path / "changed.py"
    source = Path(reuse.__file__).parent / name
    changed.write_text(source.read_text() + "\n# another text\n")
    find = code_of

    def code_with_change(steps: Any) -> Any:
        found, libraries = find(steps)
        return {k: changed if path == source else path for k, path in found.items()}, libraries

    monkeypatch.setattr(reuse, "code_of", code_with_change)
    assert folder(config) != before
    assert (folder(DataConfig(steps=("fineweb",))) != other) == (name == "splitting.py")


def test_another_text_of_the_shipped_block_list_gives_another_folder_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, without = DataConfig(steps=("url_filter",)), DataConfig(steps=("c4",))

    def identity(config: Any) -> tuple[str, Any]:
        lists = fingerprint_files(files_of_steps(config))
        return units_folder(config, lists, 1, Path("store")).name, files_key(config, lists)["lists"]

    before, other = identity(config), identity(without)
    assert list(before[1]) == ["llmpipe:urls/domains.txt"], "no path of this machine"
    package = Path(llmpipe.__file__).parent
    shutil.copytree(package / "resources", tmp_path / "resources")
    monkeypatch.setattr(llmpipe, "__file__", str(tmp_path / "__init__.py"))
    assert identity(config) == before
    with (tmp_path / "resources" / "urls" / "domains.txt").open("a") as file:
        file.write("one-more.example\n")
    after = identity(config)
    assert after[0] != before[0] and after[1] != before[1]
    assert identity(without) == other


LOADED = """
import sys
opened = set()
sys.addaudithook(lambda event, details: opened.add(str(details[0])) if event == "open" else None)
from pathlib import Path
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.unit import DataJob
loaded = set(sys.modules)  # reading settings loads the files of all steps
from llmpipe.stages.data.steps.table import STEPS
name = sys.argv[1]
config = DataConfig(steps=(name,))
STEPS[name].prepare(getattr(config, name), Path(sys.argv[2]))
STEPS[name].make(config, Path(sys.argv[2]))
print(*sorted(path.partition("/llmpipe/resources/")[2] for path in opened if "/llmpipe/resources/" in path))
print(*sorted(m for m in set(sys.modules) - loaded if m.startswith("llmpipe.stages.data") or m.startswith("llmpipe.tasks.")))
"""


@pytest.mark.parametrize("name", [n for n in STEPS if n not in ("quality", "decontamination")])
def test_nothing_that_a_step_loads_is_missing_from_its_code_and_files(
    name: str, tmp_path: Path
) -> None:
    """By another road than reading import statements: by importing, and noting what is opened."""
    command = [sys.executable, "-c", LOADED, name, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shipped, loaded = (line.split() for line in said.splitlines())
    files = files_of_steps(DataConfig(steps=(name,)))
    assert [SHIPPED + path for path in shipped] == [f for f in files if f.startswith(SHIPPED)]
    packages = {
        m
        for m in loaded
        if (Path(reuse.__file__).parents[2] / m.partition(".")[2].replace(".", "/")).is_dir()
    }
    assert set(loaded) - packages <= set(code_of([name])[0])


def test_names_that_are_imported_are_found_in_statements_and_calls(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(
        "import a.b, c\nfrom llmpipe.stages.data.steps import c4\nfrom d.e import f\n"
        "def g():\n    import h\n    importlib.import_module('i.j')\n    find_spec('k')\n"
    )
    found = set(reuse.imported_names(path))
    steps = f"{HERE}.steps"
    assert found == {"a.b", "c", steps, f"{steps}.c4", "d.e", "h", "i.j", "k"}


def test_no_step_imports_by_a_name_that_is_worked_out() -> None:
    """Which could not be found by reading; a part of a library that is found otherwise may be."""
    code, libraries = code_of(STEPS)
    for path in code.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
                name = ast.unparse(node.args[0]).removeprefix("f").strip("'\"")
                assert name.partition(".")[0] in libraries, f"{path}:{node.lineno}"
