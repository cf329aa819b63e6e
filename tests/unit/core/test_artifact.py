from __future__ import annotations

import json
import shutil
import signal

import pytest

from llmpipe.core import artifact as module
from llmpipe.core.artifact import (
    SCHEMA,
    artifact_id,
    atomic_file,
    hash_file,
    open_artifact,
    publish,
    recover,
    verify,
    write_atomic,
)
from llmpipe.core.errors import InputError


def make(tmp_path, name="base", kind="model", text="hello"):
    partial = tmp_path / f".{name}.partial"
    (partial / "state").mkdir(parents=True)
    (partial / "state" / "checkpoint").write_text("x")
    (partial / "weights").write_text(text)
    (partial / "metrics.jsonl").write_text('{"seconds": 1.5}\n')
    manifest = {"schema": SCHEMA, "kind": kind, "key": "k", "stats": {}, "config": {}}
    return publish(partial, tmp_path / name, manifest)


def test_published_artifact_opens_and_verifies(tmp_path):
    artifact = make(tmp_path)
    assert open_artifact(tmp_path / "base", "model").id == artifact.id
    assert sorted(artifact.manifest["files"]) == ["metrics.jsonl", "weights"]
    assert artifact.manifest["files"]["weights"][1] == hash_file(tmp_path / "base" / "weights")
    assert verify(artifact) == []
    assert not (tmp_path / ".base.partial").exists()


def test_id_depends_on_contents_and_kind_but_not_on_times(tmp_path):
    files = {"weights": (5, "aa"), "metrics.jsonl": (9, "bb"), "logs/attempt_1.log": (1, "cc")}
    other_times = {**files, "metrics.jsonl": (9, "dd"), "logs/attempt_1.log": (1, "ee")}
    assert artifact_id("model", files) == artifact_id("model", other_times)
    assert artifact_id("model", files) != artifact_id("corpus", files)
    assert artifact_id("model", files) != artifact_id("model", {**files, "weights": (5, "ab")})


@pytest.mark.parametrize("damage", ["flip", "shorten", "delete", "add"])
def test_verify_names_each_kind_of_damage(tmp_path, damage):
    artifact = make(tmp_path)
    weights = artifact.file("weights")
    if damage == "flip":
        weights.write_text("hellp")
    elif damage == "shorten":
        weights.write_text("hell")
    elif damage == "delete":
        weights.unlink()
    else:
        artifact.file("extra").write_text("")
    expected = {
        "flip": "weights: contents differ from the manifest (sha256)",
        "shorten": "weights: 4 bytes, expected 5",
        "delete": "weights: missing",
        "add": "extra: not in the manifest",
    }
    assert verify(artifact) == [expected[damage]]


def test_opening_says_what_is_there_instead(tmp_path):
    make(tmp_path, "corpus", "corpus")
    with pytest.raises(InputError, match="is of kind corpus, and kind tokens is needed"):
        open_artifact(tmp_path / "corpus", "tokens")
    (tmp_path / ".base.partial").mkdir()
    with pytest.raises(InputError, match="an unfinished one is at"):
        open_artifact(tmp_path / "base", "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"it has no manifest\.json"):
        open_artifact(tmp_path / "empty")


def test_unknown_schema_is_refused_naming_both(tmp_path):
    artifact = make(tmp_path)
    manifest = {**artifact.manifest, "schema": "llmpipe.artifact/9"}
    artifact.file("manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        InputError, match=r"artifact/9, and this version of llmpipe reads llmpipe\.artifact/1"
    ):
        open_artifact(tmp_path / "base")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_damaged_manifest_is_an_input_error(tmp_path, text):
    artifact = make(tmp_path)
    artifact.file("manifest.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        open_artifact(tmp_path / "base")


def test_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_replacement_killed_between_its_renames_is_undone(tmp_path):
    old = make(tmp_path)
    (tmp_path / "base").rename(tmp_path / ".base.replaced")
    recover(tmp_path / "base")
    assert open_artifact(tmp_path / "base").id == old.id
    new = make(tmp_path, text="other")
    assert new.id != old.id
    assert not (tmp_path / ".base.replaced").exists()


@pytest.mark.slow
def test_killed_at_any_moment_a_reader_sees_nothing_or_the_whole(tmp_path, steps):
    """Publish over and over in another process, killed at each of its steps; what stands must verify."""

    def publish_three_times():
        for n in range(3):
            shutil.rmtree(tmp_path / ".base.partial", ignore_errors=True)
            make(tmp_path, text="x" * 200_000 + str(n))

    assert steps.run_forked(publish_three_times) == 0
    n_steps, seen_whole = steps.taken(), 0
    for at in range(1, n_steps + 1):
        shutil.rmtree(tmp_path / "base", ignore_errors=True)
        assert steps.run_forked(publish_three_times, at) == -signal.SIGKILL
        recover(tmp_path / "base")
        if (tmp_path / "base" / module.MANIFEST).exists():
            assert verify(open_artifact(tmp_path / "base")) == []
            seen_whole += 1
    assert n_steps // 2 < seen_whole < n_steps
