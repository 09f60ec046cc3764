"""What simple models reach on the same data: the scale on which to read bits per byte, or errors.

8 is knowing nothing. `order_0` knows how often each byte occurs, `order_2` also the two bytes
before; a network that does not beat it has not learnt the language. `gzip_9` packs the evaluation
bytes by themselves, having learnt nothing from the training bytes: a yardstick, no competitor.

Interpolation is Witten and Bell's (1991, "The zero-frequency problem", method C), as Chen and
Goodman (1998) write it. For a history h of n bytes, c(h, w) times followed by w and by T(h) kinds
of bytes, h' being h without its first byte,

    P_n(w | h) = (c(h, w) + T(h) P_n-1(w | h')) / (c(h) + T(h)),   P_-1(w) = 1 / 256
"""

import gzip
from functools import singledispatch

import numpy as np

from hmoe.data.language import Language
from hmoe.data.loader import StreamData
from hmoe.data.ratings import PLACES, Ratings
from hmoe.data.vocabulary import NUM_BYTES
from hmoe.errors import ConfigError
from hmoe.metrics import rating_scores

HIGHEST_ORDER = 2
"""Counts of order n are a table of 256**(n + 1) numbers: 128 MiB for 2, 32 GiB for 3."""

DAMPING = 5.0
"""Ratings without any difference that are added to those of a user or a film."""

CHUNK = 2**22
"""Training bytes counted at a time; bounds the memory beside the table."""


@singledispatch
def baselines(data: StreamData) -> dict[str, float]:
    """Scores of simple models on data whose own are known how to make, by name; none of others."""
    return {}


@baselines.register
def _of_text(data: Language) -> dict[str, float]:
    """Bits per byte of simple models on the bytes that the validation loader predicts."""
    if not data.of_bytes:
        return {}
    train, windows = data.train_tokens, data.eval_windows("val")
    return {
        "order_0": order_n_bits_per_byte(train, windows, 0),
        "order_2": order_n_bits_per_byte(train, windows, 2),
        "gzip_9": gzip_bits_per_byte(windows[:, 1:].tobytes()),
    }


@baselines.register
def _of_ratings(data: Ratings) -> dict[str, float]:
    """Scores on the test rows: of the mean, and of the mean with what users and films differ."""
    answers = data.answers("test")
    told = zip(("mean", "damped_bias"), data.biases(DAMPING), strict=True)
    return {
        f"{name}/{score}": value
        for name, predicted in told
        for score, value in rating_scores(predicted, *answers, k=PLACES).items()
    }


def order_n_bits_per_byte(
    train: bytes | np.ndarray, evaluation: bytes | np.ndarray, order: int
) -> float:
    """Return the mean of -log2 P_order(byte | bytes before it) over the evaluation bytes.

    Args:
        train: the bytes to count, uint8 (bytes,).
        evaluation: uint8 (windows, length) with length >= 2, or one window (length,). The first
            byte of a window is read, not scored. A byte is scored by what precedes it in its
            window: one with a shorter past than `order` has the order of its past.
        order: bytes of history, from 0 to `HIGHEST_ORDER`.

    Raises:
        ConfigError: an order out of range, or windows without a byte to score.
    """
    if not 0 <= order <= HIGHEST_ORDER:
        raise ConfigError(f"order={order}: must be from 0 to {HIGHEST_ORDER}.")
    train = _as_array(train)
    windows = np.atleast_2d(_as_array(evaluation))
    if windows.size == 0 or windows.shape[1] < 2:
        raise ConfigError(
            f"evaluation of shape {list(windows.shape)}: must hold a window of at least 2 bytes."
        )
    probability = np.full((len(windows), windows.shape[1] - 1), 1 / NUM_BYTES)
    for n in range(order + 1):
        counts = _counts(train, n)
        gram = _grams(windows, n + 1)[:, n == 0 :]  # the first byte of a window is not scored
        history = gram // NUM_BYTES
        total, kinds = counts.sum(1)[history], np.count_nonzero(counts, 1)[history]
        scored = probability[:, max(n - 1, 0) :]  # a view: the bytes with a past of n bytes
        # A history never met says nothing: there the shorter one keeps its word.
        evidence = counts.reshape(-1)[gram] + kinds * scored
        np.divide(evidence, total + kinds, out=scored, where=total > 0)
    return float(-np.log2(probability).mean())


def gzip_bits_per_byte(data: bytes) -> float:
    """Return the bits of `gzip -9` of `data` for each of its bytes.

    Raises:
        ConfigError: no data.
    """
    if not data:
        raise ConfigError("data of 0 bytes: must hold at least one.")
    return 8 * len(gzip.compress(data, compresslevel=9, mtime=0)) / len(data)


def _as_array(data: bytes | np.ndarray) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8) if isinstance(data, bytes) else data


def _grams(data: np.ndarray, length: int) -> np.ndarray:
    """Return each run of `length` bytes as one number: (..., L) to int64 (..., L - length + 1)."""
    end = data.shape[-1] - length + 1
    code = np.zeros((*data.shape[:-1], max(end, 0)), dtype=np.int64)
    for offset in range(length):
        code = code * NUM_BYTES + data[..., offset : max(end + offset, offset)]
    return code


def _counts(train: np.ndarray, order: int) -> np.ndarray:
    """Count which byte followed which history: int64 (256**order, 256)."""
    size = NUM_BYTES ** (order + 1)
    counts = np.zeros(size, dtype=np.int64)
    for start in range(0, len(train), CHUNK):
        grams = _grams(train[start : start + CHUNK + order], order + 1)
        counts += np.bincount(grams, minlength=size)
    return counts.reshape(-1, NUM_BYTES)
