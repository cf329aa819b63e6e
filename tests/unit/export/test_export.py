"""Exports: reloaded by the programs they are for, refused where they cannot work, described truly.

`verify=True` raises where ids, greedy tokens or log-probabilities (1e-4 in float32) differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmpipe.assistant.render import Message, render
from llmpipe.core.errors import ExpectationError, InputError, UserError
from llmpipe.export import export as exporting
from llmpipe.export.export import export_model
from llmpipe.export.hugging_face import read_source
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.model.weights import load_model, save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS

PATTERN_OF = {"gpt2": "gpt2", "llama": "llama3", "qwen3": "qwen2"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.slow
@pytest.mark.parametrize("family", PATTERN_OF)
@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_reloaded_export_gives_the_same_tokens_and_log_probabilities(
    make_folder: Callable[..., Path], tmp_path: Path, family: str, to: str
) -> None:
    if to == "gguf":
        pytest.importorskip("llama_cpp")
    folder = make_folder(family, PATTERN_OF[family])
    checks = export_model(folder, to, tmp_path / "out", verify=True).checks  # type: ignore[arg-type]
    assert "64 of 64 greedy tokens equal" in checks[-1]
    assert checks[-1].startswith("transformers" if to == "hf" else "llama.cpp")


@pytest.mark.slow
def test_llama_cpp_answers_a_chat_as_the_engine_does(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A model trained on four conversations, through llama.cpp's own reading of the chat template."""
    llama_cpp = pytest.importorskip("llama_cpp")
    folder = make_folder()
    tokenizer, model = Tokenizer.load(folder), load_model(folder).train()
    talks = {
        "Hi": "Hello, you.",
        "2+3?": "It is 5.",
        "Bye": "See you 😀!",
        "Who?": "A small model.",
    }
    rendered = [
        render([Message("user", asked), Message("assistant", answer)], tokenizer)
        for asked, answer in talks.items()
    ]
    width = max(len(of.ids) for of in rendered)
    ids = torch.tensor([[*of.ids, *[tokenizer.pad_id] * (width - len(of.ids))] for of in rendered])
    is_trained = torch.tensor([[*of.mask, *[False] * (width - len(of.mask))] for of in rendered])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        logits = model(ids)[:, :-1][is_trained[:, 1:]]
        torch.nn.functional.cross_entropy(logits, ids[:, 1:][is_trained[:, 1:]]).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model.eval(), folder)
    out = export_model(folder, "gguf", tmp_path / "out", verify=True).folder

    llama = llama_cpp.Llama(str(out / "model.gguf"), n_ctx=128, verbose=False)
    engine = Engine(model)
    greedy = Sampling(temperature=0.0, max_tokens=30)
    stops = [tokenizer.special["<|im_end|>"]]
    for asked, learned in [*talks.items(), ("Who are you?", None)]:
        prompt = render([Message("user", asked)], tokenizer, add_generation_prompt=True).ids
        ours = tokenizer.decode(engine.generate([prompt], greedy, stops)[0].ids)
        messages = [{"role": "user", "content": asked}]
        theirs = llama.create_chat_completion(messages, temperature=0.0, max_tokens=30)
        assert theirs["choices"][0]["message"]["content"] == ours
        assert learned in (None, ours)
    llama.close()


@pytest.mark.parametrize("dtype", ["float32", "float16", "q8_0"])
def test_gguf_tensors_are_the_models_up_to_rounding(
    make_folder: Callable[..., Path],
    tmp_path: Path,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmpipe.export.verify.verify_llama_cpp", lambda *arguments: None)
    folder = make_folder("llama", "llama3")
    exported = export_model(folder, "gguf", tmp_path / "out", verify=True, dtype=dtype)  # type: ignore[arg-type]
    # Embedding, rope divisors, norm, head, and 9 for each of 2 blocks.
    assert exported.checks == ("gguf: 22 tensors read back equal to the source",)


def test_damaged_export_is_found_and_not_left_behind(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = exporting.write_gguf

    def damaging(source, path, dtype, name) -> None:  # type: ignore[no-untyped-def]
        writing(source, path, dtype, name)
        data = bytearray(path.read_bytes())
        data[-1000] ^= 0x40
        path.write_bytes(data)

    monkeypatch.setattr(exporting, "write_gguf", damaging)
    with pytest.raises(ExpectationError, match="differs from the source"):
        export_model(make_folder(), "gguf", tmp_path / "out", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_hugging_face_folder_is_complete(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_folder()
    out = export_model(folder, "hf", tmp_path / "out", dtype="bfloat16").folder
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "README.md",
    }  # fmt: skip
    source = read_source(folder)
    special = source.tokenizer.special
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [special["<|im_end|>"], special["<|bos|>"]]
    settings = json.loads((out / "config.json").read_text())
    assert (settings["bos_token_id"], settings["dtype"]) == (special["<|bos|>"], "bfloat16")
    template = json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
    assert not re.search(r"macro|namespace|\[::|generation %", template)
    assert load_model(out).embed.weight.dtype == torch.bfloat16


def test_modelfile_has_template_and_stops(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    out = export_model(make_folder(), "ollama", tmp_path / "out", dtype="q8_0").folder
    assert (out / "model.gguf").is_file()
    text = (out / "Modelfile").read_text()
    assert text.startswith("FROM ./model.gguf\n")
    # The template by hand for one message; llama.cpp itself puts <|bos|> in front.
    assert (
        'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n'
        '{{ end }}<|im_start|>assistant\n"""' in text
    )
    assert re.findall(r'PARAMETER stop "(.*)"', text) == ["<|im_end|>", "<|im_start|>"]
    # Ollama's docs/modelfile.md: an instruction and its arguments a line, texts of several in """.
    outside = re.sub(r'"""[\s\S]*?"""', "TEXT", text)
    known = r'FROM \./\S+|TEMPLATE TEXT|PARAMETER num_ctx \d+|PARAMETER stop "[^"]+"'
    assert all(re.fullmatch(known, line) for line in outside.splitlines())


def test_model_card_tells_the_run_and_the_scores_of_this_model_alone(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A run of corpus -> sft -> two eval artifacts, of which one is another model's."""
    from llmpipe.core.artifact import publish

    def make(stage: str, kind: str, inputs: dict, stats: dict, files: dict[str, str]):  # type: ignore[no-untyped-def,type-arg]
        partial = tmp_path / f".{stage}.partial"
        partial.mkdir()
        for name, text in files.items():
            (partial / name).write_text(text)
        manifest = {
            "schema": "llmpipe.artifact/1", "kind": kind, "stage": stage.split("-")[0],
            "inputs": inputs, "config": {"seed": 7}, "stats": stats,
            "code": {"version": "0.1.0", "commit": "abc1234"},
        }  # fmt: skip
        return publish(partial, tmp_path / stage, manifest)

    corpus = make("data", "corpus", {}, {"documents": 1234, "licenses": {"CC0-1.0": 1234}}, {})
    source = make_folder()
    texts = {p.name: p.read_text() for p in source.iterdir() if p.suffix == ".json"}
    reference = {"id": corpus.id, "kind": "corpus", "path": "../data"}
    (tmp_path / "weights").write_bytes((source / "model.safetensors").read_bytes())
    model = make("sft", "model", {"corpus": reference}, {"conversations": 99}, texts)
    (tmp_path / "weights").rename(model.path / "model.safetensors")
    score = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 80}
    for stage, id in (("eval-other", "someone else's"), ("eval-own", model.id)):
        scores = {f"of {stage}": score}
        make(stage, "scores", {"model": {"id": id}}, {}, {"scores.json": json.dumps(scores)})

    out = export_model(model.path, "hf", tmp_path / "out", name="Pebble", license="MIT").folder
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "license: MIT\n" in card and "# Pebble\n" in card
    assert "| documents | 1,234 |" in card and '- data: {"CC0-1.0": 1234}' in card
    assert "| conversations | 99 |" in card and '"seed": 7' in card and "abc1234" in card
    assert "| of eval-own | 0.5 | 0.4 to 0.6 | 80 |" in card
    assert "of eval-other" not in card
    assert str(tmp_path) not in card


def test_what_cannot_be_exported_is_refused_with_the_reason(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder()
    with pytest.raises(UserError, match="`pdf`"):
        export_model(folder, "pdf", tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="hf has no weights in `q8_0`"):
        export_model(folder, "hf", tmp_path / "out", dtype="q8_0")
    with pytest.raises(UserError, match="exists"):
        export_model(folder, "hf", tmp_path)
    with pytest.raises(InputError):
        export_model(tmp_path, "hf", tmp_path / "out")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretrainizers"] = None
    for pattern in (r"\S+|\s+", PATTERNS["cl100k"]):  # nobody's, and one that llama.cpp lacks
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        with pytest.raises(UserError, match="split pattern"):
            export_model(folder, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weight_beyond_float16_is_named(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    from llmpipe.model.weights import save_model

    folder = make_folder()
    model = load_model(folder)
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[0, 0] = 7e4  # type: ignore[union-attr,index,operator]
    save_model(model, folder)
    with pytest.raises(UserError, match=r"blk.0.ffn_up.weight holds a weight of 7e\+04"):
        export_model(folder, "gguf", tmp_path / "out", dtype="float16")
