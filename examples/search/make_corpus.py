"""Write a corpus of places that do not exist, one JSON line a place: nobody can know them without looking them up.

python examples/search/make_corpus.py places.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

N_PLACES = 2000
ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "oo"]
CODAS = ["", "n", "r", "l", "s", "m", "ld", "rn", "sk", "nd"]
LANDS = ("Karvia", "Ostmark", "Belmor", "Tarsia", "Norrland", "Vesk")
KINDS = (
    "lake",
    "village",
    "castle",
    "river",
    "museum",
    "bridge",
    "harbor",
    "forest",
    "hill",
    "market",
    "tower",
    "garden",
)
SIDES = ("north", "south", "east", "west", "middle")
KNOWN_FOR = (
    "old clocks",
    "white cliffs",
    "apple trees",
    "wooden boats",
    "blue glass",
    "wild horses",
    "stone walls",
    "honey",
)


def main(path: Path) -> None:
    """Write the places to `path`."""
    rng = random.Random(1)
    names: dict[str, None] = {}
    while len(names) < N_PLACES:
        syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(2)]
        names["".join(syllables).capitalize()] = None
    with path.open("w", encoding="utf-8") as file:
        for name in names:
            first = f"{name} is a {rng.choice(KINDS)} in the {rng.choice(SIDES)} of {rng.choice(LANDS)}."
            second = f"It is known for its {rng.choice(KNOWN_FOR)}."
            place = {
                "url": f"http://atlas.example/{name.lower()}",
                "text": f"{name}\n{first} {second}",
            }
            file.write(json.dumps(place) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
