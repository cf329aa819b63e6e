"""Samples while training: a plain loop without a cache, so it has nothing to go wrong.

For real use there is `llmpipe.inference.engine`, which is far faster on long texts.
"""

from collections.abc import Sequence

import torch

from llmpipe.model.transformer import Transformer


@torch.no_grad()
def sample_ids(
    model: Transformer,
    prompt: Sequence[int],
    n_tokens: int,
    temperature: float,
    seed: int,
    stop_id: int | None = None,
) -> list[int]:
    """Continue `prompt`; 0 as temperature takes the likeliest token every time.

    Returns:
        The new ids, without the prompt and without `stop_id`.
    """
    generator = torch.Generator().manual_seed(seed)
    device = model.embed.weight.device
    ids = list(prompt)
    limit = min(len(prompt) + n_tokens, model.config.max_seq_len)
    while len(ids) < limit:
        hidden = model.hidden(torch.tensor([ids], device=device))
        logits = model.head(hidden[0, -1])[: model.config.vocab_size].float().cpu()
        if temperature == 0:
            chosen = int(logits.argmax())
        else:
            probabilities = torch.softmax(logits / temperature, dim=-1)
            chosen = int(torch.multinomial(probabilities, 1, generator=generator))
        if chosen == stop_id:
            break
        ids.append(chosen)
    return ids[len(prompt) :]
