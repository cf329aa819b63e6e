"""Measure llmpipe beside its peers: `make bench`, or `make bench BENCH=tokenize`.

Each part is a module of this folder with `main(results: Path) -> None`; it writes one page under docs/results/. Peers are
installed into environments of their own under bench/.envs/, so that their pins cannot touch ours. Peers that are scripts
and no package are checkouts that one names: `make bench BENCH=pretrain PEERS="../nanochat ../nanoGPT"`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help="; ".join(parts()))
    parser.add_argument("--peer", type=Path, action="append", default=[], help="a checkout")
    given = parser.parse_args()
    wanted = given.part or parts()
    unknown = [name for name in wanted if name not in parts()]
    if unknown:
        print(
            f"no such part: {', '.join(unknown)}; there are: {', '.join(parts())}", file=sys.stderr
        )
        return 2
    sys.path.insert(0, str(FOLDER))
    for name in wanted:
        print(f"== {name}", file=sys.stderr)
        main_of_part = importlib.import_module(name).main
        takes_peers = "peers" in inspect.signature(main_of_part).parameters
        main_of_part(RESULTS, **({"peers": given.peer} if takes_peers else {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
