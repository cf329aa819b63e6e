"""One small engine for samples, chat and evaluation: many requests, one forward pass per step.

A request is a row of ids that grows. What a row holds beyond its slot in the cache is `pending`: the
whole prompt at first, then one sampled token at a time, or the tokens of a tool's output that
were fed into it. A step sends the pending tokens of many rows through the model and samples the next
token of each; so prompts, sampled tokens and forced tokens take one path.

A row that ends frees its slot, which the next waiting request takes in the same step. The ids stay
noted beside the slot: a request whose prompt begins with them (the next turn of a chat) starts from
there instead of from nothing. What another slot holds of its prompt is copied: so a group of samples
of one prompt (`submit_group`) computes the prompt once.

The engine belongs to one thread. `cancel` frees a slot at once, between two steps.
"""

# B batch  T time  V vocab_size

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from llmpipe.core.errors import UserError
from llmpipe.inference.decoder import Decoder, build_decoder
from llmpipe.inference.kv_cache import SlotCache
from llmpipe.inference.sampling import Sampling, choose_tokens
from llmpipe.model.transformer import Transformer

PREFILL_TOKENS = 512
"""Most tokens of one row in one step: bounds the memory of the mask and of attention for long
prompts. Large enough that a matrix multiplication of this many rows uses the device fully."""

Reason = Literal["stop", "length", "context"]
"""Why a row ended: a stop id, `max_tokens`, or the context is full."""


@dataclass(frozen=True)
class LogProb:
    """How likely a token was, and the likeliest tokens in its place, in descending order."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Token:
    """One sampled token.

    Attributes:
        request: what `submit` returned.
        id: a stop id is reported too.
        reason: set on the last token of a request.
        is_paused: after a pause id: the row waits for `feed`.
        logprob: if the request asked for it.
        prompt_logprobs: if the request asked for them, its first token brings those of the prompt,
            from the second token on.
    """

    request: int
    id: int
    reason: Reason | None = None
    is_paused: bool = False
    logprob: LogProb | None = None
    prompt_logprobs: tuple[LogProb, ...] | None = None


@dataclass(frozen=True)
class Completion:
    """A whole answer: the ids that were sampled, without the stop id, and why it ended."""

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
    n_prompt: int
    prompt_logprobs: list[LogProb] | None = None
    """None if nobody asked."""
    followers: list["_Row"] = field(default_factory=list)
    """Others with this prompt, that wait until it has been computed."""
    n_sampled: int = 0
    is_paused: bool = False
    slot: int | None = None


@dataclass
class _Slot:
    """A place in the cache: the ids whose keys and values are valid there, and who is using it."""

    ids: list[int] = field(default_factory=list)
    row: _Row | None = None


class Engine:
    """Generates for many requests with one model.

    The model's weights are used in place: after they have changed, call `refresh`.

    Args:
        model: in evaluation mode, on any device.
        max_batch: rows worked on at the same time; more requests wait.
        max_len: tokens of the longest row, prompt included; the model's own limit by default.
        is_compiled: take decoding steps in C on a CPU and as a CUDA graph on a GPU, where possible.
        warn: told if the step in C does not do what the model does, so that torch takes its place.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        max_batch: int = 8,
        max_len: int | None = None,
        is_compiled: bool = True,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        limit = model.config.max_seq_len
        self.model = model
        self.max_len = min(max_len or limit, limit)
        self._cache = SlotCache(model, max_batch, self.max_len)
        self._decoder = build_decoder(model, self._cache, warn) if is_compiled else None
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
        prompt_logprobs: bool = False,
    ) -> int:
        """Add a request and return its number.

        Args:
            prompt: at least one id.
            sampling: how to choose this request's tokens.
            stop_ids: each ends it.
            pause_ids: after each it waits for `feed`, keeping its slot.
            prompt_logprobs: report the log-probabilities of the prompt with the first token, with as
                many of the likeliest tokens beside each as `sampling.n_logprobs` says.

        Raises:
            UserError: if the prompt is empty, leaves no room for a token, or an id is out of range.
        """
        return self.submit_group(prompt, [sampling], stop_ids, pause_ids, prompt_logprobs)[0]

    def submit_group(
        self,
        prompt: Sequence[int],
        samplings: Sequence[Sampling],
        stop_ids: Sequence[int] = (),
        pause_ids: Sequence[int] = (),
        prompt_logprobs: bool = False,
    ) -> list[int]:
        """Add several requests with one prompt, which is computed once; arguments as in `submit`."""
        if not prompt:
            raise UserError("the prompt is empty", hint="begin with the document mark <|bos|>")
        if len(prompt) >= self.max_len:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.max_len}",
                hint="shorten it: at least one token must be left for the answer",
            )
        n_vocab = self.model.config.vocab_size
        biased = [id for sampling in samplings for id, _ in sampling.logit_bias]
        if wrong := [id for id in (min(prompt), max(prompt), *biased) if not 0 <= id < n_vocab]:
            raise UserError(f"token id {wrong[0]} is not in 0 to {n_vocab - 1}")
        rows = [
            _Row(
                request=self._n_submitted + i,
                ids=list(prompt),
                sampling=sampling,
                stop_ids=frozenset(stop_ids),
                pause_ids=frozenset(pause_ids),
                generator=torch.Generator().manual_seed(sampling.seed),
                n_prompt=len(prompt),
                prompt_logprobs=[] if prompt_logprobs else None,
            )
            for i, sampling in enumerate(samplings, start=1)
        ]
        self._n_submitted += len(rows)
        self._rows |= {row.request: row for row in rows}
        if prompt_logprobs:  # each needs the logits of the whole prompt, which are in no cache
            self._waiting += rows
        else:
            # The first row computes the prompt. The others wait outside the queue until it has sampled a token,
            # and then find the prompt's keys and values in its slot (`_copy_prefix`).
            leader, *followers = rows
            leader.followers = followers
            self._waiting.append(leader)
        return [row.request for row in rows]

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
        # Those that waited for this one's prompt compute it themselves, if they still can.
        self._waiting.extendleft(reversed(row.followers))
        row.followers = []
        if row.slot is not None:
            self._slots[row.slot].row = None
        elif row in self._waiting:
            self._waiting.remove(row)
        else:
            leader = next(other for other in self._rows.values() if row in other.followers)
            leader.followers.remove(row)

    def refresh(self) -> None:
        """Forget what slots hold of earlier requests, because the weights have changed."""
        if self._decoder:
            self._decoder.refresh()
        for slot in self._slots:
            slot.ids.clear()

    @property
    def n_requests(self) -> int:
        """Requests that have not ended: worked on, paused or waiting."""
        return len(self._rows)

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
        # A prompt is work of another kind than an answer. Its tokens are all known, so they go through in one
        # pass that keeps the processor busy (prefill). An answer comes a token at a time, each pass needs all
        # weights for one token of each row, and reading the weights is what it takes (decoding): eight rows
        # take little longer than one. So rows are brought to the point where they can decode together.
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
            # What a slot holds of a sequence is worth keeping because no token's keys and values depend on
            # later tokens: a prefix that two prompts share is the same in both, whatever follows.
            # One token at least must go through the model, for the logits after it; all of them if
            # the logits of the prompt are asked for.
            n_useful = 0 if row.prompt_logprobs is not None else len(row.ids) - 1
            n_held = min(shared[row.slot], n_useful)
            del slot.ids[n_held:]
            self._copy_prefix(row.slot, n_useful)

    def _copy_prefix(self, i_slot: int, n_useful: int) -> None:
        """Copy what another slot holds of a row's prompt, if that is more than its own slot does."""
        slot = self._slots[i_slot]
        row = slot.row
        assert row is not None
        shared = [_n_common(other.ids, row.ids) for other in self._slots]
        i_best = max(range(len(shared)), key=shared.__getitem__)
        n_best = min(shared[i_best], n_useful)
        if n_best > len(slot.ids):
            self._cache.copy(i_best, i_slot, n_best)
            slot.ids[:] = row.ids[:n_best]

    def _n_pending(self, row: _Row) -> int:
        assert row.slot is not None
        return len(row.ids) - len(self._slots[row.slot].ids)

    @torch.inference_mode()
    def _advance(self, rows: Sequence[_Row]) -> list[Token]:
        """Send pending tokens through the model; sample for the rows that have none left."""
        ready: Sequence[_Row]
        if self._decoder and self._can_decode(self._decoder, rows):
            ready, logits = rows, self._decoded(self._decoder, rows)
        else:
            ready, logits = self._computed(rows)
        if not ready:
            return []
        chosen = choose_tokens(
            logits,
            [row.sampling for row in ready],
            [row.generator for row in ready],
            [row.ids for row in ready],
            [row.n_prompt for row in ready],
        )
        logprobs = self._logprobs(logits, chosen, [row.sampling.n_logprobs for row in ready])
        return [
            self._accept(row, id, logprob)
            for row, id, logprob in zip(ready, chosen, logprobs, strict=True)
        ]

    def _held(self, rows: Sequence[_Row]) -> tuple[list[int], list[list[int]]]:
        """Return the slots of rows, and the ids that each holds."""
        slots = [row.slot for row in rows if row.slot is not None]
        return slots, [self._slots[i].ids for i in slots]

    def _can_decode(self, decoder: Decoder, rows: Sequence[_Row]) -> bool:
        n_pending = [self._n_pending(row) for row in rows]
        if max(n_pending) > 1 and not decoder.takes_prompts:
            return False
        asks_for_prompts = any(
            row.prompt_logprobs is not None and not row.n_sampled for row in rows
        )
        return sum(n_pending) <= decoder.most_tokens and not asks_for_prompts

    def _decoded(self, decoder: Decoder, rows: Sequence[_Row]) -> Tensor:
        """Append all pending tokens of the rows; return the logits after each row's last: `rows vocab_size`."""
        # The tokens of all rows in one list, each with its slot and its place there: no padding, no rectangle.
        slots, held = self._held(rows)
        new: list[int] = []
        slot_of: list[int] = []
        place_of: list[int] = []
        last: list[int] = []
        for row, slot, ids in zip(rows, slots, held, strict=True):
            places = range(len(ids), len(row.ids))
            new += row.ids[len(ids) :]
            slot_of += [slot] * len(places)
            place_of += places
            last.append(len(new) - 1)
        logits = decoder(new, slot_of, place_of, last)
        for row, ids in zip(rows, held, strict=True):
            ids.extend(row.ids[len(ids) :])  # not a copy of all, which would grow with the text
        return logits

    def _computed(self, rows: Sequence[_Row]) -> tuple[list[_Row], Tensor]:
        """Send chunks of pending tokens through the model; return the rows with none left, and their logits.

        A chunk per row, at most `PREFILL_TOKENS` long, so a long prompt takes several calls. The logits are
        `ready vocab_size`: of each row that is through, after its last token.
        """
        slots, held = self._held(rows)
        chunks = [
            row.ids[len(ids) : len(ids) + PREFILL_TOKENS]
            for row, ids in zip(rows, held, strict=True)
        ]
        n_new = [len(chunk) for chunk in chunks]
        cache = self._cache.rows(slots, [len(ids) for ids in held], n_new)
        # A tensor is a rectangle: short chunks are padded, and nothing ever looks at the padding.
        padded = [chunk + [0] * (max(n_new) - len(chunk)) for chunk in chunks]
        ids = torch.tensor(padded, device=cache.positions.device)  # B T
        x = self.model.hidden(
            ids, positions=cache.positions, mask=cache.mask, cache=cache
        )  # B T d_model
        for i, (row, known, chunk) in enumerate(zip(rows, held, chunks, strict=True)):
            if row.prompt_logprobs is not None and len(known) < row.n_prompt:
                row.prompt_logprobs += self._prompt_logprobs(row, x[i], len(known), len(chunk))
            known.extend(chunk)
        ready = [i for i, row in enumerate(rows) if self._n_pending(row) == 0]
        last = x[ready, [n_new[i] - 1 for i in ready]]  # B d_model
        return [rows[i] for i in ready], self._logits(last)

    def _logits(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab_size"]:
        logits: Tensor = self.model.head(x)[:, : self.model.config.vocab_size]  # without padding
        return logits

    def _prompt_logprobs(
        self, row: _Row, x: Float[Tensor, "time d_model"], n_held: int, n_new: int
    ) -> list[LogProb]:
        """Return how likely the prompt's tokens were that follow those of a chunk.

        The chunk has `n_new` tokens behind `n_held` earlier ones; `x` is what the head reads of it and its padding.
        """
        following = row.ids[n_held + 1 : n_held + n_new + 1][: row.n_prompt - n_held - 1]
        if not following:
            return []
        n_top = [row.sampling.n_logprobs or 0] * len(following)
        logprobs = self._logprobs(self._logits(x[: len(following)]), following, n_top)
        return [logprob for logprob in logprobs if logprob]

    def _logprobs(
        self,
        logits: Float[Tensor, "rows vocab_size"],
        chosen: Sequence[int],
        n_top: Sequence[int | None],
    ) -> list[LogProb | None]:
        """Return, for the rows that ask, how likely the model itself finds the chosen ids."""
        found: list[LogProb | None] = [None] * len(chosen)
        asking = [i for i, n in enumerate(n_top) if n is not None]
        if not asking:
            return found
        everything = logits[asking].float().log_softmax(dim=-1)
        ids = torch.tensor([chosen[i] for i in asking], device=logits.device)
        own = everything.gather(1, ids[:, None])[:, 0].tolist()
        most = min(max(n_top[i] or 0 for i in asking), everything.shape[1])
        values, places = (part.tolist() for part in everything.topk(most, dim=-1))
        for k, i in enumerate(asking):
            top = tuple(zip(places[k], values[k], strict=True))[: n_top[i]]
            found[i] = LogProb(chosen[i], own[k], top)
        return found

    def _accept(self, row: _Row, id: int, logprob: LogProb | None) -> Token:
        """Append a sampled token to its row and see whether the row ends or pauses there."""
        prompt_logprobs = None
        if row.n_sampled == 0:
            self._waiting.extendleft(reversed(row.followers))  # the prompt is there to be copied
            row.followers = []
            if row.prompt_logprobs is not None:
                prompt_logprobs = tuple(row.prompt_logprobs)
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
        return Token(row.request, id, reason, row.is_paused, logprob, prompt_logprobs)

    # -- whole answers ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
    ) -> list[Completion]:
        """Complete prompts of any lengths; the engine must have no other requests."""
        requests = [self.submit(prompt, sampling, stop_ids) for prompt in prompts]
        written: dict[int, list[Token]] = {request: [] for request in requests}
        for token in self.run():
            written[token.request].append(token)
        completions = []
        for tokens in written.values():
            reason = tokens[-1].reason
            assert reason, "a request that has ended says why"
            kept = tokens[:-1] if reason == "stop" else tokens
            completions.append(Completion([token.id for token in kept], reason))
        return completions


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:  # the usual case, at the speed of C
        return n
    return next(i for i in range(n) if a[i] != b[i])
