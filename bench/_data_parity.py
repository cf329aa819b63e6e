"""The same texts through datatrove's filters and ours: where the decisions differ."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.document import Document, SplitText
from llmpipe.stages.data.steps.table import STEPS

FILTERS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")


@dataclass(frozen=True)
class Difference:
    """A text on which a filter of the two decides differently; an empty reason means it is kept."""

    id: str
    theirs: str
    ours: str


def compare(peer: Path, texts: list[dict[str, str]], *flags: str) -> dict[str, list[Difference]]:
    """Return the differences by filter. For C4 the cleaned text counts as part of the decision."""
    script = Path(__file__).with_name("_data_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "texts.jsonl", Path(folder) / "said.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
        subprocess.run([peer, script, "decisions", source, target, *flags], check=True)
        said = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    steps = {name: STEPS[name].make(DataConfig(), Path()) for name in FILTERS}
    found: dict[str, list[Difference]] = {name: [] for name in FILTERS}
    for row, theirs in zip(texts, said, strict=True):
        for name, step in steps.items():
            document = Document(url="", date="", content=SplitText(row["text"]))
            drop = step(document)
            ours = drop.reason if drop else ""
            cleaned_differs = name == "c4" and not ours and document.text != theirs["c4_text"]
            if bool(ours) != bool(theirs[name]) or cleaned_differs:
                found[name].append(Difference(row["id"], theirs[name], ours))
    return found
