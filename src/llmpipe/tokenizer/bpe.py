"""The tokenizer: text to ids and back.

A token is a string of bytes, never of characters, so every text has ids and every list of ids has
text (with U+FFFD where a character was cut). Learning a vocabulary is in
`learner.py`; the algorithm in twenty lines is in `twin.py`.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from llmpipe.core.artifact import write_atomic
from llmpipe.core.errors import InputError
from llmpipe.tokenizer import hf
from llmpipe.tokenizer.encoders import Encoder, EncoderPlan, FastEncoder, choose_encoder
from llmpipe.tokenizer.merges import Merge, check_ranks, merges_of, write_ranks
from llmpipe.tokenizer.special import BOS, PAD

_OTHER_BOS = ("<|begin_of_text|>", "<|endoftext|>")
"""Document delimiters of Llama 3, and of GPT-2, cl100k, o200k and Qwen."""


class Tokenizer:
    """Byte-level BPE with special tokens.

    Ids are 0 to `vocab_size - 1`: first the bytes and merges, then the special tokens.
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str,
        special: Mapping[str, int],
        nfc: bool = False,
        is_merged: bool | None = None,
    ) -> None:
        """Make a tokenizer from its parts.

        Args:
            ranks: each byte and merge token with its id, in the order in which they were learned.
            pattern: the regular expression that cuts text into pieces.
            special: each special token's spelling with its id.
            nfc: whether to normalize text first, as Qwen's own files ask for. Ours do not: the same
                bytes come back.
            is_merged: whether merges make every token, as in all vocabularies but a few (see
                `merges_of`); None is found out when needed, in half a second for 100,000 tokens.
        """
        check_ranks(ranks)
        _check_special(special, len(ranks))
        self.ranks = dict(ranks)
        self.pattern = pattern
        self.special: Mapping[str, int] = dict(special)
        self.nfc = nfc
        self.vocab_size = max([len(ranks) - 1, *special.values()]) + 1
        self._is_merged = is_merged
        self._bytes: dict[int, bytes] = {rank: token for token, rank in ranks.items()}
        self._special_bytes = {i: name.encode() for name, i in special.items()}

    def with_special(self, special: Mapping[str, int]) -> Tokenizer:
        """Return the same vocabulary with other special tokens."""
        return Tokenizer(self.ranks, self.pattern, special, self.nfc, self._is_merged)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` (Hugging Face's form) from `folder`.

        Raises:
            InputError: if it is missing, broken, or not byte-level BPE.
        """
        parts = hf.read(folder)
        tokenizer = cls(parts.ranks, parts.pattern, parts.special, parts.nfc)
        # Finding the merges again takes 6 µs a token, so it is left out for files of our own.
        if parts.digest == tokenizer.digest:
            tokenizer._is_merged = not parts.ignore_merges
        else:
            _check_foreign(parts, tokenizer, folder / hf.FILE)
        return tokenizer

    def save(self, folder: Path, chat_template: str | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `folder`, created if missing.

        `chat_template` is Jinja text that renders messages, for `transformers` and vLLM.
        """
        hf.write(
            folder,
            hf.Parts(
                ranks=self.ranks,
                merges=self.merges,
                pattern=self.pattern,
                special=dict(self.special),
                nfc=self.nfc,
                ignore_merges=not self._merges_make_all(),
                digest=self.digest,
            ),
            chat_template,
        )

    @cached_property
    def merges(self) -> list[Merge]:
        """The merges, in the order in which they were learned."""
        encoder = self._encoder_choice[0] if self._is_merged else None
        if isinstance(encoder, FastEncoder):
            return encoder.merges()
        return merges_of(self.ranks)

    def _merges_make_all(self) -> bool:
        if self._is_merged is None:
            self._is_merged = len(self.merges) == len(self.ranks) - 256
        return self._is_merged

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides ids. Shards and models carry it.

        Two tokenizers with one digest give the same ids for every text.
        """
        sha = hashlib.sha256(b"llmpipe.tokenizer/1\n")
        for text in (self.pattern, "nfc" if self.nfc else "as is"):
            sha.update(text.encode() + b"\0")
        for i in sorted(self._bytes):
            sha.update(b"%d:" % len(self._bytes[i]) + self._bytes[i])
        for name, i in sorted(self.special.items(), key=lambda item: item[1]):
            sha.update(b"%d=" % i + name.encode() + b"\0")
        return sha.hexdigest()

    @property
    def bos_id(self) -> int:
        """The id in front of every document."""
        for name in (BOS, *_OTHER_BOS):
            if name in self.special:
                return self.special[name]
        raise InputError("this tokenizer has no token that marks the beginning of a document")

    @property
    def pad_id(self) -> int:
        """The id that fills unused places of a batch (the document mark where there is none)."""
        return self.special.get(PAD, self.bos_id)

    @cached_property
    def _encoder_choice(self) -> tuple[Encoder, str]:
        return choose_encoder(self.ranks, self.pattern, self.nfc, self._merges_make_all())

    @property
    def encoder_note(self) -> str:
        """Which library encodes, and why, in one sentence."""
        return self._encoder_choice[1]

    def encoder_plan(self, rank_file: Path) -> EncoderPlan:
        """Write `rank_file`; return what another process needs to encode as this one does."""
        encoder = self._encoder_choice[0]
        lines = encoder.rank_lines if isinstance(encoder, FastEncoder) else write_ranks(self.ranks)
        write_atomic(rank_file, lines)
        return EncoderPlan(encoder.name, rank_file, self.pattern, self.nfc)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ordinary text.

        Special tokens typed in `text` stay text: only code can put a special id into a sequence.
        Lone surrogates, which are not Unicode text, become U+FFFD; `clean_text` counts them.
        """
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> np.ndarray:
        """Return what `encode` returns, as uint32."""
        try:
            return self._encoder_choice[0].encode(text)
        except UnicodeEncodeError:
            return self._encoder_choice[0].encode(clean_text(text)[0])

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token; a special token's are its spelling.

        Raises:
            InputError: if no token has this id.
        """
        token = self._bytes.get(id, self._special_bytes.get(id))
        if token is None:
            raise InputError(f"token id {id} is not in this vocabulary of {self.vocab_size}")
        return token

    def decode_bytes(self, ids: Iterable[int], show_special: bool = True) -> bytes:
        """Return the bytes of `ids`, exactly; special tokens by their spelling, or not at all."""
        hidden: Mapping[int, bytes] = {} if show_special else self._special_bytes
        return b"".join(self.token_bytes(int(i)) for i in ids if int(i) not in hidden)

    def decode(self, ids: Iterable[int], show_special: bool = True) -> str:
        """Return the text of `ids`, with U+FFFD for bytes that are not UTF-8."""
        return self.decode_bytes(ids, show_special).decode("utf-8", errors="replace")

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[object, ...]]:
        """Pickle the parts alone: the encoders live in Rust and are built again."""
        return Tokenizer, (self.ranks, self.pattern, self.special, self.nfc, self._is_merged)


class StreamDecoder:
    """Decodes token by token and never gives out half a character.

    What `push` returned, joined, plus `flush`, is what `decode` returns for all ids at once.
    """

    def __init__(self, tokenizer: Tokenizer, show_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._show_special = show_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """Take one id; return the characters it completes, which may be none."""
        return self._utf8.decode(self._tokenizer.decode_bytes([id], self._show_special))

    def flush(self) -> str:
        """Return U+FFFD if the ids ended within a character, and start anew."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def clean_text(text: str) -> tuple[str, int]:
    """Replace lone surrogates, which no encoding of Unicode can hold, and count them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        n_bad = sum("\ud800" <= char <= "\udfff" for char in text)
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text), n_bad
    return text, 0


def _check_foreign(parts: hf.Parts, tokenizer: Tokenizer, path: Path) -> None:
    """Check that merging by rank, as done here, gives the ids that the file's merges give."""
    if not set(tokenizer.merges) <= set(parts.merges):
        raise InputError(
            f"{path}: merges are not in the order of the ids, so its ids would differ from those "
            "given here"
        )
    if len(tokenizer.merges) < len(parts.ranks) - 256 and not parts.ignore_merges:
        raise InputError(f"{path}: some tokens are made by merges that their own ids rule out")


def _check_special(special: Mapping[str, int], n_ordinary: int) -> None:
    """Check that each special token has an id of its own, outside the merges."""
    owners: dict[int, str] = {}
    for name, i in special.items():
        if not name:
            raise InputError("a special token has an empty spelling")
        if i < n_ordinary:
            raise InputError(
                f"special token `{name}` has id {i}, which is an ordinary token's "
                f"(those are 0 to {n_ordinary - 1})"
            )
        if i in owners:
            raise InputError(f"special tokens `{owners[i]}` and `{name}` have the same id {i}")
        owners[i] = name
