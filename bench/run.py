"""Measure llmpipe beside its peers: `make bench`, or `make bench BENCH=tokenize`.

Each part is a module of this folder with `main(results: Path) -> None`; it writes one page under docs/results/. Peers are
installed into environments of their own under bench/.envs/, so that their pins cannot touch ours.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "docs" / "results"


def parts() -> list[str]:
    """Names of the parts: the modules of this folder that have a page to write."""
    return sorted(
        path.stem
        for path in FOLDER.glob("*.py")
        if path.stem not in ("run", "measure") and not path.stem.startswith("_")
    )


def main() -> int:
    """Run the parts named on the command line, or all."""
    wanted = sys.argv[1:] or parts()
    unknown = [name for name in wanted if name not in parts()]
    if unknown:
        print(
            f"no such part: {', '.join(unknown)}; there are: {', '.join(parts())}", file=sys.stderr
        )
        return 2
    sys.path.insert(0, str(FOLDER))
    for name in wanted:
        print(f"== {name}", file=sys.stderr)
        importlib.import_module(name).main(RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
