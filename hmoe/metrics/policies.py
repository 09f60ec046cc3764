"""What a narrow search misses: its experts beside those of the exact choice, on the same scores.

Letters: T tokens, K and J experts per token.
"""

from math import nan

import torch
from torch import Tensor
from torchmetrics import Metric

from hmoe.metrics.stability import NONE


def found_and_asked(expert_TK: Tensor, exact_TJ: Tensor) -> tuple[Tensor, Tensor]:
    """Experts of the exact choice that were found, and how many it has: two int64 scalars.

    Experts of a token come in any order, `NONE` where there is none.
    """
    asked_TJ = exact_TJ != NONE
    found_TJ = (exact_TJ[:, :, None] == expert_TK[:, None, :]).any(-1) & asked_TJ
    return found_TJ.sum(), asked_TJ.sum()


def recall(expert_TK: Tensor, exact_TJ: Tensor) -> float:
    """Share of the experts of the exact choice that another choice has too; NaN if it has none.

    Every expert of every token counts alike.
    """
    found, asked = found_and_asked(expert_TK, exact_TJ)
    return (found / asked).item() if asked else nan


class RecallMetrics(Metric):
    """`recall` of one search, added up over batches and, under data parallelism, over ranks."""

    full_state_update = False
    found: Tensor
    asked: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("found", "asked"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, expert_TK: Tensor, exact_TJ: Tensor) -> None:
        """Add the experts of some tokens under the search, and under the exact one."""
        found, asked = found_and_asked(expert_TK, exact_TJ)
        self.found += found
        self.asked += asked

    def compute(self) -> float:
        """Of all tokens since the last reset."""
        return (self.found / self.asked).item()
