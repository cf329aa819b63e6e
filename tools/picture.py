"""Make the README's picture from a finished demo: `python tools/picture.py runs/tiny`. Needs `chromium` on the PATH."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from llmpipe.core.artifact import open_artifact
from llmpipe.core.report import Code, LinePlot, Section, Transcript, to_html
from llmpipe.stages.eval.stage import SPEC as EVAL
from llmpipe.stages.pretrain.stage import SPEC as PRETRAIN

TARGET = Path(__file__).parents[1] / "docs" / "images" / "demo.png"
N_TURNS = 5


def main() -> None:
    """Cut curve, two samples and a few turns out of the run's report, and photograph them."""
    run = Path(sys.argv[1])
    blocks = [b for s in PRETRAIN.report(open_artifact(run / "base")) for b in s.blocks]
    curve = next(block for block in blocks if isinstance(block, LinePlot))
    samples = [block for block in blocks if isinstance(block, Code)]
    transcripts = [
        block
        for section in EVAL.report(open_artifact(run / "eval"))
        for block in section.blocks
        if isinstance(block, Transcript)
    ]
    talk = Transcript(transcripts[0].turns[:N_TURNS])
    page = to_html(
        "llmpipe run",
        [
            Section(
                "The base model learns to write documentation", [curve, samples[0], samples[-1]]
            ),
            Section("and becomes an assistant", [talk]),
        ],
    ).replace("<header>", "<header hidden>")
    with tempfile.NamedTemporaryFile("w", suffix=".html") as file:
        file.write(page)
        file.flush()
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=820,1560"]
        command = ["chromium", *options, f"--screenshot={TARGET}", f"file://{file.name}"]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
