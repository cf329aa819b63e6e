"""Write docs/reference/ from the code, or with --check say whether it is up to date."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

os.environ["COLUMNS"] = "100"  # help is wrapped to the terminal: fix its width
os.environ["NO_COLOR"] = "1"

from llmpipe.cli.app import run_main
from llmpipe.cli.stage_command import settings_table
from llmpipe.core.errors import EXIT_CODES
from llmpipe.stages import STAGES

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
COMMANDS = [
    *["run", *STAGES],
    *["sample", "chat", "serve", "export", "import", "tokens"],
    *["ls", "show", "diff", "verify", "report", "data explain"],
    *["data train-classifier", "recipes", "doctor"],
]
NOTE = "<!-- Written by tools/docs.py (`make docs`); edits are overwritten. -->\n\n"


def help_text(*arguments: str) -> str:
    """What `llmpipe ARGUMENTS --help` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_main([*arguments, "--help"])
    text = out.getvalue().replace("Usage: docs.py", "Usage: llmpipe")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"


def commands_page() -> str:
    """All commands with their help."""
    parts = [f"# Commands\n\n```text\n{help_text()}```\n"]
    parts += [f"## {name}\n\n```text\n{help_text(name)}```\n" for name in COMMANDS]
    return NOTE + "\n".join(parts)


def settings_page() -> str:
    """Every setting of every stage with default and meaning."""
    parts = [
        "# Settings\n\nChange one in a recipe, or on the command line with `--set STAGE.KEY=VALUE`.\n"
    ]
    for stage in STAGES:
        spec = STAGES[stage]
        rows = [
            f"| `{key}` | `{default}` | {meaning} |".replace("||", "| |")
            for key, default, meaning in settings_table(spec.config)
        ]
        table = "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])
        parts.append(f"## {stage}\n\n{spec.summary}. Writes kind `{spec.writes}`.\n\n{table}\n")
    return NOTE + "\n".join(parts)


def exit_codes_page() -> str:
    """Exit codes and their meaning."""
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    return NOTE + f"# Exit codes\n\n| code | meaning |\n|--:|---|\n{rows}\n"


def main() -> int:
    """Write the pages, or compare them with what stands there."""
    pages = {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "exit-codes.md": exit_codes_page(),
    }
    stale = []
    for name, text in pages.items():
        path = FOLDER / name
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text() != text:
                stale.append(str(path.relative_to(FOLDER.parents[1])))
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        print(f"not up to date: {', '.join(stale)}; run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
