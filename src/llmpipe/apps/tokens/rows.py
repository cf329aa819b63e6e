"""`llmpipe tokens --rows 4096:4100 --run runs/NAME/base`: what a run of pretraining reads in its rows.

Rows are a pure function of tokens, seed and settings, which a run writes down when it starts. So they
can be looked at while it is under way, and after.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmpipe.apps.printable import printable
from llmpipe.core.artifact import MANIFEST, START_RECORD, Artifact, open_artifact
from llmpipe.core.config import load_settings
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.stage import Inputs
from llmpipe.stages.pretrain.budget import make_budget
from llmpipe.stages.pretrain.config import PretrainConfig
from llmpipe.stages.pretrain.depth import fill_in
from llmpipe.stages.pretrain.extend import data_from_step
from llmpipe.stages.pretrain.stage import SPEC, start_folder, token_inputs


@dataclass(frozen=True)
class RowPiece:
    """A stretch of one document."""

    is_beginning: bool
    """Whether the document begins here, and not in another row."""
    ids: list[int]
    text: str


def run_rows(rows: str, run: Path, console: Console) -> None:
    """Show rows of a run as text, one document after the other.

    Args:
        rows: `FIRST:STOP` without the last, as everywhere in Python, or one number.
        run: folder of the model, finished or not.

    Raises:
        UserError: if `rows` names none, or more than the run has.
        InputError: if there is no such run, or its tokens are not there.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", rows)
    if found is None:
        raise UserError(f"`--rows {rows}` names no rows", "such as `--rows 4096:4100`")
    first, stop = int(found[1]), int(found[2] or int(found[1]) + 1)
    shown = list(read_rows(run, first, stop))
    if console.json_output:
        console.document(
            [{"row": row, "pieces": [asdict(piece) for piece in pieces]} for row, pieces in shown]
        )
        return
    for row, pieces in shown:
        console.out(f"=== row {row}: {sum(len(piece.ids) for piece in pieces)} tokens")
        for piece in pieces:
            where = "a document begins" if piece.is_beginning else "a document goes on"
            console.out(f"--- {where}: {len(piece.ids)} tokens")
            console.out(printable(piece.text))


def read_rows(run: Path, first: int, stop: int) -> Iterator[tuple[int, list[RowPiece]]]:
    """Read the rows `first` to `stop` of a run, with their numbers."""
    from llmpipe.model.config_file import load_config
    from llmpipe.stages.pretrain.data import CorpusShards, Data, training_rows
    from llmpipe.tokenizer.bpe import Tokenizer
    from llmpipe.tokenizer.shards import open_shards

    record = _read_record(run)
    asked = record["asked"]
    config: PretrainConfig = load_settings(PretrainConfig, asked["config"])
    inputs = Inputs(_open_inputs(run, record, config))
    folders = [tokens.path for tokens in token_inputs(config, inputs)]
    start = start_folder(config, inputs)
    tokenizer = Tokenizer.load(folders[0])
    weights = [corpus.weight for corpus in config.mixture] or [1.0]
    corpora = []
    for folder, weight in zip(folders, weights, strict=True):
        train, val = (open_shards(folder, split, verify=False) for split in ("train", "val"))
        corpora.append(CorpusShards(train, val, weight))
    data = Data(corpora, tokenizer)
    config, _ = fill_in(config, tokenizer.vocab_size, load_config(start) if start else None)
    earlier = start if config.start == "checkpoint" else None
    budget = make_budget(config, data.n_train_tokens, data_from_step(config, earlier))
    n_rows = budget.first_row(budget.n_steps)
    if not first < stop <= n_rows:
        raise UserError(f"the run has rows 0 to {n_rows - 1:,}, and none are {first} to {stop - 1}")
    assert config.row_tokens is not None, "filled in by `depth.fill_in`"
    rows = training_rows(data, config.row_tokens, n_rows, asked["seed"])
    for row in range(first, stop):
        batch = rows.batch(row, 1, with_segments=True)
        assert batch.segments is not None, "asked for"
        ids, segments = batch.ids[0], batch.segments[0]
        # Segment 0 is padding.
        cut = [ids[segments == i].tolist() for i in range(1, int(segments.max()) + 1)]
        bos_id = tokenizer.bos_id
        yield row, [RowPiece(one[0] == bos_id, one, tokenizer.decode(one)) for one in cut]


def _read_record(run: Path) -> dict[str, Any]:
    """Read what a run wrote down: its manifest, or the record of its start while it is under way."""
    for path in (run / MANIFEST, run.parent / f".{run.name}.partial" / START_RECORD):
        if path.is_file():
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            stage = record.get("asked", {}).get("stage")
            if stage != SPEC.name:
                raise InputError(f"`{run}` was made by `{stage}`, and rows are of `{SPEC.name}`")
            return record
    raise InputError(f"there is no run at `{run}`", "name the model's folder, as in runs/NAME/base")


def _open_inputs(
    run: Path, record: Mapping[str, Any], config: PretrainConfig
) -> dict[str, Artifact]:
    """Open what the run reads, and see that it is still the same."""
    artifacts = {}
    for name, need in SPEC.needs(config).items():
        # Only a finished run says where its inputs are; those of another lie beside it, as a rule.
        known = record.get("inputs", {}).get(name)
        path = run / known["path"] if known else run.parent / need.folder
        artifact = open_artifact(path, need.kind)
        if artifact.id != record["asked"]["inputs"][name]:
            raise InputError(
                f"`{artifact.path}` is not what `{run}` was trained on: it has changed"
            )
        artifacts[name] = artifact
    return artifacts
