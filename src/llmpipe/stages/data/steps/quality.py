"""The score of a trained fastText classifier, noted for every document, and its lower bound."""

from __future__ import annotations

from llmpipe.core.config import schema
from llmpipe.core.errors import UserError
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.quality import Classifier
from llmpipe.stages.data.steps.base import Fraction, Step


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
        if document.quality < self._config.min_score:
            return Drop("low_quality", document.quality, self._config.min_score)
        return None

    @classmethod
    def files(cls, config: QualityConfig) -> list[str]:
        """List the classifier."""
        return [config.model] if config.model else []
