"""`llmpipe import`: turns a GPT-2, Llama 3 or Qwen3 that others trained into a model artifact.

The weights stay as they are. Such a model may lack the control tokens of our chat protocol; they get ids after its
own, and new rows in its embedding and head:

    <|bos|>     a copy of the row of the model's own document mark, which it was trained to start from
    the others  the mean of all rows, so that a new token is never likelier than an average one
                (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models")
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from llmpipe.core.artifact import SCHEMA, Artifact, artifact_id, list_files, publish
from llmpipe.core.config import digest
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.stage import code_version, environment
from llmpipe.export.hugging_face import read_json, read_stop_ids
from llmpipe.model.config import n_parameters
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import load_model, save_generation_config, save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.hf import FILE as TOKENIZER_FILE
from llmpipe.tokenizer.hf import unspell
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import BOS, IM_END, NAMED_TOKENS
from llmpipe.tokenizer.vocabularies import with_chat_tokens

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""How a model on the hub is named: its owner and its own name."""

_WANTED = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
"""Files to fetch from the hub."""

VOCABULARY, MERGES = "vocab.json", "merges.txt"
END_OF_TEXT = "<|endoftext|>"

VERSION = 1
"""Of what importing does; a part of the artifact's key."""


def import_model(
    folder: Path,
    out: Path,
    *,
    chat_tokens: bool = True,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    console: Console | None = None,
) -> Artifact:
    """Make a model artifact of a Hugging Face folder.

    Args:
        folder: with `config.json`, safetensors (one file or several) and `tokenizer.json`, or for
            GPT-2 `vocab.json` and `merges.txt`; or the name of a model on the Hugging Face hub, such
            as `openai-community/gpt2`.
        out: the artifact; it must not exist.
        chat_tokens: add the control tokens of our protocol where they are missing; `sft` needs them.
        dtype: turn the weights into this; training wants float32. None leaves them as they are.

    Raises:
        UserError: if `out` exists.
        InputError: if the folder is no such model, its tokenizer cannot be reproduced exactly, or the
            hub does not give it.
    """
    console = console or Console(quiet=True)
    if out.exists():
        raise UserError(f"{out} exists", hint="name a folder that does not, or delete this one")
    started, clock = datetime.now(UTC), time.monotonic()
    if not folder.exists() and HUB_NAME.fullmatch(folder.as_posix()):
        console.info(f"{folder} is no folder here: asking the Hugging Face hub for it")
        folder = download(folder.as_posix())
    theirs = _load_tokenizer(folder)
    tokenizer = with_chat_tokens(theirs) if chat_tokens else theirs
    model = load_model(folder, dtype=getattr(torch, dtype) if dtype else None)
    n_rows = model.config.vocab_size
    if theirs.vocab_size > n_rows:
        raise InputError(f"{folder}: {theirs.vocab_size} token ids, and rows for {n_rows}")
    model = _with_rows(model, max(n_rows, tokenizer.vocab_size))
    _fill_new_rows(model, theirs, tokenizer, n_rows)

    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        stop_ids = _stop_ids(folder, theirs, tokenizer)
        save_model(model, partial, tokenizer.bos_id, stop_ids[0])
        tokenizer.save(partial, _chat_template(folder))
        save_generation_config(partial, tokenizer.bos_id, stop_ids, tokenizer.pad_id)
        stats: dict[str, Any] = {
            "family": model.config.family,
            "parameters": n_parameters(model.config),
            "vocab_size": tokenizer.vocab_size,
            "max_seq_len": model.config.max_seq_len,
            "added_rows": model.config.vocab_size - n_rows,
            "added_tokens": sorted(set(NAMED_TOKENS) - set(theirs.special)) if chat_tokens else [],
        }
        settings = {"folder": folder.name, "chat_tokens": chat_tokens, "dtype": dtype}
        manifest = _manifest(folder, out, settings, stats)
        manifest["time"] = {
            "started": f"{started:%Y-%m-%dT%H:%M:%SZ}",
            "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "seconds": round(time.monotonic() - clock, 1),
            "attempts": 1,
        }
        artifact = publish(partial, out, manifest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    console.info(
        f"{out}: {stats['family']}, {stats['parameters']:,} parameters, "
        f"{len(stats['added_tokens'])} control tokens added"
    )
    return artifact


def download(name: str) -> Path:
    """Fetch a model from the Hugging Face hub into its cache; return the folder.

    Raises:
        InputError: if there is no such model, access is denied, or the network is down.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[*_WANTED]))
    except LocalEntryNotFoundError:
        raise InputError(
            f"{name} is no folder here, and the Hugging Face hub cannot be reached",
            hint="name a folder with config.json, safetensors and tokenizer.json",
        ) from None
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"the Hugging Face hub does not give {name}: {first}",
            hint="models behind a license need `hf auth login`",
        ) from None


def _tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that hold the tokenizer of a folder.

    `vocab.json` and `merges.txt`, GPT-2's first two files, say what `tokenizer.json` does, except for how
    text is cut, which for these files is always GPT-2's way.
    """
    has_old_form = all((folder / name).is_file() for name in (VOCABULARY, MERGES))
    is_old = has_old_form and not (folder / TOKENIZER_FILE).is_file()
    return (VOCABULARY, MERGES) if is_old else (TOKENIZER_FILE,)


def _load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder.

    Raises:
        InputError: if it is missing, broken, or of another kind.
    """
    if TOKENIZER_FILE in _tokenizer_files(folder):
        return Tokenizer.load(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "gpt2":
        raise InputError(
            f"{folder} holds no `{TOKENIZER_FILE}`, and how a {kind} cuts text is not in its other files",
            hint="save the tokenizer again with transformers, which writes that file",
        )
    vocabulary: dict[str, int] = read_json(folder / VOCABULARY)
    special = {name: id for name, id in vocabulary.items() if name == END_OF_TEXT}
    special |= read_json(folder / "added_tokens.json")
    try:
        ranks = {unspell(text): id for text, id in vocabulary.items() if text not in special}
        lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()
        if lines and lines[0].startswith("#"):  # the version of the file
            del lines[0]
        pairs = [line.split(" ") for line in lines if line]
        merges = [(unspell(left), unspell(right)) for left, right in pairs]
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder}: not GPT-2's kind of tokenizer ({error})") from None
    tokenizer = Tokenizer(ranks, PATTERNS["gpt2"], special)
    if tokenizer.merges != merges:
        raise InputError(f"{folder / MERGES}: these merges do not make the tokens of {VOCABULARY}")
    return tokenizer


def _with_rows(model: Transformer, n_rows: int) -> Transformer:
    """Return the model with `n_rows` rows in embedding and head; new rows are zero."""
    if n_rows == model.config.vocab_size:
        return model
    with torch.device("meta"):
        larger = Transformer(replace(model.config, vocab_size=n_rows))
    weights = dict(model.named_parameters())
    for name in ("embed.weight", "head.weight"):
        if name in weights:
            old = weights[name].detach()
            new = old.new_zeros(n_rows, old.shape[1])
            new[: len(old)] = old
            weights[name] = torch.nn.Parameter(new)
    larger.load_state_dict(weights, strict=False, assign=True)
    larger.tie_head()
    return larger


def _fill_new_rows(model: Transformer, old: Tokenizer, new: Tokenizer, n_old_rows: int) -> None:
    """Give the rows of tokens that the model has not seen their first values, in place."""
    ids = sorted(set(new.special.values()) - set(old.special.values()))
    if not ids:
        return
    matrices = {id(matrix): matrix for matrix in (model.embed.weight, model.head.weight)}
    with torch.no_grad():
        for matrix in matrices.values():
            known = matrix[: min(n_old_rows, old.vocab_size)].float()
            matrix[ids] = known.mean(dim=0).to(matrix.dtype)
            if BOS not in old.special:
                matrix[new.special[BOS]] = matrix[old.bos_id]


def _stop_ids(folder: Path, old: Tokenizer, new: Tokenizer) -> list[int]:
    """Return where generation ends: where the model's makers say, at a new document, and after a turn."""
    stops = list(read_stop_ids(folder, old))
    if not read_json(folder / "generation_config.json").get("eos_token_id"):
        stated = read_json(folder / "config.json").get("eos_token_id")
        stops = [stated] if isinstance(stated, int) else stated or stops
    stops += [old.bos_id, new.bos_id]
    if IM_END in new.special:
        stops.append(new.special[IM_END])
    return list(dict.fromkeys(stops))


def _chat_template(folder: Path) -> str | None:
    """Return the model's own template, from either of the files that may hold it."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    return template if isinstance(template, str) else None


def _manifest(
    folder: Path, out: Path, settings: Mapping[str, Any], stats: Mapping[str, Any]
) -> dict[str, Any]:
    names = {path.name for path in folder.glob("*.safetensors")}
    names |= {"config.json", *_tokenizer_files(folder)}
    files = {name: (0, sha) for name, (_, sha) in list_files(folder).items() if name in names}
    shared = {
        "schema": SCHEMA,
        "stage": "import",
        "stage_version": VERSION,
        "config": dict(settings),
        "inputs": {},
    }
    asked = {
        **shared,
        "files": {"folder": artifact_id("model", files)},
    }
    return {
        **shared,
        "kind": "model",
        "name": out.resolve().parent.name,
        "key": digest(asked),
        "asked": asked,
        "recipe": {"file": None, "overrides": []},
        "code": code_version(),
        "environment": environment("cpu", 1),
        "stats": dict(stats),
        "expect": {},
    }
