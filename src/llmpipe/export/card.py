"""The model card: where a model comes from, made from the manifests of the artifacts behind it.

Everything on the card was recorded by the run; where the run recorded nothing, it says "unknown".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import MANIFEST, Artifact, open_artifact
from llmpipe.core.errors import LlmpipeError
from llmpipe.export.hugging_face import Source, read_json
from llmpipe.model.config import n_parameters

_STATS_SHOWN = {
    "crawl": ("pages", "bytes", "crawled_on"),
    "data": ("documents_in", "documents", "words", "text_bytes", "languages"),
    "tokenize": ("vocab_size", "train_tokens", "bytes_per_token"),
    "pretrain": ("steps", "tokens", "flops", "val_loss", "val_bpb"),
    "sft": ("conversations", "steps", "trained_tokens", "val_loss"),
    "import": ("family", "parameters", "added_rows"),
}


def model_card(source: Source, name: str, license: str | None = None) -> str:
    """Return the card as Markdown with the front matter of Hugging Face.

    Args:
        source: the model; its folder's manifest leads to the artifacts it was made from.
        license: an SPDX name, chosen by whoever publishes; None leaves it open.
    """
    history = list(ancestors(source.folder))
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [llmpipe]\n"
        + (f"license: {license}\n" if license else "")
        + "---",
        f"# {name}\n\n{_summary(source)}",
        f"## License\n\n{_license(license, history)}",
        *(_stage(artifact) for artifact in history),
        _scores(source.folder),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def ancestors(folder: Path) -> Iterator[Artifact]:
    """Yield the artifact in `folder` and all it was made from, nearest first, each once."""
    seen: set[str] = set()
    paths = [(folder, None)]
    for path, expected in paths:  # grows on the way
        artifact = _opened(path, expected)
        if artifact is None or artifact.id in seen:
            continue
        seen.add(artifact.id)
        yield artifact
        inputs: Mapping[str, Any] = artifact.manifest.get("inputs", {})
        paths += [(artifact.path / given["path"], given["id"]) for given in inputs.values()]


def _opened(path: Path, expected_id: str | None) -> Artifact | None:
    """Open an artifact; None if it is gone or has been replaced by another."""
    try:
        artifact = open_artifact(path)
    except LlmpipeError:
        return None
    return artifact if expected_id in (None, artifact.id) else None


def _summary(source: Source) -> str:
    config = source.model.config
    kind = "chat model" if source.chat_template else "base model"
    return (
        f"A {kind} of {n_parameters(config):,} parameters made with llmpipe: family `{config.family}`, "
        f"{config.n_layers} layers, width {config.d_model}, {config.vocab_size:,} token ids, context "
        f"{config.max_seq_len:,} tokens. Generation ends at "
        + ", ".join(f"`{stop}`" for stop in source.stops)
        + "."
    )


def _license(license: str | None, history: list[Artifact]) -> str:
    """Name the model's license and those of its data, as far as the run recorded any."""
    model = f"Of the model: {license}." if license else "Of the model: not chosen yet."
    recorded = [
        f"- {artifact.manifest['stage']}: {json.dumps(artifact.stats[key], ensure_ascii=False)}"
        for artifact in history
        for key in ("licenses", "license")
        if key in artifact.stats
    ]
    if not recorded:
        return f"{model} Of the data: not recorded by the run; see the sources below."
    return "\n".join([f"{model} Of the data, as recorded:", "", *recorded])


def _stage(artifact: Artifact) -> str:
    """Describe one artifact: its numbers, its settings, and the code that made it."""
    manifest = artifact.manifest
    stage = str(manifest["stage"])
    stats = artifact.stats
    shown = [key for key in _STATS_SHOWN.get(stage, tuple(stats)[:8]) if key in stats]
    rows = [f"| {key} | {_cell(stats[key])} |" for key in shown]
    table = "\n".join(["| | |", "|---|---|", *rows])
    settings = json.dumps(manifest["config"], indent=1, ensure_ascii=False)
    code = manifest.get("code", {})
    return (
        f"## {stage}\n\n{table}\n\n"
        f"Artifact `{artifact.id[:12]}`, llmpipe {code.get('version', '?')}, "
        f"commit {code.get('commit') or 'unknown'}.\n\n"
        f"<details><summary>Settings</summary>\n\n```json\n{settings}\n```\n\n</details>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False)


def _scores(folder: Path) -> str:
    """Return the scores found beside the model, if they are this model's."""
    own = _opened(folder, None)
    if own is None:
        return ""
    for path in sorted(folder.resolve().parent.glob(f"*/{MANIFEST}")):
        scores = _opened(path.parent, None)
        if scores is None or scores.kind != "scores":
            continue
        if own.id not in {given["id"] for given in scores.manifest["inputs"].values()}:
            continue
        rows = [
            f"| {task} | {_cell(of['accuracy'])} | {_cell(of['low'])} to {_cell(of['high'])} | {of['n']} |"
            for task, of in read_json(scores.file("scores.json")).items()
            if isinstance(of, dict) and "accuracy" in of
        ]
        head = ["| task | accuracy | 95% interval | items |", "|---|---|---|---|"]
        return "\n".join(["## Scores", "", *head, *rows])
    return ""
