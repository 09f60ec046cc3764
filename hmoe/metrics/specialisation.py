"""Who works on what, and with whom: shares of a label, co-activation, nearness in the tree.

Rows are those asked for; a pair (token, expert) that several heads ask for counts once, except in
counts that are given.

Letters: T tokens, R rows, N nodes, E experts, L levels, C values of a label, Z nodes of a cut.
"""

from math import nan

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from hmoe.layer import Routing, Tree
from hmoe.metrics.levels import level_counts, place_at_cut


def domain_specialisation(counts_CE: Tensor, k: float) -> Tensor:
    """Share of a domain's tokens that each expert works on: N_iD / N_D, (C, E) float64.

    Muennighoff et al. 2024 (OLMoE), section 5: with even work it is k / E; the values of a domain
    add up to k. NaN for a domain without tokens.

    Args:
        counts_CE: rows by domain and expert.
        k: experts per token, of which the tokens of a domain are counted.
    """
    return k * counts_CE / counts_CE.sum(1, keepdim=True).double()


def vocabulary_specialisation(counts_CE: Tensor, k: float, least: int) -> Tensor:
    """The same of every token of a vocabulary (OLMoE), NaN for one met fewer than `least` times.

    OLMoE leaves out tokens met fewer than 8 times, of which it would be high by chance.
    """
    share_CE = domain_specialisation(counts_CE, k)
    met_often_C = counts_CE.sum(1) >= least * k
    return share_CE.masked_fill(~met_often_C[:, None], nan)


def coactivation_counts(token_R: Tensor, expert_R: Tensor, tree: Tree, level: int) -> Tensor:
    """Tokens that two nodes of a level's cut served both: int64 (Z, Z); served at all, if one."""
    # Imported here because it takes a while that no other command has to pay.
    from scipy.sparse import coo_array

    place_R = place_at_cut(tree, level, expert_R.device)[expert_R]
    token, place, _ = (x.numpy() for x in _together(token_R.cpu(), place_R.cpu()))
    size = (token[-1] + 1 if len(token) else 0, len(tree.cut(level)))
    served = coo_array((np.ones_like(place), (token, place)), size).tocsr()
    return torch.from_numpy((served.T @ served).toarray()).to(expert_R.device)


def coactivation(token_R: Tensor, expert_R: Tensor, tree: Tree, level: int) -> Tensor:
    """Share of a node's tokens that another node served too: N_ij / N_i, (Z, Z) float64.

    OLMoE's measure, of the nodes of a cut. 1 on the diagonal; NaN for a node without tokens.
    """
    return _shares(coactivation_counts(token_R, expert_R, tree, level))


def locality_counts(token_R: Tensor, expert_R: Tensor, tree: Tree) -> tuple[Tensor, Tensor]:
    """Pairs of experts that one token has, and the sum of their distances: two scalars."""
    token_R, expert_R, _ = _together(token_R, expert_R)
    num_pairs = _pairs(torch.bincount(token_R)).sum()
    # Two experts have a node in common on each level down to their last common ancestor.
    common = torch.zeros_like(num_pairs)
    for level in range(tree.num_levels - 1):
        place_R = place_at_cut(tree, level, expert_R.device)[expert_R]
        common += _pairs(_together(token_R, place_R)[2]).sum()
    return num_pairs, num_pairs - common.double() / tree.num_levels


def locality(token_R: Tensor, expert_R: Tensor, tree: Tree) -> float:
    """Mean distance in the tree of the experts of one token, over all pairs: 0 near, 1 far.

    (L - depth of the last common ancestor) / L, the root's depth being 0: 1 if only the company is
    common, 1 / L for siblings on the last level. NaN where no token has two experts. The locality
    of BRANCH-MoE (2026) on binary trees, here on any.
    """
    num_pairs, distance = locality_counts(token_R, expert_R, tree)
    return (distance / num_pairs).item()


def random_locality(tree: Tree, k: int) -> float:
    """`locality` of k different experts drawn at random; NaN for fewer than two."""
    if k < 2:
        return nan
    common = 0
    for level in range(tree.num_levels):
        below_Z = level_counts(torch.ones(tree.num_experts, dtype=torch.int64), tree, level)
        common += int(_pairs(below_Z).sum())
    return 1 - common / tree.num_levels / (tree.num_experts * (tree.num_experts - 1) / 2)


class CompanyMetrics(Metric):
    """Which nodes work together, added up over batches and, under data parallelism, over ranks.

    `update` takes a Routing; `compute` returns the `coactivation` of a level and the `locality`.
    """

    full_state_update = False
    counts_ZZ: Tensor
    num_pairs: Tensor
    distance: Tensor

    def __init__(self, *, tree: Tree, level: int) -> None:
        super().__init__()
        self.tree, self.level = tree, level
        size = len(tree.cut(level))
        states = {
            "counts_ZZ": torch.zeros(size, size, dtype=torch.int64),
            "num_pairs": torch.zeros((), dtype=torch.int64),
            "distance": torch.zeros((), dtype=torch.float64),
        }
        for name, zeros in states.items():
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, routing: Routing) -> None:
        """Add the rows asked for, before a capacity took any away."""
        asked = routing.before_drops
        rows = asked.token_R, asked.expert_R
        self.counts_ZZ += coactivation_counts(*rows, self.tree, self.level)
        num_pairs, distance = locality_counts(*rows, self.tree)
        self.num_pairs += num_pairs
        self.distance += distance

    def compute(self) -> tuple[Tensor, float]:
        """Of all tokens since the last reset."""
        return _shares(self.counts_ZZ), (self.distance / self.num_pairs).item()


def _together(token_R: Tensor, place_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The different pairs of a token and a place, ascending, and how many rows each has."""
    size = int(place_R.max()) + 1 if len(place_R) else 1
    pair, num_rows = (token_R * size + place_R).unique(return_counts=True)
    return pair // size, pair % size, num_rows


def _shares(counts_ZZ: Tensor) -> Tensor:
    return counts_ZZ / counts_ZZ.diagonal()[:, None].double()


def _pairs(number: Tensor) -> Tensor:
    return number * (number - 1) // 2
