"""How evenly the work is spread, at every level of the organisation.

A level is measured on its cut: the nodes of the level, together with the experts that sit above
it, so that every row is counted once. `share_C` is what each node of the cut received of all rows,
`even_C` what it would receive if every expert got the same. On a uniform tree the even share is one
over the number of nodes and the formulas are the usual ones.

Letters: C nodes of a cut, E experts.
"""

from math import log

import torch
from torch import Tensor
from torchmetrics import Metric

from hmoe.layer import Routing, Tree
from hmoe.metrics.levels import decompose, level_counts


def cut_shares(load_E: Tensor, tree: Tree, level: int) -> tuple[Tensor, Tensor]:
    """Shares of all rows received by the nodes of a cut, and their even shares: (C,), (C,) float64.

    Without any rows the received shares are all zero.
    """
    load_C = level_counts(load_E, tree, level).double()
    below_C = level_counts(torch.ones_like(load_E), tree, level).double()
    return load_C / load_C.sum().clamp(min=1), below_C / tree.num_experts


def cv(share_C: Tensor, even_C: Tensor) -> Tensor:
    """Coefficient of variation: sqrt(sum_c even_c (share_c / even_c - 1)^2). 0 is even.

    With equal even shares this is the population standard deviation over the mean.
    """
    return (even_C * (share_C / even_C - 1).square()).sum().sqrt()


def max_violation(share_C: Tensor, even_C: Tensor) -> Tensor:
    """Busiest node's load over its even load, minus 1 (MaxVio of Wang et al. 2024). 0 is even."""
    return (share_C / even_C).max() - 1


def min_violation(share_C: Tensor, even_C: Tensor) -> Tensor:
    """1 minus the idlest node's load over its even load. 0 is even; 1 if one received nothing."""
    return 1 - (share_C / even_C).min()


def divergence(share_C: Tensor, even_C: Tensor) -> Tensor:
    """KL(share || even) = sum_c share_c ln(share_c / even_c), in nats. 0 is even."""
    return (share_C.xlogy(share_C) - share_C.xlogy(even_C)).sum()


def normalised_entropy(share_C: Tensor, even_C: Tensor) -> Tensor:
    """1 - KL(share || even) / its largest value. 1 is even; 0 is all rows at the smallest node.

    With equal even shares this is H(share) / ln C. Without any rows it is 0.
    """
    return share_C.sum() - divergence(share_C, even_C) / -log(even_C.min().item())


def effective_share(share_C: Tensor, even_C: Tensor) -> Tensor:
    """exp(-KL(share || even)): the share of nodes that would do, if evenly busy. 1 is even.

    With equal even shares this is exp(H(share)) / C, effective experts over experts. Without any
    rows it is 0.
    """
    return share_C.sum() * (-divergence(share_C, even_C)).exp()


def gini(share_C: Tensor, even_C: Tensor) -> Tensor:
    """Half the mean difference of two experts' loads over the mean load. 0 is even.

    1/2 sum_c sum_d even_c even_d |share_c / even_c - share_d / even_d|, that is sum_c sum_d
    |share_c - share_d| / (2 C) with equal even shares. Without any rows it is 1.
    """
    # Twice the area between the diagonal and the Lorenz curve: shares of the least busy, added up.
    order_C = (share_C / even_C).argsort()
    share_C, even_C = share_C[order_C], even_C[order_C]
    return 1 - (even_C * (2 * share_C.cumsum(0) - share_C)).sum()


def dead_share(share_C: Tensor, even_C: Tensor) -> Tensor:
    """Share of the cut's nodes that received nothing. 0 is best."""
    return (share_C == 0).double().mean()


def starved_share(share_C: Tensor, even_C: Tensor) -> Tensor:
    """Share of the cut's nodes that received less than a tenth of their even load. 0 is best."""
    return (share_C < even_C / 10).double().mean()


STATISTICS = {
    "cv": cv,
    "max_violation": max_violation,
    "min_violation": min_violation,
    "entropy": normalised_entropy,
    "effective": effective_share,
    "gini": gini,
    "dead": dead_share,
    "starved": starved_share,
}
LARGER_IS_BETTER = frozenset({"entropy", "effective"})
# What a run tells of every level; of the rest it tells the experts' alone, or its keys would be too
# many to find one.
ON_LEVELS = ("cv", "max_violation", "entropy", "dead")
DROPPED = "dropped/expert"


def level_statistics(load_E: Tensor, tree: Tree) -> dict[str, list[float]]:
    """All statistics of all levels: {"cv": [of level 0, of level 1, ...], ...}."""
    shares = [cut_shares(load_E, tree, level) for level in range(tree.num_levels)]
    return {
        name: [statistic(*share).item() for share in shares]
        for name, statistic in STATISTICS.items()
    }


def load_statistics(load_E: Tensor, tree: Tree) -> dict[str, float]:
    """What a run tells: {"cv/level_0": ..., "cv/expert": ..., "gini/expert": ...}.

    "expert" is the cut through all experts, the same question on every tree; on the last level
    the two coincide.
    """
    result = {}
    for name, values in level_statistics(load_E, tree).items():
        if name in ON_LEVELS:
            result |= {f"{name}/level_{level}": value for level, value in enumerate(values)}
        result[f"{name}/expert"] = values[-1]
    return result


class LoadMetrics(Metric):
    """Load of one mixture layer, added up over batches and, under data parallelism, over ranks.

    It counts the rows asked of experts: after a capacity has dropped some, any gate looks even.
    `update` takes Routings, `compute` returns `load_statistics` of the sum, and as DROPPED the
    share of rows that a capacity took away.
    """

    full_state_update = False
    load_E: Tensor
    dropped: Tensor

    def __init__(self, *, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        self.add_state(
            "load_E", torch.zeros(tree.num_experts, dtype=torch.int64), dist_reduce_fx="sum"
        )
        self.add_state("dropped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, routing: Routing) -> None:
        """Add the rows of one routing."""
        self.load_E += routing.before_drops.load_E
        self.dropped += routing.before_drops.expert_R.numel() - routing.expert_R.numel()

    def compute(self) -> dict[str, float]:
        """Statistics of all rows since the last reset."""
        share = self.dropped / self.load_E.sum().clamp(min=1)
        return load_statistics(self.load_E, self.tree) | {DROPPED: share.item()}


class ImbalanceMetrics(LoadMetrics):
    """Which level makes the load uneven, added up likewise: `compute` returns `decompose`."""

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Of all rows since the last reset: "kl", "cv2" and "violation", (L,) each."""
        return decompose(self.load_E, self.tree)
