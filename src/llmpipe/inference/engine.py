"""One small engine for samples, chat and evaluation: many requests, one forward pass per step.

A request is a row of ids that grows. What a row holds beyond its slot in the cache is `pending`: the
whole prompt at first, then one sampled token at a time, or the tokens of a tool's output that
were fed into it. A step sends the pending tokens of many rows through the model and samples the next
token of each; so prompts, sampled tokens and forced tokens take one path.

A row that ends frees its slot, which the next waiting request takes in the same step. The ids stay
noted beside the slot: a request whose prompt begins with them (the next turn of a chat) starts from
there instead of from nothing.
"""

# B batch  T time  V vocab_size

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from llmpipe.core.errors import UserError
from llmpipe.inference.kv_cache import SlotCache
from llmpipe.inference.sampling import Sampling, choose_tokens
from llmpipe.model.transformer import Transformer

PREFILL_TOKENS = 512
"""Most tokens of one row in one step: bounds the memory of the mask and of attention for long
prompts. Large enough that a matrix multiplication of this many rows uses the device fully."""

Reason = Literal["stop", "length", "context"]
"""Why a row ended: a stop id, `max_tokens`, or the context is full."""


@dataclass(frozen=True)
class Token:
    """One sampled token.

    Attributes:
        request: what `submit` returned.
        id: the token; a stop id is reported too.
        reason: set on the last token of a request.
        is_paused: True after a pause id: the row waits for `feed`.
    """

    request: int
    id: int
    reason: Reason | None = None
    is_paused: bool = False


@dataclass(frozen=True)
class Completion:
    """A whole answer: the sampled ids without the stop id, and why it ended."""

    ids: list[int]
    reason: Reason


@dataclass
class _Row:
    """A request being worked on, or waiting for its turn."""

    request: int
    ids: list[int]
    sampling: Sampling
    stop_ids: frozenset[int]
    pause_ids: frozenset[int]
    generator: torch.Generator
    n_sampled: int = 0
    is_paused: bool = False
    slot: int | None = None


@dataclass
class _Slot:
    """What the cache holds of one slot: the ids whose keys and values are valid."""

    ids: list[int] = field(default_factory=list)
    row: _Row | None = None


class Engine:
    """Generates for many requests with one model.

    The model's weights are used in place: after they have changed, call `refresh`.

    Args:
        model: in evaluation mode, on any device.
        max_batch: rows worked on at the same time; more requests wait.
        max_len: tokens of the longest row, prompt included; the model's own limit by default.
    """

    def __init__(
        self, model: Transformer, *, max_batch: int = 8, max_len: int | None = None
    ) -> None:
        config = model.config
        weights = next(model.parameters())
        self.model = model
        self.device = weights.device
        self.max_len = min(max_len or config.max_seq_len, config.max_seq_len)
        self._cache = SlotCache(
            n_layers=config.n_layers,
            n_slots=max_batch,
            max_len=self.max_len,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            dtype=weights.dtype,
            device=self.device,
        )
        self._slots = [_Slot() for _ in range(max_batch)]
        self._waiting: deque[_Row] = deque()
        self._rows: dict[int, _Row] = {}
        self._n_submitted = 0

    # -- requests --------------------------------------------------------------------------------

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
        pause_ids: Sequence[int] = (),
    ) -> int:
        """Add a request and return its number.

        Args:
            prompt: at least one id.
            sampling: how to choose this request's tokens.
            stop_ids: ids that end it.
            pause_ids: ids after which it waits for `feed`, keeping its slot.

        Raises:
            UserError: if the prompt is empty or leaves no room for a token.
        """
        if not prompt:
            raise UserError("the prompt is empty", hint="begin with the document mark <|bos|>")
        if len(prompt) >= self.max_len:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.max_len}",
                hint="shorten it: at least one token must be left for the answer",
            )
        self._n_submitted += 1
        self._rows[self._n_submitted] = row = _Row(
            request=self._n_submitted,
            ids=list(prompt),
            sampling=sampling,
            stop_ids=frozenset(stop_ids),
            pause_ids=frozenset(pause_ids),
            generator=torch.Generator().manual_seed(sampling.seed),
        )
        self._waiting.append(row)
        return row.request

    def feed(self, request: int, ids: Sequence[int]) -> None:
        """Force ids into a row, as if it had sampled them, and let it go on."""
        assert len(ids) <= self.room(request), "the caller cuts forced tokens to the room there is"
        row = self._rows[request]
        row.ids.extend(ids)
        row.is_paused = False

    def room(self, request: int) -> int:
        """Return how many ids can be fed to a row that has to sample one more."""
        return self.max_len - 1 - len(self._rows[request].ids)

    def cancel(self, request: int) -> None:
        """End a request and free its slot; one that has ended already is left alone."""
        row = self._rows.pop(request, None)
        if row is None:
            return
        if row.slot is None:
            self._waiting.remove(row)
        else:
            self._slots[row.slot].row = None

    def refresh(self) -> None:
        """Forget what slots hold of earlier requests, because the weights have changed."""
        for slot in self._slots:
            slot.ids.clear()

    @property
    def n_free_slots(self) -> int:
        """Slots that no request holds."""
        return sum(slot.row is None for slot in self._slots)

    # -- work ------------------------------------------------------------------------------------

    def run(self) -> Iterator[Token]:
        """Yield tokens of all requests until every one has ended or is paused."""
        while tokens := self.step():
            yield from tokens

    def step(self) -> list[Token]:
        """Advance the requests until at least one token is sampled; empty if none can advance.

        Rows with more than one pending token go first, so that new requests join the others
        as soon as possible and all of them decode together.
        """
        self._admit()
        tokens: list[Token] = []
        while not tokens:
            rows = [slot.row for slot in self._slots if slot.row and not slot.row.is_paused]
            if not rows:
                return []
            long = [row for row in rows if self._n_pending(row) > 1]
            tokens = self._advance(long or rows)
        return tokens

    def _admit(self) -> None:
        """Give free slots to waiting requests, each the slot that holds most of its prompt."""
        while self._waiting and self.n_free_slots:
            row = self._waiting.popleft()
            free = [i for i, slot in enumerate(self._slots) if slot.row is None]
            shared = {i: _n_common(self._slots[i].ids, row.ids) for i in free}
            # Without a match, take the slot with the least to lose.
            row.slot = max(free, key=lambda i: (shared[i], -len(self._slots[i].ids), -i))
            slot = self._slots[row.slot]
            slot.row = row
            # One token at least must go through the model, for the logits after it.
            del slot.ids[min(shared[row.slot], len(row.ids) - 1) :]

    def _n_pending(self, row: _Row) -> int:
        assert row.slot is not None
        return len(row.ids) - len(self._slots[row.slot].ids)

    @torch.inference_mode()
    def _advance(self, rows: Sequence[_Row]) -> list[Token]:
        """Send pending tokens through the model; sample for the rows that have none left."""
        slots = [row.slot for row in rows if row.slot is not None]
        held = [self._slots[i].ids for i in slots]
        chunks = [
            row.ids[len(ids) : len(ids) + PREFILL_TOKENS]
            for row, ids in zip(rows, held, strict=True)
        ]
        n_new = [len(chunk) for chunk in chunks]
        cache = self._cache.rows(slots, [len(ids) for ids in held], n_new)
        x = self.model.hidden(
            self._padded(chunks), positions=cache.positions, mask=cache.mask, cache=cache
        )  # B T d_model
        for ids, chunk in zip(held, chunks, strict=True):
            ids.extend(chunk)

        ready = [i for i, row in enumerate(rows) if self._n_pending(row) == 0]
        if not ready:
            return []
        last = x[ready, [n_new[i] - 1 for i in ready]]  # B d_model
        chosen = choose_tokens(
            self.model.head(last)[:, : self.model.config.vocab_size],
            [rows[i].sampling for i in ready],
            [rows[i].generator for i in ready],
            [rows[i].ids for i in ready],
        )
        return [self._accept(rows[i], id) for i, id in zip(ready, chosen, strict=True)]

    def _padded(self, chunks: Sequence[list[int]]) -> Tensor:
        """Return the chunks as one rectangle; what stands in the padding is never looked at."""
        width = max(len(chunk) for chunk in chunks)
        rectangle = [chunk + [0] * (width - len(chunk)) for chunk in chunks]
        return torch.tensor(rectangle, device=self.device)

    def _accept(self, row: _Row, id: int) -> Token:
        """Append a sampled token to its row and see whether the row ends or pauses there."""
        row.ids.append(id)
        row.n_sampled += 1
        reason: Reason | None = None
        if id in row.stop_ids:
            reason = "stop"
        elif row.n_sampled >= row.sampling.max_tokens:
            reason = "length"
        elif len(row.ids) >= self.max_len:
            reason = "context"
        if reason:
            self.cancel(row.request)
        else:
            row.is_paused = id in row.pause_ids
        return Token(row.request, id, reason, row.is_paused)

    # -- whole answers ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        stop_ids: Sequence[int] = (),
    ) -> list[Completion]:
        """Complete all prompts; the engine must have no other requests.

        Args:
            prompts: any number, of any lengths.
            sampling: one for all, or one per prompt.
            stop_ids: ids that end an answer.
        """
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
        requests = [
            self.submit(prompt, own, stop_ids)
            for prompt, own in zip(prompts, samplings, strict=True)
        ]
        ids: dict[int, list[int]] = {request: [] for request in requests}
        reasons: dict[int, Reason] = {}
        for token in self.run():
            if token.reason:
                reasons[token.request] = token.reason
            if token.reason != "stop":
                ids[token.request].append(token.id)
        return [Completion(ids[request], reasons[request]) for request in requests]


def generate(
    model: Transformer, prompt_ids: Sequence[int], sampling: Sampling, stop_ids: Sequence[int] = ()
) -> list[int]:
    """Return a completion of one prompt: for samples of a model in training.

    The memory of the cache is given back at the end, and the model's mode is kept.
    """
    was_training = model.training
    model.eval()
    try:
        engine = Engine(model, max_batch=1, max_len=len(prompt_ids) + sampling.max_tokens + 1)
        return engine.generate([prompt_ids], sampling, stop_ids)[0].ids
    finally:
        model.train(was_training)


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
