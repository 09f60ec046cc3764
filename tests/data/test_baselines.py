"""Context models: Witten-Bell by hand, against a slow twin, and the laws of a probability."""

import zlib
from collections import Counter, defaultdict
from math import log2

import numpy as np
import pytest

from hmoe.data import gzip_bits_per_byte, order_n_bits_per_byte
from hmoe.data.baselines import CHUNK, _counts
from hmoe.errors import ConfigError

RANDOM = np.random.RandomState(0)
WORDS = b" ".join(RANDOM.choice([b"the", b"then", b"than", b"heat", b"\xff"], size=2000).tolist())
WINDOWS = np.frombuffer(WORDS, dtype=np.uint8)[:1200].reshape(60, 20)

# Of b"aab": c(a) = 2, c(b) = 1, N = 3, T = 2, so P0(w) = (c(w) + 2 / 256) / 5.
P0_A, P0_B, P0_NEW = (2 + 2 / 256) / 5, (1 + 2 / 256) / 5, (2 / 256) / 5
# a was followed by a and by b, once each: c(a.) = 2, T(a) = 2.
P1_A, P1_B = (1 + 2 * P0_A) / 4, (1 + 2 * P0_B) / 4
# aa was followed by b, once: c(aa.) = 1, T(aa) = 1.
P2_B = (1 + 1 * P1_B) / 2


@pytest.mark.parametrize(
    ("evaluation", "order", "probabilities"),
    [
        (b"ab", 0, [P0_B]),
        (b"xaab", 0, [P0_A, P0_A, P0_B]),
        (b"az", 0, [P0_NEW]),
        (b"ab", 1, [P1_B]),
        (b"aab", 1, [P1_A, P1_B]),
        (b"aab", 2, [P1_A, P2_B]),  # the second byte has a past of one byte only
        (b"ab", 2, [P1_B]),
        (b"za", 2, [P0_A]),  # nothing is known of what follows z
        (b"zab", 2, [P0_A, P1_B]),  # nor of za, but of a
    ],
)
def test_witten_bell_by_hand(evaluation: bytes, order: int, probabilities: list[float]) -> None:
    expected = -sum(log2(p) for p in probabilities) / len(probabilities)
    assert order_n_bits_per_byte(b"aab", evaluation, order) == pytest.approx(expected, rel=1e-12)


def slow_bits(train: bytes, windows: np.ndarray, order: int) -> float:
    """Return the same by definition: dictionaries, one byte at a time."""
    counts: dict[bytes, Counter[int]] = defaultdict(Counter)
    for n in range(order + 1):
        for end in range(n, len(train)):
            counts[train[end - n : end]][train[end]] += 1

    def probability(history: bytes, byte: int) -> float:
        lower = probability(history[1:], byte) if history else 1 / 256
        seen = counts[history]
        return (seen[byte] + len(seen) * lower) / (seen.total() + len(seen)) if seen else lower

    bits = [
        -log2(probability(bytes(window[max(end - order, 0) : end]), int(window[end])))
        for window in windows
        for end in range(1, len(window))
    ]
    return sum(bits) / len(bits)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_fast_counts_equal_the_definition(order: int) -> None:
    train = WORDS[3000:]
    fast = order_n_bits_per_byte(train, WINDOWS, order)
    assert fast == pytest.approx(slow_bits(train, WINDOWS, order), rel=1e-12)


@pytest.mark.parametrize("order", [0, 1])
def test_probabilities_of_all_bytes_sum_to_one(order: int) -> None:
    windows = [bytes([104, byte]) for byte in range(256)]  # after an h
    bits = [order_n_bits_per_byte(WORDS, window, order) for window in windows]
    assert sum(2**-b for b in bits) == pytest.approx(1, rel=1e-12)


def test_order_0_on_its_own_bytes_is_entropy_plus_smoothing() -> None:
    # Each of T kinds of N bytes has probability (c + T / 256) / (N + T) >= (c / N) (N / (N + T)),
    # so the cost above the entropy is between 0 and log2((N + T) / N).
    counts = np.bincount(np.frombuffer(WORDS, dtype=np.uint8))
    share = counts[counts > 0] / len(WORDS)
    entropy = -(share * np.log2(share)).sum()
    excess = order_n_bits_per_byte(WORDS, b"\0" + WORDS, 0) - entropy
    assert 0 <= excess <= log2((len(WORDS) + len(share)) / len(WORDS))


def test_longer_histories_help_on_text_and_not_on_noise() -> None:
    text = [order_n_bits_per_byte(WORDS[3000:], WINDOWS, order) for order in (0, 1, 2)]
    assert 0 <= text[2] < text[1] < text[0]
    noise = RANDOM.randint(256, size=20_000).astype(np.uint8)
    assert order_n_bits_per_byte(noise[:10_000], noise[10_000:], 2) > 7.9


def test_knowing_nothing_is_eight_bits() -> None:
    assert order_n_bits_per_byte(b"", b"abc", 2) == 8


def test_counting_in_chunks_loses_and_doubles_nothing() -> None:
    train = RANDOM.randint(256, size=2 * CHUNK + 3).astype(np.uint8)
    pairs = train[:-1].astype(np.int64) * 256 + train[1:]
    assert np.array_equal(_counts(train, 1).reshape(-1), np.bincount(pairs, minlength=256**2))


@pytest.mark.parametrize("data", [b"a" * 5000, WORDS, RANDOM.bytes(3000)])
def test_gzip_is_deflate_and_18_bytes(data: bytes) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = len(deflate.compress(data) + deflate.flush())
    assert gzip_bits_per_byte(data) == 8 * (packed + 18) / len(data)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"order=3: must be from 0 to 2"):
        order_n_bits_per_byte(b"abc", b"abc", 3)
    with pytest.raises(ConfigError, match=r"evaluation of shape \[1, 1\]: must hold a window"):
        order_n_bits_per_byte(b"abc", b"a", 0)
    with pytest.raises(ConfigError, match=r"data of 0 bytes"):
        gzip_bits_per_byte(b"")
