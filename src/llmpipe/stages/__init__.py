"""The table of stages, in pipeline order.

Each entry is `module:attribute` of a `StageSpec`. The modules load without torch; what is heavy is imported
inside the stage's `run`.
"""

STAGES: dict[str, str] = {
    "crawl": "llmpipe.stages.crawl.stage:SPEC",
    "data": "llmpipe.stages.data.stage:SPEC",
    "tokenize": "llmpipe.stages.tokenize.stage:SPEC",
    "pretrain": "llmpipe.stages.pretrain.stage:SPEC",
    "sft": "llmpipe.stages.sft.stage:SPEC",
    "eval": "llmpipe.stages.eval.stage:SPEC",
}
