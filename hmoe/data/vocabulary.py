"""Vocabularies: how bytes are read as tokens. Bytes themselves, or pairs learnt from a text.

Byte pair encoding (Gage 1994; Sennrich et al. 2016) over bytes (Radford et al. 2019): the 256 bytes
are the first tokens, and again and again the most frequent pair of neighbours inside a word becomes
the next. A word is a run of letters or of bytes beyond ASCII, of digits or of other signs, each
with the blank before it, or a run of space. Words are found in bytes, never in characters: so
anything can be encoded, valid UTF-8 or not, and decoding gives it back exactly.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain

import numpy as np

from hmoe.errors import ConfigError

NUM_BYTES = 256
_WORD = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^A-Za-z0-9\x80-\xff\s]+|\s+")
_BETWEEN = "\u0100"  # stands for no byte
_LEARNT_FROM = 2**21
_SLICE = 2**12


class Vocabulary(ABC):
    """Tokens by their numbers.

    Attributes:
        tokens: the bytes that each token stands for.
    """

    tokens: Sequence[bytes]

    @abstractmethod
    def encode(self, content: bytes) -> np.ndarray:
        """Return the tokens of some bytes: integers (tokens,)."""

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes that some tokens stand for."""
        return b"".join(self.tokens[token] for token in tokens)


class Bytes(Vocabulary):
    """Every byte is the token of its own number."""

    tokens = tuple(bytes([byte]) for byte in range(NUM_BYTES))

    def encode(self, content: bytes) -> np.ndarray:
        return np.frombuffer(content, dtype=np.uint8)


class BytePairs(Vocabulary):
    """Byte pairs, learnt from a text; the same text gives the same ones.

    Args:
        content: the text to learn from; of more than 2 MiB so much is read, evenly spread.
        size: number of tokens. A text with too few pairs leaves the last ones without a meaning:
            they stand for no bytes and never occur.

    Raises:
        ConfigError: no more tokens than there are bytes.
    """

    def __init__(self, *, content: bytes, size: int) -> None:
        check_vocabulary(size)
        # Imported here, since most runs read bytes.
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        self._model = Tokenizer(models.BPE())
        self._model.pre_tokenizer = pre_tokenizers.Split(_BETWEEN, "removed")
        # The characters 0 to 255 stand for the bytes, so that the library never sees any UTF-8.
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=[chr(byte) for byte in range(NUM_BYTES)],
            special_tokens=[],
            show_progress=False,
        )
        words = _WORD.findall(_spread(content))
        self._model.train_from_iterator([_BETWEEN.join(map(_text, words))], trainer)
        tokens = [b""] * size
        for token, number in self._model.get_vocab().items():
            tokens[number] = token.encode("latin-1")
        self.tokens = tokens
        self._known: dict[bytes, list[int]] = {}

    def encode(self, content: bytes) -> np.ndarray:
        words = _WORD.findall(content)
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        for word, code in zip(new, self._model.encode_batch(list(map(_text, new))), strict=True):
            self._known[word] = code.ids
        tokens = chain.from_iterable(self._known[word] for word in words)
        return np.fromiter(tokens, dtype=np.int32)


def check_vocabulary(size: int | None) -> None:
    """Raise ConfigError unless it is None, for bytes, or more than there are bytes."""
    if size is not None and size <= NUM_BYTES:
        raise ConfigError(
            f"data.vocabulary={size}: must be null, which reads bytes, or more than {NUM_BYTES}."
        )


def _text(word: bytes) -> str:
    return word.decode("latin-1")


def _spread(content: bytes) -> bytes:
    """At most so much of a text, in slices that are evenly spread over it."""
    if len(content) <= _LEARNT_FROM:
        return content
    count = _LEARNT_FROM // _SLICE
    starts = [number * (len(content) - _SLICE) // (count - 1) for number in range(count)]
    return b"".join(content[start : start + _SLICE] for start in starts)
