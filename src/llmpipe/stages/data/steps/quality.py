"""The score of a trained fastText classifier, noted for every document, and its lower bound."""

from __future__ import annotations

from llmpipe.core.errors import UserError
from llmpipe.stages.data.config import QualityConfig
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.quality import Classifier


class Quality:
    """Note the quality of a document; drop it below the bound."""

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
        if document.quality < self._config.min_score:
            return Drop("low_quality", document.quality, self._config.min_score)
        return None
