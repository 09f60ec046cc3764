"""Fixtures and settings of all tests."""

import os

# Two cores: one thread a test is as fast, and sums come out in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from hmoe.layer import Tree
from tests.cases import TREES


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest) -> Tree:
    """Each of the canonical trees."""
    return Tree.from_spec(TREES[request.param])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
