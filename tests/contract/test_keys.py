"""What enters the key of an artifact: everything that can change it, and nothing else."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from llmpipe.core.config import Unkeyed, field_types, keyed, load_recipe, schema_types
from llmpipe.core.errors import UserError
from llmpipe.core.stage import Request, plan_stage
from llmpipe.stages import schemas
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.steps.c4 import C4Config
from llmpipe.stages.data.steps.language import LanguageConfig
from llmpipe.stages.data.steps.table import STEPS
from llmpipe.stages.sft.config import FileSource, SFTConfig
from llmpipe.stages.sft.stage import SPEC as SFT
from llmpipe.tasks.registry import TASKS

ROOT = Path(__file__).parents[2]
UNKEYED = {
    "data.inputs": "the key has their contents instead, wherever they lie",
    "pretrain.checkpoint_every_s": "where a run is saved changes no step of it",
    "pretrain.keep_checkpoints": "they are deleted when the model is done",
    "pretrain.max_skipped_in_a_row": "a run that it ends has no result",
    "pretrain.peer_timeout_s": "a run that it ends has no result",
    "pretrain.profile": "writes to `logs/` alone, which holds times",
    "pretrain.recompute": "the same numbers are worked out a second time",
    "pretrain.estimate.gpu": "is only shown",
    "pretrain.estimate.n_gpus": "is only shown",
    "pretrain.estimate.usd_per_gpu_hour": "is only shown",
    "sft.save_every": "where a run is saved changes no step of it",
    "eval.batch_size": "a row of a batch knows nothing of the others",
}
"""Not among them, though it may look so: intervals of samples and measurements, which stand in the artifact; batches per process,
number types and ways to share the work, which change the rounding; limits of the data stage, which set documents aside; delays of a
crawl, during which a site changes; units of `tokenize`, whose unfinished work is cut by them.

That the artifact is the same is shown where the stages are run: `test_pretrain.py`, `test_sft.py`, `test_eval.py` (tests that say "changes
nothing")."""


def unkeyed_settings(cls: type, prefix: str) -> Iterator[str]:
    for name, annotation in field_types(cls).items():
        if any(isinstance(mark, Unkeyed) for mark in typing.get_args(annotation)[1:]):
            yield f"{prefix}.{name}"
        else:
            for inner in schema_types(annotation):
                yield from unkeyed_settings(inner, f"{prefix}.{name}")


def test_settings_that_are_left_out_of_the_key_are_these_for_these_reasons():
    found = {key for stage, cls in schemas().items() for key in unkeyed_settings(cls, stage)}
    assert found == set(UNKEYED)


@pytest.mark.parametrize("key", UNKEYED)
def test_other_values_of_them_give_the_same_key(key):
    recipe = ROOT / "configs" / "tiny.toml"
    others = {"gpu": "T4", "profile": "true", "recompute": "true", "inputs": "['a.jsonl']"}
    other = others.get(key.rpartition(".")[2], "7")
    stage = key.partition(".")[0]
    base, changed = (
        load_recipe(recipe, schemas(), overrides).sections[stage]
        for overrides in ((), (f"{key}={other}",))
    )
    assert base != changed
    assert keyed(base) == keyed(changed)


def test_only_steps_that_are_named_enter_the_key_of_a_corpus():
    config = DataConfig(steps=("c4", "pii"))
    assert keyed(replace(config, fineweb=replace(config.fineweb, short_line_chars=1))) == keyed(
        config
    )
    assert keyed(replace(config, c4=C4Config(min_sentences=1))) != keyed(config)
    assert set(keyed(config)) & set(STEPS) == {"c4", "pii"}
    assert {"steps", "keep_dropped", "part_mb", "read", "limits"} < set(keyed(config))


def test_settings_that_a_named_step_reads_of_another_are_keyed_too():
    config = DataConfig(steps=("language_prefilter",))
    assert keyed(replace(config, language=LanguageConfig(keep=("de",)))) != keyed(config)


def test_every_step_is_made_of_the_settings_that_its_key_holds(tmp_path):
    """A step that reads settings of another must say so: of all settings it is shown those in its key alone."""

    class Shown:
        def __init__(self, config: Any, names: set[str]) -> None:
            self.__dict__.update({name: getattr(config, name) for name in names})

    for name in STEPS:
        config: Any = DataConfig(steps=(name,))
        if name == "quality":
            continue  # needs a classifier; it reads its own settings, as `Step.make` does
        if name == "decontamination":
            (tmp_path / "asked.jsonl").write_text('{"q": "a b c d e f g h i j k l m n o p"}\n')
            settings = replace(config.decontamination, files=(str(tmp_path / "asked.jsonl"),))
            config = replace(config, decontamination=settings)
        STEPS[name].prepare(getattr(config, name), tmp_path)
        STEPS[name].make(Shown(config, set(keyed(config))), tmp_path)


def test_a_table_for_a_step_that_is_not_named_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        '[data]\nsteps = ["c4"]\n\n[data.pii]\nkinds = ["email"]\n\n[data.c4]\nmin_sentences = 2\n'
    )
    with pytest.raises(UserError) as caught:
        load_recipe(path, {"data": DataConfig})
    assert (
        f"{path}:4: data.pii: decides nothing: `data.steps` does not name it"
        in caught.value.message
    )
    assert "hint: delete `data.pii`" in caught.value.message
    assert caught.value.message.startswith("1 problem")
    with pytest.raises(
        UserError, match=r"--set data\.fineweb\.short_line_chars=9: data\.fineweb: decides"
    ):
        load_recipe(
            path,
            {"data": DataConfig},
            ["data.steps=['c4', 'pii']", "data.fineweb.short_line_chars=9"],
        )


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem
)
def test_every_recipe_of_ours_uses_what_it_sets(recipe):
    load_recipe(recipe, schemas())


def test_step_names_are_those_of_the_table():
    for name, step in STEPS.items():
        assert step.name == name
        assert step.summary
        assert step.settings() is field_types(DataConfig)[name]
    assert {f.name for f in fields(DataConfig)} > set(STEPS)


def test_tasks_whose_questions_sft_leaves_out_enter_its_key(tmp_path, monkeypatch):
    """Without conversations of others nothing is left out, and tasks decide nothing."""
    path = tmp_path / "chats.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    with_others, alone = SFTConfig(sources=(FileSource(str(path)),)), SFTConfig()
    spec = replace(SFT, needs=lambda config: {})

    def key(config: SFTConfig) -> str:
        return plan_stage(Request(spec, config, tmp_path / "sft")).key

    before, before_alone = key(with_others), key(alone)
    assert key(with_others) == before
    with monkeypatch.context() as patched:
        patched.setitem(TASKS.places, "another", "llmpipe.tasks.words:LETTERS")
        added = key(with_others)
        assert key(alone) == before_alone
    with monkeypatch.context() as patched:
        # The same names, and under one of them another version.
        patched.setitem(TASKS.places, "arithmetic", "llmpipe.tasks.stops:STOPS")
        assert TASKS["arithmetic"].version == 2
        raised = key(with_others)
    assert len({before, added, raised}) == 3
