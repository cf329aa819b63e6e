"""Multiple choice against transformers: same log-probabilities, same choices, by lm-evaluation-harness's rules."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from llmpipe.core.distributed import Runtime
from llmpipe.core.ranks import Ranks
from llmpipe.model.config import ModelConfig
from llmpipe.model.init import initialize
from llmpipe.model.transformer import Transformer
from llmpipe.model.weights import save_model
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.special import place_special
from llmpipe.training.evaluations.base import EvaluationContext
from llmpipe.training.evaluations.config import MultipleChoice
from llmpipe.training.evaluations.likelihood import log_likelihoods
from llmpipe.training.evaluations.multiple_choice import MultipleChoiceEvaluation

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()

MERGES = [b" t", b"he", b" the", b"in", b"er", b" a", b"an", b" o", b"ou", b"st", b" an", b" st"]
WORDS = [
    "the",
    "an",
    "inn",
    "stone",
    "her",
    "other",
    "an",
    "out",
    "anther",
    "under",
    "stout",
    "in",
    "and",
    "toast",
]
SHAPES = {
    "gpt2": ModelConfig("gpt2", 64, 2, 4, 4, 16, 96, 384, 128, norm_eps=1e-5, tied_embeddings=True),
    "llama": ModelConfig("llama", 64, 2, 4, 2, 16, 96, 384, 128),
    "qwen3": ModelConfig("qwen3", 64, 2, 4, 2, 16, 96, 384, 128),
}


def some_rows(n: int) -> list[dict[str, object]]:
    """Questions of nonsense with two to five answers of different lengths."""
    draw = random.Random(1)

    def words(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    rows = []
    for _ in range(n):
        choices = [words(6) for _ in range(draw.randint(2, 5))]
        rows.append({"query": words(12), "choices": choices, "gold": draw.randrange(len(choices))})
    return rows


@pytest.mark.slow  # loading transformers' tokenizers takes seconds
@pytest.mark.parametrize("family", SHAPES)
def test_log_probabilities_and_choices_equal_transformers(tmp_path: Path, family: str) -> None:
    ranks = {bytes([i]): i for i in range(256)} | {m: 256 + i for i, m in enumerate(MERGES)}
    tokenizer = Tokenizer(ranks, PATTERNS["gpt2"], place_special(len(ranks)))
    assert tokenizer.vocab_size <= 384
    model = Transformer(SHAPES[family])
    generator = torch.Generator().manual_seed(1)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_model(model, tmp_path)
    tokenizer.save(tmp_path)
    rows = some_rows(40)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    encode = transformers.AutoTokenizer.from_pretrained(tmp_path)
    n_right = n_right_norm = 0
    expected = []
    for row in rows:
        sums = []
        for choice in row["choices"]:  # type: ignore[attr-defined]
            # `_encode_pair` of lm-evaluation-harness: the blank moves to the continuation
            given = encode(row["query"], add_special_tokens=False).input_ids
            whole = encode(f"{row['query']} {choice}", add_special_tokens=False).input_ids
            ids = torch.tensor([[tokenizer.bos_id, *whole]])
            with torch.no_grad():
                log_probs = theirs(ids).logits.double().log_softmax(-1)[0]
            places = range(1 + len(given), ids.shape[1])
            sums.append(sum(float(log_probs[i - 1, ids[0, i]]) for i in places))
        expected += sums
        per_character = [total / len(c) for total, c in zip(sums, row["choices"], strict=True)]  # type: ignore[call-overload]
        n_right += sums.index(max(sums)) == row["gold"]
        n_right_norm += per_character.index(max(per_character)) == row["gold"]

    evaluation = MultipleChoiceEvaluation(MultipleChoice(files=(str(path),)))
    runtime = Runtime(Ranks(), torch.device("cpu"))
    context = EvaluationContext(model, tokenizer, runtime, torch.float32, 0, 128, 512)
    found = log_likelihoods(context, evaluation._encode(context))
    assert found == pytest.approx(expected, abs=1e-4)
    numbers = evaluation(context)
    assert numbers["accuracy"] == n_right / 40
    assert numbers["accuracy_per_byte"] == n_right_norm / 40
    assert n_right != n_right_norm  # else the second says nothing
