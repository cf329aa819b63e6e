"""lm-eval's own client against the server: its scores are the model's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

LM_EVAL = shutil.which("lm_eval")

TASK = """
task: local_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
"""

ITEMS = [
    {"query": f"{a} and {b} make", "choices": [f"{a + b}", f"{a + b + 1}", "fish"], "gold": (a + b) % 3}
    for a in range(4)
    for b in range(3)
]  # fmt: skip


def score(served: Any, query: str, choice: str) -> float:
    """Sum of the log-probabilities of a choice, straight from the model."""
    tokenizer = served.service.tokenizer
    head = [tokenizer.bos_id, *tokenizer.encode(query)]
    ids = head + tokenizer.encode(" " + choice)
    with torch.no_grad():
        logprobs = served.model(torch.tensor([ids]))[0].log_softmax(-1)
    return sum(logprobs[k - 1, ids[k]].item() for k in range(len(head), len(ids)))


@pytest.mark.slow
@pytest.mark.skipif(
    LM_EVAL is None, reason="there is no program lm_eval: pip install 'lm_eval[api]'"
)
def test_local_completions_scores_as_the_model_does(served: Any, tmp_path: Path) -> None:
    assert LM_EVAL is not None
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    (tmp_path / "task.yaml").write_text(TASK.format(data=data))
    url = f"http://127.0.0.1:{served.port}/v1/completions"
    # Texts and not ids: the server then puts the mark of a document's beginning in front of them.
    arguments = f"model=run-sft,base_url={url},tokenizer_backend=remote,tokenized_requests=False,num_concurrent=4"
    subprocess.run(
        [LM_EVAL, "--model", "local-completions", "--model_args", arguments, "--tasks", "local_choice",
         "--include_path", tmp_path, "--output_path", tmp_path / "out", "--log_samples"],
        check=True, capture_output=True, timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONWARNINGS": ""},
    )  # fmt: skip
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(found) == len(ITEMS)
    for sample in found:
        doc = sample["doc"]
        expected = [score(served, doc["query"], choice) for choice in doc["choices"]]
        got = [float(answer[0]) for answer in sample["filtered_resps"]]
        assert got == pytest.approx(expected, abs=1e-4)
