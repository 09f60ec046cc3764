"""Bits for each byte: worked out by hand, the same as the plain score where tokens are bytes."""

from math import log2

import pytest
import torch

from hmoe.training.measures import BitsPerByte
from hmoe.training.tasks import TASKS


def measure(*lengths: int) -> BitsPerByte:
    return BitsPerByte(token_bytes=lambda: torch.tensor(lengths))


def test_bits_of_all_tokens_over_bytes_of_all_tokens() -> None:
    # Token 0 is one byte, token 1 three. Their probabilities are 1/4 and 3/4, in every place.
    scores = torch.tensor([1 / 4, 3 / 4]).log()
    one = measure(1, 3)
    one.update(scores.expand(1, 2, 2), {"y": torch.tensor([[0, 1]])})
    one.update(scores.expand(1, 1, 2), {"y": torch.tensor([[0]])})
    wanted = (2 * log2(4) + log2(4 / 3)) / (1 + 3 + 1)
    assert one.compute()["bits_per_byte"] == pytest.approx(wanted, rel=1e-6)
    one.reset()
    one.update(scores.expand(1, 1, 2), {"y": torch.tensor([[1]])})
    assert one.compute()["bits_per_byte"] == pytest.approx(log2(4 / 3) / 3, rel=1e-6)


def test_of_bytes_it_is_the_plain_score() -> None:
    one, nats, count = measure(*[1] * 256), 0.0, 0
    task = TASKS["next_byte"]
    for rows in (3, 1):
        scores, y = torch.randn(rows, 5, 256), torch.randint(256, (rows, 5))
        one.update(scores, {"y": y})
        loss = task.loss(scores, y)
        nats += task.scores["bits_per_byte"](scores, y, loss).item() * y.numel()
        count += y.numel()
    assert one.compute()["bits_per_byte"] == pytest.approx(nats / count, rel=1e-6)


def test_the_bytes_of_tokens_are_asked_for_only_when_a_pass_has_begun() -> None:
    def unknown() -> torch.Tensor:
        raise AssertionError("asked too early")

    one = BitsPerByte(token_bytes=unknown)
    one.reset()
    assert one.names == ("bits_per_byte",)


def test_one_who_knows_nothing_needs_eight_bits_a_byte() -> None:
    # 65,536 tokens of two bytes each, all as likely: 16 bits a token.
    one = measure(*[2] * 2**16)
    one.update(torch.zeros(1, 4, 2**16), {"y": torch.tensor([[0, 5, 7, 2**16 - 1]])})
    assert one.compute()["bits_per_byte"] == pytest.approx(8.0)
