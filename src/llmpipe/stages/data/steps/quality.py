"""A fastText classifier of quality: trained on texts one likes and texts one does not, then asked for a score.

The package is `floret`: a fork of fastText that is kept by explosion (spaCy), with wheels, the same training code, and
a module name of its own. All packages that are called fasttext-something install a module `fasttext` and overwrite
the one that language identification uses.

Source: DCLM, Li et al. 2024, arXiv:2406.11794, section 4.4 (a fastText bigram classifier beats larger ones).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import atomic_file
from llmpipe.core.config import schema
from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.data.document import Document, Drop, at_least
from llmpipe.stages.data.steps.base import Fraction, Step

_MAX_CHARS = 20_000
"""Of longer texts the beginning; a book must not outweigh a thousand pages."""


@schema
class QualityConfig:
    """Keep what a fastText classifier likes, as in DCLM (Li et al. 2024, arXiv:2406.11794) and FineWeb-Edu."""

    model: str | None = None
    """File made by `llmpipe data train-classifier`."""
    label: str = "good"
    """The label whose probability is the score."""
    min_score: Fraction = 0.5
    """Lowest probability; DCLM keeps the best tenth, so look at the scores in the corpus first (`min_score = 0`)."""


class Quality(Step[QualityConfig]):
    """Note the quality of a document; drop it below the bound."""

    name = "quality"
    summary = "keep what a trained classifier likes"

    def __init__(self, config: QualityConfig) -> None:
        if config.model is None:
            raise UserError(
                "data.quality.model: the step `quality` needs a classifier",
                "train one with `llmpipe data train-classifier`",
            )
        self._config = config
        self._classifier = Classifier(config.model, config.label)

    def __call__(self, document: Document) -> Drop | None:
        """Score a document."""
        document.quality = self._classifier.score(document.text)
        return at_least("low_quality", document.quality, self._config.min_score)

    @classmethod
    def files(cls, config: QualityConfig) -> list[str]:
        """List the classifier."""
        return [config.model] if config.model else []


class Classifier:
    """A trained model, asked for the probability of one label."""

    def __init__(self, path: str | Path, label: str = "good") -> None:
        import floret

        if not Path(path).is_file():
            raise InputError(f"there is no classifier at `{path}`")
        try:
            self._model = floret.load_model(str(path))
        except ValueError as error:
            raise InputError(f"`{path}` is no fastText model: {error}") from None
        self._label = f"__label__{label}"
        if self._label not in self._model.labels:
            known = ", ".join(name.removeprefix("__label__") for name in self._model.labels)
            raise InputError(f"`{path}` has no label `{label}`; it has: {known}")

    def score(self, text: str) -> float:
        """Return the probability that a text is of the label, 0 to 1."""
        # `model.predict` fails under NumPy 2 (`np.array(copy=False)`); the object inside does not.
        found = self._model.f.predict(_line(text) + "\n", -1, 0.0, "strict")
        return min(1.0, next((float(p) for p, label in found if label == self._label), 0.0))


@dataclass(frozen=True)
class Training:
    """What came out of a training: scores on texts that were not trained on."""

    n_good: int
    n_bad: int
    n_held_out: int
    precision: float
    recall: float
    accuracy: float


def train_classifier(
    good: Sequence[Path],
    bad: Sequence[Path],
    out: Path,
    *,
    text_field: str = "text",
    dim: int = 64,
    epochs: int = 5,
    lr: float = 0.3,
    word_ngrams: int = 2,
    n_buckets: int = 200_000,
    held_out: float = 0.1,
) -> Training:
    """Train a classifier and write it to `out`; the same inputs give the same bytes.

    Args:
        good: Parquet, JSONL or text files, packed or not (a document a line) of what is wanted.
        bad: the same of what is not: mostly an unfiltered sample of the crawl.
        out: the model's file; `data.quality.model` names it.
        dim: size of the word vectors.
        word_ngrams: 2 also looks at pairs of words.
        n_buckets: rows for the pairs; the model has `(words + n_buckets) * dim * 4` bytes.
        held_out: share of the texts, chosen by their hash, that is scored and not trained on.

    Raises:
        InputError: a side has no text.
    """
    import floret

    examples = {
        label: [line for text in read_texts(paths, text_field) if (line := _line(text))]
        for label, paths in (("good", good), ("bad", bad))
    }
    for label, lines in examples.items():
        if not lines:
            raise InputError(f"no text was found for the side `{label}`")
    # fastText learns in file order: the sides must be mixed, and mixed alike every time.
    rows = sorted(
        (_fraction(line), label, line) for label, lines in examples.items() for line in lines
    )
    n_held = sum(fraction < held_out for fraction, _, _ in rows)
    held = [(label, line) for _, label, line in rows[:n_held]]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "train.txt"
        labeled = (f"__label__{label} {line}\n" for _, label, line in rows[n_held:])
        source.write_text("".join(labeled), "utf-8")
        model: Any = floret.train_supervised(
            str(source), dim=dim, epoch=epochs, lr=lr, wordNgrams=word_ngrams, minn=0, maxn=0,
            bucket=n_buckets, thread=1, verbose=0,
        )  # fmt: skip
    with atomic_file(out) as path:
        model.save_model(str(path))
    classifier = Classifier(out)
    said = [(label == "good", classifier.score(line) >= 0.5) for label, line in held]
    true_positives = sum(is_good and guess for is_good, guess in said)
    return Training(
        n_good=len(examples["good"]),
        n_bad=len(examples["bad"]),
        n_held_out=len(held),
        precision=true_positives / max(1, sum(guess for _, guess in said)),
        recall=true_positives / max(1, sum(is_good for is_good, _ in said)),
        accuracy=sum(a == b for a, b in said) / max(1, len(said)),
    )


def read_texts(paths: Iterable[Path], text_field: str) -> Iterator[str]:
    """Read the texts of Parquet and JSONL, and the lines of plain files.

    Raises:
        InputError: a row has no text, or a file cannot be read.
    """
    from llmpipe.core.records.files import ending_of
    from llmpipe.core.records.lines import read_json_lines, read_lines, whole
    from llmpipe.core.records.parquet import read_parquet

    for path in paths:
        if ending_of(path, [".parquet"]):
            rows = read_parquet(path, [text_field], [text_field])
        elif ending_of(path, [".jsonl", ".ndjson"]):
            rows = read_json_lines(path)
        else:
            yield from (line.decode("utf-8", "replace") for _, line in whole(read_lines(path)))
            continue
        for where, row in whole(rows):
            if not isinstance(text := row.get(text_field), str):
                raise InputError(f"{where}: `{text_field}` is no text, it has {', '.join(row)}")
            yield text


def _line(text: str) -> str:
    return " ".join(text[:_MAX_CHARS].split())


def _fraction(line: str) -> float:
    """Map a text to 0..1 by its content, so that the choice does not depend on its place."""
    return int.from_bytes(hashlib.sha256(line.encode()).digest()[:8], "big") / 2**64
