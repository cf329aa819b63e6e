"""Drop pages by address: domains and addresses of unwanted categories.

The lists may hold millions of lines. They are compiled once, in the parent process, to sorted 64-bit hashes
in a file that all workers map into memory: 8 bytes a line, shared, and no load time (datatrove's sets of
strings cost 748 MB in every process). At 4.5 million lines a wrong hit is to be expected once in
4 * 10^12 look-ups.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import xxhash

from llmpipe.core.artifact import atomic_file, write_atomic
from llmpipe.core.config import schema
from llmpipe.core.errors import InputError
from llmpipe.core.stage import SHIPPED
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.steps.base import Step

if TYPE_CHECKING:
    from llmpipe.stages.data.config import DataConfig

_SEED_LIST = "urls/domains.txt"
_KEYS, _CATEGORIES, _NAMES = "urls.npy", "urls.categories.npy", "urls.txt"
_LISTS = ("domains", "urls")
_FORMS = (
    "{category}/{kind}",
    "{category}_{kind}.txt",
    "{category}_{kind}.txt.gz",
    "{category}/{kind}.gz",
)


@schema
class UrlFilterConfig:
    """Drop pages by their address."""

    categories_folder: str | None = None
    """A folder laid out like the UT1 lists: `<category>/domains` and `<category>/urls`, or
    `<category>_domains.txt.gz`. Source of the format: https://dsi.ut-capitole.fr/blacklists/"""
    categories: tuple[str, ...] = (
        "adult", "mixed_adult", "agressif", "dating", "gambling", "malware", "phishing", "warez",
    )  # fmt: skip
    """Which of the folder's categories are dropped."""
    use_seed_list: bool = True
    """Also use the short list that comes with llmpipe (`resources/urls/domains.txt`)."""


class UrlFilter(Step[UrlFilterConfig]):
    """Look an address up in compiled lists."""

    name = "url_filter"
    summary = "drop listed domains and addresses"
    needs_text = False

    def __init__(self, prepared: Path) -> None:
        import numpy as np

        # Two files: `searchsorted` copies an array whose numbers do not lie side by side, at each look-up.
        self._keys = np.load(prepared / _KEYS, mmap_mode="r")
        self._categories = np.load(prepared / _CATEGORIES, mmap_mode="r")
        self._names = (prepared / _NAMES).read_text(encoding="utf-8").splitlines()

    @classmethod
    def make(cls, config: DataConfig, prepared: Path) -> UrlFilter:
        """Open the compiled lists."""
        return cls(prepared)

    @classmethod
    def files(cls, config: UrlFilterConfig) -> list[str]:
        """List the lists of the chosen categories, and the one that comes with llmpipe."""
        shipped = [SHIPPED + _SEED_LIST] if config.use_seed_list else []
        return [*map(str, list_files(config)), *shipped]

    @classmethod
    def prepare(cls, config: UrlFilterConfig, prepared: Path) -> None:
        """Write the hash table of all listed domains and addresses, and the names of their categories."""
        import numpy as np

        from llmpipe.core.records.lines import read_lines, whole

        sources = _seed_lists() if config.use_seed_list else []
        for category, path in _category_files(config):
            listed = [line.decode("utf-8", "replace") for _, line in whole(read_lines(path))]
            sources.append((category, listed))
        names = sorted({category for category, _ in sources})
        rows = [
            (xxhash.xxh3_64_intdigest(entry.encode()), names.index(category))
            for category, lines in sources
            for line in lines
            if (entry := line.partition("#")[0].strip().lower().removeprefix("www.").rstrip("/"))
        ]
        data = np.array(rows, dtype=[("key", "<u8"), ("category", "<u2")])
        data.sort(order=["key", "category"])
        write_atomic(prepared / _NAMES, "\n".join(names))
        for name, column in ((_KEYS, "key"), (_CATEGORIES, "category")):
            with atomic_file(prepared / name) as path, path.open("wb") as file:
                np.save(file, np.ascontiguousarray(data[column]))

    def __call__(self, document: Document) -> Drop | None:
        """Drop a document whose domain or address is listed."""
        host, path = split_url(document.url)
        labels = host.split(".")
        # A listed domain stands for all its subdomains, a bare TLD does not.
        for i in range(len(labels) - 1):
            domain = ".".join(labels[i:])
            if (category := self._look_up(domain)) is not None:
                return Drop("listed_domain", domain, category)
        if path:
            for address in (host + path, (host + path).rstrip("/")):
                if (category := self._look_up(address)) is not None:
                    return Drop("listed_address", address, category)
        return None

    def _look_up(self, entry: str) -> str | None:
        key = self._keys.dtype.type(xxhash.xxh3_64_intdigest(entry.encode()))
        i = int(self._keys.searchsorted(key))
        if i < len(self._keys) and self._keys[i] == key:
            return self._names[int(self._categories[i])]
        return None


def split_url(url: str) -> tuple[str, str]:
    """Return host without `www.` and path with query, in lower case; empty for an address that has none."""
    try:
        parts = urlsplit(url.strip().lower())
        host = parts.hostname or ""
    except ValueError:
        return "", ""
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return host.removeprefix("www.").rstrip("."), path if path != "/" else ""


def list_files(config: UrlFilterConfig) -> list[Path]:
    """Return the files of the chosen categories.

    Raises:
        InputError: the folder is missing, or has nothing of any chosen category.
    """
    folder = config.categories_folder
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise InputError(f"data.url_filter.categories_folder: there is no folder `{folder}`")
    found = [path for _, path in _category_files(config)]
    if not found:
        wanted = ", ".join(config.categories)
        raise InputError(
            f"`{folder}` has no list of the categories {wanted}", "expected CATEGORY/domains"
        )
    return found


def _category_files(config: UrlFilterConfig) -> Iterator[tuple[str, Path]]:
    if config.categories_folder is None:
        return
    for category, kind, form in itertools.product(config.categories, _LISTS, _FORMS):
        path = Path(config.categories_folder, form.format(category=category, kind=kind))
        if path.is_file():
            yield category, path


def _seed_lists() -> list[tuple[str, list[str]]]:
    """Read the short list that comes with llmpipe: sections `[category]` of domains."""
    text = (files("llmpipe") / "resources" / _SEED_LIST).read_text(encoding="utf-8")
    sections: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("["):
            sections.append((line.strip("[]"), []))
        elif sections:
            sections[-1][1].append(line)
    return sections
