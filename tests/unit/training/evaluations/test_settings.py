"""Settings of evaluations: what they share stands in a base, and what one needs is needed all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmpipe.cli.stage_command import settings_table
from llmpipe.core.config import load_recipe
from llmpipe.core.errors import UserError
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.training.evaluations.config import BitsPerByte, Custom, MultipleChoice


@pytest.mark.parametrize("kind", ["multiple_choice", "bits_per_byte"])
def test_evaluations_of_files_need_files(kind: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[[pretrain.evaluations]]\nkind = "{kind}"\n')
    with pytest.raises(UserError, match=r"evaluations\.0\.files: required key is missing"):
        load_recipe(recipe, {"pretrain": PretrainConfig})


def test_labels_follow_from_files_and_functions() -> None:
    assert MultipleChoice(files=("world/arc_easy.jsonl.gz", "b.csv")).label == "arc_easy"
    assert BitsPerByte(files=("a.txt",), name="mine").label == "mine"
    assert Custom(function="own.evals:Probe").label == "Probe"


def test_settings_of_a_base_are_listed_with_their_meaning() -> None:
    rows = {key: (default, meaning) for key, default, meaning in settings_table(MultipleChoice)}
    assert rows["at_start"] == ("False", "Evaluate the first weights too, as step 0.")
    assert rows["files"][0] == "(required)" and rows["files"][1].startswith("Files, or patterns")
