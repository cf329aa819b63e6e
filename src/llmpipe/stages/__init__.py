"""The table of stages, in pipeline order.

The modules load without torch; what is heavy is imported inside the stage's `run`.
"""

from llmpipe.core.registry import Registry
from llmpipe.core.stage import StageSpec

STAGES: Registry[StageSpec] = Registry(
    {
        "crawl": "llmpipe.stages.crawl.stage:SPEC",
        "data": "llmpipe.stages.data.stage:SPEC",
        "tokenize": "llmpipe.stages.tokenize.stage:SPEC",
        "pretrain": "llmpipe.stages.pretrain.stage:SPEC",
        "sft": "llmpipe.stages.sft.stage:SPEC",
        "eval": "llmpipe.stages.eval.stage:SPEC",
    }
)


def schemas() -> dict[str, type]:
    """Return the settings of each stage, by the name of its section in a recipe."""
    return {stage: spec.config for stage, spec in STAGES.items()}
