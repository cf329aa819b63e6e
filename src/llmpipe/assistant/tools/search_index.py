"""A corpus cut into passages, and an index of their words (BM25), made once and kept beside the run.

The index lies in `.search/<id of the corpus>` next to the corpus: another corpus has another id, so an
index never has to be checked against what it was made from. It appears under its name only when it
is whole. bm25s keeps it in NumPy arrays that are mapped into memory; the passages stay in a Parquet file
of which only the few that were found are read.
"""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import Artifact, open_artifact
from llmpipe.core.errors import InputError
from llmpipe.core.records.lines import whole
from llmpipe.core.records.parquet import read_parquet

INDEX_VERSION = 1
"""Raise it when passages or words are cut differently."""

PASSAGE_CHARS = 400
"""About 100 tokens, so that the best three fit into one tool output of 256 tokens or little more."""

TITLE_CHARS = 60

_ROWS_PER_GROUP = 500
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u4e00-\u9fff]+")
"""Words, and the single characters of scripts that put no space between words."""

_BREAK = re.compile(r"(?<=[.!?])\s|\n|\s")


@dataclass(frozen=True)
class Passage:
    """Some consecutive text of one document."""

    title: str
    url: str
    text: str


class SearchIndex:
    """Finds the passages of a corpus that share the rarest words with a query."""

    def __init__(self, folder: Path) -> None:
        import bm25s
        import pyarrow.parquet as pq

        self._words: Any = bm25s.BM25.load(folder / "bm25", mmap=True)
        self._passages = pq.ParquetFile(
            folder / "passages.parquet", page_checksum_verification=True
        )
        self.n_passages = self._passages.metadata.num_rows

    def find(self, query: str, n: int) -> list[Passage]:
        """Return the `n` best passages, the best one first; fewer if no more share a word with it."""
        asked = [word for word in words(query) if word in self._words.vocab_dict]
        if not asked:
            return []
        scores = self._words.get_scores(asked)
        order = (-scores).argsort(kind="stable")[:n]  # of equal ones, the earlier in the corpus
        found = []
        for i in order[scores[order] > 0]:
            group, row = divmod(int(i), _ROWS_PER_GROUP)
            [fields] = self._passages.read_row_group(group).slice(row, 1).to_pylist()
            found.append(Passage(**fields))
        return found


def open_index(corpus: Path) -> SearchIndex:
    """Open the index of a corpus, and build it the first time.

    Raises:
        InputError: if there is no corpus, or it holds no text.
    """
    artifact = find_corpus(corpus)
    folder = artifact.path.parent / ".search" / f"{artifact.id}-{INDEX_VERSION}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=folder.parent))
            made.chmod(0o755)  # as readable as the corpus
        except OSError:  # a corpus in a place that cannot be written to: for this time only
            made = folder = Path(tempfile.mkdtemp(prefix="llmpipe-search-"))
        try:
            _make_index(artifact, made)
            if made != folder and not folder.is_dir():
                made.rename(folder)
        except OSError:
            if not folder.is_dir():  # and not because another process was faster
                raise
        finally:
            if made != folder:
                shutil.rmtree(made, ignore_errors=True)
    return SearchIndex(folder)


def find_corpus(path: Path) -> Artifact:
    """Return the corpus at `path`, which may also be a run that has one.

    Raises:
        InputError: if there is none.
    """
    inside = path / "corpus"
    return open_artifact(inside if inside.is_dir() else path, kind="corpus")


def words(text: str) -> list[str]:
    """Return the words of a text as they are compared: in lower case, without marks between them."""
    return _WORD.findall(text.lower())


def passages(text: str) -> Iterator[str]:
    """Cut a text into passages: whole paragraphs where they fit, at sentences or spaces otherwise."""
    gathered = ""
    for paragraph in re.split(r"\n\s*\n", text):
        for piece in _pieces(paragraph.strip()):
            if gathered and len(gathered) + len(piece) + 1 > PASSAGE_CHARS:
                yield gathered
                gathered = ""
            gathered = f"{gathered}\n{piece}" if gathered else piece
    if gathered:
        yield gathered


def _pieces(paragraph: str) -> Iterator[str]:
    while len(paragraph) > PASSAGE_CHARS:
        breaks = [m.end() for m in _BREAK.finditer(paragraph, 0, PASSAGE_CHARS)]
        sentences = [
            end for end in breaks if paragraph[end - 2] in ".!?" and end > PASSAGE_CHARS // 2
        ]
        at = (sentences or breaks or [PASSAGE_CHARS])[-1]
        yield paragraph[:at].rstrip()
        paragraph = paragraph[at:].lstrip()
    if paragraph:
        yield paragraph


def title_of(text: str) -> str:
    """Return how a document is called in a list of sources: the start of its first line."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first if len(first) <= TITLE_CHARS else first[: TITLE_CHARS - 1].rstrip() + "…"


def _make_index(corpus: Artifact, folder: Path) -> None:
    """Write the passages and their index; memory holds only the numbers of their words."""
    import bm25s
    import pyarrow as pa
    import pyarrow.parquet as pq

    vocabulary: dict[str, int] = {}
    words_of: list[array[int]] = []
    schema = pa.schema([(name, pa.string()) for name in ("title", "url", "text")])
    with pq.ParquetWriter(
        folder / "passages.parquet", schema, compression="zstd", write_page_checksum=True
    ) as writer:
        everything = _all_passages(corpus)
        while group := list(itertools.islice(everything, _ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist([asdict(p) for p in group], schema))
            for passage in group:
                # A title counts as part of each of its passages: it names their subject.
                found = words(f"{passage.title} {passage.text}")
                numbers = [vocabulary.setdefault(word, len(vocabulary)) for word in found]
                words_of.append(array("i", numbers))
    if not vocabulary:
        raise InputError(f"{corpus.path} holds no text to search")
    index = bm25s.BM25()
    index.index((words_of, vocabulary), show_progress=False)
    index.save(folder / "bm25", show_progress=False)


def _all_passages(corpus: Artifact) -> Iterator[Passage]:
    for part in sorted(corpus.path.glob("part-*.parquet")):
        for _, row in whole(read_parquet(part, ["url", "id", "text"], ["text"])):
            title = title_of(row["text"])
            url = row.get("url") or row.get("id") or part.name
            for text in passages(row["text"]):
                yield Passage(title, url, text)
