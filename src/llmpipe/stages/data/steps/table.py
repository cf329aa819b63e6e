"""The table of steps: a name in a recipe, what it does, and how it is made from its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmpipe.core.errors import UserError, did_you_mean
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.document import Document, Drop

Step = Callable[[Document], Drop | None]


@dataclass(frozen=True)
class Entry:
    """One step of the table."""

    summary: str
    make: Callable[[DataConfig, Path], Step]
    """From the settings and the folder with the files that the parent process prepared."""
    scope: Literal["document", "corpus", "texts"] = "document"
    """A `corpus` step notes keys per document; what it drops is decided when all have been seen. A `texts` step
    looks at the finished texts of all documents that are left."""


# The imports stand inside the functions: the table is also read where no step is run (help, plan, report).
def _url_filter(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.url_filter import UrlFilter

    return UrlFilter(prepared / "urls.npy")


def _language_prefilter(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.language import LanguagePrefilter

    return LanguagePrefilter(config.language_prefilter, config.language)


def _extraction(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.extraction import Extraction

    return Extraction(config.extraction)


def _language(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.language import Language

    return Language(config.language)


def _gopher_repetition(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.gopher_repetition import GopherRepetition

    return GopherRepetition(config.gopher_repetition)


def _gopher_quality(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.gopher_quality import GopherQuality

    return GopherQuality(config.gopher_quality)


def _c4(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.c4 import C4

    return C4(config.c4)


def _fineweb(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.fineweb import FineWeb

    return FineWeb(config.fineweb)


def _url_dedup(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.dedup_keys import UrlKey

    return UrlKey(config.url_dedup)


def _exact_dedup(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.dedup_keys import TextKey

    return TextKey(config.exact_dedup)


def _minhash(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.dedup_keys import MinHashKeys

    return MinHashKeys(config.minhash)


def _pii(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.pii import Pii

    return Pii(config.pii)


def _line_cleaning(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.line_cleaning import LineCleaning

    return LineCleaning(config.line_cleaning)


def _quality(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.quality import Quality

    return Quality(config.quality)


def _decontamination(config: DataConfig, prepared: Path) -> Step:
    from llmpipe.stages.data.steps.decontamination import Decontamination

    return Decontamination(config.decontamination, prepared / "evaluations.npy")


def _substrings(config: DataConfig, prepared: Path) -> Step:
    return lambda document: None  # all of it is done in the second pass


STEPS: dict[str, Entry] = {
    "url_filter": Entry("drop listed domains and addresses", _url_filter),
    "language_prefilter": Entry(
        "drop pages clearly in another language, before extraction", _language_prefilter
    ),
    "extraction": Entry("HTML to text", _extraction),
    "language": Entry("keep the wanted languages", _language),
    "gopher_repetition": Entry("drop texts that repeat themselves", _gopher_repetition),
    "gopher_quality": Entry("drop texts that are no prose", _gopher_quality),
    "c4": Entry("clean lines; drop placeholder pages, code and stubs", _c4),
    "fineweb": Entry("drop pages whose lines are no running text", _fineweb),
    "line_cleaning": Entry("remove lines that are controls of a page", _line_cleaning),
    "quality": Entry("keep what a trained classifier likes", _quality),
    "decontamination": Entry("drop what evaluation sets contain", _decontamination),
    "url_dedup": Entry("keep one document per address", _url_dedup, "corpus"),
    "exact_dedup": Entry("keep one document per text", _exact_dedup, "corpus"),
    "minhash": Entry("keep one document per cluster of near-duplicates", _minhash, "corpus"),
    "pii": Entry("replace personal data", _pii),
    "substrings": Entry("cut runs of words that stood before", _substrings, "texts"),
}

NEEDS_TEXT = frozenset(STEPS) - {"url_filter", "language_prefilter", "extraction", "url_dedup"}


def check_steps(names: tuple[str, ...]) -> None:
    """Check the order of a recipe.

    Raises:
        UserError: an unknown or repeated step, one that needs text before extraction, or finished texts before the end.
    """
    for i, name in enumerate(names):
        if name not in STEPS:
            hint = did_you_mean(name, STEPS) or f"known steps: {', '.join(STEPS)}"
            raise UserError(f"data.steps: there is no step `{name}`", hint)
        if name in names[:i]:
            raise UserError(f"data.steps: `{name}` stands there twice")
        if name in NEEDS_TEXT and "extraction" in names[i + 1 :]:
            raise UserError(f"data.steps: `{name}` needs text, and stands before `extraction`")
        if STEPS[name].scope == "texts" and i + 1 < len(names):
            behind = ", ".join(f"`{other}`" for other in names[i + 1 :])
            raise UserError(
                f"data.steps: `{name}` compares finished texts, and stands before {behind}",
                f"make `{name}` the last step",
            )


def n_keys(config: DataConfig, name: str) -> int:
    """Return how many 64-bit keys a corpus step notes per document."""
    return config.minhash.bands if name == "minhash" else 1
