"""metrics.jsonl: one line per step, written as the run goes; wandb and TensorBoard see the same numbers if asked.

The file is the truth. A resumed run calls `rewind` so that no step stands in it twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llmpipe.core.artifact import write_atomic
from llmpipe.core.errors import UserError, did_you_mean

SINKS = ("wandb", "tensorboard")


@runtime_checkable
class Sink(Protocol):
    """Somewhere else that numbers go to."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Take the numbers of one step."""

    def close(self) -> None:
        """Write out what is buffered."""


class Metrics:
    """Appends to one metrics.jsonl and passes each line to the sinks.

    Args:
        path: the file; it is created with the first line.
        sinks: where numbers go besides the file.
        enabled: False on ranks other than 0, where nothing is written.
    """

    def __init__(self, path: Path, sinks: Sequence[Sink] = (), enabled: bool = True) -> None:
        self.path = path
        self._sinks = list(sinks)
        self._enabled = enabled

    def log(self, step: int, **values: Any) -> None:
        """Write one line; values are numbers, strings or lists of them."""
        if not self._enabled:
            return
        line = json.dumps({"step": step, **values}, allow_nan=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        for sink in self._sinks:
            sink.log(step, values)

    def rewind(self, step: int) -> None:
        """Drop lines after `step`: a resumed run writes them again. A torn last line goes too."""
        if not self._enabled or not self.path.exists():
            return
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; a torn last line, as a kill leaves it, is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def make_sinks(
    names: Sequence[str],
    run_name: str,
    stage: str,
    folder: Path,
    config: dict[str, Any],
    attempt_id: str,
) -> list[Sink]:
    """Build the sinks asked for by name.

    Args:
        folder: Of the run.
        attempt_id: Short text that stays the same when the stage is resumed.

    Raises:
        UserError: for an unknown name, or when the package behind it is not installed.
    """
    sinks: list[Sink] = []
    for name in names:
        if name == "wandb":
            sinks.append(WandbSink(run_name, stage, folder, config, attempt_id))
        elif name == "tensorboard":
            sinks.append(TensorBoardSink(folder / "tensorboard" / stage))
        else:
            raise UserError(
                f"there is no metrics sink `{name}`; there are {', '.join(SINKS)}",
                did_you_mean(name, SINKS),
            )
    return sinks


class WandbSink:
    """Weights & Biases; offline unless WANDB_MODE says otherwise, so that nothing is sent unasked.

    A resumed stage goes on with the curves it began; steps that were logged before are not taken twice.
    """

    def __init__(
        self, run_name: str, stage: str, folder: Path, config: dict[str, Any], attempt_id: str
    ) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                "the package `wandb` is not installed", "pip install 'llmpipe[wandb]'"
            ) from None
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project="llmpipe",
            group=run_name,
            name=f"{run_name}/{stage}",
            id=attempt_id,
            resume="allow",
            config=config,
            dir=folder,
            mode=mode,
        )

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Send one step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class TensorBoardSink:
    """TensorBoard event files in the given folder, one per stage: their steps all count from 1."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            hint = "pip install 'llmpipe[tensorboard]'"
            raise UserError("the package `tensorboard` is not installed", hint) from None
        self._writer = Writer(str(folder))

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write the numbers of one step as scalars."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
