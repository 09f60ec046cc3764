"""Streams: first weights that do not depend on what else a model is made of.

Drawn one after the other, the weights of experts would change with the size of the gate before
them, and the arms of a comparison would start from different networks. Parts whose size differs
between arms draw from a stream of their own instead.

Letters: E experts, I width of what an expert reads, F hidden width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_UNITS = 8  # drawn at a time


@contextmanager
def own_stream() -> Iterator[None]:
    """Draw from a stream of its own, split off from the one outside.

    The stream outside moves on by one number, however much is drawn inside; so a part's weights
    follow from the seed and the part's place among those that split off before it. It is the CPU's
    stream, on which runs are set up; parts made on another device draw from there as ever.
    """
    # All that the generator keeps of a seed is 32 bits.
    seed = int(torch.randint(2**32, (), device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def normal_units(num_experts: int, width: int, num_units: int) -> Tensor:
    """Standard normal weights of the hidden units of E experts: (F, E, I), from an own stream.

    Drawn unit after unit: those of a narrower bank are the first of a wider one.
    """
    with own_stream():
        drawn = [torch.randn(_UNITS, num_experts, width) for _ in range(0, num_units, _UNITS)]
    return torch.cat(drawn)[:num_units]
