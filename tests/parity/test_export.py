"""Models made by transformers, imported: the same log-probabilities, usable by everything else here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmpipe.assistant.render import Message, render
from llmpipe.core.artifact import open_artifact, verify
from llmpipe.core.errors import InputError, UserError
from llmpipe.export.export import export_model
from llmpipe.export.import_model import import_model
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.model.weights import load_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.hf import spell
from llmpipe.tokenizer.patterns import PATTERNS

pytestmark = pytest.mark.slow  # transformers takes seconds to import

PATTERN_OF = {"gpt2": "gpt2", "llama": "llama3", "qwen3": "qwen2"}
MARK_OF = {"gpt2": "<|endoftext|>", "llama": "<|begin_of_text|>", "qwen3": "<|endoftext|>"}
TEXT = "The quick brown fox, 1234; naïve 東京 😀\n"


def make_theirs(family: str, folder: Path, own_chat: bool = False) -> Any:
    """Write a small random model with transformers, and a tokenizer in the form of its family."""
    import transformers

    shape: dict[str, Any] = {"vocab_size": 270, "bos_token_id": 258, "eos_token_id": 258}
    if family == "gpt2":
        config: Any = transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=2, n_positions=64, **shape
        )
    else:
        kind = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}[family]
        config = kind(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, intermediate_size=64, max_position_embeddings=64, **shape,
        )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weights in model.parameters():
        weights.data *= 3 if weights.dim() > 1 else 1
    model.save_pretrained(folder)
    special = {MARK_OF[family]: 258}
    if own_chat:
        special |= {"<|im_start|>": 259, "<|im_end|>": 260}
    vocab = {spell(bytes([i])): i for i in range(256)} | {spell(b"he"): 256, spell(b"qu"): 257}
    regex = {"Regex": PATTERNS[PATTERN_OF[family]]}
    split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [split, plain | {"use_regex": False}]
    written = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": name, "special": True, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False}
                         for name, i in special.items()],
        "normalizer": {"type": "NFC"} if family == "qwen3" else None,
        "pre_tokenizer": plain | {"use_regex": True} if family == "gpt2"
        else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": plain | {"use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["h e", "q u"]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(written))
    return model


@pytest.mark.parametrize("family", PATTERN_OF)
def test_imported_model_is_the_same_model(family: str, tmp_path: Path) -> None:
    theirs = make_theirs(family, tmp_path / "hub")
    artifact = import_model(tmp_path / "hub", tmp_path / "run" / "base")
    assert (artifact.kind, artifact.stats["family"]) == ("model", family)
    assert verify(open_artifact(artifact.path, "model")) == []

    ours, tokenizer = load_model(artifact.path), Tokenizer.load(artifact.path)
    old = Tokenizer.load(tmp_path / "hub")
    ids = [258, *tokenizer.encode(TEXT)]
    assert ids[1:] == old.encode(TEXT)
    # <|bos|> is a copy of the model's own document mark, so it starts texts as that does.
    assert tokenizer.bos_id != 258
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
        for first in (258, tokenizer.bos_id):
            got = ours(torch.tensor([[first, *ids[1:]]]))[0, :, :270]
            # Tokens that the model had: the new ones only take a share of the sum.
            # float32 sums in another order
            n_known = 259
            assert torch.allclose(
                got[:, :n_known].log_softmax(-1), expected[:, :n_known].log_softmax(-1), atol=1e-4
            )
    greedy = Sampling(temperature=0.0, max_tokens=12)
    answer = Engine(ours.eval()).generate([ids], greedy)[0].ids
    reference = theirs.generate(
        torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert answer == reference[0, len(ids) :].tolist()


def test_imported_model_can_chat_be_trained_and_be_exported(tmp_path: Path) -> None:
    make_theirs("gpt2", tmp_path / "hub")
    artifact = import_model(tmp_path / "hub", tmp_path / "run" / "base", dtype="float32")
    tokenizer, model = Tokenizer.load(artifact.path), load_model(artifact.path)
    assert artifact.stats["added_rows"] == model.config.vocab_size - 270
    assert model.config.vocab_size == tokenizer.vocab_size == 384  # 270 + 12, a multiple of 128
    ids = render([Message("user", "Hi")], tokenizer, add_generation_prompt=True).ids
    model.train()
    loss = model(torch.tensor([ids])).logsumexp(-1).sum()
    loss.backward()
    assert torch.isfinite(model.embed.weight.grad).all()  # type: ignore[arg-type]
    exported = export_model(artifact.path, "hf", tmp_path / "back", verify=True)
    assert "64 of 64 greedy" in exported.checks[0]


def test_gpt2_with_its_first_tokenizer_files_is_imported(tmp_path: Path) -> None:
    """`vocab.json` and `merges.txt`, as transformers reads them and as `tokenizer.json` says."""
    make_theirs("gpt2", tmp_path / "hub")
    whole = Tokenizer.load(tmp_path / "hub")
    content = json.loads((tmp_path / "hub" / "tokenizer.json").read_text())
    (tmp_path / "hub" / "tokenizer.json").unlink()
    vocabulary = content["model"]["vocab"] | {"<|endoftext|>": 258}
    (tmp_path / "hub" / "vocab.json").write_text(json.dumps(vocabulary))
    merges = tmp_path / "hub" / "merges.txt"
    merges.write_text("#version: 0.2\nh e\nq u\n")
    artifact = import_model(tmp_path / "hub", tmp_path / "base", chat_tokens=False)
    tokenizer = Tokenizer.load(artifact.path)
    assert tokenizer.special == {"<|endoftext|>": 258}
    text = TEXT + "<|endoftext|> don't  the queue\r\n"
    assert tokenizer.encode(text) == whole.encode(text)

    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")
    options = {"add_special_tokens": False, "split_special_tokens": True}
    assert tokenizer.encode(text) == theirs.encode(text, **options)

    merges.write_text("#version: 0.2\nq u\nh e\n")
    with pytest.raises(InputError, match="these merges do not make"):
        import_model(tmp_path / "hub", tmp_path / "other")
    settings = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps(settings | {"model_type": "qwen3"}))
    with pytest.raises(InputError, match="how a qwen3 cuts text"):
        import_model(tmp_path / "hub", tmp_path / "other")


def test_chat_tokens_and_template_that_a_model_has_are_kept(tmp_path: Path) -> None:
    make_theirs("qwen3", tmp_path / "hub", own_chat=True)
    (tmp_path / "hub" / "chat_template.jinja").write_text("{{ messages }}")
    artifact = import_model(tmp_path / "hub", tmp_path / "base")
    tokenizer = Tokenizer.load(artifact.path)
    assert (tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]) == (259, 260)
    settings = json.loads((artifact.path / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages }}"
    stops = json.loads((artifact.path / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [258, tokenizer.bos_id, 260]

    plain = import_model(tmp_path / "hub", tmp_path / "plain", chat_tokens=False)
    assert plain.stats["added_rows"] == 0 and plain.stats["added_tokens"] == []


def test_folder_that_is_no_model_leaves_nothing(tmp_path: Path) -> None:
    make_theirs("llama", tmp_path / "hub")
    settings = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps(settings | {"model_type": "mamba"}))
    with pytest.raises(InputError, match="mamba"):
        import_model(tmp_path / "hub", tmp_path / "base")
    with pytest.raises(UserError, match="exists"):
        import_model(tmp_path / "hub", tmp_path / "hub")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
