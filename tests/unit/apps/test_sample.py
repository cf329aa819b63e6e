"""`llmpipe sample` on a model with arbitrary weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llmpipe.apps.load import load, pick_device
from llmpipe.apps.printable import printable
from llmpipe.apps.sample import run_sample
from llmpipe.core.errors import InputError, UserError
from llmpipe.inference import native
from llmpipe.inference.sampling import Sampling
from llmpipe.model.norm import RMSNorm

SAMPLING = Sampling(max_tokens=12, seed=3)


def test_sample_goes_on_from_the_prompt(model_folder: Path, screen: Any) -> None:
    run_sample(model_folder, prompt="Once 🙂", sampling=SAMPLING, console=screen.console)
    text = screen.stdout.getvalue()
    assert text.startswith("Once 🙂") and text.endswith("\n")
    assert "12 tokens in" in screen.stderr.getvalue()


def test_several_samples_are_those_of_the_seeds_one_by_one(
    model_folder: Path, json_screen: Any
) -> None:
    console = json_screen.console
    run_sample(model_folder, prompt="a", n=3, sampling=SAMPLING, console=console)
    together = json.loads(json_screen.stdout.getvalue())["samples"]
    assert [sample["seed"] for sample in together] == [3, 4, 5]
    for sample in together:
        json_screen.stdout.truncate(0)
        json_screen.stdout.seek(0)
        own = Sampling(max_tokens=12, seed=sample["seed"])
        run_sample(model_folder, prompt="a", sampling=own, console=console)
        assert json.loads(json_screen.stdout.getvalue())["samples"] == [sample]


def test_samples_are_printed_in_order_and_whole(
    model_folder: Path, screen: Any, json_screen: Any
) -> None:
    run_sample(model_folder, prompt="x", n=4, sampling=SAMPLING, console=screen.console)
    run_sample(model_folder, prompt="x", n=4, sampling=SAMPLING, console=json_screen.console)
    samples = json.loads(json_screen.stdout.getvalue())["samples"]
    pages = [
        f"--- sample {i + 1}\nx{printable(sample['text'])}\n" for i, sample in enumerate(samples)
    ]
    assert screen.stdout.getvalue() == "\n".join(pages)


def test_folder_that_is_no_model_is_named_with_what_is_missing(
    tmp_path: Path, model_folder: Path
) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.safetensors, tokenizer\.json is missing"):
        load(tmp_path)
    assert load(model_folder).engine.n_free_slots == 1


def test_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(UserError, match="no CUDA device"):
        pick_device("cuda")


def test_text_that_would_move_the_cursor_is_defused() -> None:
    assert printable("a\x1b[2Jb\tc\r\nd\x07\x9b3é🙂") == "a\ufffd[2Jb\tc\nd\ufffd\ufffd3é🙂"


@pytest.mark.skipif(native.compiled() is None, reason="no C compiler here")
def test_a_step_in_c_that_computes_something_else_is_told_on_the_screen(
    model_folder: Path, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: RMSNorm, x: torch.Tensor) -> torch.Tensor:
        return 2 * F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    monkeypatch.setattr("llmpipe.model.norm.RMSNorm.forward", twice)
    run_sample(model_folder, prompt="a", sampling=SAMPLING, console=screen.console)
    assert (
        "warning: decoding with torch, which is slower: the step in C" in screen.stderr.getvalue()
    )
