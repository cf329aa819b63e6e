from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmpipe.core.errors import InputError
from llmpipe.model.config import ModelConfig, RopeScaling
from llmpipe.model.config_file import from_hugging_face, to_hugging_face
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import load_model, save_model

CONFIGS = {
    "gpt2": ModelConfig("gpt2", 32, 2, 4, 4, 8, 64, 61, 32, tied_embeddings=True),
    "llama": ModelConfig("llama", 32, 2, 4, 2, 8, 48, 61, 32, rope_scaling=RopeScaling()),
    "qwen3": ModelConfig("qwen3", 32, 2, 4, 2, 16, 48, 61, 32, tied_embeddings=True),
}


def make_model(config: ModelConfig) -> Transformer:
    generator = torch.Generator().manual_seed(1)
    model = Transformer(config)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_gives_back_every_bit(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    model = make_model(CONFIGS[family]).to(dtype)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    before, after = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert before.keys() == after.keys()
    for name, parameter in before.items():
        assert after[name].dtype == dtype
        assert torch.equal(after[name], parameter), name


def test_same_model_gives_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_model(make_model(CONFIGS["qwen3"]), tmp_path / folder)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_padding_rows_are_cut_off_on_the_way_out(tmp_path: Path) -> None:
    config = ModelConfig("llama", 32, 1, 4, 2, 8, 48, 61, 32, pad_vocab_to=64)
    model = make_model(config)
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["lm_head.weight"].shape == (61, 32)
    assert tensors["model.embed_tokens.weight"].shape == (61, 32)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(ids), model(ids))


def test_sharded_files_are_read_through_their_index(tmp_path: Path) -> None:
    model = make_model(CONFIGS["llama"])
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    names = sorted(tensors)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "model.safetensors").unlink()
    loaded = dict(load_model(tmp_path).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded[name], parameter)


def test_large_models_are_written_as_several_files(tmp_path: Path) -> None:
    model = make_model(CONFIGS["llama"])
    save_model(model, tmp_path, max_file_bytes=20_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name for path in files] == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert len(files) > 2
    assert all(path.stat().st_size < 24_000 for path in files)  # the header comes on top
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in model.parameters())
    assert {name: index["weight_map"][name] for path in files for name in load_file(path)} == index[
        "weight_map"
    ]
    loaded = dict(load_model(tmp_path).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded[name], parameter)


def test_old_gpt2_files_without_prefix_and_with_masks_are_read(tmp_path: Path) -> None:
    model = make_model(CONFIGS["gpt2"])
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    old = {name.removeprefix("transformer."): t for name, t in load_file(path).items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    old["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(old, path)
    loaded = dict(load_model(tmp_path).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded[name], parameter)


def test_rope_settings_are_read_in_the_old_and_the_new_spelling() -> None:
    old = to_hugging_face(CONFIGS["llama"])
    new = {k: v for k, v in old.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = old["rope_scaling"] | {"rope_theta": old["rope_theta"]}
    assert from_hugging_face(old) == from_hugging_face(new) == CONFIGS["llama"]


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"hidden_act": "relu2"}, "hidden_act is `relu2`, only `silu`"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function is `gelu`"),
        ("llama", {"model_type": "mamba"}, "model_type is `mamba`, expected one of gpt2"),
        ("llama", {"rope_scaling": {"rope_type": "yarn"}}, "rope_type is `yarn`"),
    ],
)
def test_models_with_parts_we_lack_are_refused(
    family: str, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        from_hugging_face(to_hugging_face(CONFIGS[family]) | change)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)
    save_model(make_model(CONFIGS["qwen3"]), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)

    save_file({k: v for k, v in tensors.items() if k != "model.norm.weight"}, path)
    with pytest.raises(InputError, match=r"1 tensors are missing: norm\.weight"):
        load_model(tmp_path)

    save_file(tensors | {"model.layers.2.extra": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"unexpected tensor `model\.layers\.2\.extra`"):
        load_model(tmp_path)

    save_file(tensors | {"model.norm.weight": torch.ones(31)}, path)
    with pytest.raises(InputError, match=r"`model\.norm\.weight` has shape \[31\]"):
        load_model(tmp_path)

    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load_model(tmp_path)
